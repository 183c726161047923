"""What ``save_to_disk`` of the Hugging Face datasets library writes: Arrow files in a folder.

The datasets library is not needed: the files are Arrow streams of the same columns as its Parquet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from sfumato.data.layout import choose_split, split_name
from sfumato.data.options import DataOptions
from sfumato.data.readers.parquet import ParquetSource, open_table
from sfumato.data.storage import Location
from sfumato.data.units import check_rule
from sfumato.errors import DataError

ARROW = ".arrow"
_STATE, _DICT = "state.json", "dataset_dict.json"
_DAMAGE = (pa.ArrowException, OSError, ValueError)


class ArrowSource(ParquetSource):
    """Encoded images in Arrow streams, mapped into memory and read a few rows at a time."""

    def _batches(self, shard: Location, wanted: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        columns = [name.partition(".")[0] for name in wanted]
        with _stream(shard) as stream:
            for batch in stream:
                for start in range(0, len(batch), rows):
                    yield batch.slice(start, rows).select(columns)

    def _rows_in(self, shard: Location) -> int:
        try:
            with _stream(shard) as stream:
                return sum(len(batch) for batch in stream)
        except _DAMAGE:
            raise _damaged(shard) from None


def saved_splits(folder: Path) -> list[str] | None:
    """The splits of a saved ``DatasetDict``, [] for one saved ``Dataset``, None for neither.

    A folder counts only with the files that ``save_to_disk`` writes into each split.
    """
    if _is_saved(folder):
        return []
    try:
        stated = json.loads((folder / _DICT).read_bytes())["splits"]
        names = [name for name in stated if isinstance(name, str) and Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return names if names and all(_is_saved(folder / name) for name in names) else None


def open_saved(folder: Path, name: str, declared: DataOptions) -> ParquetSource:
    """Open a folder of ``save_to_disk``. Raises DataError for an unknown schema or damage."""
    check_rule(declared.privacy_unit, name, "column")
    splits = saved_splits(folder) or []
    found = {split_name(split) or split: split for split in splits}
    split = choose_split(found, declared.split, name)
    place = folder if split is None else folder / found[split]
    return open_table(ArrowSource, _schema, _files(place), name, declared, str(place.resolve()))


def _is_saved(folder: Path) -> bool:
    return (folder / _STATE).is_file() and bool(_files(folder))


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob(f"*{ARROW}") if not file.is_symlink())


def _stream(shard: Location) -> pa.ipc.RecordBatchStreamReader:
    try:
        return pa.ipc.open_stream(pa.memory_map(str(shard)))
    except _DAMAGE:
        raise _damaged(shard) from None


def _schema(shard: Location) -> pa.Schema:
    with _stream(shard) as stream:
        return stream.schema


def _damaged(shard: Location) -> DataError:
    return DataError(f"{shard}: not a readable Arrow stream (damaged or cut off). Save it again.")
