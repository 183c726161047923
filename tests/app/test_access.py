"""Nobody but the browser that followed the link gets an answer, and what it gets is fenced in."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PORT = 8765
ORIGIN = f"http://127.0.0.1:{PORT}"
RUN = "/runs/20260101-000000-00000000"
GETS = (
    "/", "/choose", "/plan?data=digits", "/ledger", "/static/app.css", "/static/app.js",
    "/static/nothing", "/nothing", RUN, f"{RUN}/progress", f"{RUN}/samples.png", f"{RUN}/report",
    f"{RUN}/download", "/enter", "/enter?token=",
)  # fmt: skip
POSTS = ("/runs", f"{RUN}/cancel", f"{RUN}/resume", f"{RUN}/verify", "/ledger", "/enter")


@pytest.mark.parametrize("path", GETS)
def test_without_the_cookie_every_path_is_refused_alike(page: Any, path: str) -> None:
    answer = page.stranger().get(path)
    assert answer.status_code == 401
    assert "sfumato" not in answer.headers.get("set-cookie", "")


@pytest.mark.parametrize("path", POSTS)
def test_without_the_cookie_nothing_can_be_sent(page: Any, path: str) -> None:
    assert page.stranger().post(path, headers={"Origin": ORIGIN}).status_code == 401


def test_a_link_opens_one_browser_and_the_next_link_is_another(page: Any) -> None:
    (first,) = page.links
    entered = page.stranger().get(first)
    assert entered.status_code == 200
    cookie = entered.headers["set-cookie"].lower()
    assert {"httponly", "samesite=strict", "path=/"} <= set(cookie.split("; "))
    assert page.stranger().get(first).status_code == 401
    second = page.links[-1]
    assert second != first
    assert page.browser().get("/").status_code == 200
    assert page.links[-1] != second


@pytest.mark.parametrize(
    "change", [lambda t: t[:-1], lambda t: t + "A", str.swapcase, lambda t: ""]
)
def test_a_wrong_token_is_refused_and_spends_nothing(page: Any, change: Any) -> None:
    where, _, token = page.links[0].partition("token=")
    assert page.stranger().get(f"{where}token={change(token)}").status_code == 401
    assert page.links == [f"{where}token={token}"]
    assert page.stranger().get(page.links[0]).status_code == 200


def test_another_cookie_is_refused(page: Any) -> None:
    browser = page.browser()
    ((name, value),) = browser.cookies.items()
    for wrong in ("", value[:-1], value + "A", value.swapcase()):
        assert page.stranger().get("/", headers={"Cookie": f"{name}={wrong}"}).status_code == 401
    # Other programs on this machine set cookies that this page is sent too, of any form.
    crowd = f'other={{"a": "b"}}; {name}={value}; strange'
    assert page.stranger().get("/", headers={"Cookie": crowd}).status_code == 200


FOREIGN: tuple[dict[str, str], ...] = (
    {"Host": "evil.example"},
    {"Host": f"evil.example:{PORT}"},
    {"Host": f"localhost:{PORT}"},
    {"Host": "127.0.0.1"},
    {"Host": "127.0.0.1:1"},
    {"Host": f"127.0.0.1:{PORT}.evil.example"},
    {"Origin": "http://evil.example"},
    {"Origin": f"http://localhost:{PORT}"},
    {"Origin": f"https://127.0.0.1:{PORT}"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_foreign_host_or_page_is_refused_even_with_the_cookie(
    page: Any, headers: dict[str, str]
) -> None:
    browser = page.browser()
    for path in ("/", "/static/app.css", f"{RUN}/progress", "/nothing"):
        assert browser.get(path, headers=headers).status_code == 403
    for path in POSTS[:-1]:
        assert browser.post(path, headers=headers).status_code == 403


def test_a_form_without_an_origin_is_refused(page: Any) -> None:
    browser = page.browser()
    del browser.headers["Origin"]
    assert browser.get("/").status_code == 200
    assert browser.post("/runs").status_code == 403


def test_a_foreign_host_cannot_spend_the_token(page: Any) -> None:
    stranger = page.stranger()
    assert stranger.get(page.links[0], headers={"Host": "evil.example"}).status_code == 403
    assert stranger.get(page.links[0]).status_code == 200


TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)


@settings(max_examples=30)
@given(host=TEXT, origin=TEXT, cookie=TEXT, token=TEXT)
def test_no_made_up_request_gets_in(
    shared: Any, host: str, origin: str, cookie: str, token: str
) -> None:
    stranger = shared.stranger()
    for headers in ({"Host": host}, {"Origin": origin}, {"Cookie": f"sfumato-{PORT}={cookie}"}):
        assert stranger.get("/", headers=headers).status_code in (401, 403)
    assert stranger.get("/enter", params={"token": token}).status_code == 401


@pytest.mark.parametrize("path", ["/", "/nothing", "/static/app.css", "/choose?at=/"])
def test_every_answer_is_fenced_in(shared: Any, path: str) -> None:
    for client in (shared.browser(), shared.stranger()):
        headers = client.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy.pop("default-src") == policy["base-uri"] == "'none'"
        assert policy["frame-ancestors"] == "'none'" and headers["x-frame-options"] == "DENY"
        assert set(policy.values()) == {"'self'", "'none'"}  # no inline script, no other machine
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/", "/choose", "/plan?data=digits", "/ledger", "/nothing"])
def test_no_page_has_a_script_or_style_of_its_own_or_a_foreign_address(
    shared: Any, path: str
) -> None:
    text = shared.browser().get(path).text
    assert "<html" in text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))
    addresses = re.findall(r"(?:src|href|action)=\"([^\"]*)\"", text)
    assert addresses and all(a.startswith(("/", "#")) and a[:2] != "//" for a in addresses)


def test_a_form_that_is_too_large_is_refused(page: Any) -> None:
    browser = page.browser()
    assert browser.post("/runs", content=b"a" * 70_000).status_code == 413

    def endless() -> Any:
        yield from [b"a" * 50_000] * 3

    assert browser.post("/runs", content=endless()).status_code in (400, 411, 413)


def test_only_reading_and_forms_are_answered(page: Any) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert page.browser().request(method, "/").status_code == 405
