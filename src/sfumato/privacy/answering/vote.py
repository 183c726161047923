"""The steps of one vote query: teachers learn on their shards, vote, and only the noisy sum leaves.

``docs/proofs/vote.md``. What the teachers are is a public recipe of the method's; their shards,
states and votes never leave this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.devices import TOO_LITTLE_MEMORY, free_memory, random_on
from sfumato.errors import LedgerError, SfumatoError, UsageError
from sfumato.privacy import distributed
from sfumato.privacy.accounting.events import Event
from sfumato.privacy.answering.base import Answering, OpenRun, foreign
from sfumato.privacy.gradients.per_example import same_bits
from sfumato.privacy.gradients.topagg import VOTE_BITS, add_votes, top_signs
from sfumato.privacy.queries.vote import VoteQuery
from sfumato.privacy.records.shards import Shards
from sfumato.privacy.records.teacher_states import TeacherStates

SAVED_EVERY = 20
"""Steps between two stored states of the teachers: a method that checkpoints its student at the
same steps goes on after a kill as if nothing had happened."""


@dataclass(frozen=True)
class GeneratedBatch:
    """The student's images of one step, which all teachers vote on; public.

    ``images`` float32 ``[m, c, h, w]`` in [0, 1], ``labels`` int64 ``[m]``; ``progress`` in [0, 1],
    how far the student is.
    """

    images: Tensor
    labels: Tensor
    progress: float

    def to(self, device: torch.device) -> GeneratedBatch:
        """The batch on ``device``."""
        return GeneratedBatch(self.images.to(device), self.labels.to(device), self.progress)


@dataclass(frozen=True)
class TeacherBatches:
    """Records of each of n teachers; private.

    ``images`` uint8 ``[n, b, c, h, w]``, ``labels`` int64 ``[n, b]``, ``there`` bool ``[n, b]``.
    """

    images: Tensor
    labels: Tensor
    there: Tensor

    def to(self, device: torch.device) -> TeacherBatches:
        """The records on ``device``."""
        return TeacherBatches(*(part.to(device) for part in (self.images, self.labels, self.there)))


@dataclass(frozen=True)
class TeacherGradients:
    """Each of n teachers' gradient for the generated images, before it is cut to signs.

    ``values`` float ``[n, e]``; ``index`` int64 ``[n, e]``, the coordinates they are for, different
    in a row, or None for all coordinates in order. A teacher without records has zeros.
    """

    values: Tensor
    index: Tensor | None = None


@runtime_checkable
class Teachers(Protocol):
    """A public recipe: what one teacher does with its records, for n of them at once.

    No teacher's result may depend on another's records, not even in the last bit. All randomness
    is drawn before any record is seen, so that none can shift what its mates draw.
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
        """First states, float32 ``[count, memory]``."""

    def draws(
        self, count: int, generated: GeneratedBatch, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Independent draws for each of ``count`` teachers; dimension 0 is the teacher."""

    def vote(
        self, memory: Tensor, shard: TeacherBatches, generated: GeneratedBatch, /, *draws: Tensor
    ) -> tuple[Tensor, TeacherGradients]:
        """States after this step, float32 ``[n, memory]``, and the teachers' gradients."""


class VoteAnswering(Answering[VoteQuery]):
    """Answers the steps of a vote query; arguments as for :class:`Answering`."""

    def __init__(self, query: VoteQuery, event: Event, run: OpenRun) -> None:
        super().__init__(query, event, run)
        self._shards: Shards | None = None
        self._states: TeacherStates | None = None
        self._at_once = 0

    def answer(self, step: int, teachers: Teachers, generated: GeneratedBatch) -> Tensor:
        """The noisy sum of votes of ``step`` (from 0), float64 ``[dimension]``.

        Raises:
            UsageError: the step is not the next one, or was forgotten.
            LedgerError: a stored answer or state is damaged, or the disk refuses.
            SfumatoError: the teachers fail on the private data (the message is withheld).
        """
        if self._stored(step) and not self._has_learned(step, teachers):
            self._total(step, teachers, generated)
        std = self.event.noise_std * 2**VOTE_BITS
        size = self.query.dimension

        def total() -> Tensor:
            return self._total(step, teachers, generated)

        steps = self._answer(step, "votes", total, size, std)
        return steps.double() * 2.0**-VOTE_BITS

    def forget(self, before: int) -> None:
        """Drop stored answers, and states that a checkpoint of step ``before`` does not need."""
        super().forget(before)
        if self._states is not None:
            self._states.forget(before)

    def _has_learned(self, step: int, teachers: Teachers) -> bool:
        if teachers.memory == 0:
            return True
        return self._states is not None and self._states.step > step

    def _total(self, step: int, teachers: Teachers, generated: GeneratedBatch) -> Tensor:
        """Σ of all votes in grid steps, int64; afterwards the teachers have learned this step."""
        if self._at_once == 0:
            first = distributed.is_first()
            alone = self._lone_size(teachers, generated) if first else None
            self._at_once = distributed.from_first(alone)
        if self._shards is None:
            self._run.check_same_data()
        mine = self._silently(lambda: self._votes(step, teachers, generated), f"step {step}")
        return distributed.add_up(mine)

    def _votes(self, step: int, teachers: Teachers, generated: GeneratedBatch) -> Tensor:
        groups = self._groups()
        if self._shards is None:
            stream = self._key.stream(f"shards {self.query.name}", 0)
            self._shards = Shards(self._run.records, self.query.teachers, stream)
        if self._states is None:
            self._states = self._remembered(step, teachers, groups)
        if self._states.step != step:
            raise LedgerError(
                f"query {self.query.name!r}: the teachers' states of step {step} are missing from "
                f"{self.folder}. Restore them, or pass --fresh (fresh=True) to charge a new run."
            )
        device, asked = self._run.device, generated.to(self._run.device)
        total = torch.zeros(self.query.dimension, dtype=torch.int64, device=device)
        for number, group in enumerate(groups):
            shard = self._batch(group, step, teachers.batch).to(device)
            random = self._generator("votes", group, step)
            draws, uniform = foreign(partial(self._draws, teachers, asked, random))
            before = self._states.read(number).to(device)
            after, gradients = foreign(partial(teachers.vote, before, shard, asked, *draws))
            add_votes(total, *self._signs(gradients, uniform), self.query.entries)
            self._states.write(number, after.cpu())
        self._states.step = step + 1
        if teachers.memory and (step + 1) % SAVED_EVERY == 0:
            self._states.save()
        return total.cpu()

    def _draws(
        self, teachers: Teachers, generated: GeneratedBatch, generator: torch.Generator
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The draws of a group of teachers, and those of their signs, before a record is seen."""
        draws, parts = teachers.draws(self._at_once, generated, generator), self.query.parts
        shape = (self._at_once * parts, self.query.entries // parts)
        uniform = None
        if self.query.stochastic:
            uniform = torch.rand(shape, generator=generator, device=generator.device)
        return draws, uniform

    def _signs(self, gradients: TeacherGradients, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        """Coordinates and signs of each teacher's vote, ``[n, ·]``: at most k / P in a part."""
        values, index, parts = gradients.values, gradients.index, self.query.parts
        teachers, width = self._at_once, self.query.dimension // parts
        expected = (teachers, self.query.dimension) if index is None else (teachers, -1)
        same = index is None or (index.shape == values.shape and parts == 1)
        if not same or values.shape[0] != teachers or values.shape[1] != expected[1] != -1:
            raise UsageError(
                f"query {self.query.name!r}: gradients have shape {tuple(values.shape)}; they must "
                f"have {teachers} rows, and be on all {self.query.dimension} coordinates or, where "
                "parts=1, on those of an index of the same shape."
            )
        if index is None:
            values = values.reshape(-1, width)
        k = min(self.query.entries // parts, values.shape[1])
        place, signs = top_signs(values, k, None if uniform is None else uniform[:, :k])
        if index is None:
            first = width * torch.arange(parts, device=place.device).repeat(teachers)[:, None]
            place = (place + first).view(teachers, -1)
        else:
            place = index.gather(1, place)
        return place, signs.view(teachers, -1)

    def _groups(self) -> list[NDArray[np.int64]]:
        """This rank's groups of teachers, all of one size: the last is filled up with -1."""
        count = -(-self.query.teachers // self._at_once)
        every = np.full(count * self._at_once, -1)
        every[: self.query.teachers] = np.arange(self.query.teachers)
        return list(every.reshape(count, self._at_once)[distributed.share(count)])

    def _batch(self, group: NDArray[np.int64], step: int, size: int) -> TeacherBatches:
        assert self._shards is not None
        stream = self._key.stream(f"records {self.query.name} {group[0]}", step)
        parts = self._shards.batch(group, size, stream.uniform(len(group)))
        return TeacherBatches(*(torch.from_numpy(part) for part in parts))

    def _generator(self, what: str, group: NDArray[np.int64], step: int) -> torch.Generator:
        purpose = f"{what} {self.query.name} {group[0]}"
        return self._key.torch_stream(purpose, step, self._run.device)

    def _remembered(
        self, step: int, teachers: Teachers, groups: list[NDArray[np.int64]]
    ) -> TeacherStates:
        states = TeacherStates(self.folder, len(groups), self._at_once, teachers.memory)
        if not states.restore(step):
            for number, group in enumerate(groups):
                first = teachers.begin(len(group), self._generator("first", group, 0))
                states.write(number, first.cpu())
        return states

    def _lone_size(self, teachers: Teachers, generated: GeneratedBatch) -> int:
        """The largest group in which a teacher's bits do not depend on its mates."""
        self._at_once = max(1, min(teachers.at_once, self.query.teachers))
        while not self._fit(teachers, generated):
            if self._at_once == 1:
                raise SfumatoError(
                    f"query {self.query.name!r}: a teacher votes otherwise on the same records. "
                    "Draw its randomness in draws(), and keep no state but its memory."
                )
            self._at_once = -(-self._at_once // 2)
        return self._at_once

    def _fit(self, teachers: Teachers, generated: GeneratedBatch) -> bool:
        """Whether public teachers fit into the device's memory and do not see each other."""
        try:
            return self._are_independent(teachers, generated.to(self._run.device))
        except torch.OutOfMemoryError:
            full = self._at_once == 1
        free_memory(self._run.device)
        if full:
            raise SfumatoError(TOO_LITTLE_MEMORY)
        return False

    def _are_independent(self, teachers: Teachers, generated: GeneratedBatch) -> bool:
        spec, size = self._run.source.spec, self._at_once
        generator = random_on(self._run.device, 0)  # public images
        first, others = (teachers.begin(size, generator) for _ in range(2))
        shard, crowd = (public_shards(spec, size, teachers.batch, generator) for _ in range(2))
        own, other = (self._draws(teachers, generated, generator) for _ in range(2))

        def bits(memory: Tensor, shard: TeacherBatches, draws: tuple[Tensor, ...]) -> list[Tensor]:
            after, gradients = teachers.vote(memory, shard, generated, *draws)
            index, signs = self._signs(gradients, own[1])
            return [after, gradients.values, index, signs]

        expected = bits(first, shard, own[0])
        for place in {0, size // 2, size - 1}:
            only = torch.arange(size, device=generator.device) == place
            mixed = [_either(only, a, b) for a, b in zip(_parts(shard), _parts(crowd), strict=True)]
            draws = (_either(only, a, b) for a, b in zip(own[0], other[0], strict=True))
            found = bits(_either(only, first, others), TeacherBatches(*mixed), tuple(draws))
            if any(not same_bits(a[place], b[place]) for a, b in zip(expected, found, strict=True)):
                return False
        return True


def _parts(shard: TeacherBatches) -> tuple[Tensor, Tensor, Tensor]:
    return shard.images, shard.labels, shard.there


def _either(chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *(1 for _ in a.shape[1:])), a, b)


def public_shards(
    spec: PublicSpec, teachers: int, size: int, generator: torch.Generator
) -> TeacherBatches:
    """Shards of random images, some of them empty or not full."""
    shape = (teachers, size, spec.channels, spec.height, spec.width)
    device = generator.device
    images = torch.randint(256, shape, generator=generator, device=device, dtype=torch.uint8)
    classes = max(len(spec.classes), 1)
    labels = torch.randint(classes, shape[:2], generator=generator, device=device)
    length = torch.randint(size + 1, (teachers, 1), generator=generator, device=device)
    there = torch.arange(size, device=device)[None] < length
    return TeacherBatches(images * there.view(*there.shape, 1, 1, 1), labels * there, there)
