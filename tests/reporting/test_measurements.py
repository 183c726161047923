from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import DataError
from sfumato.release import read_certificate
from sfumato.reporting.measurements import read_measurements


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))
    return path


def test_only_an_evaluation_that_says_so_is_of_public_data(hostile: Path, metrics: Path) -> None:
    certificate = read_certificate(hostile)
    assert read_measurements(metrics, certificate).private
    edit(metrics, lambda value: value.update(private="no"))
    assert read_measurements(metrics, certificate).private
    edit(metrics, lambda value: value.update(private=False))
    assert not read_measurements(metrics, certificate).private


def test_an_evaluation_of_another_release_is_refused(hostile: Path, metrics: Path) -> None:
    certificate = read_certificate(hostile)
    stated = {"epsilon": certificate["epsilon"], "delta": certificate["delta"]}
    edit(metrics, lambda value: value.update(release=stated))
    read_measurements(metrics, certificate)
    edit(metrics, lambda value: value["release"].update(epsilon=0.1))
    with pytest.raises(DataError, match="another release"):
        read_measurements(metrics, certificate)
    edit(metrics, lambda value: value.update(classes=["cat"], release={}))
    with pytest.raises(DataError, match="another release"):
        read_measurements(metrics, certificate)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"classes": 3}', "[" * 100_000, "\ufffe", '{"release": 1}']
)
def test_any_other_file_is_refused(hostile: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(DataError, match="is no evaluation"):
        read_measurements(path, read_certificate(hostile))
    with pytest.raises(DataError, match="cannot be read"):
        read_measurements(tmp_path / "absent.json", read_certificate(hostile))


def test_a_broken_score_is_refused(hostile: Path, metrics: Path) -> None:
    certificate = read_certificate(hostile)
    edit(metrics, lambda value: value["utility"][0].update(recall=[None]))
    with pytest.raises(DataError, match="is no evaluation"):
        read_measurements(metrics, certificate)
    edit(metrics, lambda value: value["utility"][0].pop("recall"))
    with pytest.raises(DataError, match="is no evaluation"):
        read_measurements(metrics, certificate)
