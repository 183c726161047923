"""A sum over shards on a cluster: each shard's integers once, then their sum.

Partial sums have no noise. They lie in the run's private folder, each with a digest of its
shard and its query, until the answer is stored; a run that goes on asks for the missing ones alone.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.disk import private_folder
from sfumato.errors import DataError, LedgerError, SfumatoError
from sfumato.privacy.answering.integer_sums import independent_batch_size, probe_digest, total
from sfumato.privacy.ledger import digest
from sfumato.privacy.plan import Asker
from sfumato.privacy.queries.base import TotalQuery
from sfumato.privacy.run import Run, store
from sfumato.privacy.sealed import sealed, unsealed
from sfumato.progress import Report


@dataclass(frozen=True)
class SentQuery:
    """A query as it travels: by who asks it, because functions cannot be sent by their name."""

    asker: Asker
    name: str

    def query(self, spec: PublicSpec) -> TotalQuery:
        """The query, made anew."""
        (found,) = (query for query in self.asker.queries(spec) if query.name == self.name)
        assert isinstance(found, TotalQuery)
        return found


def total_over_shards(
    query: TotalQuery, asker: Asker, source: ImageSource, run: Run, report: Report
) -> Tensor:
    """Σ over all shards of their totals in grid steps, int64; each shard exactly once.

    Raises:
        DataError: a shard is listed twice, or a node sees another file than this machine.
        SfumatoError: nodes whose arithmetic or version differs, or a task that fails.
    """
    cluster, shards = source.cluster, source.by_shard()
    assert cluster is not None
    sent = SentQuery(asker, query.name)
    known = [shard.fingerprint() for shard in shards]
    ((_, (size, bits)),) = cluster.each(partial(_probed, sent), shards[:1])
    about = [
        sha256(digest([query.to_dict(), shard.location_key, own, size, bits]).encode()).digest()
        for shard, own in zip(shards, known, strict=True)
    ]
    if len(set(about)) < len(about):
        raise DataError(f"{source.name}: a shard is listed twice. List each one once.")
    folder = private_folder(_folder_of(run, query))
    paths = [folder / f"{index:06d}.safetensors" for index in range(len(shards))]
    missing = [n for n, path in enumerate(paths) if _stored(path, about[n]) is None]
    todo = [shards[number] for number in missing]
    for done, (place, (seen, its_bits, part)) in enumerate(
        cluster.each(partial(_part, sent, size), todo), start=1
    ):
        if seen != known[missing[place]]:
            raise DataError(
                f"{source.name}: a node of the cluster sees another file than this machine for one "
                "of the shards. All of them must see the same files under the same paths."
            )
        if its_bits != bits:
            raise SfumatoError(
                f"query {query.name!r}: nodes of the cluster give other bits for the same public "
                "image, so a sum over them has no exact sensitivity. Use nodes of one kind."
            )
        whole = {"partial": part, "about": _as_tensor(about[missing[place]])}
        store(paths[missing[place]], sealed(whole))
        report(done / len(missing))
    rows, columns = query.shape(len(source.spec.classes))
    result = torch.zeros(rows * columns + query.shared, dtype=torch.int64)
    for path, its_own in zip(paths, about, strict=True):
        stored = _stored(path, its_own)
        if stored is None:
            raise LedgerError("a partial sum was removed meanwhile. Run the same command again.")
        result += stored
    return result


def _stored(path: Path, about: bytes) -> Tensor | None:
    """A stored partial sum; None where there is none, or one of another shard or query."""
    if not path.exists():
        return None
    kept = unsealed(path, "Remove it and run the same command again.")
    return kept["partial"] if torch.equal(kept["about"], _as_tensor(about)) else None


def _as_tensor(content: bytes) -> Tensor:
    return torch.tensor(list(content), dtype=torch.uint8)


def forget_partials(run: Run, query: TotalQuery) -> None:
    """Remove the partial sums of a query that is answered."""
    shutil.rmtree(_folder_of(run, query), ignore_errors=True)


def _folder_of(run: Run, query: TotalQuery) -> Path:
    return run.folder / f"partials-{query.name}"


def _probed(sent: SentQuery, shard: ImageSource) -> tuple[int, str]:
    """The batch size, and what tells this machine's arithmetic."""
    query = sent.query(shard.spec)
    size = independent_batch_size(query, shard.spec)
    return size, _arithmetic(query, size, shard)


def _part(sent: SentQuery, size: int, shard: ImageSource) -> tuple[str, str, Tensor]:
    """What the shard is, what this machine's arithmetic is, and the shard's total."""
    query = sent.query(shard.spec)
    seen, bits = shard.fingerprint(), _arithmetic(query, size, shard)
    return seen, bits, total(query, shard, size, lambda share: None)


def _arithmetic(query: TotalQuery, size: int, shard: ImageSource) -> str:
    return f"{version('sfumato')} {probe_digest(query, shard.spec, size)}"
