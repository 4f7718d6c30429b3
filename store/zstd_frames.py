"""zstd frames of a known size (RFC 8878), checked before they are decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from isae.errors import CodecError

Bytes = npt.NDArray[np.uint8]
MAGIC = b"\x28\xb5\x2f\xfd"
LONGEST_HEADER = 18
RUN = 1
"""Block type of one byte repeated."""

_decoder: Any = Zstd()


def decompress(frame: Bytes, out: Bytes) -> None:
    """One frame whose content fills `out` and which ends where `frame` ends; else CodecError."""
    content, start, checksum = _read_header(frame)
    if content != out.size:
        raise CodecError(f"expected a zstd frame of {out.size} bytes, found one of {content}")
    if _end(frame, start) + checksum != frame.size:
        raise CodecError("expected one zstd frame and nothing behind it, found other bytes")
    if not out.size:
        return
    try:
        _decoder.decode(frame, out)
    except (RuntimeError, ValueError) as error:
        raise CodecError(f"expected a zstd frame, found damage: {error}") from error


def _read_header(frame: Bytes) -> tuple[int, int, int]:
    """Content size, start of the first block, bytes of the checksum behind the last."""
    head = frame[:LONGEST_HEADER].tobytes()
    if len(head) < 6 or head[:4] != MAGIC:
        raise CodecError("expected a zstd frame, found other bytes")
    flags = head[4]
    single, checksum, dictionary = flags >> 5 & 1, flags >> 2 & 1, flags & 3
    width = (single, 2, 4, 8)[flags >> 6]
    start = 5 + (1 - single)
    field = head[start : start + width]
    if dictionary or width == 0 or len(field) < width:
        raise CodecError("expected a zstd frame that states its content size, found another")
    content = int.from_bytes(field, "little") + (256 if width == 2 else 0)
    return content, start + width, 4 * checksum


def _end(frame: Bytes, start: int) -> int:
    """Where the last block ends; behind the frame's end if it is cut."""
    while True:
        head = frame[start : start + 3].tobytes()
        block = int.from_bytes(head, "little")
        start += 3 + (1 if block >> 1 & 3 == RUN else block >> 3)
        if block & 1 or start > frame.size or len(head) < 3:
            return start
