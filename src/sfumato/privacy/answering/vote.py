"""The steps of one vote query: teachers learn on their shards, vote, and only the noisy sum leaves.

``docs/proofs.md``, "vote". What the teachers are is a public recipe of the method's; their shards,
memories and votes never leave this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.decode import quiet
from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.errors import LedgerError, SfumatoError
from sfumato.privacy import distributed
from sfumato.privacy.answering.stored_steps import StepAnswers
from sfumato.privacy.gradients.topagg import add_votes, top_signs
from sfumato.privacy.noise.discrete_gaussian import add_noise
from sfumato.privacy.noise.keys import Key
from sfumato.privacy.queries.vote import VoteQuery
from sfumato.privacy.records.decoded import Records
from sfumato.privacy.records.shards import Shards
from sfumato.privacy.records.teacher_memory import Memory

SAVED_EVERY = 20
"""Steps between two stored memories of teachers: a method that checkpoints its student at the same
steps goes on after a kill as if nothing had happened."""


@dataclass(frozen=True)
class Question:
    """What all teachers are asked about; public.

    ``images`` float32 ``[m, c, h, w]`` in [0, 1], ``labels`` int64 ``[m]``; ``progress`` in [0, 1],
    how far the student is.
    """

    images: Tensor
    labels: Tensor
    progress: float


@dataclass(frozen=True)
class ShardBatch:
    """Records of each of n teachers; private.

    ``images`` uint8 ``[n, b, c, h, w]``, ``labels`` int64 ``[n, b]``, ``there`` bool ``[n, b]``.
    """

    images: Tensor
    labels: Tensor
    there: Tensor


@dataclass(frozen=True)
class Opinions:
    """What each of n teachers would vote with any number of digits.

    ``values`` float ``[n, e]``; ``index`` int64 ``[n, e]``, the coordinates they are for, different
    in a row, or None for all coordinates in order. A teacher without records has zeros.
    """

    values: Tensor
    index: Tensor | None = None


@runtime_checkable
class Teachers(Protocol):
    """A public recipe: what one teacher does with its records, for n of them at once.

    No teacher's result may depend on another's records, not even in the last bit.
    """

    @property
    def memory(self) -> int:
        """float32 numbers that a teacher remembers between two steps."""

    @property
    def batch(self) -> int:
        """The most records that a teacher looks at in a step."""

    @property
    def at_once(self) -> int:
        """How many teachers are worked on together."""

    def begin(self, count: int, generator: torch.Generator) -> Tensor:
        """First memories, float32 ``[count, memory]``."""

    def vote(
        self, memory: Tensor, shard: ShardBatch, question: Question, generator: torch.Generator
    ) -> tuple[Tensor, Opinions]:
        """Memories after this step, float32 ``[n, memory]``, and what the teachers think.

        What is drawn from ``generator`` must have a shape that does not depend on the records.
        """


class Ballot:
    """Answers the steps of ``query``, in order, each once; arguments as for ``Descent``."""

    def __init__(
        self,
        query: VoteQuery,
        noise_std: float,
        source: ImageSource,
        folder: Path,
        key: Key,
        check: Callable[[], None],
    ) -> None:
        self.query, self.noise_std = query, noise_std
        self._source, self._key, self._check = source, key, check
        self._run_folder, self._answers = folder, StepAnswers(query, folder)
        self._shards: Shards | None = None
        self._memory: Memory | None = None
        self._at_once = 0

    def answer(self, step: int, teachers: Teachers, question: Question) -> Tensor:
        """The noisy sum of votes of ``step`` (from 0), float64 ``[dimension]``, whole numbers.

        Raises:
            UsageError: the step is not the next one, or was forgotten.
            LedgerError: a stored answer or memory is damaged, or the disk refuses.
            SfumatoError: the teachers fail on the private data (the message is withheld).
        """
        known = distributed.from_first(
            self._answers.stored(step) if distributed.is_first() else None
        )
        if not (known and self._has_learned(step, teachers)):
            total = self._total(step, teachers, question)
            if not known:
                known = distributed.from_first(
                    self._noisy(total, step) if distributed.is_first() else None
                )
        return known["votes"].to(torch.float64)

    def forget(self, before: int) -> None:
        """Drop stored answers, and memories that a checkpoint of step ``before`` does not need."""
        if distributed.is_first():
            self._answers.forget(before)
        if self._memory is not None:
            self._memory.forget(before)

    def _has_learned(self, step: int, teachers: Teachers) -> bool:
        if teachers.memory == 0:
            return True
        return self._memory is not None and self._memory.step > step

    def _noisy(self, total: Tensor, step: int) -> dict[str, Tensor]:
        name = f"noise {self.query.name}"
        seed = int(self._key.stream(name, step).integers(2**63)) if self._key.insecure else None
        noisy = torch.from_numpy(add_noise(total.numpy(), self.noise_std, seed))
        self._answers.keep(step, {"votes": noisy})
        return {"votes": noisy}

    def _total(self, step: int, teachers: Teachers, question: Question) -> Tensor:
        """Σ of all votes, int64 ``[dimension]``; afterwards the teachers have learned this step."""
        if self._at_once == 0:
            alone = self._lone_size(teachers, question) if distributed.is_first() else None
            self._at_once = distributed.from_first(alone)
        if self._shards is None and distributed.is_first():
            self._check()
        # Silent, because the text of a warning or an error may quote what a record holds.
        with quiet():
            try:
                total = self._votes(step, teachers, question)
            except SfumatoError:
                raise
            except Exception as error:
                failure = type(error).__name__
            else:
                return distributed.add_up(total)
        # Raised outside the handler: chained errors would carry the private text along.
        raise SfumatoError(
            f"query {self.query.name!r}: step {step} failed with {failure} on the private data "
            "(the message is withheld). The budget stays charged; the run can go on once it is "
            "mended."
        )

    def _votes(self, step: int, teachers: Teachers, question: Question) -> Tensor:
        groups = self._groups()
        if self._shards is None:
            stream = self._key.stream(f"shards {self.query.name}", 0)
            records = Records(self._source, self._run_folder)
            self._shards = Shards(records, self.query.teachers, stream)
        if self._memory is None:
            self._memory = self._remembered(step, teachers, groups)
        if self._memory.step != step:
            raise LedgerError(
                f"query {self.query.name!r}: the teachers' memory of step {step} is missing from "
                f"{self._answers.folder}. Restore it, or pass --fresh to charge a new run."
            )
        total = torch.zeros(self.query.dimension, dtype=torch.int64)
        for number, group in enumerate(groups):
            shard = self._batch(group, step, teachers.batch)
            draws = self._draws("votes", group, step)
            after, opinions = teachers.vote(self._memory.read(number), shard, question, draws)
            add_votes(total, *self._signs(opinions, draws))
            self._memory.write(number, after)
        self._memory.step = step + 1
        if teachers.memory and (step + 1) % SAVED_EVERY == 0:
            self._memory.save()
        return total

    def _signs(self, opinions: Opinions, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Coordinates and signs of each teacher's vote, at most k in a row (k / P in a part)."""
        values, index, parts = opinions.values, opinions.index, self.query.parts
        width = self.query.dimension // parts
        first = torch.zeros(1, 1, dtype=torch.int64)
        if index is None:
            first = width * torch.arange(parts).repeat(len(values))[:, None]
            values = values.reshape(-1, width)
        elif parts > 1:
            raise SfumatoError("opinions on some coordinates only cannot be cut into parts.")
        k = min(self.query.entries // parts, values.shape[1])
        uniform = torch.rand(len(values), k, generator=generator) if self.query.stochastic else None
        place, signs = top_signs(values, k, uniform)
        return (place + first if index is None else index.gather(1, place)), signs

    def _groups(self) -> list[NDArray[np.int64]]:
        """This rank's groups of teachers, all of one size: the last is filled up with -1."""
        count = -(-self.query.teachers // self._at_once)
        every = np.full(count * self._at_once, -1)
        every[: self.query.teachers] = np.arange(self.query.teachers)
        return list(every.reshape(count, self._at_once)[distributed.share(count)])

    def _batch(self, group: NDArray[np.int64], step: int, size: int) -> ShardBatch:
        assert self._shards is not None
        stream = self._key.stream(f"records {self.query.name} {group[0]}", step)
        parts = self._shards.batch(group, size, stream.random(len(group)))
        return ShardBatch(*(torch.from_numpy(part) for part in parts))

    def _draws(self, what: str, group: NDArray[np.int64], step: int) -> torch.Generator:
        purpose = f"{what} {self.query.name} {group[0]}"
        return self._key.torch_stream(purpose, step, torch.device("cpu"))

    def _remembered(self, step: int, teachers: Teachers, groups: list[NDArray[np.int64]]) -> Memory:
        memory = Memory(self._answers.folder, len(groups), self._at_once, teachers.memory)
        if not memory.restore(step):
            for number, group in enumerate(groups):
                memory.write(number, teachers.begin(len(group), self._draws("first", group, 0)))
        return memory

    def _lone_size(self, teachers: Teachers, question: Question) -> int:
        """The largest group in which a teacher's bits do not depend on its mates."""
        size = max(1, min(teachers.at_once, self.query.teachers))
        while size > 1 and not self._are_alone(size, teachers, question):
            size = -(-size // 2)
        return size

    def _are_alone(self, size: int, teachers: Teachers, question: Question) -> bool:
        spec, generator = self._source.spec, torch.Generator().manual_seed(0)  # public images
        first, others = (teachers.begin(size, generator) for _ in range(2))
        shard, crowd = (public_shards(spec, size, teachers.batch, generator) for _ in range(2))
        state = generator.get_state()

        def bits(memory: Tensor, shard: ShardBatch) -> list[Tensor | None]:
            draws = torch.Generator()
            draws.set_state(state)
            after, opinions = teachers.vote(memory, shard, question, draws)
            return [after, opinions.values, opinions.index]

        expected = bits(first, shard)
        for place in {0, size // 2, size - 1}:
            only = torch.arange(size) == place
            mixed = [_either(only, a, b) for a, b in zip(_parts(shard), _parts(crowd), strict=True)]
            found = bits(_either(only, first, others), ShardBatch(*mixed))
            for a, b in zip(expected, found, strict=True):
                if a is not None and b is not None and not torch.equal(a[place], b[place]):
                    return False
        return True


def _parts(shard: ShardBatch) -> tuple[Tensor, Tensor, Tensor]:
    return shard.images, shard.labels, shard.there


def _either(chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *(1 for _ in a.shape[1:])), a, b)


def public_shards(
    spec: PublicSpec, teachers: int, size: int, generator: torch.Generator
) -> ShardBatch:
    """Shards of random images, some of them empty or not full."""
    shape = (teachers, size, spec.channels, spec.height, spec.width)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(max(len(spec.classes), 1), shape[:2], generator=generator)
    length = torch.randint(size + 1, (teachers, 1), generator=generator)
    there = torch.arange(size)[None] < length
    return ShardBatch(images * there.view(*there.shape, 1, 1, 1), labels * there, there)
