"""Which way up a picture is: tag 0x0112 of an Exif block.

References
----------
CIPA DC-008-2023 (Exif 3.0), section 4.6.5; the block is a TIFF 6.0 file of its own.
"""

from __future__ import annotations

import struct

UPRIGHT = 1
"""Row 0 is the top, column 0 the left. The tag goes from 1 to 8; from 5 on, rows and columns are swapped."""

TAG, SHORT = 0x0112, 3
BYTE_ORDERS = {b"II": "<", b"MM": ">"}


def orientation_of(exif: bytes) -> int:
    """Orientation that an Exif block states, 1 to 8; `UPRIGHT` where it states none or cannot be read.

    A picture with a damaged Exif block is still a picture: what is not understood turns nothing.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = BYTE_ORDERS.get(tiff[:2])
    if order is None:
        return UPRIGHT
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for index in range(entries):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * index)
            if tag == TAG:
                return value if kind == SHORT and count == 1 and value in range(1, 9) else UPRIGHT
    except struct.error:  # cut off
        return UPRIGHT
    return UPRIGHT
