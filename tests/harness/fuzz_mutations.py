"""Damage that knows its format: bytes, JSON, and the containers whose checksums are mended again.

Every function draws from the ``random.Random`` that it is given and from nothing else, so an input
is known by its target's name and its number.
"""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import warnings
import zipfile
import zlib
from copy import deepcopy
from functools import lru_cache
from typing import Any

PATHS = (
    "../canary.png",
    "../../canary.png",
    "a/../../canary.png",
    "..\\canary.png",
    "/etc/passwd",
    "C:\\canary.png",
    "a/\0/b.png",
    "",
    ".",
    "..",
    "CON/1.png",
    "a/" * 200 + "1.png",
    "ä/\udcff.png",
    "train/../val/1.png",
    "\u202egnp.1",
)
NUMBERS = (0, 1, 2, 3, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31)
NUMBERS += (2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**9, 2**63, -(10**400), 10**400, 0.0, -0.0, 1e308, 5e-324,
    float("nan"), float("inf"), "", "x" * 300, "\0", "../canary", "0.0.0", [], {}, [[]], [None],
    {"a": None}, [1, 2], "sum", "gradient", [1e300] * 3,
)  # fmt: skip


def bytes_of(data: bytes, rng: random.Random, most: int = 4) -> bytes:
    """Flip, overwrite, cut, repeat, swap or insert at a few places."""
    out = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(out)) if out else 0
        end = min(len(out), at + rng.choice((1, 2, 4, 8, 16, 64, 512)))
        deed = rng.randrange(9)
        if deed == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif deed == 1 and out:
            out[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif deed == 2:
            kind = rng.choice("<>") + rng.choice("HIQ")
            value = rng.choice(NUMBERS) % 2 ** (8 * struct.calcsize(kind))
            out[at : at + struct.calcsize(kind)] = struct.pack(kind, value)
        elif deed == 3:
            del out[at:]
        elif deed == 4:
            del out[at:end]
        elif deed == 5:
            out[end:end] = out[at:end] * rng.choice((1, 1, 2, 50))
        elif deed == 6:
            out[at:end] = rng.randbytes(end - at)
        elif deed == 7:
            out[at:at] = rng.choice((rng.randbytes(8), b"\0" * 600, b"\xff" * 4, b"\x80\x04."))
        else:
            out += rng.choice((b"\0", b"PK\x05\x06", rng.randbytes(40), bytes(2000)))
    return bytes(out)


def json_of(value: Any, rng: random.Random, most: int = 3) -> Any:
    """Replace, remove, rename or repeat a few parts of a JSON value."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, most)):
        places: list[tuple[Any, Any]] = []
        waiting = [value]
        while waiting:
            item = waiting.pop()
            keys = list(item) if isinstance(item, dict) else range(len(item))
            places += [(item, key) for key in keys]
            waiting += [item[key] for key in keys if isinstance(item[key], (dict, list))]
        if not places:
            break
        parent, key = rng.choice(places)
        deed = rng.randrange(6)
        if deed <= 1:
            parent[key] = deepcopy(rng.choice(VALUES))
        elif deed == 2:
            old = parent[key]
            plain = isinstance(old, (int, float)) and not isinstance(old, bool)
            factors = (0, -1, 1e-9, 0.5, 2, 1e3, 1e9, 1e300)
            small = plain and abs(old) < 1e300
            parent[key] = old * rng.choice(factors) if small else [old, old]
        elif deed == 3:
            del parent[key]
        elif deed == 4 and isinstance(parent, dict):
            parent[rng.choice(("x" * 99, "__class__", "", key + " ", "name"))] = parent.pop(key)
        elif isinstance(parent, list):
            parent.extend(parent[-3:] * rng.choice((1, 1, 40)))
        else:
            _, other = rng.choice(places)
            parent[key] = other if isinstance(other, (str, int)) else None
    return value


def json_text(value: Any, rng: random.Random) -> bytes:
    """JSON as a stranger might write it: often sound, sometimes twice, too deep, or cut."""
    text = json.dumps(value).replace("Infinity", rng.choice(("Infinity", "1e999"))).encode()
    deed = rng.randrange(12)
    if deed == 0:
        return bytes_of(text, rng)
    if deed == 1:
        return b'{"a":' * 3000 + text + b"}" * 3000
    if deed == 2:
        return text[:-1] + b"," + text[1:]
    if deed == 3:
        return text + b"\0" + text
    return text


@lru_cache
def zeros(count: int) -> bytes:
    """So many zeros, compressed."""
    return zlib.compress(bytes(count))


def png_of(data: bytes, rng: random.Random) -> bytes:
    """Change chunks of a PNG and mend their checksums, so that the decoder looks inside."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return bytes_of(data, rng)
    for _ in range(rng.randint(1, 3)):
        here = rng.randrange(len(chunks))
        kind, body = chunks[here]
        deed = rng.randrange(6)
        if deed == 0:
            chunks[here] = kind, bytes_of(body, rng)
        elif deed == 1:
            chunks.insert(here, chunks[rng.randrange(len(chunks))])
        elif deed == 2:
            del chunks[here]
        elif deed == 3:
            names = (b"tRNS", b"PLTE", b"iCCP", b"eXIf", b"zTXt", b"acTL", b"fdAT", b"gAMA")
            squeezed = b"x\0\0" + zeros(rng.choice((10, 10**6)))
            chunks.insert(here, (rng.choice(names), rng.choice((rng.randbytes(30), squeezed))))
        elif deed == 4 and kind == b"IHDR":
            sides = struct.pack(">II", *(rng.choice(NUMBERS) % 2**32 for _ in range(2)))
            chunks[here] = kind, sides + body[8:]
        else:
            chunks[here] = b"IDAT", zeros(rng.choice((0, 1, 1000, 2 * 10**6)))
        if not chunks:
            break
    out = data[:8]
    for kind, body in chunks:
        out += struct.pack(">I", len(body)) + kind + body
        out += struct.pack(">I", zlib.crc32(kind + body))
    return out


def zip_of(files: dict[str, bytes], rng: random.Random) -> bytes:
    """Pack with hostile names, bombs, lies about sizes, and flags nobody asked for."""
    buffer = io.BytesIO()
    names = list(files)
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            data = files[name]
            if rng.random() < 0.05:
                name = rng.choice(PATHS) or "x.png"
            if rng.random() < 0.01:
                data = bytes(rng.choice((10**5, 10**5, 10**5, 3 * 10**7)))
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode())
            info.compress_type = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            if rng.random() < 0.03:
                info.compress_type = rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
            info.extra = rng.randbytes(rng.choice((0, 0, 0, 20)))
            if rng.random() < 0.1:
                info.external_attr = 0o120777 << 16  # a link
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of two members of one name
                archive.writestr(info, data)
    packed = buffer.getvalue()
    if rng.random() < 0.4:  # the directory at the end, where sizes, offsets and flags stand
        start = packed.rfind(b"PK\x01\x02", 0, -22)
        first = packed.find(b"PK\x01\x02")
        start = rng.choice((first, start)) if first >= 0 else 0
        return packed[:start] + bytes_of(packed[start:], rng)
    return bytes_of(packed, rng) if rng.random() < 0.5 else packed


def tar_of(files: dict[str, bytes], rng: random.Random) -> bytes:
    """Pack with hostile names and kinds; header fields are changed and their checksums mended."""
    buffer = io.BytesIO()
    style = rng.choice((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=style) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(rng.choice(PATHS) if rng.random() < 0.05 else name)
            member.size = len(data)
            if rng.random() < 0.08:
                member.type = rng.choice((b"1", b"2", b"3", b"6", b"S", b"x", b"g", b"L", b"K"))
                member.linkname = rng.choice(("/etc/passwd", "../canary.png", name))
            if style == tarfile.PAX_FORMAT and rng.random() < 0.2:
                keys = ("size", "path", "GNU.sparse.map", "GNU.sparse.major", "mtime", "x")
                member.pax_headers = {rng.choice(keys): rng.choice(("9" * 30, "-1", "1.0", "\0"))}
            try:
                tar.addfile(member, io.BytesIO(data))
            except (ValueError, UnicodeError):
                continue
    packed = bytearray(buffer.getvalue())
    for _ in range(rng.choice((0, 1, 1, 2))):
        block = 512 * rng.randrange(max(1, len(packed) // 512))
        field, width = rng.choice(((0, 100), (124, 12), (156, 1), (345, 155), (257, 8), (386, 96)))
        value = rng.choice(
            (b"\xff" * 12, b"7" * 11 + b"\0", b"\x80" + b"\0" * 11, rng.randbytes(8))
        )
        packed[block + field : block + field + min(width, len(value))] = value[:width]
        packed[block + 148 : block + 156] = b"        "
        total = sum(packed[block : block + 512])
        packed[block + 148 : block + 156] = b"%06o\0 " % total
    return bytes_of(bytes(packed), rng) if rng.random() < 0.4 else bytes(packed)


def npy_of(data: bytes, rng: random.Random) -> bytes:
    """Change the header of a ``.npy`` and mend its length."""
    if rng.random() < 0.3:
        return bytes_of(data, rng)
    length = int.from_bytes(data[8:10], "little")
    header, payload = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    changes = (
        ("(9,", f"({rng.choice(NUMBERS)},"),
        ("(9,", "(-1,"),
        ("32", str(rng.choice(NUMBERS))),
        ("|u1", rng.choice(("|O", "<f8", "<f2", "<M8[s]", "|V7", "<c16", "<U9999999", "|S0"))),
        ("False", "True"),
        ("'shape': (", "'shape': (" + "1, " * rng.choice((1, 40, 4000))),
        ("{", "{" * rng.choice((1, 2, 5000))),
        ("}", ", 'x': __import__('os').system('true')}"),
        ("<i8", rng.choice(("<i1", ">i8", "|O", "<f4", "|b1"))),
    )
    for old, new in rng.sample(changes, rng.randint(1, 2)):
        header = header.replace(old, new, 1)
    text = header.encode("latin-1")
    version = rng.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\x09\0"))
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(text) % 2**16)
    return b"\x93NUMPY" + version + size + text + payload[: rng.choice((None, None, 0, 50))]


def safetensors_of(data: bytes, rng: random.Random, key: str) -> bytes:
    """Change header, metadata or tensors of a safetensors file and mend its length field."""
    length = int.from_bytes(data[:8], "little")
    header, payload = json.loads(data[8 : 8 + length]), data[8 + length :]
    deed = rng.randrange(5)
    if deed == 0:
        return bytes_of(data, rng)
    if deed == 1:
        header = json_of(header, rng)
    elif deed == 2:
        header["__metadata__"][key] = rng.choice(("", "{", "[]", "nul", "[" * 5000))
    else:
        facts = json_of(json.loads(header["__metadata__"][key]), rng)
        header["__metadata__"][key] = json.dumps(facts)
    text = json.dumps(header).encode()
    if rng.random() < 0.1:
        payload = bytes_of(payload, rng)
    stated = rng.choice(NUMBERS) if rng.random() < 0.05 else len(text)
    return struct.pack("<Q", stated) + text + payload
