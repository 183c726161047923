"""Units' keys in every format: public rules, private keys, in the order of the records."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfumato.data import PublicSpec, open_images
from sfumato.data.units import PrivacyUnit, as_key
from sfumato.errors import DataError, SfumatoError, UsageError

PATTERN = r"patient_(\d+)_"
NAMES = ["patient_0042_01", "patient_0042_02", "patient_0007_01", "control", "patient_0042_03"]
KEYS = ["0042", "0042", "0007", None, "0042"]


@pytest.fixture
def cells(images: np.ndarray, write: SimpleNamespace) -> list[bytes]:
    return [write.encoded(image) for image in images[:5]]


def keys(place: Path | str, **options: object) -> list[object]:
    """The keys, after checking that there is one for each record."""
    source = open_images(place, **options)  # type: ignore[arg-type]
    found = list(source._unit_keys())
    assert len(found) == sum(len(labels) for _, labels in source.batches(4))
    assert "0042" not in repr(source)
    return found


def paths(where: str = "{}") -> list[str]:
    """Two classes; readers sort by path, so class by class."""
    return [where.format(f"{'ant' if i < 3 else 'bee'}/{name}.png") for i, name in enumerate(NAMES)]


SORTED = ["0007", "0042", "0042", None, "0042"]


def test_folder_and_zip_find_keys_in_names_below_the_class(
    tmp_path: Path, cells: list[bytes], write: SimpleNamespace
) -> None:
    write.tree(tmp_path / "set", dict(zip(paths(), cells, strict=True)))
    write.zip(tmp_path / "set.zip", dict(zip(paths("top/{}"), cells, strict=True)))
    for place in (tmp_path / "set", tmp_path / "set.zip"):
        assert keys(place, unit_pattern=PATTERN) == SORTED
        # Without a group the whole match; the class is never part of the name.
        whole = keys(place, unit_pattern=r"^patient_\d+")
        assert whole == [None if key is None else f"patient_{key}" for key in SORTED]
        # That nobody has a key is private; ``sfumato check`` tells it.
        assert keys(place, unit_pattern=r"ant|bee|top") == [None] * 5
    # Where classes are not read, the folder may be the person.
    assert keys(tmp_path / "set", unit_pattern=r"^(\w+)/", classes=0) == ["ant"] * 3 + ["bee"] * 2


def test_nested_folders_below_the_class_belong_to_the_name(
    tmp_path: Path, cells: list[bytes], write: SimpleNamespace
) -> None:
    nested = ["train/ant/p1/1.png", "train/ant/p2/1.png", "train/bee/p1/1.png", "test/ant/p3/1.png"]
    write.tree(tmp_path, dict(zip(nested, cells, strict=False)))
    assert keys(tmp_path, unit_pattern=r"^(p\d)/") == ["p1", "p2", "p1"]
    assert keys(tmp_path, unit_pattern=r"^(p\d)/", split="test") == ["p3"]


def test_webdataset_finds_keys_in_names_and_in_json(
    tmp_path: Path, cells: list[bytes], write: SimpleNamespace
) -> None:
    facts = [{"patient": "a"}, {"patient": 7}, {}, None, {"patient": ["a"]}]
    shards: list[dict[str, bytes]] = [{}, {}]
    for i, (name, cell, fact) in enumerate(zip(NAMES, cells, facts, strict=True)):
        files = {f"{name}.png": cell, f"{name}.cls": b"0"}
        if fact is not None:
            files[f"{name}.json"] = json.dumps(fact).encode()
        shards[i // 3] |= files
    write.tar(tmp_path / "a-000.tar", shards[0])
    write.tar(tmp_path / "a-001.tar", shards[1])
    place = f"{tmp_path}/a-*.tar"
    assert keys(place, unit_pattern=PATTERN, classes=1) == KEYS
    assert keys(place, unit="patient", classes=1) == ["a", 7, None, None, None]
    assert keys(place, unit="pateint", classes=1) == [None] * 5


def write_table(path: Path, cells: list[bytes], **columns: object) -> None:
    pq.write_table(pa.table({"image": pa.array(cells, pa.binary()), **columns}), path)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", "a", "b", None, ""]), ["a", "a", "b", None, None]),
        (pa.array([3, 3, 1, None, 0]), [3, 3, 1, None, 0]),
        (pa.array([3.0, float("nan"), 1.5, None, 3.0]), [3.0, None, 1.5, None, 3.0]),
        (pa.array(["a", "a", "b", None, "a"]).dictionary_encode(), ["a", "a", "b", None, "a"]),
        (pa.array([b"a", b"b", None, b"", b"a"]), [b"a", b"b", None, None, b"a"]),
    ],
)
def test_parquet_reads_a_column(
    tmp_path: Path, cells: list[bytes], column: pa.Array, expected: list
) -> None:
    write_table(tmp_path / "a.parquet", cells, patient=column)
    assert keys(tmp_path / "a.parquet", unit="patient") == expected


def test_parquet_reads_a_field_and_refuses_what_is_no_key(
    tmp_path: Path, cells: list[bytes]
) -> None:
    place = tmp_path / "a.parquet"
    about = pa.array([{"id": "p", "tags": ["t"]}] * 4 + [None])
    write_table(place, cells, about=about, tags=pa.array([["t"]] * 5))
    assert keys(place, unit="about.id") == ["p"] * 4 + [None]
    for wrong in ("tags", "about", "about.tags"):
        with pytest.raises(DataError, match="numbers or texts"):
            open_images(place, unit=wrong)
    for missing in ("patient", "about.name", "tags.x", "about.id.x", "."):
        with pytest.raises(DataError, match="no column"):
            open_images(place, unit=missing)


def test_npz_reads_an_array(tmp_path: Path, images: np.ndarray) -> None:
    place = tmp_path / "a.npz"
    np.savez(
        place,
        images=images[:5],
        patient=np.array(["a", "a", "b", "", "a"]),
        number=np.array([[4], [4], [5], [6], [7]]),
        short=np.zeros(4),
        wide=np.zeros((5, 2)),
    )
    assert keys(place, unit="patient") == ["a", "a", "b", None, "a"]
    assert keys(place, unit="number") == [4, 4, 5, 6, 7]
    for wrong, why in (("who", "no array"), ("short", "different"), ("wide", "one number or text")):
        with pytest.raises(DataError, match=why):
            open_images(place, unit=wrong)


def test_what_has_no_columns_or_no_names_says_so(
    tmp_path: Path, build: object, any_format: str
) -> None:
    place = build(any_format)  # type: ignore[operator]
    stated = {"classes": 3} if any_format in ("webdataset", "idx", "npz") else {}
    known = {"folder": "pattern", "zip": "pattern", "parquet": "column", "npz": "column",
             "webdataset": "both", "idx": "none"}[any_format]  # fmt: skip
    if known in ("pattern", "none"):
        with pytest.raises(UsageError, match="no columns"):
            open_images(place, unit="patient", **stated)
    if known in ("column", "none"):
        with pytest.raises(UsageError, match="no names"):
            open_images(place, unit_pattern="x", **stated)
    assert open_images(place, **stated).spec.unit is None


@pytest.mark.parametrize("options", [{"unit": "patient"}, {"unit_pattern": "x"}])
def test_known_data_sets_have_neither(options: dict) -> None:
    with pytest.raises(UsageError, match="has no meaning"):
        open_images("digits", **options)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"unit": "a", "unit_pattern": "b"}, "exclude each other"),
        ({"unit": ""}, "1 to 200"),
        ({"unit_pattern": ""}, "1 to 200"),
        ({"unit_pattern": "x" * 201}, "1 to 200"),
        ({"unit_pattern": "(unclosed"}, "no regular expression"),
        ({"unit_pattern": "a\nb"}, "printable"),
        ({"unit": "a`b"}, "backtick"),
        ({"unit": "a", "records_per_unit": 0}, ">= 1"),
        ({"records_per_unit": 4}, "has no meaning"),
    ],
)
def test_a_rule_that_is_none_is_refused(options: dict, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        open_images(tmp_path, **options)


def test_no_error_holds_a_key(tmp_path: Path, cells: list[bytes], write: SimpleNamespace) -> None:
    write.tree(tmp_path / "set", dict(zip(paths(), cells, strict=True)))
    write_table(tmp_path / "a.parquet", cells, patient=pa.array(["0042"] * 5))
    attempts = [
        (tmp_path / "set", {"unit": "patient"}),
        (tmp_path / "a.parquet", {"unit": "nobody"}),
        (tmp_path / "a.parquet", {"unit_pattern": "x"}),
    ]
    for place, options in attempts:
        with pytest.raises(SfumatoError) as caught:
            open_images(place, **options)  # type: ignore[arg-type]
        assert "0042" not in str(caught.value) and caught.value.__context__ is None


def test_what_names_no_unit() -> None:
    assert [as_key(value) for value in (None, "", b"", float("nan"), [], {}, "0", 0, False)] == [
        None, None, None, None, None, None, "0", 0, False,
    ]  # fmt: skip


def test_the_specification_goes_through_json_and_back() -> None:
    rule = PrivacyUnit(pattern=PATTERN, records_per_unit=5)
    spec = PublicSpec(32, 32, 1, ("a", "b"), 10, rule)
    assert PublicSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert PATTERN in spec.unit_in_words
    plain = PublicSpec(32, 32, 1, ("a", "b"), 10)
    # As releases of before had it, so that their plans and digests stay what they were.
    assert set(plain.to_dict()) == {"height", "width", "channels", "classes", "declared_size"}
    assert PublicSpec.from_dict(plain.to_dict()) == plain and plain.unit_in_words == "record"
