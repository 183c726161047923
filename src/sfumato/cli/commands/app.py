"""``sfumato app``: the local page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.errors import UsageError


def app(
    root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder that data may be chosen from, repeatable; by default the current one and "
            "your home. Releases go into sfumato-releases/ in the first.",
            metavar="DIR",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(help="Port of 127.0.0.1; a free one by default.", min=0, max=65535)
    ] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the link, and open no browser.")
    ] = False,
    state: p.State = None,
) -> None:
    """Do it all on a page in your browser.

    The page is served to this machine alone, at 127.0.0.1, and asks nothing of any network. The
    link that is printed opens one browser, once. Needs the extra: pip install 'sfumato[app]'.

    \b
    Examples:
      sfumato app
      sfumato app --root xrays/ --no-browser
    """
    try:
        from sfumato.app.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UsageError(
            f"the page needs {error.name}. Install it with: pip install 'sfumato[app]'"
        ) from None
    if state is None:
        from sfumato.privacy.run import default_state  # imports PyTorch

        state = default_state()
    try:
        serve(
            root or [Path.cwd(), Path.home()],
            state,
            port,
            not no_browser,
            show.line,
        )
    except KeyboardInterrupt:
        show.line("The page is closed. Runs go on; open it again with: sfumato app")
