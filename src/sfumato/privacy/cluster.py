"""One-pass work on shards by the tasks of a Ray cluster, for data larger than one machine.

A task returns integers, or the name of a failure: nothing that a record can word leaves it. A task
whose node dies is done again on another; ``docs/clusters.md`` says what Ray itself keeps.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sfumato.data.decoding.decode import quiet
from sfumato.data.source import ImageSource
from sfumato.errors import DataError, SfumatoError, UsageError
from sfumato.privacy import distributed
from sfumato.privacy.queries.base import Query, TotalQuery

Result = TypeVar("Result")

RETRIES = 5
"""How often a task is done again whose node died."""
SECONDS = 10.0
"""How long an address may take to answer."""
TASKS_A_CORE = 2


@contextmanager
def on_cluster(source: ImageSource, engine: str | None) -> Iterator[None]:
    """Have sums over ``source`` computed by ``engine`` while the block runs; None is this process.

    Args:
        engine: ``ray``, a cluster of this machine alone that ends with the block, or
            ``ray://HOST:PORT``, the address that ``ray start --head`` prints, used from one of the
            cluster's machines. All of them see the data under the same path.

    Raises:
        UsageError: the engine is unknown, not installed or cannot be reached, the data set is not
            made of shards, or units may lie in several of them.
        DataError: a shard is listed twice.
    """
    if engine is None:
        yield
        return
    if distributed.size() > 1:
        raise UsageError(f"engine={engine} and torchrun exclude each other: start one process.")
    check_shards(source)
    with _connected(engine) as ray:
        source.cluster = RayCluster(ray)
        try:
            yield
        finally:
            source.cluster = None


def check_shards(source: ImageSource) -> None:
    """Refuse, by public facts alone, data whose sum cannot be taken shard by shard.

    Raises:
        UsageError, DataError: as :func:`on_cluster`.
    """
    shards = source.by_shard()
    if not shards:
        raise UsageError(
            f"{source.name}: an engine needs Parquet or WebDataset shards. Make some "
            "with sfumato shard."
        )
    paths = [place.path for shard in shards for place in shard.places]
    if paths[0].startswith("memory://"):
        raise UsageError(
            f"{source.name}: lies in the memory of this process, where no task of an engine sees "
            "it. Copy the shards to a disk or into a store, or leave engine out."
        )
    if len(set(paths)) < len(paths):
        raise DataError(f"{source.name}: a shard is listed twice, by a link. Remove the link.")
    if source.spec.unit is not None and len(shards) > 1 and source.part is None:
        raise UsageError(
            f"{source.name}: nothing shows that all records of one unit lie in one shard, and a "
            "unit in two would count twice. Make such shards: sfumato shard DATA --by-unit."
        )


def check_one_pass(queries: Sequence[Query]) -> None:
    """Raise UsageError where a query needs more of the records than one sum."""
    for query in queries:
        if not isinstance(query, TotalQuery):
            raise UsageError(
                f"query {query.name!r} ({query.mechanism}) is asked step by step, which an engine "
                "cannot answer. Use mepf, merf, ntk, moments or least-squares, or torchrun."
            )


@contextmanager
def _connected(engine: str) -> Iterator[Any]:
    """The module ``ray``, connected."""
    scheme, _, address = engine.partition("://")
    if scheme != "ray" or (engine != "ray" and not address):
        raise UsageError(f"engine={engine!r} must be ray or ray://HOST:PORT.")
    if address:
        _check_reachable(engine)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send them to its makers
    try:
        import ray
    except ImportError:
        raise UsageError("engine=ray needs Ray: pip install sfumato[ray].") from None
    stated: dict[str, Any] = {"address": address}
    # What Ray writes to disk on one machine is the owner's alone; a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    if not address:
        stated = {"address": "local", "include_dashboard": False, "_temp_dir": str(folder)}
    reason = ""
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            try:
                ray.init(**stated, log_to_driver=False, logging_level=logging.CRITICAL)
            except Exception as error:
                reason = type(error).__name__
        if reason:
            raise UsageError(
                f"engine={engine}: Ray could not be started or joined ({reason}). Nothing was "
                "charged. See that Ray's versions agree and that its token is known here."
            )
        yield ray
    finally:
        with suppress(Exception):
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _check_reachable(engine: str) -> None:
    place = urlsplit(engine)
    try:
        host, port = place.hostname, place.port
        if not host or not port:
            raise ValueError
        socket.create_connection((host, port), SECONDS).close()
    except ValueError:
        raise UsageError(f"engine={engine!r} must be ray or ray://HOST:PORT.") from None
    except OSError as error:
        raise UsageError(
            f"engine={engine}: nothing answers there ({error.strerror or 'no answer'}). Nothing "
            "was charged. Give the address that `ray start --head` printed."
        ) from None


@dataclass(frozen=True)
class _Failed:
    """Why a task has no result: an error of ours, which quotes no record, or a type's name."""

    sentence: str = ""
    kind: str = ""


class RayCluster:
    """Maps work over shards by Ray's tasks.

    Args:
        ray: the module, connected.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._task = ray.remote(num_cpus=1, max_retries=RETRIES)(_silent)

    def each(
        self, work: Callable[[ImageSource], Result], shards: Sequence[ImageSource]
    ) -> Iterator[tuple[int, Result]]:
        """Each shard's number and what ``work`` makes of it, as they come.

        Raises:
            SfumatoError: a task fails (its text is withheld), or no node can do it.
        """
        failed = _Failed()
        try:
            for number, result in self._results(work, shards):
                if isinstance(result, _Failed):
                    failed = result
                    break
                yield number, result
            else:
                return
        except self._ray.exceptions.RayError as error:
            failed = _Failed(kind=type(error).__name__)
        if failed.sentence:
            raise DataError(failed.sentence)
        raise SfumatoError(
            f"a task on the cluster failed with {failed.kind} (the message is withheld). Nothing "
            "is lost: once that is mended, the same command goes on with the other shards."
        )

    def _results(self, work: Any, shards: Sequence[ImageSource]) -> Iterator[tuple[int, Any]]:
        ray, held = self._ray, self._ray.put(work)
        waiting: dict[Any, int] = {}
        todo = iter(enumerate(shards))
        try:
            while True:
                room = TASKS_A_CORE * int(ray.cluster_resources().get("CPU", 1)) + 1
                while len(waiting) < room and (one := next(todo, None)) is not None:
                    number, shard = one
                    waiting[self._task.remote(held, shard)] = number
                if not waiting:
                    return
                (done,), _ = ray.wait(list(waiting))
                yield waiting.pop(done), ray.get(done)
        finally:
            for task in waiting:
                with suppress(Exception):
                    ray.cancel(task)


def _silent(work: Callable[[ImageSource], Any], shard: ImageSource) -> Any:
    """``work`` in a task's process, from which nothing is heard but a result."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    with quiet():
        try:
            return work(shard)
        except DataError as error:
            return _Failed(sentence=str(error))
        except Exception as error:
            return _Failed(kind=type(error).__name__)
