"""The decoding process: reads jobs from stdin, writes batches of pixels to stdout.

A plain child process and two pipes: it starts in a fraction of a second since it imports no torch,
it never runs the caller's main module again (so scripts need no `__main__` guard), it is forked
from no threads, needs no shared-memory mount, and it ends by itself when its parent is gone.

Messages are pickles with a length of 8 bytes before them. In: (reader, size) once, then lists of
addresses. Out: ('batch', Decoded without pixels) and then the raw pixels, or ('error', text).
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from isae.images.base import I64, U8, Reader, UnreadableError
from isae.images.pixels import resize_crop

LENGTH_BYTES = 8
EXIT_MEMORY = 12
"""Exit code of a process that could not get the memory it needed (ENOMEM)."""


@dataclass(frozen=True)
class Decoded:
    """Pixels of one list of addresses; `good` and `bad` count positions in that list."""

    good: list[int]
    sizes_B2: I64
    pixels_BCHW: U8
    bad: list[tuple[int, str]]


def decode_addresses(reader: Reader, addresses: Sequence[Any], size: int) -> Decoded:
    """Read and resize pictures, in order; those that cannot be read are listed with the reason."""
    pixels_BCHW = np.empty((len(addresses), 3, size, size), dtype=np.uint8)
    good: list[int] = []
    sizes: list[tuple[int, int]] = []
    bad: list[tuple[int, str]] = []
    for position, address in enumerate(addresses):
        try:
            pixels = reader.read(address)
        except UnreadableError as error:
            bad.append((position, str(error)))
            continue
        pixels_BCHW[len(good)] = resize_crop(pixels, size).transpose(2, 0, 1)
        good.append(position)
        sizes.append((pixels.shape[1], pixels.shape[0]))
    sizes_B2 = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    return Decoded(good, sizes_B2, pixels_BCHW[: len(good)], bad)


def send(stream: BinaryIO, message: object) -> None:
    """Write one pickled message."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(len(data).to_bytes(LENGTH_BYTES, "little") + data)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one pickled message; raises EOFError where the other side is gone."""
    length = int.from_bytes(_exactly(stream, LENGTH_BYTES), "little")
    return pickle.loads(_exactly(stream, length))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def serve(jobs: BinaryIO, results: BinaryIO) -> None:
    """Decode jobs until the parent closes its end."""
    reader, size = receive(jobs)
    while True:
        decoded = decode_addresses(reader, receive(jobs), size)
        pixels_BCHW = decoded.pixels_BCHW
        send(results, ("batch", replace(decoded, pixels_BCHW=pixels_BCHW[:0])))
        results.write(pixels_BCHW.data if pixels_BCHW.size else b"")
        results.flush()


def main() -> None:
    """Serve on the inherited pipes; whatever libraries print goes to stderr instead of a pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(0), "rb") as jobs, os.fdopen(os.dup(1), "wb") as results:
        os.dup2(2, 1)
        try:
            serve(jobs, results)
        except (EOFError, BrokenPipeError):
            # The parent has what it wanted; nobody reads what is still unwritten.
            os._exit(0)
        except MemoryError:
            os._exit(EXIT_MEMORY)
        except Exception:
            send(results, ("error", traceback.format_exc()))
            sys.exit(1)
