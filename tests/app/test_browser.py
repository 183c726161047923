"""The whole road in a real browser: Debian's Chromium, headless, 360 pixels wide, by keyboard."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

import sfumato

pytest.importorskip("starlette", reason="install the extra 'app'")
pytest.importorskip("axe_core_python", reason="install the extra 'test': it ships axe-core")

from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTH = 360
PATIENCE = 300
"""Seconds until a step counts as stuck: no verdict depends on the machine's speed."""

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="needs Chromium and its driver: apt-get install chromium chromium-driver",
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """``sfumato app`` as a program: the link that it prints, and the folder that it may use."""
    root = tmp_path / "root"
    (root / "xrays" / "cat").mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(sfumato.__file__).parents[1])}
    command = [sys.executable, "-m", "sfumato.cli", "app", "--no-browser"]
    options = ["--root", str(root), "--state", str(tmp_path / "state")]
    # A shell in the background may have told its children to ignore Ctrl-C; ours is to hear it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, text=True, env=environment
    )
    signal.signal(signal.SIGINT, before)
    with started as program:
        assert program.stdout is not None
        link = re.search(r"http://127\.0\.0\.1:\S+", program.stdout.readline())
        assert link is not None
        yield link[0], root
        program.send_signal(signal.SIGINT)
        assert "Runs go on" in program.stdout.read()
    assert program.returncode == 0


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    size = {"width": WIDTH, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    driver.set_script_timeout(PATIENCE)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield driver
    driver.quit()


def check(browser: Chrome) -> None:
    """No serious finding of axe-core in light or dark, no sideways scroll, no foreign request."""
    origin = re.match(r"http://127\.0\.0\.1:\d+/", browser.current_url)
    assert origin is not None
    fetched = WebDriverWait(browser, PATIENCE).until(
        lambda one: one.execute_script(
            "return performance.getEntriesByType('resource').map((e) => e.name)"
        )
    )
    assert all(name.startswith(origin[0]) for name in fetched)
    root = browser.find_element(By.TAG_NAME, "html")
    assert int(root.get_property("scrollWidth")) <= WIDTH
    axe = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    browser.execute_script(axe)
    everything, colours = {}, {"runOnly": ["color-contrast"]}
    for scheme, what in (("light", everything), ("dark", colours)):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        found = browser.execute_async_script(
            "const done = arguments[arguments.length - 1]; axe.run(arguments[0]).then(done)", what
        )
        serious = [
            (rule["id"], [node["html"] for node in rule["nodes"]])
            for rule in found["violations"]
            if rule["impact"] in ("serious", "critical")
        ]
        assert serious == [] and found["passes"]


def press(browser: Chrome, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def focused(browser: Chrome) -> str:
    """The accessible words of what has the focus."""
    return str(
        browser.execute_script(
            "const f = document.activeElement;"
            "return f.labels && f.labels.length ? f.labels[0].textContent"
            " : f.getAttribute('aria-label') || f.textContent"
        )
    ).strip()


def tab_to(browser: Chrome, words: str) -> None:
    """Press Tab until what is called ``words`` has the focus, and see that it shows."""
    for _ in range(60):
        press(browser, Keys.TAB)
        if focused(browser) == words:
            outline = browser.switch_to.active_element.value_of_css_property("outline-style")
            assert outline != "none"
            return
    raise AssertionError(f"Tab never reaches {words!r}")


def heading(browser: Chrome, begins: str, patience: int = PATIENCE) -> None:
    """Wait for the page with that heading."""
    WebDriverWait(browser, patience, ignored_exceptions=(Exception,)).until(
        lambda _: browser.find_element(By.TAG_NAME, "h1").text.startswith(begins)
    )


def test_the_whole_road_by_keyboard_at_360_pixels(
    browser: Chrome, served: tuple[str, Path]
) -> None:
    link, root = served
    browser.get(link)
    heading(browser, "Private images in")
    check(browser)
    press(browser, Keys.TAB)
    assert focused(browser) == "Skip to the content"

    tab_to(browser, "Make a new release")
    press(browser, Keys.ENTER)
    heading(browser, "Which images?")
    check(browser)
    tab_to(browser, "digits")
    press(browser, Keys.ENTER)
    heading(browser, "What would it cost?")

    tab_to(browser, "Privacy budget ε")
    press(browser, Keys.BACKSPACE, "5")
    tab_to(browser, "Method")
    press(browser, "mom")
    tab_to(browser, "More settings")
    press(browser, Keys.ENTER)
    tab_to(browser, "Number of synthetic images")
    press(browser, "80")
    tab_to(browser, "Show the plan")
    press(browser, Keys.ENTER)
    WebDriverWait(browser, PATIENCE).until(lambda _: browser.find_elements(By.ID, "plan"))
    assert "their odds change by a factor of at most 148" in browser.page_source.replace(
        "<strong>", ""
    )
    check(browser)
    tab_to(browser, "Name of the release")  # the plan has the focus: the form is passed over
    tab_to(browser, "Start: spend ε = 5")
    press(browser, Keys.ENTER)
    heading(browser, "digits-moments-eps5")
    WebDriverWait(browser, PATIENCE, ignored_exceptions=(Exception,)).until(
        lambda _: browser.find_elements(By.CSS_SELECTOR, ".mark.finished")
    )
    check(browser)
    (samples,) = browser.find_elements(By.CSS_SELECTOR, "img")
    assert int(samples.get_property("naturalWidth")) > 28
    tab_to(browser, "Verify")
    press(browser, Keys.ENTER)
    WebDriverWait(browser, PATIENCE).until(lambda _: browser.find_elements(By.ID, "verdict"))
    check(browser)

    page = browser.current_window_handle
    tab_to(browser, "Open the report in a new tab")
    press(browser, Keys.ENTER)
    WebDriverWait(browser, PATIENCE).until(lambda _: len(browser.window_handles) == 2)
    browser.switch_to.window(next(w for w in browser.window_handles if w != page))
    heading(browser, "80 synthetic images")
    assert browser.execute_script("return origin") == "null"  # its script can ask us for nothing
    assert browser.execute_script("return document.querySelectorAll('[tabindex=\"-1\"]').length")
    browser.close()
    browser.switch_to.window(page)

    tab_to(browser, "the ledger")
    press(browser, Keys.ENTER)
    heading(browser, "Ledger")
    assert "moments" in browser.find_element(By.TAG_NAME, "table").text
    check(browser)
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    assert (root / "sfumato-releases/digits-moments-eps5/certificate.json").is_file()


def test_another_site_gets_nothing_from_the_browser_that_is_let_in(
    browser: Chrome, served: tuple[str, Path], tmp_path: Path
) -> None:
    link, _ = served
    origin = link.partition("/enter")[0]
    browser.get(link)
    heading(browser, "Private images in")
    attack = tmp_path / "attack.html"
    attack.write_text(
        f'<iframe src="{origin}/"></iframe><img src="{origin}/static/icon.svg">'
        f'<form method="post" action="{origin}/runs"><input name="data" value="digits"></form>'
    )
    browser.get(attack.as_uri())
    fetched = browser.execute_async_script(
        "const done = arguments[1];"
        "fetch(arguments[0], {credentials: 'include'}).then(() => done('in'), () => done('out'))",
        f"{origin}/",
    )
    assert fetched == "out"
    assert browser.execute_script("return document.querySelector('img').naturalWidth") == 0
    browser.execute_script("document.querySelector('form').submit()")
    limit = time.monotonic() + PATIENCE
    while "Another web page" not in browser.page_source and time.monotonic() < limit:
        time.sleep(0.1)
    assert "Another web page asked for this" in browser.page_source
