"""Image files by their paths: what a folder, a zip and a tar of class folders have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from sfumato.data.decode import decode
from sfumato.data.layout import Arrangement
from sfumato.data.source import ImageSource, Place, Record
from sfumato.data.spec import PublicSpec
from sfumato.data.units import Key

FOLDERS_ARE_CLASSES = (
    "The class names are the names of the folders, which are public, also where a folder is empty."
)
PATHS_ARE_CLASSES = (
    "The class names were read from the paths of images, which declares them public: one image "
    "more can add a name. Stating the classes closes the list."
)


class TreeSource(ImageSource):
    """Image files at paths; how their bytes are reached is the container's business."""

    def __init__(
        self,
        name: str,
        spec: PublicSpec,
        location_key: str,
        files: Sequence[str],
        found: Arrangement,
        named: bool,
        places: Iterable[Place] = (),
    ) -> None:
        super().__init__(name, spec, location_key, places)
        self._files = [files[index] for index in found.chosen]
        self._labels = found.labels
        self._names = found.names
        if spec.classes and not named:
            self.notes = (PATHS_ARE_CLASSES if found.inferred else FOLDERS_ARE_CLASSES,)

    @abstractmethod
    def _contents(self) -> Iterator[bytes | None]:
        """Yield the bytes of every file in order, None for one that cannot be read."""

    def _records(self) -> Iterator[Record]:
        for data, label in zip(self._contents(), self._labels, strict=True):
            yield None if data is None else decode(data, self.spec), label

    def _unit_keys(self) -> Iterator[Key]:
        assert self.spec.unit is not None
        return self.spec.unit.keys_of(self._names)

    def _private_length(self) -> int:
        return len(self._files)

    def _private_name(self, index: int) -> str:
        return self._files[index]
