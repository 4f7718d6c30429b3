"""Threads that work beside torch's own."""

from __future__ import annotations

import threading

import torch

from isae.interrupts import Interrupts
from isae.store.threads import in_threads


def threads_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_threads_that_begin_later_are_as_before() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        used = set(in_threads(lambda _: torch.get_num_threads(), range(6), Interrupts(), 2))
        assert used == {1}
        assert torch.get_num_threads() == threads_of_a_new_thread() == 2
    finally:
        torch.set_num_threads(before)
