"""The page in this process, with a browser's cookie, over folders made for the test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="install the extra 'app'")

from starlette.testclient import TestClient

from sfumato.app.server import make_app

PORT = 8765
ORIGIN = f"http://127.0.0.1:{PORT}"


@dataclass
class Page:
    """A page that is served: its folders, the links that it printed, and one browser."""

    root: Path
    state: Path
    links: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.app = make_app([self.root], self.state, PORT, self.links.append)

    def stranger(self) -> TestClient:
        """A browser that has followed no link."""
        return TestClient(self.app, base_url=ORIGIN, follow_redirects=False)

    def browser(self) -> TestClient:
        """A browser that has followed the newest link, and sends what its own forms would."""
        client = self.stranger()
        assert client.get(self.links[-1]).status_code == 200
        client.headers["Origin"] = ORIGIN
        return client


@pytest.fixture
def page(tmp_path: Path) -> Page:
    """A page of its own; the process for commands starts only when it is needed."""
    return Page(tmp_path / "root", tmp_path / "private")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One page for a file of tests, so that PyTorch is imported once."""
    folder = tmp_path_factory.mktemp("page")
    made = Page(folder / "root", folder / "private")
    with TestClient(made.app, base_url=ORIGIN):  # its lifespan ends the process for commands
        yield made
