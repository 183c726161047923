"""The commands and what is said about all of them."""

from __future__ import annotations

from typing import Annotated

import typer

import sfumato
from sfumato.cli.commands.app import app as local_page
from sfumato.cli.commands.data.check import check
from sfumato.cli.commands.data.ledger import ledger
from sfumato.cli.commands.data.shard import shard
from sfumato.cli.commands.demo import demo
from sfumato.cli.commands.doctor import doctor
from sfumato.cli.commands.release.classify import classify
from sfumato.cli.commands.release.convert import convert
from sfumato.cli.commands.release.mock import mock
from sfumato.cli.commands.release.plan import plan
from sfumato.cli.commands.release.report import report
from sfumato.cli.commands.release.sample import sample
from sfumato.cli.commands.release.sign import keygen, sign
from sfumato.cli.commands.release.synthesize import synthesize
from sfumato.cli.commands.release.verify import verify
from sfumato.cli.commands.research.audit import audit
from sfumato.cli.commands.research.bench import bench
from sfumato.cli.commands.research.compare import compare
from sfumato.cli.commands.research.evaluate import evaluate
from sfumato.cli.commands.research.fit_embedding import fit_embedding
from sfumato.cli.commands.research.methods import methods
from sfumato.cli.commands.research.pretrain import pretrain
from sfumato.cli.guard import Commands, guarded
from sfumato.cli.parameters import grouped

HELP = """Synthetic images from private ones, with a proven differential-privacy guarantee.

\b
A first look, no data needed:
  sfumato demo
\b
The main job, from a folder with one sub-folder for each class:
  sfumato check xrays/
  sfumato plan xrays/ --epsilon 1
  sfumato synthesize xrays/ --epsilon 1 --out release/
  sfumato verify release/
  sfumato ledger xrays/

\b
DICOM files with labels in a table; a patient is then what is protected as one:
  sfumato plan scans/ --epsilon 1 --dicom --labels t.csv --name-column FILE --label-column FINDING

DATA is a folder of images or class folders, a .zip or .tar of such, also of DICOM files, .npz,
.h5, .parquet, a Hugging Face save_to_disk folder, WebDataset .tar, IDX, or a name: fashion-mnist,
digits."""

EXIT_CODES = """\b
Exit codes:
  0  done
  1  something unforeseen
  2  an option or argument is outside its rule
  3  the data cannot be read
  4  the data set's cap does not allow it
  5  the ledger is damaged, in use or not writable
  6  a release does not prove what it claims, or holds something private; an audit refutes it
  130  interrupted; the same command goes on where it was
  141  the output, which is all that the command makes, could not be written
What a command prints may be lost (nobody reads it, no space is left): where its result is on the
disk or is the code itself, the code stays what it is."""

app = typer.Typer(
    cls=Commands,
    help=HELP,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("check")(guarded(grouped(check), printed=True))
app.command("plan")(guarded(grouped(plan), printed=True))
app.command("synthesize")(guarded(grouped(synthesize), shared=True))
app.command("classify")(guarded(grouped(classify), shared=True))
app.command("methods")(guarded(grouped(methods), printed=True))
app.command("pretrain")(guarded(grouped(pretrain)))
app.command("sample")(guarded(grouped(sample), shared=True))
app.command("convert")(guarded(grouped(convert)))
app.command("mock")(guarded(grouped(mock)))
app.command("fit-embedding")(guarded(grouped(fit_embedding)))
app.command("report")(guarded(grouped(report)))
app.command("verify")(guarded(grouped(verify)))
app.command("keygen")(guarded(grouped(keygen)))
app.command("sign")(guarded(grouped(sign)))
app.command("ledger")(guarded(grouped(ledger), printed=True))
app.command("shard")(guarded(grouped(shard)))
app.command("evaluate")(guarded(grouped(evaluate), shared=True))
app.command("compare")(guarded(grouped(compare)))
app.command("audit")(guarded(grouped(audit), printed=True))
app.command("bench")(guarded(grouped(bench)))
app.command("demo")(guarded(grouped(demo)))
app.command("doctor")(guarded(grouped(doctor), printed=True))
app.command("app")(guarded(grouped(local_page)))


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"sfumato {sfumato.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _before_the_command(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass
