"""Memory that this process freed and will need again, kept from going back to the system."""

from __future__ import annotations

import ctypes
import functools
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Numbers of glibc's mallopt (malloc.h)."""
LARGE_BLOCK = 32 << 20
"""Blocks from here on always go back to the system; glibc allows no larger threshold to move."""
KEPT_ON_TOP = 256 << 20
"""Less than this at the end of a heap stays with the process."""
THREAD_HEAP = 64 << 20
"""Bytes of a heap of a thread; such heaps stay, however empty, if as much is to be spare."""
TUNED_BY = (
    "GLIBC_TUNABLES",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_THRESHOLD_",
)
"""Variables by which a user chooses the same."""


@functools.cache
def keep_freed_memory() -> bool:
    """Have the C library (glibc) keep what is freed, for this process; whether it does.

    It does not where the environment says how that library's memory is to be tuned.

    A forward pass frees its maps at every step, a training step its batch. By default glibc gives
    them back to the system, and takes as many pages anew at the next step: 550 pages for each
    picture of 112 pixels, an eighth of the processor time of a build; 4,000 pages, an eighth of the
    time too, for a training step of 4,096 rows. The peak hardly moves: what is kept had been in
    use.
    """
    if any(name in os.environ for name in TUNED_BY):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_TRIM_THRESHOLD, KEPT_ON_TOP), mallopt(_TOP_PAD, THREAD_HEAP)
    return all(kept) and bool(mallopt(_MMAP_THRESHOLD, LARGE_BLOCK))
