"""The header of a safetensors file (https://github.com/huggingface/safetensors): JSON."""

from __future__ import annotations

import os

HEADER_START = 8
MOST_BYTES = 100 << 20
"""Longer headers are not read, as in the format's own library."""


def header_text(descriptor: int) -> tuple[bytes, int]:
    """The header of an open file as it stands there, and where the data behind it begin.

    Empty, which is no JSON, where the file ends before, or states a length beyond MOST_BYTES.
    """
    length = int.from_bytes(os.pread(descriptor, HEADER_START, 0), "little")
    there = length <= min(MOST_BYTES, os.fstat(descriptor).st_size - HEADER_START)
    text = os.pread(descriptor, length, HEADER_START) if there else b""
    return text, HEADER_START + length
