from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfumato.cli.app import app
from sfumato.errors import CertificateError, UsageError
from sfumato.release import verify
from sfumato.reporting import write_report


@pytest.fixture
def release(hostile: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hostile, tmp_path / "release"))


def test_a_release_with_its_report_verifies_and_the_report_can_be_renewed(release: Path) -> None:
    page = write_report(release)
    assert page == release / "report.html"
    verify(release)
    first = page.read_bytes()
    write_report(release)
    assert page.read_bytes() == first
    verify(release)
    page.write_bytes(first + b"<!-- -->")
    with pytest.raises(CertificateError, match=r"report\.html"):
        verify(release)


def test_the_page_does_not_depend_on_where_the_release_lies(release: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(release, tmp_path / "elsewhere" / "other"))
    page = write_report(release).read_text()
    assert page == write_report(elsewhere).read_text()
    assert str(tmp_path) not in page and tmp_path.name not in page
    text = re.sub(r'src="data:[^"]*"', "", page)
    assert "250" in text and "240" not in text  # 250 records were declared, 240 there are


def test_a_private_evaluation_never_enters_a_release(
    release: Path, metrics: Path, tmp_path: Path
) -> None:
    before = sorted(release.rglob("*"))
    with pytest.raises(UsageError, match="--out"):
        write_report(release, metrics=metrics)
    link = tmp_path / "link"
    link.symlink_to(release / "images", target_is_directory=True)
    for inside in (release / "report.html", release / "images" / "x.html", link / "x.html"):
        with pytest.raises(UsageError, match="lies in a release"):
            write_report(release, metrics=metrics, out=inside)
    assert sorted(release.rglob("*")) == before
    page = write_report(release, metrics=metrics, out=tmp_path / "private" / "page.html")
    assert "NOT PRIVATE – do not share" in page.read_text()
    assert page.stat().st_mode & 0o077 == 0
    assert sorted(release.rglob("*")) == before
    assert "NOT PRIVATE" not in write_report(release).read_text()


def test_the_page_that_is_written_elsewhere_is_a_page(release: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.html"):
        write_report(release, out=tmp_path / "page.txt")


def test_a_release_that_fails_verification_gets_no_report(release: Path) -> None:
    certificate = release / "certificate.json"
    stated = json.loads(certificate.read_bytes())
    certificate.write_text(json.dumps({**stated, "epsilon": 0.1}))
    with pytest.raises(CertificateError, match="fails verification"):
        write_report(release)
    assert not (release / "report.html").exists()


def test_a_stamped_release_gets_a_stamped_report(stamped: Path, tmp_path: Path) -> None:
    page = write_report(stamped, out=tmp_path / "page.html").read_text()
    assert "NOT PRIVATE – do not share" in page


def test_the_command_names_the_page_that_it_wrote(release: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(release)])
    assert done.exit_code == 0
    assert done.output == f"report: {release / 'report.html'}\n"
    done = CliRunner().invoke(app, ["report", str(release), "--json"])
    assert json.loads(done.output) == {"report": str(release / "report.html")}
    done = CliRunner().invoke(app, ["report", str(release), "--metrics", "absent.json"])
    assert done.exit_code == UsageError.exit_code
