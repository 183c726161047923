"""One DICOM file to pixels, and the value of one of its tags (extra ``sfumato[dicom]``).

What a viewer shows: the modality's rescale, then the declared range of values, else the file's own
lookup table or window (the first, PS3.3 C.11.2), else all values that its bits can hold, never the
smallest and largest that it does hold; MONOCHROME1 inverted. No other part of a file is used, and
none is kept.
"""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import numpy as np

from sfumato.data.decoding.scaling import scaled
from sfumato.data.options import DataOptions
from sfumato.errors import UsageError

SUFFIXES = frozenset({".dcm", ".dicom", ".dic", ".ima"})
LARGEST_AREA = 2**26
LONGEST_TEXT = 1024
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PIXELS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
"""The tag of pixel data, in either byte order."""
_INSTALL = "pip install 'sfumato[dicom]'"


def is_marked(data: bytes) -> bool:
    """Whether a file says that it is DICOM."""
    return data[128:132] == b"DICM"


def is_installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec("pydicom") is not None


def check_installed() -> None:
    """Raise UsageError if the extra is missing."""
    if not is_installed():
        raise UsageError(f"dicom needs a further package: {_INSTALL}")


def is_tag(keyword: str) -> bool:
    """Whether a word is the keyword of a DICOM tag, such as PatientID."""
    if not is_installed():
        return False
    from pydicom.datadict import tag_for_keyword

    return tag_for_keyword(keyword) is not None


def tag_value(data: bytes, keyword: str) -> str | None:
    """The text of one tag; None if a file has none, or is no DICOM. PRIVATE."""
    try:
        import pydicom

        if _DEFLATED in data[:4096]:
            return None
        found = pydicom.dcmread(
            io.BytesIO(data), stop_before_pixels=True, specific_tags=[keyword], force=True
        ).get(keyword)
        text = "" if found is None else str(found).strip()
        return text if 0 < len(text) <= LONGEST_TEXT else None
    # Hostile files make pydicom raise almost anything, and every case means the same here.
    except Exception:
        return None


def pixels_of(data: bytes, options: DataOptions) -> np.ndarray | None:
    """Pixels uint8 [h, w] or [h, w, 3]; None for a file that is unusable. Never raises. PRIVATE.

    A file of several frames is unusable unless ``options.frame`` says which to read.
    """
    try:
        import pydicom

        if _DEFLATED in data[:4096]:  # unpacks without a bound
            return None
        record = pydicom.dcmread(io.BytesIO(data), force=options.dicom)
        frames = int(record.get("NumberOfFrames") or 1)
        if frames != 1 and options.frame is None:
            return None
        if int(record.Rows) * int(record.Columns) > LARGEST_AREA:
            return None
        return _shown(record, options)
    except Exception:
        return None


def reason(data: bytes, options: DataOptions) -> str:
    """Say why ``pixels_of`` gave None. Never raises. PRIVATE, for the custodian's eyes only."""
    if not is_installed():
        return f"DICOM, which needs {_INSTALL}"
    if _DEFLATED in data[:4096]:
        return "DICOM that is deflated; save it uncompressed"
    try:
        import pydicom

        record = pydicom.dcmread(io.BytesIO(data), force=options.dicom, stop_before_pixels=True)
        frames = int(record.get("NumberOfFrames") or 1)
        if "Rows" not in record:
            return "DICOM without pixels, or no DICOM at all"
        if frames != 1 and options.frame is None:
            return "DICOM of several frames; state which to read, as --frame 0"
        if int(record.Rows) * int(record.Columns) > LARGEST_AREA:
            return "too many pixels; make it smaller"
        if options.frame is not None and options.frame >= frames:
            return "DICOM with fewer frames than --frame says"
        if not any(name in data for name in _PIXELS):
            return "DICOM without pixels"
    except Exception:
        pass
    return "damaged, cut off, or compressed in a way that is not installed"


def _shown(record: Any, options: DataOptions) -> np.ndarray | None:
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
    from pydicom.pixels.utils import pixel_array

    stored = pixel_array(record, index=options.frame or 0)
    kind = str(record.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        colours = apply_color_lut(stored, record)
        return (colours >> 8).astype(np.uint8) if colours.dtype == np.uint16 else colours
    bits = int(record.BitsStored)
    if stored.ndim == 3:
        return scaled(stored, options.value_range or (0.0, 2.0**bits - 1))
    values = apply_modality_lut(stored, record)
    if options.value_range is not None:
        shown = scaled(values, options.value_range)
    elif "VOILUTSequence" in record:
        item = record.VOILUTSequence[0]
        shown = scaled(apply_voi(values, record), (0.0, 2.0 ** int(item.LUTDescriptor[2]) - 1))
    elif "WindowCenter" in record and "WindowWidth" in record:
        shown = _windowed(values, record)
    else:
        signed = int(record.PixelRepresentation) == 1
        low, high = (
            (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
        )
        slope, intercept = _number(record, "RescaleSlope", 1.0), _number(record, "RescaleIntercept")
        shown = scaled(values, (low * slope + intercept, high * slope + intercept))
    return 255 - shown if shown is not None and kind == "MONOCHROME1" else shown


def _windowed(values: np.ndarray, record: Any) -> np.ndarray | None:
    centre, width = _number(record, "WindowCenter"), _number(record, "WindowWidth")
    function = str(record.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        with np.errstate(all="ignore"):
            return scaled(1 / (1 + np.exp(-4 * (values - centre) / width)), (0.0, 1.0))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    half = max(width, 1e-9) / 2
    return scaled(values, (centre - half, centre + half))


def _number(record: Any, keyword: str, default: float = 0.0) -> float:
    """The first value of a tag."""
    value: Any = record.get(keyword)
    if value is None:
        return default
    return float(value[0] if getattr(value, "__len__", None) else value)
