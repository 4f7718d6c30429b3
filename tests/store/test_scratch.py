"""Memory that threads use again."""

from __future__ import annotations

import threading

import numpy as np

from isae.store.scratch import Scratch


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
