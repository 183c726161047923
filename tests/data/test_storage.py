"""Shards in a store of objects: read as from a disk, one name a place, one sentence an error."""

from __future__ import annotations

import gzip
import json
import secrets
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from sfumato.cli.app import app
from sfumato.data import ImageSource, open_images
from sfumato.data.shards import write_shards
from sfumato.data.source import Place
from sfumato.data.storage import RemotePath, located, place_of
from sfumato.errors import BudgetExceededError, DataError, SfumatoError, UsageError
from sfumato.methods.moments.method import Moments
from sfumato.privacy import Budget, Curator
from sfumato.privacy.cluster import on_cluster

CLASSES = ("ant", "bee", "cat")


class Faulty(MemoryFileSystem):
    """A store of its own that fails as it is told to."""

    protocol = "faulty"
    store: ClassVar[dict[str, object]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False
    fault: Exception | None = None
    where = ""
    marked = True

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("faulty://", "memory://"))

    def info(self, path: str, **options: object) -> dict[str, object]:
        self._fail("info")
        return super().info(path, **options)

    def ls(self, path: str, detail: bool = True, **options: object) -> list[object]:
        self._fail("ls")
        return super().ls(path, detail, **options)

    def modified(self, path: str) -> datetime:
        if not type(self).marked:
            raise NotImplementedError
        return super().modified(path)

    def open(self, path: str, mode: str = "rb", **options: object) -> object:
        self._fail("open")
        file = super().open(path, mode, **options)
        if self.where == "read" and path.endswith(".parquet") and mode == "rb":
            return _Torn(file, type(self).fault)
        return file

    def _fail(self, where: str) -> None:
        if type(self).where == where and type(self).fault is not None:
            raise type(self).fault


class _Torn:
    """A file that the store stops giving in the middle."""

    def __init__(self, file: object, fault: Exception | None) -> None:
        self._file, self._fault, self._reads = file, fault, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def read(self, size: int) -> bytes:
        self._reads += 1
        if self._reads > 1 and self._fault is not None:
            raise self._fault
        return self._file.read(size)


fsspec.register_implementation("faulty", Faulty, clobber=True)


@pytest.fixture
def put() -> Iterator[Callable[[Path, str], str]]:
    """Copies a file or folder into a store, and returns its URL there."""
    name = secrets.token_hex(4)

    def copy(path: Path, protocol: str = "memory") -> str:
        client = fsspec.filesystem(protocol)
        for file in sorted(path.glob("*")) if path.is_dir() else [path]:
            client.pipe(f"/{name}/{file.relative_to(path.parent)}", file.read_bytes())
        return f"{protocol}://{name}/{path.name}"

    yield copy
    Faulty.fault, Faulty.where, Faulty.marked = None, "", True
    for protocol in ("memory", "faulty"):
        client = fsspec.filesystem(protocol)
        if client.exists(f"/{name}"):
            client.rm(f"/{name}", recursive=True)


@pytest.fixture
def shards(build, tmp_path: Path) -> Path:
    source = open_images(build("folder"), image_size=32)
    write_shards(source, tmp_path / "shards", 3, by_unit=False)
    return tmp_path / "shards"


def read(source: ImageSource) -> list[tuple[bytes, int]]:
    return [
        (image.tobytes(), int(label))
        for images, labels in source.batches(4)
        for image, label in zip(images, labels, strict=True)
    ]


def summed(source: ImageSource, state: Path, **options: object) -> np.ndarray:
    with Curator(source, Budget(5.0, 1e-6), state=state, quiet=True, **options) as curator:
        (query,) = curator.open(Moments(coefficients=10)).queries
        return curator.sum(query.name).total


def test_parquet_shards_are_read_as_from_a_disk(shards, put, tmp_path) -> None:
    url, options = put(shards), {"channels": 1, "image_size": 32}
    there = open_images(url, **options)
    assert read(there) == read(open_images(shards, **options))
    assert there.spec == open_images(shards, **options).spec
    assert len(there.by_shard()) == 3
    assert read(open_images(f"{url}/*.parquet", **options)) == read(there)
    one = sorted(shards.glob("*.parquet"))[1]
    assert read(open_images(f"{url}/{one.name}", **options)) == read(open_images(one, **options))
    assert read(open_images(f"{url}:train", **options)) == read(there)
    with pytest.raises(DataError, match="no split 'test'"):
        open_images(f"{url}:test")
    same = {"insecure_seed": 3}
    alone = summed(open_images(shards, **options), tmp_path / "a", **same)
    np.testing.assert_array_equal(summed(there, tmp_path / "b", **same), alone)


@pytest.mark.parametrize("packed", [False, True])
def test_webdataset_shards_are_read_as_from_a_disk(build, put, packed: bool) -> None:
    tar = build("webdataset")
    if packed:
        tar = tar.with_name("set.tar.gz")
        tar.write_bytes(gzip.compress(tar.with_name("set.tar").read_bytes()))
    options = {"classes": CLASSES, "channels": 1, "image_size": 32}
    there = open_images(put(tar), **options)
    assert read(there) == read(open_images(tar, **options))
    assert [read(shard) for shard in there.by_shard()] == [read(there)]


def test_a_manifest_and_units_work_in_a_store(build, put, tmp_path) -> None:
    source = open_images(build("folder"), unit_pattern=r"(\d)", channels=1, image_size=32)
    write_shards(source, tmp_path / "people", 2, by_unit=True)
    url = put(tmp_path / "people")
    there = open_images(url, unit="unit", channels=1, image_size=32)
    assert there.part is not None and there.part.count == 2
    # Keys and images are read from one object at the same time.
    pairs = list(zip(there._unit_keys(), there._records(), strict=True))
    assert len(pairs) == 9 and all(record[0] is not None for _, record in pairs)
    client = fsspec.filesystem("memory")
    client.rm(url + "/train-00000-of-00002.parquet")
    with pytest.raises(DataError, match=r"train-00000-of-00002.parquet is missing"):
        open_images(url)


def test_one_place_has_one_name(shards, put, tmp_path) -> None:
    url = put(shards)
    rest = url.removeprefix("memory://")
    keys = {open_images(same).location_key for same in (url, f"memory:///{rest}/", f"{url}/")}
    assert keys == {f"{url}:train"}
    names = {
        "s3://b/k": ["s3://b/k", "s3a://b/k", "S3://b/k", "s3://b/k/"],
        "gs://b/k": ["gs://b/k", "gcs://b/k"],
        "abfs://b/k": ["az://b/k", "abfs://b@account.dfs.core.windows.net/k", "abfss://b/k"],
        "hdfs://b/k": ["hdfs://one:8020/b/k", "hdfs://other/b/k"],
    }
    for place, urls in names.items():
        assert {place_of(RemotePath(one, "b/k/" if one[-1] == "/" else "b/k")) for one in urls} == {
            place
        }
    assert Place("s3://b/k").overlaps(Place("s3://b/k/x.parquet"))
    assert not Place("s3://b/k").overlaps(Place("s3://b/k2/x.parquet"))
    assert not Place("s3://b/k").overlaps(Place("gs://b/k"))
    assert located(f"file://{tmp_path}/x") == tmp_path / "x"
    assert located(str(tmp_path)) == tmp_path


def test_other_urls_of_the_same_objects_share_a_cap(shards, put, tmp_path) -> None:
    url = put(shards)
    first = sorted(shards.glob("*.parquet"))[0].name
    summed(open_images(url), tmp_path / "state", cap=Budget(6.0, 1e-6))
    for other in (f"{url}/{first}", f"{url}/*.parquet", url.replace("://", ":///")):
        with pytest.raises((BudgetExceededError, UsageError), match=r"cap|not finished"):
            summed(open_images(other), tmp_path / "state", fresh=True)


def test_a_copy_in_a_store_is_recognised(shards, put, tmp_path) -> None:
    summed(open_images(shards), tmp_path / "state")
    url = put(shards)
    with pytest.raises(UsageError, match="seem to be those of another ledger"):
        summed(open_images(url), tmp_path / "state")
    summed(open_images(url), tmp_path / "state", same_data_as=str(shards), fresh=True)
    # And the other way round, by the URL.
    summed(open_images(url), tmp_path / "other")
    summed(open_images(shards), tmp_path / "other", same_data_as=url, fresh=True)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://key:SECRET@bucket/data", "holds a password"),
        ("simplecache::s3://key:SECRET@bucket/data", "holds a password"),
        ("simplecache::memory://bucket/data", "in no store"),
        ("https://bucket.example/data", "in no store"),
        ("zip://data", "in no store"),
        ("memory://bucket/data?version=2", "one place has one name"),
        ("memory://bucket/data#2", "one place has one name"),
        ("memory://bucket/other/../data", "one place has one name"),
        ("nosuch://bucket/data", "no store of this kind"),
        ("memory://bucket/nothing", "no Parquet or tar shards"),
        ("memory://bucket/*.parquet", "no Parquet or tar shards"),
    ],
)
def test_other_urls_are_refused_in_words(url: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as refused:
        open_images(url)
    assert "SECRET" not in str(refused.value) + repr(refused.value.__context__)
    done = CliRunner().invoke(app, ["plan", url, "--epsilon", "1"])
    assert done.exit_code == 3 and "Traceback" not in done.output and "SECRET" not in done.output


def test_a_client_that_is_not_installed_is_named(monkeypatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("no such module")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(UsageError, match=r"pip install 'sfumato\[cloud\]'"):
        open_images("s3://bucket/data")


def test_other_kinds_of_files_are_not_read_from_a_store(build, put) -> None:
    with pytest.raises(DataError, match="only these are read"):
        open_images(put(build("zip")), classes=CLASSES)
    with pytest.raises(DataError, match="only these are read"):
        open_images(put(build("npz")))


@pytest.mark.parametrize("where", ["info", "ls", "open", "read"])
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (PermissionError("SECRET"), "refuses access"),
        (RuntimeError("SECRET"), r"cannot be reached or read \(RuntimeError\)"),
    ],
)
def test_what_a_store_raises_is_one_sentence(shards, put, tmp_path, where, fault, says) -> None:
    url = put(shards, "faulty")
    Faulty.fault, Faulty.where = fault, where
    with pytest.raises(DataError, match=says) as failed:
        summed(open_images(url), tmp_path / "state")
    assert "SECRET" not in str(failed.value)
    assert "SECRET" not in repr(failed.value.__cause__) + repr(failed.value.__context__)
    Faulty.fault = None
    summed(open_images(url), tmp_path / "state")
    (ledger,) = (tmp_path / "state").glob("*/ledger.jsonl")
    kinds = [json.loads(line)["kind"] for line in ledger.read_text().splitlines()]
    assert kinds.count("plan") == 1


def test_an_object_that_changes_in_a_run_is_noticed(shards, put, tmp_path) -> None:
    url = put(shards)
    source = open_images(url)
    before = source.fingerprint()
    assert source.fingerprint() == before
    client = fsspec.filesystem("memory")
    name = client.glob(f"{url}/*.parquet")[0]
    content = client.cat(name)
    client.pipe(name, content)
    assert source.fingerprint() != before
    assert open_images(url).fingerprint() == source.fingerprint()


def test_a_store_that_tells_of_no_change_is_refused(shards, put, tmp_path) -> None:
    url = put(shards, "faulty")
    Faulty.marked = False
    with pytest.raises(DataError, match="neither a checksum nor a time"):
        summed(open_images(url), tmp_path / "state")
    assert not list((tmp_path / "state").glob("*/ledger.jsonl"))


def test_an_engine_is_refused_what_lies_in_this_process(shards, put) -> None:
    with (
        pytest.raises(UsageError, match="memory of this process"),
        on_cluster(open_images(put(shards)), "ray"),
    ):
        pass


def test_a_store_is_never_asked_for_a_path_of_this_machine(build, monkeypatch) -> None:
    def asked(url: str) -> None:
        raise SfumatoError("asked")

    monkeypatch.setattr(fsspec.core, "url_to_fs", asked)
    open_images(build("parquet"))
