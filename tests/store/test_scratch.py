"""Memory that threads use again."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading

import numpy as np
import pytest

from isae.store.scratch import Scratch

# With huge pages for all memory ("always") a fault is for 2 MiB, and few are left to compare.
PAGES = """
import ctypes, resource, sys, threading
PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
import numpy as np
from isae.freed_memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
found = []
def work():
    for step in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        held = [np.ones(1 << 17) for _ in range(60)]
        del held
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(sum(found[4:]))
"""


def test_buffers_are_used_again_and_belong_to_a_thread() -> None:
    scratch = Scratch()
    first = scratch.take("a", (3, 5), np.float16)
    assert (first.shape, first.dtype) == ((3, 5), np.float16)
    assert first.flags.c_contiguous
    assert np.shares_memory(first, scratch.take("a", 4))
    assert not np.shares_memory(first, scratch.take("b", 4))
    others: list[object] = []
    thread = threading.Thread(target=lambda: others.append(scratch.take("a", 4)))
    thread.start()
    thread.join()
    assert not np.shares_memory(first, np.asarray(others[0]))
    assert scratch.take("a", (0, 7), np.int32).shape == (0, 7)
    assert scratch.take("a", (1000, 9), np.int32).shape == (1000, 9)


def test_sorted_rows_are_those_of_the_permutation() -> None:
    rng, scratch = np.random.default_rng(0), Scratch()
    for count in (0, 1, 17, 400, 30):
        rows = rng.standard_normal((count, 7)).astype(np.float16)
        order = rng.permutation(count)
        np.testing.assert_array_equal(scratch.sorted("x", rows, order), rows[order])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")
def test_freed_memory_is_not_taken_from_the_system_again() -> None:
    def pages(mode: str) -> int:
        command = [sys.executable, "-c", PAGES, mode]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    assert 100 * pages("kept") < pages("given back")
