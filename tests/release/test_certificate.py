from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import CertificateError
from sfumato.privacy.ledger import seal
from sfumato.release import certificate as certificates
from sfumato.release.certificate import core_of, own_digest, public_entries, read_certificate
from sfumato.release.strict_json import walk


def test_the_headline_stands_at_the_top_level(honest: Path) -> None:
    certificate = read_certificate(honest)
    assert certificate["epsilon"] == pytest.approx(2, rel=1e-3)
    assert certificate["delta"] == 1e-5
    assert certificate["relation"] == "add-or-remove-one"
    assert certificate["unit"] == "record"
    assert certificate["classes"] == [str(digit) for digit in range(10)]
    assert certificate["private"] is True
    assert (
        certificate["epsilon_by_relation"]["replace-one"]
        > certificate["epsilon_by_relation"]["add-or-remove-one"]
    )


def test_it_says_nothing_of_the_size_the_place_or_the_time_of_the_private_data(
    honest: Path,
) -> None:
    text = (honest / certificates.NAME).read_text()
    assert str(honest.parent) not in text
    assert "1437" not in text  # the number of records
    keys = {path[-1] for _, path, _ in walk(json.loads(text)) if path}
    assert not keys & {"time", "seq", "state", "ledger_hash", "source", "data"}


def test_ledger_entries_lose_their_times_and_hashes_and_are_chained_anew() -> None:
    entries: list[dict[str, Any]] = [
        seal({"kind": "plan", "time": "2020-01-01T00:00:00", "seq": 7, "prev": "x", "run": "a"}),
        seal({"kind": "answer", "time": "2020-01-01T00:09:00", "seq": 8, "prev": "y", "run": "a"}),
        seal({"kind": "closed", "time": "2020-01-01T00:10:00", "seq": 9, "prev": "z", "run": "a"}),
    ]
    plan, answer = public_entries(entries)
    assert set(plan) == set(answer) == {"kind", "run", "prev", "hash"}
    assert answer["prev"] == plan["hash"]
    assert not {entry["hash"] for entry in entries} & {plan["hash"], answer["hash"]}
    # Another duration gives the same entries, so nothing about it can be searched for.
    slower = [{**entry, "time": "2020-01-02T00:00:00"} for entry in entries]
    assert public_entries(slower) == [plan, answer]


def test_the_core_is_what_two_releases_of_one_run_share(honest: Path) -> None:
    certificate = read_certificate(honest)
    again = certificates.complete(
        core_of(certificate), certificate["release"], certificate["files"]
    )
    assert again == certificate
    assert own_digest(again) == certificate["digest"]


def test_a_folder_without_certificate_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="not a release"):
        read_certificate(tmp_path)


def test_a_link_is_no_certificate(honest: Path, tmp_path: Path) -> None:
    (tmp_path / certificates.NAME).symlink_to(honest / certificates.NAME)
    with pytest.raises(CertificateError):
        read_certificate(tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / certificates.NAME).write_text('{"format": "sfumato-certificate/3"}')
    with pytest.raises(CertificateError, match="format"):
        read_certificate(tmp_path)
