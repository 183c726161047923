"""Start the page on the loopback address, print its link, and stop with Ctrl-C."""

from __future__ import annotations

import os
import socket
import webbrowser
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from sfumato.app.access import Access
from sfumato.app.pages import Pages
from sfumato.app.places import Places
from sfumato.app.runs import Runs
from sfumato.app.worker import Worker
from sfumato.disk import private_folder
from sfumato.errors import UsageError

HOST = "127.0.0.1"


def make_app(
    roots: Sequence[Path], state: Path, port: int, announce: Callable[[str], None]
) -> Access:
    """The whole page as an ASGI application.

    Args:
        roots: folders that data may be chosen from; releases go into the first.
        state: folder of ledgers and private runs; the page's own files lie in ``app`` below it.
        port: port of 127.0.0.1 that the application is served at.
        announce: called with each new link, which opens one browser.

    Raises:
        UsageError: a root is no folder.
    """
    state = state.resolve()
    folder = private_folder(state / "app")
    worker = Worker(folder)
    pages = Pages(Places(roots, hidden=[state]), state, Runs(folder / "runs"), worker)
    application = pages.application()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        worker.close()

    application.router.lifespan_context = lifespan
    return Access(application, port, announce)


def serve(
    roots: Sequence[Path], state: Path, port: int, browser: bool, say: Callable[[str], None]
) -> None:
    """Serve the page until Ctrl-C. Runs that it has started go on.

    Raises:
        UsageError: the port is taken, or a root is no folder.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except (OSError, OverflowError):
        raise UsageError(
            f"--port {port} cannot be used. Leave it out, and a free one is taken."
        ) from None
    links: list[str] = []

    def announce(link: str) -> None:
        links.append(link)
        say(f"{'Open' if len(links) == 1 else 'Used. For another browser open'}: {link}")

    with listening:
        app = make_app(roots, state, listening.getsockname()[1], announce)
        say("The link opens one browser. Ctrl-C closes the page; runs go on.")
        if browser:
            _open(links[0], state / "app" / "open.html")
        settings = uvicorn.Config(
            app,
            access_log=False,
            date_header=False,
            lifespan="on",
            log_level="critical",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            ws="none",
        )
        uvicorn.Server(settings).run(sockets=[listening])


def _open(link: str, page: Path) -> None:
    """Open the link in a browser, by way of a private file: everybody may read command lines."""
    page.unlink(missing_ok=True)
    with os.fdopen(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f'<!DOCTYPE html><meta http-equiv="refresh" content="0;url={escape(link)}">')
    webbrowser.open(page.as_uri())
