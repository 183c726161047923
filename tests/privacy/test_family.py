"""docs/proofs/ledger.md, "One data set": a cap holds however a data set is named or copied."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch import Tensor

from sfumato.data import ImageSource, open_images
from sfumato.data.readers import named
from sfumato.errors import BudgetExceededError, LedgerError, SfumatoError, UsageError
from sfumato.privacy import Budget, Curator, SumQuery, make_plan
from sfumato.privacy.charging import INDEPENDENT_DATA, SAME_DATA
from sfumato.privacy.run import data_set_folder
from sfumato.privacy.spending import ledger_of, spending

CLASSES = ("cat", "dog")
RECORDS = 12
BUDGET = Budget(1.0, 1e-5)
CAP = Budget(1.2, 1e-5)


def mean(images: Tensor, labels: Tensor) -> Tensor:
    return images.flatten(1).float().mean(dim=1, keepdim=True) / 255


def pictures(seed: int = 0, count: int = RECORDS) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root: Path, images: np.ndarray) -> Path:
    for number, pixels in enumerate(images):
        place = root / CLASSES[number % 2] / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(pixels))
    return root


def write_parquet(path: Path, images: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"image": [png(pixels) for pixels in images], "label": np.arange(len(images)) % 2}
    pq.write_table(pa.table(table), path)
    return path


def write_idx(folder: Path, images: np.ndarray, name: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-images-idx3-ubyte"
    path.write_bytes(struct.pack(">4I", 0x803, *images.shape) + images.tobytes())
    labels = (np.arange(len(images)) % 2).astype(np.uint8)
    head = struct.pack(">2I", 0x801, len(labels))
    (folder / f"{name}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return path


def write_zip(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, f"set/{file.relative_to(folder)}")
    return path


def write_npz(path: Path, images: np.ndarray) -> Path:
    np.savez(path, images=images, labels=np.arange(len(images)) % 2)
    return path


def run(location: object, state: Path, cap: Budget | None = None, **options: object) -> str | None:
    """Charge, answer and close one run; returns what its ledger entry declares."""
    source = (
        location if isinstance(location, ImageSource) else open_images(str(location), classes=0)
    )
    query = SumQuery("mean", mean, 1, 1.0)
    with Curator(source, BUDGET, state=state, cap=cap, quiet=True, **options) as curator:
        curator.open_plan(make_plan({"name": "t", "config": {}}, [query], BUDGET, source.spec))
        curator.sum("mean")
        entry = curator.record()["ledger"][0]
        curator.close()
    declared: str | None = entry.get("declared")
    return declared


def runs_of(location: object, state: Path) -> int:
    return len(spending(ledger_of(open_images(str(location), classes=0), state), 1e-5).runs)


Way = Callable[[Path], tuple[object, object]]


def sub_folder(place: Path) -> tuple[object, object]:
    root = write_folder(place / "set", pictures())
    return root, root / "cat"


def folder_around(place: Path) -> tuple[object, object]:
    root = write_folder(place / "set", pictures())
    return root / "cat", root


def link(place: Path) -> tuple[object, object]:
    root = write_folder(place / "set", pictures())
    (place / "link").symlink_to(root)
    return root, place / "link"


def link_to_a_class(place: Path) -> tuple[object, object]:
    root = write_folder(place / "set", pictures())
    (place / "link").symlink_to(root / "dog")
    return root, place / "link"


def glob_of_a_folder(place: Path) -> tuple[object, object]:
    write_parquet(place / "set" / "train-0.parquet", pictures())
    write_parquet(place / "set" / "train-1.parquet", pictures(1))
    return place / "set", place / "set" / "train-*.parquet"


def one_shard_of_several(place: Path) -> tuple[object, object]:
    folder, _ = glob_of_a_folder(place)
    return folder, Path(str(folder)) / "train-1.parquet"


def glob_of_links(place: Path) -> tuple[object, object]:
    folder, _ = glob_of_a_folder(place)
    (place / "links").mkdir()
    for number in range(2):
        (place / "links" / f"{number}.parquet").symlink_to(f"{folder}/train-{number}.parquet")
    return folder, place / "links" / "*.parquet"


def gzip_beside_the_file(place: Path) -> tuple[object, object]:
    path = write_idx(place / "set", pictures())
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return path, packed


def known_name(place: Path) -> tuple[object, object]:
    os.environ[named.FASHION_MNIST_VARIABLE] = str(place / "fashion")
    write_idx(place / "fashion", pictures(), "t10k")
    return "fashion-mnist", write_idx(place / "fashion", pictures())


def other_classes(place: Path) -> tuple[object, object]:
    root = write_folder(place / "set", pictures())
    return root, open_images(root, classes=["dog", "cat"])


OVERLAPPING = [
    sub_folder, folder_around, link, link_to_a_class, glob_of_a_folder, one_shard_of_several,
    glob_of_links, gzip_beside_the_file, known_name, other_classes,
]  # fmt: skip


@pytest.mark.parametrize("way", OVERLAPPING, ids=lambda way: way.__name__)
@pytest.mark.parametrize("capped", ["first", "second"])
def test_no_other_name_of_the_same_place_passes_a_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way, capped: str
) -> None:
    monkeypatch.setenv(named.FASHION_MNIST_VARIABLE, "")
    first, second = way(tmp_path / "data")
    state = tmp_path / "state"
    run(first, state, CAP if capped == "first" else None)
    with pytest.raises(BudgetExceededError, match="cap"):
        run(second, state, CAP if capped == "second" else None)
    for place in (first, second):
        if not isinstance(place, ImageSource):
            assert runs_of(place, state) == 1


COPIES: dict[str, Callable[[Path], tuple[Path, Path]]] = {
    "another place": lambda p: (
        write_folder(p / "set", pictures()), write_folder(p / "elsewhere", pictures())
    ),
    "another shard name": lambda p: (
        write_parquet(p / "a.parquet", pictures()), write_parquet(p / "b.parquet", pictures())
    ),
    "a zip": lambda p: (
        write_folder(p / "set", pictures()),
        write_zip(p / "set.zip", write_folder(p / "set", pictures())),
    ),
    "parquet": lambda p: (
        write_folder(p / "set", pictures()), write_parquet(p / "x" / "0.parquet", pictures())
    ),
    "IDX": lambda p: (write_folder(p / "set", pictures()), write_idx(p / "idx", pictures())),
    "NPZ": lambda p: (write_idx(p / "idx", pictures()), write_npz(p / "set.npz", pictures())),
    "a part": lambda p: (
        write_folder(p / "set", pictures()), write_npz(p / "set.npz", pictures()[3:9])
    ),
    "more": lambda p: (
        write_folder(p / "set", pictures()),
        write_npz(p / "set.npz", np.concatenate([pictures(1, 40), pictures()])),
    ),
    "other names and order": lambda p: (
        write_folder(p / "set", pictures()), write_folder(p / "copy", pictures()[::-1])
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_recognised_and_must_be_declared(tmp_path: Path, way: str) -> None:
    (tmp_path / "data").mkdir()
    first, second = COPIES[way](tmp_path / "data")
    state = tmp_path / "state"
    assert run(first, state, CAP) is None
    with pytest.raises(UsageError, match="those of another ledger") as caught:
        run(second, state)
    assert "--same-data-as" in str(caught.value) and "--independent-data" in str(caught.value)
    assert runs_of(second, state) == 0
    with pytest.raises(BudgetExceededError, match="cap"):
        run(second, state, same_data_as=str(first))
    assert runs_of(second, state) == 1  # known from now on


def test_a_declaration_stands_in_the_certificate_and_names_no_place(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "first", pictures())
    copy = write_folder(tmp_path / "copy", pictures())
    other = write_folder(tmp_path / "other", pictures())
    state = tmp_path / "state"
    run(first, state)
    assert run(copy, state, same_data_as=str(first)) == SAME_DATA
    assert run(copy, state) == SAME_DATA  # said once, true for ever
    assert run(first, state) == SAME_DATA
    assert run(other, state, independent_data=True) == INDEPENDENT_DATA
    assert [runs_of(place, state) for place in (first, copy, other)] == [4, 4, 1]
    assert "/" not in SAME_DATA + INDEPENDENT_DATA
    with pytest.raises(UsageError, match="exclude each other"):
        run(other, state, independent_data=True, same_data_as=str(first))
    with pytest.raises(UsageError, match="keeps no ledger"):
        run(other, state, same_data_as=str(tmp_path / "nowhere"))


def test_other_images_beside_it_are_another_data_set(tmp_path: Path) -> None:
    state = tmp_path / "state"
    black = np.zeros((1, 28, 28), np.uint8)  # which both have: one record is no copy
    for seed in range(3):
        place = write_folder(tmp_path / f"set{seed}", np.concatenate([black, pictures(seed)]))
        assert run(place, state, CAP) is None
    for seed, split in enumerate(("train", "t10k"), start=7):
        run(write_idx(tmp_path / "idx", pictures(seed), split), state, CAP)


def test_a_family_is_what_overlaps_in_the_end(tmp_path: Path) -> None:
    """Two sets that do not overlap are one family once a run was on a folder around both."""
    one = write_folder(tmp_path / "all" / "one", pictures(1))
    two = write_folder(tmp_path / "all" / "two", pictures(2))
    state = tmp_path / "state"
    run(one, state), run(two, state)
    assert (runs_of(one, state), runs_of(two, state)) == (1, 1)
    run(tmp_path / "all", state)
    assert (runs_of(one, state), runs_of(two, state)) == (3, 3)
    book = ledger_of(open_images(one), state)
    with book.locked():
        assert len(book.locations()) == 2 and len(book.family()) == 3


def test_a_cap_before_any_run_binds_the_family(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", pictures())
    state = tmp_path / "state"
    ledger_of(open_images(root), state).set_cap(Budget(0.5, 1e-5))
    with pytest.raises(BudgetExceededError, match=r"cap of 0\.5"):
        run(root / "cat", state)


def test_a_missing_or_damaged_relative_stops_the_family(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "first", pictures())
    copy = write_folder(tmp_path / "copy", pictures())
    state = tmp_path / "state"
    run(first, state)
    run(copy, state, same_data_as=str(first))
    folder = data_set_folder(state.resolve(), str(first.resolve()))
    shutil.move(folder, tmp_path / "backup")
    with pytest.raises(LedgerError, match="missing"):
        run(copy, state)
    shutil.move(tmp_path / "backup", folder)
    run(copy, state)
    with open(folder / "ledger.jsonl", "ab") as file:
        file.write(b"{}\n")
    with pytest.raises(LedgerError, match="damaged"):
        run(copy, state)


def test_a_ledger_of_the_version_before_is_found_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing of where its data lie; its folder's name is what the location key gives."""
    monkeypatch.setenv(named.FASHION_MNIST_VARIABLE, str(tmp_path / "fashion"))
    path = write_idx(tmp_path / "fashion", pictures())
    write_idx(tmp_path / "fashion", pictures(1), "t10k")
    state = tmp_path / "state"
    source = open_images("fashion-mnist")
    with monkeypatch.context() as patch:
        patch.setattr("sfumato.privacy.family.DataSetLedger._write_places", lambda self: None)
        run(source, state, CAP)
    assert data_set_folder(state.resolve(), "named:fashion-mnist:train").is_dir()
    for location in ("fashion-mnist", path):
        with pytest.raises(BudgetExceededError):
            run(location, state)


def test_nothing_is_read_before_the_charge_where_there_is_nothing_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_folder(tmp_path / "set", pictures())
    source = open_images(place)
    monkeypatch.setattr(type(source), "_records", lambda self: pytest.fail("read"))
    query = SumQuery("mean", mean, 1, 1.0)
    with Curator(source, BUDGET, state=tmp_path / "state", quiet=True) as curator:
        curator.open_plan(make_plan({"name": "t"}, [query], BUDGET, source.spec))


def test_what_a_record_holds_is_in_no_error_of_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    run(write_folder(tmp_path / "first", pictures()), state)
    source = open_images(write_folder(tmp_path / "second", pictures(1)))

    def fails(self: ImageSource) -> None:
        raise ValueError("patient 42")

    monkeypatch.setattr(type(source), "_records", fails)
    with pytest.raises(SfumatoError, match="withheld") as caught:
        run(source, state)
    assert "42" not in str(caught.value) and caught.value.__context__ is None


@pytest.mark.parametrize("umask", [0, 0o022])
def test_the_state_folder_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    before = os.umask(umask)
    try:
        run(write_folder(tmp_path / "set", pictures()), state)
        run(write_folder(tmp_path / "other", pictures(1)), state)
    finally:
        os.umask(before)
    for path in (state, *state.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
