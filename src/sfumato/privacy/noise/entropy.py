"""Uniform random bits from ChaCha20, keyed by the operating system or by a secret key.

OpenSSL's ChaCha20 (RFC 8439) encrypts zeros, so a stream is its key stream: without the key nobody
can tell it from uniform bits, which is assumed. Every answer opens a stream of its own with 256
fresh bits from the operating system. No key is kept as an attribute, and a stream can be neither
pickled nor copied.
"""

from __future__ import annotations

import builtins
import hashlib
import hmac
import secrets
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from sfumato.errors import SfumatoError

KEY_BYTES = 32

RUN_BYTES = 2**37
"""Bytes drawn with one key. ChaCha20 counts 2³² blocks of 64 bytes, 2³⁸ bytes in all."""

_ZEROS = memoryview(bytes(2**18))  # encrypted piece by piece, so that a piece stays in the cache


class Stream:
    """Uniform bits from one ChaCha20 key; for one thread of one process, since a fork is a copy.

    Args:
        key: 32 bytes that nobody else knows and that no other stream has.
        insecure: somebody may know the key; for tests.

    Raises:
        SfumatoError: the key has another length.
    """

    def __init__(self, key: builtins.bytes, insecure: bool = False) -> None:
        if len(key) != KEY_BYTES:
            raise SfumatoError(f"A stream's key has {KEY_BYTES} bytes, not {len(key)}.")
        self.insecure = insecure
        self._open(key)

    @classmethod
    def derived(cls, key: builtins.bytes, label: str) -> Stream:
        """The stream of a secret key and a label: always the same bits for the same two.

        Its ChaCha20 key is HMAC-SHA256(key, label), so streams with different labels are
        independent for whoever does not know ``key``.

        Raises:
            SfumatoError: ``key`` is shorter than 32 bytes.
        """
        if len(key) < KEY_BYTES:
            raise SfumatoError(f"A secret key has {KEY_BYTES} bytes or more, not {len(key)}.")
        return cls(hmac.digest(key, label.encode(), "sha256"))

    @classmethod
    def known(cls, seed: int) -> Stream:
        """NOT PRIVATE: the stream of an insecure seed, which anybody can repeat; for tests only."""
        return cls(hashlib.sha256(f"NOT PRIVATE: known seed {seed}".encode()).digest(), True)

    def __reduce__(self) -> NoReturn:
        # A copy would draw the same bits again.
        raise TypeError("A stream can be neither pickled nor copied.")

    def _open(self, key: builtins.bytes) -> None:
        # A key opens one stream only, so its nonce and its first counter may be zero.
        cipher = Cipher(algorithms.ChaCha20(key, builtins.bytes(16)), mode=None)
        self._encryptor = cipher.encryptor()
        self._left = RUN_BYTES

    def _fill(self, target: memoryview) -> None:
        start = 0
        while start < len(target):
            if self._left <= KEY_BYTES:
                # The last bytes of a run are the next run's key and are used for nothing else.
                self._open(self._encryptor.update(_ZEROS[:KEY_BYTES]))
            size = min(len(target) - start, len(_ZEROS), self._left - KEY_BYTES)
            self._encryptor.update_into(_ZEROS[:size], target[start : start + size])
            start += size
            self._left -= size

    def bytes(self, n: int) -> builtins.bytes:
        """``n`` uniform bytes."""
        drawn = bytearray(n)
        self._fill(memoryview(drawn))
        return builtins.bytes(drawn)

    def words(self, n: int) -> NDArray[np.uint64]:
        """``n`` uniform 64-bit words: uint64, each of the 2⁶⁴ values equally likely."""
        drawn = np.empty(n, dtype="<u8")  # one byte order, so that a key means the same everywhere
        self._fill(drawn.view(np.uint8).data)
        return drawn.astype(np.uint64, copy=False)

    def below(self, bound: int | NDArray[np.uint64], n: int | None = None) -> NDArray[np.uint64]:
        """Integers 0 … bound − 1, each exactly equally likely.

        A word is cut to the bits that ``bound − 1`` has and drawn anew while it is not below
        ``bound``. More than half of all words pass, and no remainder is taken, so no value is
        favoured.

        Args:
            bound: 1 … 2⁶⁴ − 1, one for all or an array of one each.
            n: how many integers; needed where ``bound`` is one number.

        Returns:
            uint64[n], or an array of ``bound``'s shape.

        Raises:
            SfumatoError: a bound is out of range, or the count is missing or contradicts ``bound``.
        """
        if not isinstance(bound, np.ndarray):
            if n is None or not 1 <= bound < 2**64:
                raise SfumatoError(f"bound={bound} must lie in 1 … 2**64 - 1, with a count n.")
            bounds = np.full(n, bound, dtype=np.uint64)
        else:
            # A signed array would let a negative bound pass as a large one.
            if bound.dtype != np.uint64 or (bound == 0).any() or n not in (None, bound.size):
                raise SfumatoError("Bounds are uint64 of 1 or more, as many as there are draws.")
            bounds = bound.reshape(-1)
        masks = bounds - np.uint64(1)
        for shift in (1, 2, 4, 8, 16, 32):
            masks |= masks >> np.uint64(shift)
        drawn = self.words(bounds.size) & masks
        again = np.flatnonzero(drawn >= bounds)
        while again.size:
            drawn[again] = self.words(again.size) & masks[again]
            again = again[drawn[again] >= bounds[again]]
        return drawn.reshape(np.shape(bound)) if isinstance(bound, np.ndarray) else drawn

    def uniform(self, n: int) -> NDArray[np.float64]:
        """``n`` multiples of 2⁻⁵³ in [0, 1), equally likely; not for noise."""
        return (self.words(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def fresh_stream() -> Stream:
    """A stream that nobody can repeat: 256 bits from the operating system, drawn for this call."""
    return Stream(secrets.token_bytes(KEY_BYTES))
