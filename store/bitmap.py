"""The bitmap codec: which elements of a chunk are not zero, and their bytes plane by plane.

Activations behind a ReLU are about half zeros, and zstd or LZ4 alone spend their time on finding
repetitions where there are none. Here zeros cost one bit, and the bytes of the other elements are
separated by their weight, so that an entropy coder sees the sign, exponent and first bits of the
significand alone; what is left of the significand is noise and is stored as it is.

Format, version 1. A chunk of N elements of 1, 2 or 4 bytes, in C order. All numbers are little
endian. An element is zero only if all its bits are (minus zero is not). M elements are not.

```
offset  bytes
     0      4  "isbm"
     4      1  version, 1
     5      1  S, bytes of an element: 1, 2 or 4
     6      2  0
     8      4  N
    12      4  M
    16   8(1+S)  for the bitmap, then for plane 0 to S-1:
                 4 bytes  0: stored as it is, 1: one zstd frame that states its content size
                 4 bytes  stored length in bytes
then           the bitmap, then planes 0 to S-1, as stored, without gaps; nothing follows
```

The bitmap is ceil(N / 64) * 8 bytes. Element i is not zero where bit i % 8 (bit 0 is the lowest)
of byte i // 8 is set; M bits are set, and bits from N on are 0. Plane p is M bytes: byte p of the
non-zero elements in order, plane 0 the lowest bytes.

A decoder refuses whatever differs from this. Encoding is deterministic: a part is stored as a zstd
frame where that is allowed and saves at least 1/32 of its bytes.

Chosen by measurement on InceptionV1 rows (mixed4a-4e, float16). Planes and bitmap in channel-major
order are as large (within 0.1 %), and so are planes of sign, exponent and one bit more or less of
the significand. Higher zstd levels find repetitions by chance, and their planes are larger. Bits
and exponents coded by their channel's own frequencies could save 0.7 % of a chunk at most.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from isae.errors import CodecError
from isae.store import bitmap_loops as loops
from isae.store.byte_steps import has_instructions
from isae.store.scratch import Scratch
from isae.store.zstd_frames import decompress

Bytes = npt.NDArray[np.uint8]
MAGIC, VERSION = b"isbm", 1
HEADERS = {size: struct.Struct("<4sBBHII" + "II" * (1 + size)) for size in (1, 2, 4)}
RAW, ZSTD = 0, 1
WORTH = 32
"""A zstd frame is kept where it saves this part of the bytes; less does not pay for decoding."""


@dataclass(frozen=True)
class Header:
    """What the first bytes of a chunk state, checked against the length of the data."""

    elements: int
    nonzeros: int
    methods: tuple[int, ...]
    """RAW or ZSTD of the bitmap and every plane."""
    starts: tuple[int, ...]
    """Where the bitmap and every plane begin, and the end of the data."""


_scratch = Scratch()


def encode(values: npt.NDArray[Any], compressor: Zstd | None, planes: bool) -> bytes:
    """Code a C-contiguous array of elements of 1, 2 or 4 bytes.

    `compressor` may make zstd frames of the bitmap and, where `planes` is true, of the planes.
    """
    size = values.itemsize
    flat_N = values.reshape(-1).view(f"u{size}")
    flat_N.flags.writeable = False  # so that loops are compiled once, not for each kind of array
    bitmap_B = _scratch.take("bitmap", bitmap_bytes(flat_N.size))
    planes_PN = _scratch.take("planes", (size, flat_N.size))
    count = _pack(flat_N, bitmap_B, planes_PN)
    parts = [_store(bitmap_B, compressor)]
    parts += [_store(plane_N[:count], compressor if planes else None) for plane_N in planes_PN]
    table = [number for method, data in parts for number in (method, len(data))]
    head = HEADERS[size].pack(MAGIC, VERSION, size, 0, flat_N.size, count, *table)
    return b"".join([head, *(data for _, data in parts)])


def decode(data: Bytes, out: npt.NDArray[Any]) -> None:
    """Put the elements of a chunk into a C-contiguous array.

    Raises CodecError where `data` is not what `encode` makes of as many elements of this size.
    """
    size = out.itemsize
    head = read_header(data, size, out.size)
    bitmap_B = _scratch.take("bitmap", bitmap_bytes(head.elements))
    _restore(data, head, 0, bitmap_B, into=bitmap_B)
    bits_W = bitmap_B.view("<u8").astype(np.uint64, copy=False)
    count = loops.count_bits(bits_W)
    if count != head.nonzeros:
        raise _refused(f"as many bits as values, {head.nonzeros}", count)
    if not _clear_behind(bitmap_B, head.elements):
        raise _refused("no bits behind the last element", "some")
    planes = [
        _restore(data, head, 1 + p, _scratch.take(f"plane{p}", head.nonzeros)) for p in range(size)
    ]
    _place(bits_W, planes, out.reshape(-1).view(f"u{size}"))


def bitmap_bytes(elements: int) -> int:
    """Size of the bitmap: whole words of 64 bits."""
    return -(-elements // 64) * 8


def read_header(data: Bytes, size: int, elements: int) -> Header:
    """The header of a chunk of that many elements of `size` bytes, checked."""
    form = HEADERS[size]
    if data.size < form.size:
        raise _refused(f"a header of {form.size} bytes", data.size)
    *stated, nonzeros = (numbers := form.unpack(data[: form.size].tobytes()))[:6]
    expected = [MAGIC, VERSION, size, 0, elements]
    if stated != expected or nonzeros > elements:
        raise _refused(f"the header {expected}, at most {elements}", [*stated, nonzeros])
    methods, lengths = numbers[6::2], numbers[7::2]
    wholes = [bitmap_bytes(elements), *[nonzeros] * size]
    for method, length, whole in zip(methods, lengths, wholes, strict=True):
        good = length == whole if method == RAW else method == ZSTD and whole > 0
        if not good:
            raise _refused(f"a part of {whole} bytes", f"{length} by method {method}")
    starts = tuple(itertools.accumulate(lengths, initial=form.size))
    if starts[-1] != data.size:
        raise _refused(f"{starts[-1]} bytes", data.size)
    return Header(elements, nonzeros, methods, starts)


def _store(part: Bytes, compressor: Zstd | None) -> tuple[int, bytes | memoryview]:
    if compressor is not None and part.size:
        frame = compressor.encode(part)
        if len(frame) <= part.size - part.size // WORTH and len(frame) < part.size:
            return ZSTD, frame
    return RAW, part.data


def _restore(data: Bytes, head: Header, part: int, room: Bytes, into: Bytes | None = None) -> Bytes:
    """A part's bytes: a piece of `data` itself, or decoded to `room`; copied if `into` is given."""
    stored = data[head.starts[part] : head.starts[part + 1]]
    if head.methods[part] == ZSTD:
        decompress(stored, room)
        stored = room
    elif into is not None:
        into[:] = stored
        stored = into
    view = stored.view()
    view.flags.writeable = False
    return view


def _pack(flat_N: npt.NDArray[Any], bitmap_B: Bytes, planes_PN: Bytes) -> int:
    size = flat_N.itemsize
    if not has_instructions():
        return loops.pack_rest(flat_N, 0, 0, bitmap_B, planes_PN)
    run = {1: loops.pack_1, 2: loops.pack_2, 4: loops.pack_4}[size]
    return run(flat_N, bitmap_B, planes_PN, loops.gather_table(size), loops.count_table())


def _place(bits_W: npt.NDArray[np.uint64], planes: list[Bytes], out_N: npt.NDArray[Any]) -> None:
    size = len(planes)
    tables = loops.shuffle_table(size), loops.count_table()
    if not has_instructions():
        a, b, c, d = (planes * 4)[:4]
        loops.place_rest(bits_W, a, b, c, d, 0, 0, out_N)
    elif size == 1:
        loops.place_1(bits_W, planes[0], *tables, out_N)
    elif size == 2:
        loops.place_2(bits_W, planes[0], planes[1], *tables, out_N)
    else:
        loops.place_4(bits_W, planes[0], planes[1], planes[2], planes[3], *tables, out_N)


def _clear_behind(bitmap_B: Bytes, elements: int) -> bool:
    whole, rest = divmod(elements, 8)
    tail = bitmap_B[whole:].tobytes()
    return not any(tail[1:]) and not (tail and tail[0] >> rest)


def _refused(expected: str, found: object) -> CodecError:
    return CodecError(f"expected a chunk of the bitmap codec with {expected}, found {found}")
