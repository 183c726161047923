"""Why a record is unusable, for its custodian's eyes only. PRIVATE.

A decoder says of a record that it is unusable, and no more. This looks again, and names the reason
in words that hold nothing of the record.
"""

from __future__ import annotations

import io

from PIL import Image

from sfumato.data.decoding import decode, dicom
from sfumato.data.decoding.workers import Stored
from sfumato.data.options import DataOptions

DAMAGED = "damaged, or cut off"


def reason(content: Stored, options: DataOptions) -> str:
    """Say why a record that was not decoded is unusable. Never raises. PRIVATE.

    Call it inside ``quiet``, as ``decode``.
    """
    if not isinstance(content, bytes):
        return "its values are of another shape, beyond the range, or cannot be read"
    if not content:
        return "an empty file"
    if len(content) > decode.LARGEST_FILE:
        return f"longer than {decode.LARGEST_FILE >> 20} MiB"
    if dicom.is_marked(content) or (options.dicom and not decode.is_image(content)):
        return dicom.reason(content, options)
    try:
        with Image.open(io.BytesIO(content)) as image:
            kind, mode, area = image.format, image.mode, image.width * image.height
            longest = max(image.size)
    except Exception:
        return f"no image of a kind that is read ({', '.join(decode.FORMATS)}), or damaged"
    if kind not in decode.FORMATS:
        return f"{kind} under another name; convert to PNG"
    if area > decode.LARGEST_AREA or longest > decode.LONGEST_SIDE:
        return "too many pixels; make it smaller"
    if mode == "F" and options.value_range is None:
        return "numbers without a range: state it, as --value-range 0 1"
    return DAMAGED
