"""Sums over shards: equal to one process bit for bit, each shard once, one charge, no word said."""

from __future__ import annotations

import json
import os
import pickle
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from sfumato import synthesis
from sfumato.cli.app import app
from sfumato.data import ImageSource, open_images
from sfumato.data.shards import write_shards
from sfumato.errors import DataError, SfumatoError, UsageError
from sfumato.methods.dpdm.method import DPDM
from sfumato.methods.moments.method import Moments
from sfumato.privacy import Budget, Curator
from sfumato.privacy.cluster import check_shards, on_cluster


class HereCluster:
    """Shards one after the other in this process, in a shuffled order, as a cluster gives them."""

    def __init__(self) -> None:
        self.asked = 0
        self.stops_after: int | None = None

    def each(self, work, shards) -> Iterator[tuple[int, object]]:
        for number in np.random.default_rng(len(shards)).permutation(len(shards)).tolist():
            if self.stops_after is not None and self.asked >= self.stops_after:
                raise SfumatoError("stopped")
            self.asked += 1
            yield number, work(pickle.loads(pickle.dumps(shards[number])))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 90 images of 17 people; some images are broken, some have no person."""
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    from PIL import Image

    for number in range(90):
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        name = f"p{number % 17}_{number}.png" if number % 9 else f"{number}.png"
        if number % 13 == 5:
            (place / name).write_bytes(b"broken")
        else:
            Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(place / name)
    return folder


@pytest.fixture(scope="module")
def shards(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "of-people"
    source = open_images(people, unit_pattern=r"p(\d+)_", channels=1, image_size=28)
    write_shards(source, out, 5, by_unit=True)
    return out


def opened(shards: Path, **options: object) -> ImageSource:
    return open_images(shards, unit="unit", records_per_unit=3, image_size=28, **options)


def summed(source: ImageSource, state: Path, **options: object) -> np.ndarray:
    with Curator(source, Budget(5.0, 1e-6), state=state, quiet=True, insecure_seed=7) as curator:
        (query,) = curator.open(Moments(**options)).queries
        return curator.sum(query.name).total


def test_shards_hold_every_record_and_each_unit_in_one_of_them(people, shards) -> None:
    before = open_images(people, unit_pattern=r"p(\d+)_", channels=1, image_size=28)
    after = opened(shards)
    pairs = [
        sorted(
            (i.tobytes(), int(n))
            for images, labels in s.batches(8)
            for i, n in zip(images, labels, strict=True)
        )
        for s in (before, after)
    ]
    assert pairs[0] == pairs[1]
    keys = [{key for key in shard._unit_keys() if key is not None} for shard in after.by_shard()]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 17
    assert sum(1 for key in before._unit_keys() if key is None) == sum(
        1 for shard in after.by_shard() for key in shard._unit_keys() if key is None
    )
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in shards.iterdir())


def test_a_cluster_answers_the_same_bits_as_one_process(shards, tmp_path) -> None:
    alone = summed(opened(shards), tmp_path / "alone")
    source = opened(shards)
    source.cluster = HereCluster()
    np.testing.assert_array_equal(summed(source, tmp_path / "spread"), alone)
    assert source.cluster.asked == 1 + 5
    assert not list((tmp_path / "spread").rglob("partials-*"))


def test_a_run_goes_on_with_the_shards_that_are_missing(shards, tmp_path) -> None:
    alone = summed(opened(shards), tmp_path / "alone")
    source = opened(shards)
    source.cluster = cluster = HereCluster()
    cluster.stops_after = 4  # the probe and three shards
    with pytest.raises(SfumatoError, match="stopped"):
        summed(source, tmp_path / "state")
    kept = list((tmp_path / "state").rglob("partials-*/*"))
    assert len(kept) == 3
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in kept)
    cluster.asked, cluster.stops_after = 0, None
    np.testing.assert_array_equal(summed(source, tmp_path / "state"), alone)
    assert cluster.asked == 1 + 2


def test_the_sketch_of_a_cluster_is_that_of_one_process(shards, tmp_path) -> None:
    found = []
    for state, cluster in ((tmp_path / "a", None), (tmp_path / "b", HereCluster())):
        source = opened(shards)
        source.cluster = cluster
        state.mkdir()
        (state / "sketch.key").write_bytes(bytes(32))
        with Curator(source, Budget(1.0, 1e-6), state=state, quiet=True) as curator:
            (query,) = curator.open(Moments()).queries
            curator.sum(query.name)
        found.append(load_file(next(state.rglob("sketch.safetensors")))["hashes"])
    assert len(found[0]) > 60
    np.testing.assert_array_equal(*found)


def test_a_unit_counts_in_its_own_shard_alone(shards, tmp_path) -> None:
    """A record that was moved into another shard adds nothing, and nobody is told."""
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in shards.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    first, second = sorted(moved.glob("*.parquet"))[:2]
    stray = (
        pq.read_table(first).filter(pa.compute.is_valid(pq.read_table(first)["unit"])).slice(0, 2)
    )
    pq.write_table(pa.concat_tables([pq.read_table(second), stray]), second)
    sums = []
    for folder in (shards, moved):
        source = opened(folder)
        source.cluster = HereCluster()
        sums.append(summed(source, tmp_path / f"state-{folder.name}"))
    np.testing.assert_array_equal(*sums)


def test_units_that_may_straddle_are_refused(people, shards, tmp_path) -> None:
    write_shards(opened(shards), tmp_path / "in-turn", 3, by_unit=False)
    with pytest.raises(UsageError, match="--by-unit"):
        check_shards(open_images(str(shards / "*.parquet"), unit="unit"))
    with pytest.raises(UsageError, match="--by-unit"):
        check_shards(open_images(shards, unit="label"))
    check_shards(open_images(tmp_path / "in-turn"))
    check_shards(opened(shards))
    with pytest.raises(UsageError, match="sfumato shard"):
        check_shards(open_images(people))


def test_a_shard_twice_or_missing_is_refused(shards, tmp_path) -> None:
    def changed(name: str, text: str | None = None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for path in shards.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        if text is not None:
            (folder / "shards.json").write_text(text)
        return folder

    names = sorted(path.name for path in shards.glob("*.parquet"))
    gone = changed("gone")
    (gone / names[2]).unlink()
    with pytest.raises(DataError, match=f"the shard {names[2]} is missing"):
        open_images(gone)
    more = changed("more")
    (more / "train-9.parquet").write_bytes((more / names[0]).read_bytes())
    with pytest.raises(DataError, match=r"is not in shards\.json"):
        open_images(more)
    twice = f'{{"shards": {[*names, names[0]]!r}, "by_unit": true}}'.replace("'", '"')
    with pytest.raises(DataError, match="lists a shard twice"):
        open_images(changed("twice", twice))
    for number, text in enumerate(("", "[]", "{}", '{"shards": [3], "by_unit": true}')):
        with pytest.raises(DataError, match="is damaged"):
            open_images(changed(f"damaged{number}", text))
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "a.parquet").write_bytes((shards / names[0]).read_bytes())
    (linked / "b.parquet").symlink_to(linked / "a.parquet")
    with pytest.raises(DataError, match="listed twice, by a link"):
        check_shards(open_images(str(linked / "*.parquet")))


def test_a_node_that_sees_another_file_ends_the_run(shards, tmp_path) -> None:
    class Elsewhere(HereCluster):
        def each(self, work, shards):
            for number, found in super().each(work, shards):
                yield number, ("other", *found[1:]) if len(found) == 3 else found

    source = opened(shards)
    source.cluster = Elsewhere()
    with pytest.raises(DataError, match="sees another file"):
        summed(source, tmp_path / "state")


def test_methods_with_steps_are_refused_and_nothing_is_charged(shards, tmp_path) -> None:
    source = opened(shards, declared_size=5000)
    source.cluster = HereCluster()
    with Curator(source, Budget(1.0, 1e-6), state=tmp_path / "state", quiet=True) as curator:
        with pytest.raises(UsageError, match="step by step"):
            curator.open(DPDM())
    assert not any(p.stat().st_size for p in (tmp_path / "state").rglob("ledger.jsonl"))


def test_shards_and_a_sum_over_them_through_the_command_line(
    people, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``shard --by-unit``, then ``synthesize --engine ray``, with a cluster that is none."""
    cluster, engines = HereCluster(), []

    @contextmanager
    def on_here(source: ImageSource, engine: str | None) -> Iterator[None]:
        engines.append(engine)
        source.cluster = cluster
        yield

    def run(*words: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    monkeypatch.setattr(synthesis, "on_cluster", on_here)
    out, release, state = tmp_path / "shards", tmp_path / "release", tmp_path / "state"
    reading = ["--channels", "1", "--image-size", "28"]
    pattern = ["--by-unit", "--unit-pattern", r"p(\d+)_"]
    said = run("shard", people, *pattern, *reading, "--out", out, "--shards", 3)
    assert f"--unit unit --same-data-as {people}" in " ".join(said.split())
    assert len(list(out.glob("*.parquet"))) == 3
    unit = ["--unit", "unit", "--records-per-unit", 3, "--image-size", "28"]
    privacy = ["--epsilon", 5, "--delta", 1e-6, "--method", "moments", "--independent-data"]
    rest = ["--samples", 20, "--out", release, "--state", state, "--quiet"]
    run("synthesize", out, *unit, "--engine", "ray", *privacy, *rest)
    assert engines == ["ray"] and cluster.asked >= 1 + 3
    run("verify", release)


@pytest.mark.parametrize("engine", ["spark", "ray://", "ray:", "ray://nowhere", "ray://a:b", ""])
def test_an_unknown_engine_is_refused(shards, engine: str) -> None:
    with pytest.raises(UsageError, match=r"must be ray or ray://HOST:PORT"):
        with on_cluster(opened(shards), engine):
            pass


def test_an_address_where_nothing_answers_is_one_sentence(shards) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UsageError, match=r"nothing answers there .* Nothing was charged"):
        with on_cluster(opened(shards), f"ray://127.0.0.1:{port}"):
            pass


RAY = """
import json, logging, os, sys, warnings
from pathlib import Path

from sfumato.data import open_images
from sfumato.errors import SfumatoError, UsageError
from sfumato.methods.moments.method import Moments
from sfumato.privacy import Budget, Curator
from sfumato.privacy.cluster import check_shards, on_cluster


def loud(shard, raises):
    print("SECRET", flush=True)
    print("SECRET", file=sys.stderr, flush=True)
    os.write(2, b"SECRET")
    warnings.warn("SECRET")
    logging.getLogger("PIL").error("SECRET")
    if raises:
        raise ValueError("SECRET")
    return 5


def summed(source, state):
    with Curator(source, Budget(5.0, 1e-6), state=state, quiet=True, insecure_seed=7) as curator:
        (query,) = curator.open(Moments()).queries
        return curator.sum(query.name).total.tolist()


shards, here, engine = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
source = open_images(shards, unit="unit", records_per_unit=3, image_size=28)
alone = summed(source, here / "alone")
found = {}
try:
    stored = open_images(f"shared://{shards}", unit="unit", records_per_unit=3, image_size=28)
    check_shards(stored)
    with on_cluster(source, engine):  # once: a start of Ray takes longer than all tasks
        found["same"] = summed(source, here / "spread") == alone
        stored.cluster = source.cluster
        found["stored"] = summed(stored, here / "stored") == alone
        pieces = source.by_shard()[:1]
        found["speaks"] = list(source.cluster.each(lambda shard: loud(shard, False), pieces))
        try:
            list(source.cluster.each(lambda shard: loud(shard, True), pieces))
        except SfumatoError as error:
            found["raises"] = [str(error), repr(error.__cause__), repr(error.__context__)]
except UsageError as error:
    found["refused"] = str(error)
(here / "found.json").write_text(json.dumps(found))
sys.stdout.flush()
os._exit(0)  # whatever threads of Ray are left
"""


SHARED = """
from fsspec.implementations.local import LocalFileSystem


class Shared(LocalFileSystem):
    protocol = ("shared",)
"""


def test_ray_itself(shards: Path, tmp_path: Path) -> None:
    """In a process of its own: equal bits, from a store too, and nothing heard of a task."""
    pytest.importorskip("ray", reason="install the extra 'ray'")
    (tmp_path / "script.py").write_text(RAY)
    command = [sys.executable, str(tmp_path / "script.py"), str(shards), str(tmp_path), "ray"]
    # A store that is installed on all nodes, as s3fs would be.
    store = tmp_path / "store"
    (store / "shared-1.dist-info").mkdir(parents=True)
    (store / "shared_store.py").write_text(SHARED)
    (store / "shared-1.dist-info" / "METADATA").write_text("Name: shared\nVersion: 1\n")
    entry = "[fsspec.specs]\nshared = shared_store:Shared\n"
    (store / "shared-1.dist-info" / "entry_points.txt").write_text(entry)
    paths = os.pathsep.join([str(store), *(path for path in sys.path if path)])
    base = {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=240, env=os.environ | base
        )
    except subprocess.TimeoutExpired:
        pytest.skip("Ray takes too long on this machine")
    assert (tmp_path / "found.json").exists(), done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    if "could not be started" in found.get("refused", ""):
        pytest.skip("Ray does not start on this machine")
    assert found["same"] and found["stored"] and found["speaks"] == [[0, 5]]
    sentence, *others = found["raises"]
    assert "failed with ValueError (the message is withheld)" in sentence
    assert "SECRET" not in done.stdout + done.stderr + sentence + "".join(others)
