"""Labels in a table: formats, names, and that each line means the same whatever the others hold."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data import open_images
from sfumato.data.options import DataOptions
from sfumato.data.tables import read_table
from sfumato.errors import DataError

CSV = "file,label,patient\n0.png,ant,a\n1.png,bee,a\n2.png,ant,b\n3.png,wasp,\n"


@pytest.fixture
def scans(tmp_path: Path, images: np.ndarray, write: SimpleNamespace) -> Path:
    names = ["0.png", "deep/1.png", "deep/2.png", "3.png", "4.png"]
    cells = [write.encoded(image) for image in images[:5]]
    write.tree(tmp_path / "scans", dict(zip(names, cells, strict=True)))
    return tmp_path / "scans"


def labels_of(place: Path, table: Path, **options: object) -> list[int]:
    source = open_images(place, labels=table, **options)  # type: ignore[arg-type]
    return [int(label) for _, labels in source.batches(9) for label in labels]


def plain(text: str) -> bytes:
    return text.encode()


FORMS: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "commas": (".csv", plain),
    "semicolons": (".csv", lambda text: text.replace(",", ";").encode()),
    "tabs": (".tsv", lambda text: text.replace(",", "\t").encode()),
    "a byte-order mark": (".csv", lambda text: b"\xef\xbb\xbf" + text.encode()),
    "UTF-16": (".csv", lambda text: text.encode("utf-16")),
    "Windows": (".csv", lambda text: text.replace("\n", "\r\n").encode()),
    "quotes": (
        ".csv",
        lambda text: text.replace("bee", '"bee"').replace("file", '"file"').encode(),
    ),
    "names without suffix": (".csv", lambda text: text.replace(".png", "").encode()),
    "paths": (".csv", lambda text: text.replace("1.png", "deep/1.png").encode()),
    "paths of Windows": (".csv", lambda text: text.replace("1.png", ".\\deep\\1.png").encode()),
    "spaces": (".csv", lambda text: text.replace("ant", " ant ").encode()),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_gives_labels_and_units(tmp_path: Path, scans: Path, form: str) -> None:
    suffix, encode = FORMS[form]
    table = tmp_path / f"t{suffix}"
    table.write_bytes(encode(CSV))
    # Sorted: 0, 3, 4, deep/1, deep/2. A class that nobody stated, and a file without a line.
    stated = {"classes": ["bee", "ant"], "unit": "patient"}
    assert labels_of(scans, table, **stated) == [1, -1, -1, 0, 1]
    source = open_images(scans, labels=table, **stated)  # type: ignore[arg-type]
    assert list(source._unit_keys()) == ["a", None, None, "a", "b"]
    inferred = open_images(scans, labels=table)
    assert inferred.spec.classes == ("ant", "bee", "wasp")
    assert "declares them public" in inferred.notes[0]


def test_parquet_zip_and_tar(tmp_path: Path, scans: Path) -> None:
    columns = {"f": ["0", "1", "2", "3"], "y": [1, 0, None, 1], "who": ["a", None, "b", "a"]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for path in sorted(scans.rglob("*.png")):
            archive.write(path, path.relative_to(scans))
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as tar:
        for path in sorted(scans.rglob("*.png")):
            tar.add(path, path.relative_to(scans).as_posix())
    stated = {"name_column": "f", "label_key": "y", "unit": "who", "classes": 2}
    for place in (scans, tmp_path / "s.zip", tmp_path / "s.tar.gz"):
        assert labels_of(place, tmp_path / "t.parquet", **stated) == [1, 1, -1, 0, -1]


def test_several_labels_and_lines_that_disagree_name_nothing(tmp_path: Path, scans: Path) -> None:
    lines = "file,label\n0.png,ant|bee\n1.png,ant\n1.png,bee\n2.png,bee\n2.png,bee\n3.png,ant\n"
    (tmp_path / "t.csv").write_text(lines)
    assert open_images(scans, labels=tmp_path / "t.csv").spec.classes == ("ant", "bee")
    assert labels_of(scans, tmp_path / "t.csv") == [-1, 0, -1, -1, 1]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("a,b\n", {}, r"no column of file names among a, b. State name_column="),
        ("file,b\n", {}, "no column of labels among file, b"),
        ("file,b\n", {"label_key": "c"}, "no column 'c' among file, b"),
        ("file,label\n", {"unit": "who"}, "no column 'who' for the unit"),
    ],
)
def test_a_header_without_the_columns_says_what_it_has(
    tmp_path: Path, scans: Path, text: str, options: dict, said: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        open_images(scans, labels=tmp_path / "t.csv", **options)


def test_a_table_that_is_not_there_or_damaged_is_refused(tmp_path: Path, scans: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        open_images(scans, labels=tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="damaged"):
        open_images(scans, labels=tmp_path / "t.parquet")


@given(st.binary(max_size=40), st.integers(0, 4))
def test_no_line_changes_what_another_says(
    tmp_path_factory: pytest.TempPathFactory, odd: bytes, at: int
) -> None:
    """An open quote, bad bytes, too few fields: whatever a line holds, the others are read."""
    path = tmp_path_factory.getbasetemp() / "odd.csv"
    honest = [b"0.png,ant", b"1.png,bee", b"2.png,ant", b"3.png,bee"]
    line = odd.replace(b"\n", b"").replace(b"\r", b"")
    path.write_bytes(b"\n".join([b"file,label", *honest[:at], b"x" + line, *honest[at:]]) + b"\n")
    table = read_table(DataOptions(labels=path, classes=("ant", "bee")), "set")
    assert [table.of(f"{index}.png") for index in range(4)] == [
        ("ant", None), ("bee", None), ("ant", None), ("bee", None),
    ]  # fmt: skip
