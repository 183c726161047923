"""The pages: each reads what is asked, has a command do it, and fills a template."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sfumato.app import choices
from sfumato.app.access import LARGEST_BODY
from sfumato.app.places import Places
from sfumato.app.runs import Run, Runs
from sfumato.app.worker import Worker
from sfumato.app.zipped import zipped
from sfumato.errors import SfumatoError, UsageError

REPORT_POLICY = (
    # The report has a policy of its own, with the hashes of its style and script; both hold. In a
    # sandbox it has no origin, so it could not ask this page for anything.
    "sandbox allow-scripts allow-modals; default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
)

BUDGET = {"cap", "delta", "relation"}
"""Options of ``sfumato ledger`` that are not about the data."""


class Pages:
    """The answers to all paths.

    Args:
        places: the folders that may be used.
        state: the private state folder.
        runs: the runs below it.
        worker: runs short commands.
    """

    def __init__(self, places: Places, state: Path, runs: Runs, worker: Worker) -> None:
        self._places, self._state, self._runs, self._worker = places, state, runs, worker
        self._templates = Environment(
            loader=PackageLoader("sfumato.app"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "capital": lambda text: text[:1].upper() + text[1:],
            "short": lambda value: f"{value:.4g}",
            "small": lambda value: f"{value:.9f}".rstrip("0") if value >= 1e-6 else f"{value:g}",
            "time": lambda text: text[:16].replace("T", " ") + " UTC",
        }
        self._known: dict[str, Any] | None = None

    def application(self) -> Starlette:
        """All routes; access is not checked here."""
        return Starlette(
            routes=[
                Route("/", self.home),
                Route("/choose", self.choose),
                Route("/plan", self.plan),
                Route("/runs", self.start, methods=["POST"]),
                Route("/runs/{id}", self.run),
                Route("/runs/{id}/progress", self.progress),
                Route("/runs/{id}/cancel", self.cancel, methods=["POST"]),
                Route("/runs/{id}/resume", self.resume, methods=["POST"]),
                Route("/runs/{id}/verify", self.verify, methods=["POST"]),
                Route("/runs/{id}/samples.png", self.samples),
                Route("/runs/{id}/report", self.report),
                Route("/runs/{id}/download", self.download),
                Route("/ledger", self.ledger),
                Route("/ledger", self.set_cap, methods=["POST"]),
                Mount("/static", StaticFiles(directory=str(files("sfumato.app") / "static"))),
            ],
            exception_handlers={
                SfumatoError: self._refused,
                HTTPException: self._missing,
                Exception: self._unforeseen,
            },
        )

    def home(self, request: Request) -> Response:
        """All runs."""
        runs = [(run, self._runs.state(run)) for run in self._runs.all()]
        return self._page("home", runs=runs)

    def choose(self, request: Request) -> Response:
        """The picker: folders and data files below the allowed roots."""
        at = request.query_params.get("at", "")
        folder = self._places.find(at) if at else self._places.roots[0]
        return self._page(
            "choose",
            listing=self._places.listing(folder),
            roots=self._places.roots,
            named=self._facts()["named"],
        )

    def plan(self, request: Request) -> Response:
        """The form, and below it what the run would ask and cost, once ε is chosen."""
        given = dict(request.query_params)
        data = self._data(given)
        main, more = self._offered()
        planned, odds, refusal = None, None, None
        if given.get("epsilon"):
            try:
                planned = self._worker.command(*self._arguments("plan", data, given))
                odds = self._worker.odds(planned)
            except SfumatoError as error:
                refusal = str(error)
        return self._page(
            "plan",
            status=400 if refusal else 200,
            data=data,
            given=given,
            main=main,
            more=more,
            opened=any(given.get(one.name) not in (None, "", one.value) for one in more),
            helps=self._facts()["options"]["synthesize"],
            plan=planned,
            odds=odds,
            refusal=refusal,
            releases=self._places.roots[0] / "sfumato-releases",
            name=given.get("name") or choices.suggested_name(data, given),
        )

    async def start(self, request: Request) -> Response:
        """Begin a run and show it."""
        given = await _form(request)
        run = await run_in_threadpool(self._start, given)
        return RedirectResponse(f"/runs/{run.id}", 303)

    def _start(self, given: Mapping[str, str]) -> Run:
        out = choices.release_folder(self._places, given.get("name", ""))
        data_set = self._data_set(given)
        arguments = self._arguments("synthesize", data_set["data"], given)
        ledger = self._ledger_of(data_set)["ledger"]
        return self._runs.start(data_set, ledger, out, [*arguments, f"--out={out}"])

    def run(self, request: Request) -> Response:
        """A run: how far it is, why it stopped, or its release."""
        return self._run_page(self._run(request))

    def _run_page(self, run: Run, verdict: Any = None, problem: str | None = None) -> Response:
        state = self._runs.state(run)
        return self._page(
            "run",
            status=400 if problem else 200,
            run=run,
            state=state,
            progress=self._runs.progress(run),
            message=self._runs.message(run) if state == "failed" else "",
            command=shlex.join(["sfumato", *run.arguments]),
            certificate=_certificate(run) if state == "finished" else None,
            files={name: _is_file(run.release / name) for name in ("samples.png", "report.html")},
            verdict=verdict,
            problem=problem,
        )

    def progress(self, request: Request) -> Response:
        """How far a run is, for the page's script: shares only, never a count."""
        run = self._run(request)
        return JSONResponse({"state": self._runs.state(run), **self._runs.progress(run)})

    async def cancel(self, request: Request) -> Response:
        """Interrupt a run."""
        run = self._run(request)
        await run_in_threadpool(self._runs.cancel, run)
        return RedirectResponse(f"/runs/{run.id}", 303)

    async def resume(self, request: Request) -> Response:
        """Go on with a run."""
        run = self._run(request)
        await run_in_threadpool(self._runs.resume, run)
        return RedirectResponse(f"/runs/{run.id}", 303)

    async def verify(self, request: Request) -> Response:
        """Verify a release and show what came out."""
        run = self._run(request)
        return await run_in_threadpool(self._verify, run)

    def _verify(self, run: Run) -> Response:
        try:
            return self._run_page(run, verdict=self._worker.command("verify", run.out))
        except SfumatoError as error:
            return self._run_page(run, problem=str(error))

    def samples(self, request: Request) -> Response:
        """The grid of synthetic images."""
        return FileResponse(self._released(request, "samples.png"), media_type="image/png")

    def report(self, request: Request) -> Response:
        """The release's report, apart from this page."""
        return FileResponse(
            self._released(request, "report.html"),
            media_type="text/html",
            headers={"Content-Security-Policy": REPORT_POLICY},
        )

    def download(self, request: Request) -> Response:
        """The whole release as a zip."""
        run = self._run(request)
        if self._runs.state(run) != "finished" or not run.release.is_dir():
            raise HTTPException(404)
        name = f"{run.release.name}.zip"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        chunks: Iterator[bytes] = zipped(run.release)
        return StreamingResponse(chunks, media_type="application/zip", headers=headers)

    def ledger(self, request: Request) -> Response:
        """What data have been charged, and their cap."""
        return self._ledger_page(dict(request.query_params))

    async def set_cap(self, request: Request) -> Response:
        """Set a cap."""
        given = await _form(request)
        data_set = await run_in_threadpool(self._data_set, given)
        await run_in_threadpool(self._ledger_of, {**data_set, "cap": given.get("cap", "")})
        return RedirectResponse(f"/ledger?{urlencode(data_set)}", 303)

    def _ledger_page(self, given: Mapping[str, str]) -> Response:
        known = {run.ledger: run.data_set for run in self._runs.all()}
        data_set: dict[str, str] = {}
        shown, refusal = None, None
        if given.get("data"):
            try:
                data_set = self._data_set(given)
                shown = self._ledger_of(data_set)
            except SfumatoError as error:
                refusal = str(error)
        return self._page(
            "ledger",
            status=400 if refusal else 200,
            data_set=data_set,
            known=sorted(known.values(), key=lambda one: one["data"]),
            ledger=shown,
            refusal=refusal,
        )

    def _ledger_of(self, given: Mapping[str, str]) -> dict[str, Any]:
        return self._worker.command(*self._arguments("ledger", given["data"], given))

    def _arguments(self, command: str, data: str, given: Mapping[str, str]) -> list[str]:
        """A command on ``data`` with what ``given`` says and the command knows."""
        known = self._facts()["options"][command]
        fields = [one for one in chain(*self._offered()) if one.name in known]
        said = choices.options(given, fields, self._places)
        return [command, data, *chain(*said.values()), f"--state={self._state}"]

    def _offered(self) -> tuple[list[choices.Choice], list[choices.Choice]]:
        facts = self._facts()
        return choices.offered(facts["options"]["synthesize"], facts["methods"])

    def _data_set(self, given: Mapping[str, str]) -> dict[str, str]:
        """The data, and what was said of them: all that their ledger is found by, and no cap."""
        fields = set(self._facts()["options"]["ledger"]) - BUDGET
        stated = {name: value for name, value in given.items() if name in fields and value}
        return {**stated, "data": self._data(given)}

    def _facts(self) -> dict[str, Any]:
        if self._known is None:
            self._known = self._worker.facts()
        return self._known

    def _data(self, given: Mapping[str, str]) -> str:
        data = given.get("data", "")
        return data if data in self._facts()["named"] else str(self._places.find(data))

    def _run(self, request: Request) -> Run:
        run = self._runs.find(request.path_params["id"])
        if run is None:
            raise HTTPException(404)
        return run

    def _released(self, request: Request, name: str) -> Path:
        run = self._run(request)
        path = run.release / name
        if self._runs.state(run) != "finished" or not _is_file(path):
            raise HTTPException(404)
        return path

    def _page(self, page: str, status: int = 200, **values: Any) -> HTMLResponse:
        template = self._templates.get_template(f"{page}.html.jinja")
        return HTMLResponse(template.render(page=page, **values), status)

    async def _refused(self, request: Request, error: Exception) -> Response:
        return self._page("message", 400, title="That cannot be done", message=str(error))

    async def _missing(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        return self._page("message", status, title="Not found", message="There is no such page.")

    async def _unforeseen(self, request: Request, error: Exception) -> Response:
        # The text of an unforeseen error may quote anything.
        message = (
            f"Unforeseen {type(error).__name__}. This is a fault of sfumato: please report it."
        )
        return self._page("message", 500, title="Something went wrong", message=message)


async def _form(request: Request) -> dict[str, str]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise UsageError("that is more than any form of this page sends.")
    return dict(parse_qsl(body.decode("utf-8", errors="replace"), max_num_fields=100))


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _certificate(run: Run) -> dict[str, Any] | None:
    try:
        read: dict[str, Any] = json.loads((run.release / "certificate.json").read_bytes())
    except (OSError, ValueError):
        return None
    return read
