"""Who may talk to the page: one browser on this machine that has followed the printed link.

Every request is checked before any page or file is looked up. Other web pages are kept out by the
Host header (DNS rebinding), by Origin and Sec-Fetch-Site (forged requests), and by the cookie's
SameSite rule; other people on the machine by the token and the cookie, which they cannot guess.
"""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from secrets import token_urlsafe
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 2**16
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not no-referrer: browsers would then send "Origin: null" with the page's own forms.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# A redirect would still count as coming from wherever the link was followed, and the browser would
# keep a SameSite=Strict cookie back; a page that goes on by itself does not.
_WELCOME = (
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Sfumato</title>'
    '<link rel="icon" href="/static/icon.svg" type="image/svg+xml">'
    '<meta http-equiv="refresh" content="0;url=/"></head>'
    '<body><p><a href="/">Go on to Sfumato</a></p></body></html>'
)


class Access:
    """ASGI middleware that answers 401 or 403 to all but the browser that holds the cookie.

    Args:
        app: what to protect.
        port: port of 127.0.0.1 that the page is served at.
        announce: called with a new link, good for one use, at the start and whenever one was used.
    """

    def __init__(self, app: ASGIApp, port: int, announce: Callable[[str], None]) -> None:
        self._app = app
        self._host = f"127.0.0.1:{port}"
        self.origin = f"http://{self._host}"
        # Browsers send cookies to every port of a host: the name keeps two pages apart.
        self._cookie = f"sfumato-{port}"
        self._announce = announce
        self._sessions: list[str] = []
        self._new_link()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        answer: ASGIApp = self._refusal(scope, headers) or self._enter(scope) or self._app

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                protected = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    protected.setdefault(name, value)
                protected.setdefault("Content-Security-Policy", POLICY)
            await send(message)

        await answer(scope, receive, send_protected)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if headers.getlist("host") != [self._host]:
            return _say(403, f"This page answers only as {self.origin}/.")
        writes = scope["method"] not in ("GET", "HEAD")
        origin = headers.get("origin")
        if (origin is not None or writes) and origin != self.origin:
            return _say(403, "Another web page asked for this, so it is refused.")
        entering = scope["path"] == "/enter" and not writes
        if not entering and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return _say(403, "Another web page led here. Type the address into a new tab instead.")
        size = headers.get("content-length", "0")
        if writes and not (size.isdecimal() and int(size) <= LARGEST_BODY):
            return _say(413, "That is more than any form of this page sends.")
        if not entering and not self._has_cookie(headers):
            return _say(
                401, "Open the link that the terminal shows. Each link opens one browser, once."
            )
        return None

    def _enter(self, scope: Scope) -> Response | None:
        if scope["path"] != "/enter":
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if scope["method"] != "GET" or not compare_digest(given[0].encode(), self._token.encode()):
            return _say(401, "This link is not valid any more. Open the newest in the terminal.")
        session = token_urlsafe(32)
        self._sessions.append(session)
        self._new_link()
        response = HTMLResponse(_WELCOME)
        response.set_cookie(self._cookie, session, httponly=True, samesite="strict", path="/")
        return response

    def _has_cookie(self, headers: Headers) -> bool:
        held = cookie_parser(headers.get("cookie", "")).get(self._cookie, "")
        return any(compare_digest(held.encode(), one.encode()) for one in self._sessions)

    def _new_link(self) -> None:
        self._token = token_urlsafe(32)
        self._announce(f"{self.origin}/enter?token={self._token}")


def _say(status: int, sentence: str) -> Response:
    return PlainTextResponse(sentence, status)
