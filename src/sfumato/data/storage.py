"""Where shards lie: files of this machine, or objects in a store that ``fsspec`` reads.

:class:`RemotePath` has those members of :class:`pathlib.Path` that readers of shards use, so they
take either. All that a store's client raises, at opening or while bytes are read, is a DataError in
one sentence of ours: its own text can hold addresses with keys in them.
"""

from __future__ import annotations

import glob
import io
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sfumato.errors import DataError, SfumatoError, UsageError

BLOCK = 2**23
"""Bytes asked of a store at once: shards are read from their beginning to their end."""

_BUFFER = 2**20
_URL = re.compile(r"([a-z][a-z0-9+._-]+)://(.*)", re.IGNORECASE | re.DOTALL)
_LOCAL = frozenset({"file", "local"})
_SAME_STORE = {"s3a": "s3", "gcs": "gs", "az": "abfs", "abfss": "abfs"}
"""Protocols with which one store is also addressed, and the one that names a place in it."""
_NO_STORE = frozenset(
    "async_wrapper asyncwrapper asynclocal blockcache cached dask data dir filecache generic gist "
    "git github http https jlab jupyter libarchive reference simplecache tar zip".split()
)
"""Protocols that read what lies elsewhere, or from servers where one file can have any address."""
_CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5", "checksum")


@dataclass(frozen=True, order=True)
class RemotePath:
    """An object in a store, or what the names of several begin with, like a folder.

    Args:
        store: a URL in this store, from which its client is made.
        path: bucket and key, as the client writes them.
    """

    store: str
    path: str

    def __str__(self) -> str:
        protocol = self.store.partition(":")[0].lower()
        return f"{_SAME_STORE.get(protocol, protocol)}://{self.path.strip('/')}"

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.store, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.path).stem

    @property
    def suffix(self) -> str:
        """The suffix of the name."""
        return PurePosixPath(self.path).suffix

    @property
    def parent(self) -> RemotePath:
        """All but the last part of the path."""
        return RemotePath(self.store, str(PurePosixPath(self.path).parent))

    def exists(self) -> bool:
        """Whether there is an object of this name, or one whose name begins with it."""
        return bool(self._facts())

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        return self._facts().get("type") == "file"

    def is_dir(self) -> bool:
        """Whether names of objects begin with this one and a slash."""
        return self._facts().get("type") == "directory"

    def size(self) -> int:
        """The object's bytes."""
        return int(self._facts().get("size") or 0)

    def state(self) -> str:
        """What changes when the object does: its size, and the store's checksum or its time.

        Raises:
            DataError: there is no object, or the store tells neither.
        """

        def asked(client: Any) -> str:
            client.invalidate_cache()
            facts = client.info(self.path)
            marks = [facts[key] for key in _CHECKSUMS if facts.get(key)]
            with suppress(NotImplementedError):
                return f"{facts['size']} {marks[0] if marks else client.modified(self.path)}"
            return ""

        if state := self.ask(asked):
            return state
        raise DataError(
            f"{self}: the store tells neither a checksum nor a time of its objects, so that a "
            "change would go unseen. Copy them to a disk, or into another store."
        )

    def open(self) -> io.BufferedReader:
        """The object's bytes as a file, a block at a time."""
        return io.BufferedReader(_Bytes(self), _BUFFER)

    def read_bytes(self) -> bytes:
        """All the object's bytes."""
        with self.open() as file:
            return file.read()

    def files(self) -> list[RemotePath]:
        """The objects whose names are this one, a slash, and no further slash."""
        found = self.ask(lambda client: client.ls(self.path, detail=True), missing=[])
        return [RemotePath(self.store, each["name"]) for each in found if each["type"] == "file"]

    def matches(self) -> list[RemotePath]:
        """The objects that this name describes with ``*`` and ``[...]``."""
        found: list[str] = self.ask(lambda client: client.glob(self.path))
        return [RemotePath(self.store, path) for path in found]

    def ask(self, work: Callable[[Any], Any], missing: Any = None) -> Any:
        """What ``work`` gets from the store's client; ``missing``, if stated, for no such object.

        Raises:
            DataError: the store refuses, fails or cannot be reached.
        """
        try:
            return work(_client(self.store)[0])
        except SfumatoError:
            raise
        except FileNotFoundError:
            if missing is not None:
                return missing
            reason = "there is no such object. List what the bucket holds."
        except PermissionError:
            reason = "the store refuses access. Give its client keys that may read and list."
        except Exception as error:
            reason = (
                f"the store cannot be reached or read ({type(error).__name__}). Give its client "
                "the address and keys in its environment, and run the same command again."
            )
        # Outside of the handler: a chained error would carry the client's text along.
        raise DataError(f"{self}: {reason}")

    def _facts(self) -> dict[str, Any]:
        """What the store says of the object or prefix; nothing where there is none."""
        return dict(self.ask(lambda client: client.info(self.path), missing={}))


Location = Path | RemotePath
"""A file or folder of this machine, or an object or prefix in a store."""


def located(text: str) -> Location:
    """What a location names: ``s3://bucket/key`` in a store, all but URLs a path of this machine.

    Raises:
        DataError: the URL is of no store, has several names for one place, or holds a password.
        UsageError: the package that reads this kind of store is not installed.
    """
    found = _URL.fullmatch(text.rpartition("::")[2])
    if found is None:
        return Path(text)
    protocol, rest = found[1].lower(), found[2]
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise DataError(
            f"a {protocol}:// location holds a password, which would be written down with it. "
            "Leave it out, and give it to the store's client in its environment."
        )
    if protocol in _NO_STORE or "::" in text:
        raise DataError(
            f"{text}: is in no store of objects. Give a location as s3://bucket/folder, or copy "
            "the shards to a disk."
        )
    if protocol in _LOCAL:
        return Path(_client(text)[1])
    if "?" in rest or "#" in rest or {".", ".."} & set(rest.split("/")):
        raise DataError(
            f"{text}: a URL of data has no ?, # or folders of dots, so that one place has one "
            "name. Write the plain name."
        )
    client, path = _client(text)
    client.invalidate_cache()  # what this process saw earlier may have changed
    return RemotePath(text, path)


def place_of(location: Location) -> str:
    """The one text of a place: a resolved path, or protocol, bucket and key.

    What may address the same objects has the same text: ``s3a`` and ``s3``, a store with or
    without the server that answers for it. Two places can have one text, whose costs are then
    added up; one place has two only where the store knows and the URL does not say.
    """
    return str(location.resolve() if isinstance(location, Path) else location)


def matching(pattern: str) -> list[Location]:
    """The files or objects that a pattern names, in order; [] where it is none."""
    if not glob.has_magic(pattern):
        return []
    location = located(pattern)
    if isinstance(location, RemotePath):
        return sorted(location.matches())
    return [Path(file) for file in sorted(glob.glob(pattern))]


def files_in(folder: Location) -> list[Location]:
    """The files of a folder, in order, without links; [] where there is no folder."""
    if isinstance(folder, RemotePath):
        return sorted(folder.files())
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.is_symlink() and path.is_file())


def opened(file: Location) -> io.BufferedReader:
    """The bytes of a file.

    Raises:
        OSError: a file of this machine cannot be read.
        DataError: an object in a store cannot be.
    """
    return file.open("rb") if isinstance(file, Path) else file.open()


def size_of(file: Location) -> int:
    """A file's bytes."""
    return file.stat().st_size if isinstance(file, Path) else file.size()


def state_of(file: Location) -> str:
    """What changes when a file does: its size and time, or what its store says of it."""
    if isinstance(file, RemotePath):
        return file.state()
    try:
        status = file.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        return "gone"


class _Bytes(io.RawIOBase):
    """An object's bytes; it keeps its own place, because a client may share one file."""

    def __init__(self, remote: RemotePath) -> None:
        super().__init__()
        self._remote, self._at = remote, 0
        options = {"block_size": BLOCK, "cache_type": "readahead"}

        def measured(client: Any) -> tuple[Any, int]:
            file = client.open(remote.path, "rb", **options)
            file.seek(0, io.SEEK_END)
            return file, int(file.tell())

        self._file, self._size = remote.ask(measured)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        def read(client: Any) -> bytes:
            self._file.seek(self._at)
            return bytes(self._file.read(len(buffer)))

        data = self._remote.ask(read)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        with suppress(Exception):
            self._file.close()
        super().close()


def _client(url: str) -> tuple[Any, str]:
    """The client of a store, and the path as it writes it."""
    problem: SfumatoError
    try:
        import fsspec

        client, path = fsspec.core.url_to_fs(url)
        return client, str(path)
    except ImportError:
        problem = UsageError(
            f"{url}: its kind of store needs a package that is not installed. For s3:// and gs://: "
            "pip install 'sfumato[cloud]'. For others see the documentation of fsspec."
        )
    except ValueError:
        problem = DataError(
            f"{url}: no store of this kind is known. Give a path, or a URL as s3://bucket/folder."
        )
    except Exception as error:
        problem = DataError(
            f"{url}: its store's client does not start ({type(error).__name__}). Give it the "
            "address and keys in its environment."
        )
    raise problem
