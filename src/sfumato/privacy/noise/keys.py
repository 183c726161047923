"""A run's key: who is in a sample, and what else is sampled beside the noise, so that it resumes.

Poisson samples, the choice of a unit's record, the randomness of losses, features and teachers, and
shards come from streams that are derived from it. Noise never does: each answer's noise has fresh
bits of its own. The key comes from the operating system, lies in the private run folder, and is
destroyed when the run is closed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

import numpy as np
import torch

from sfumato.disk import write_atomically
from sfumato.errors import LedgerError
from sfumato.privacy.noise.entropy import Stream

KEY_BYTES = 32
CHECK_BYTES = 32


class RunKey:
    """A 256-bit key and the independent streams that are derived from it.

    Args:
        secret: 32 bytes that nobody else knows.
        insecure: somebody may know them; for tests.
    """

    def __init__(self, secret: bytes, insecure: bool = False) -> None:
        self._secret, self.insecure = secret, insecure

    @classmethod
    def of_run(cls, folder: Path, insecure_seed: int | None = None) -> RunKey:
        """The run's key: the stored one, or a new one from the operating system, stored.

        Raises:
            LedgerError: the key cannot be stored, or the stored one is damaged.
        """
        if insecure_seed is not None:
            return cls(hashlib.sha256(f"insecure {insecure_seed}".encode()).digest(), True)
        path = folder / "key"
        try:
            if not path.exists():
                if any(folder.glob("steps-*/[0-9]*")):
                    # Another key would draw other shards and samples for the same query.
                    raise LedgerError(
                        f"{path} is missing, but steps were answered with it. Restore it, or pass "
                        "--fresh (fresh=True) to charge a new run."
                    )
                drawn = secrets.token_bytes(KEY_BYTES)
                write_atomically(path, drawn + hashlib.sha256(drawn).digest())
            content = path.read_bytes()
        except OSError as error:
            raise LedgerError(
                f"the run's key {path} cannot be stored ({error.strerror}), so nothing is answered."
            ) from error
        secret = content[:KEY_BYTES]
        if content[KEY_BYTES:] != hashlib.sha256(secret).digest():
            raise LedgerError(
                f"{path} is damaged. Restore it, or pass --fresh (fresh=True) to charge a new run."
            )
        return cls(secret)

    @staticmethod
    def destroy(folder: Path) -> None:
        """Overwrite and remove the run's key, if there is one."""
        path = folder / "key"
        if path.exists():
            with open(path, "r+b") as file:
                file.write(bytes(KEY_BYTES + CHECK_BYTES))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()

    def stream(self, purpose: str, step: int) -> Stream:
        """Uniform bits for one purpose at one step, independent of all others."""
        return Stream.derived(self._secret, f"{purpose} {step}")

    def torch_stream(self, purpose: str, step: int, device: torch.device) -> torch.Generator:
        """A generator on ``device`` in a secret state: for draws that must not be guessed."""
        stream = self.stream(purpose, step)
        generator = torch.Generator(device)
        if device.type != "cpu":
            return generator.manual_seed(int(stream.words(1)[0] >> np.uint64(1)))
        # PyTorch's CPU generator keeps 32 bits of a seed, few enough to try them all. So all 624
        # words of its state are drawn; they follow a header of 24 bytes, one 32-bit word in eight.
        state = generator.get_state()
        words = state.numpy()[24 : 24 + 624 * 8].view(np.uint64)
        words[:] = stream.words(624) >> np.uint64(32)
        return generator.set_state(state)
