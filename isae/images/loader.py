"""Batches of resized pictures, decoded in worker processes, the same whatever their number.

Batch j goes to worker j mod W, and batches are handed out in order. Each worker has at most three
batches under way (one being decoded, one in its thread's hands, one waiting), so memory is bounded
by (3 W + 1) batches whatever the number of pictures. Shape suffixes: B pictures, C = 3 channels,
H = W = size.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from isae.config import check
from isae.errors import IsaeError
from isae.images.base import I64, BadImage, ImageSource
from isae.images.worker import EXIT_MEMORY, Decoded, decode_addresses, receive, send

if TYPE_CHECKING:
    import torch

PIPE_BYTES = 1 << 20
_POLL_S = 0.2


@dataclass(frozen=True)
class ImageBatch:
    """One batch: B' of the pictures attempted are good, the others are listed in `bad`."""

    indices: I64
    """Numbers of the good pictures in the source, int64 [B']."""
    pixels_BCHW: torch.Tensor
    """RGB pixels uint8 [B', 3, size, size]."""
    sizes_B2: I64
    """Width and height of the good pictures before resizing, int64 [B', 2]."""
    bad: list[BadImage] = field(default_factory=list)
    """The pictures that could not be read, in order."""


def decode_batches(
    source: ImageSource,
    size: int,
    batch_size: int,
    workers: int,
    *,
    indices: npt.ArrayLike | None = None,
) -> Iterator[ImageBatch]:
    """Decode pictures of `source` (all, or `indices` in the order given) to size x size.

    Each batch attempts `batch_size` pictures (the last one fewer), so the batches are the same for
    any number of `workers` processes; 0 decodes in this process. Raises ConfigError for options
    out of range, and IsaeError when a worker process is killed.
    """
    check(size >= 1, "a picture size of at least 1 pixel", size)
    check(batch_size >= 1, "a batch size of at least 1", batch_size)
    check(workers >= 0, "a number of decoding workers of at least 0", workers)
    wanted = np.arange(len(source)) if indices is None else np.asarray(indices, dtype=np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= len(source)):
        raise IndexError(f"expected picture numbers in [0, {len(source)})")
    parts = [wanted[at : at + batch_size] for at in range(0, len(wanted), batch_size)]
    if workers == 0 or not parts:
        return _decode_here(source, parts, size)
    return _decode_in_workers(source, parts, size, min(workers, len(parts)))


def _decode_here(source: ImageSource, parts: Sequence[I64], size: int) -> Iterator[ImageBatch]:
    for part in parts:
        yield _batch(source, part, decode_addresses(source.reader, _addresses(source, part), size))


def _decode_in_workers(
    source: ImageSource, parts: Sequence[I64], size: int, workers: int
) -> Iterator[ImageBatch]:
    pool: list[_Worker] = []
    try:
        pool.extend(_Worker(source, parts[w::workers], size) for w in range(workers))
        for j, part in enumerate(parts):
            yield _batch(source, part, pool[j % workers].take())
    finally:
        for worker in pool:
            worker.stop()


def _addresses(source: ImageSource, part: I64) -> list[object]:
    return [source.address(int(index)) for index in part]


def _batch(source: ImageSource, part: I64, decoded: Decoded) -> ImageBatch:
    import torch

    bad = [
        BadImage(int(part[at]), str(source.row(int(part[at]))["name"]), reason)
        for at, reason in decoded.bad
    ]
    good = part[np.array(decoded.good, dtype=np.int64)]
    return ImageBatch(good, torch.from_numpy(decoded.pixels_BCHW), decoded.sizes_B2, bad)


class _Worker:
    """One decoding process, and the thread that feeds it its parts and collects the results."""

    def __init__(self, source: ImageSource, parts: Sequence[I64], size: int) -> None:
        self.source, self.parts, self.size = source, parts, size
        self.stopping = threading.Event()
        self.results: queue.Queue[Decoded | BaseException] = queue.Queue(maxsize=1)
        self.process = _start_process()
        self.thread = threading.Thread(target=self._run, name="isae-decode", daemon=True)
        self.thread.start()

    def take(self) -> Decoded:
        """The next part's pixels; raises what went wrong in the process."""
        result = self.results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def stop(self) -> None:
        """End the process and the thread; nothing is left behind."""
        self.stopping.set()
        self.process.kill()
        self.thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                cast(BinaryIO, pipe).close()
        self.process.wait()

    def _run(self) -> None:
        try:
            self._converse(cast(BinaryIO, self.process.stdin), cast(BinaryIO, self.process.stdout))
        except (EOFError, OSError):
            self._put(self._last_words())
        except BaseException as error:
            # Anything else must reach the caller, who would wait for ever for this thread.
            self._put(error)

    def _converse(self, jobs: BinaryIO, results: BinaryIO) -> None:
        send(jobs, (self.source.reader, self.size))
        send(jobs, _addresses(self.source, self.parts[0]))
        for following in count(1):
            decoded = self._receive(results)
            if following == len(self.parts):
                self._put(decoded)
                return
            send(jobs, _addresses(self.source, self.parts[following]))
            if not self._put(decoded):
                return

    def _receive(self, results: BinaryIO) -> Decoded:
        kind, content = receive(results)
        if kind == "error":
            raise RuntimeError(f"a decoding process failed:\n{content}")
        pixels_BCHW = np.empty((len(content.good), 3, self.size, self.size), dtype=np.uint8)
        space = pixels_BCHW.reshape(-1).data
        while space:
            filled = results.readinto(space)  # type: ignore[attr-defined]
            if not filled:
                raise EOFError
            space = space[filled:]
        return Decoded(content.good, content.sizes_B2, pixels_BCHW, content.bad)

    def _put(self, result: Decoded | BaseException) -> bool:
        while not self.stopping.is_set():
            with suppress(queue.Full):
                self.results.put(result, timeout=_POLL_S)
                return True
        return False

    def _last_words(self) -> BaseException:
        """Why the process is gone: the error it still sent, else how it ended."""
        with suppress(EOFError, OSError):
            try:
                while True:
                    self._receive(cast(BinaryIO, self.process.stdout))
            except RuntimeError as error:
                return error
        status = self.process.wait()
        how = "lack of memory" if status == EXIT_MEMORY else f"exit code {status}"
        if status < 0:
            how = f"signal {signal.Signals(-status).name}"
        return IsaeError(
            f"expected the decoding process {self.process.pid} to go on, found it ended by {how}; "
            "if the machine ran out of memory use fewer --workers or a smaller --batch-size"
        )


def _start_process() -> subprocess.Popen[bytes]:
    # One thread a worker: the processes are the parallelism.
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(entry or os.curdir for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "from isae.images.worker import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **single, "PYTHONPATH": path},
        pipesize=PIPE_BYTES,
        # Out of the terminal's foreground group: Ctrl-C reaches the parent alone.
        process_group=0 if os.name == "posix" else None,
    )
