"""Items computed ahead in a thread: same order, errors in their place, nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.ahead import ahead


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert [one for one in threading.enumerate() if one.name == "isae-ahead"] == []


class Source:
    """0, 1, ... and what was done with it; an error in place of item `fails`."""

    def __init__(self, count: int, fails: int | None = None) -> None:
        self.count, self.fails = count, fails
        self.made, self.ended, self.thread = 0, False, 0

    def items(self) -> Iterator[int]:
        self.thread = threading.get_ident()
        try:
            for number in range(self.count):
                if number == self.fails:
                    raise ValueError(f"item {number}")
                self.made += 1
                yield number
        finally:
            self.ended = True


@given(count=st.integers(0, 30), depth=st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_the_same_items_in_the_same_order(count: int, depth: int) -> None:
    source = Source(count)
    assert list(ahead(source.items(), depth)) == list(range(count))
    assert source.ended
    assert source.thread != threading.get_ident()


def test_any_iterable_will_do() -> None:
    assert list(ahead([3, None, 1], 2)) == [3, None, 1]


def test_items_are_made_while_the_last_one_is_used_but_no_more_than_asked() -> None:
    source = Source(100)
    stages = ahead(source.items(), 3)
    assert next(stages) == 0
    deadline = time.monotonic() + 10
    # The one given out, three that wait, and the one that finds no room.
    while source.made < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert source.made == 5
    stages.close()  # type: ignore[attr-defined]
    assert source.ended
    assert source.made == 5


@pytest.mark.parametrize("fails", [0, 1, 7])
def test_an_error_comes_after_the_items_before_it(fails: int) -> None:
    source = Source(20, fails)
    stages = ahead(source.items(), 4)
    found = []
    with pytest.raises(ValueError, match=f"item {fails}"):
        found.extend(stages)  # extend keeps what came before the error
    assert found == list(range(fails))
    assert source.ended
    assert list(stages) == []


def test_an_error_of_the_user_ends_the_thread_and_the_source() -> None:
    source = Source(1000)

    def use() -> None:
        for number in ahead(source.items(), 2):
            if number == 3:
                raise KeyError(number)

    with pytest.raises(KeyError):
        use()
    assert source.ended
    assert source.made <= 7


def test_one_that_is_given_up_is_closed() -> None:
    source = Source(1000)
    stages = ahead(source.items(), 1)
    next(stages)
    del stages
    assert source.ended


def test_stages_follow_each_other_and_end_together() -> None:
    first, ended = Source(1000), []

    def doubled() -> Iterator[int]:
        inner = ahead(first.items(), 2)
        try:
            for number in inner:
                yield 2 * number
        finally:
            inner.close()  # type: ignore[attr-defined]
            ended.append(True)

    outer = ahead(doubled(), 2)
    assert [next(outer) for _ in range(5)] == [0, 2, 4, 6, 8]
    outer.close()  # type: ignore[attr-defined]
    assert first.ended
    assert ended == [True]
