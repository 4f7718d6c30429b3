"""Processes that build together: waiting, sharing, and ending together. Threads stand for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import TCPStore

from isae.errors import ConfigError, ImageError, StoreError
from isae.store import ranks as ranks_module
from isae.store.ranks import EndedTogetherError, Ranks, find_ranks, is_first

TIMEOUT = timedelta(seconds=20)


@pytest.fixture
def server() -> Any:
    return TCPStore("127.0.0.1", 0, 1, True, TIMEOUT, wait_for_workers=False)


def connect(server: Any, rank: int, size: int) -> Ranks:
    store = TCPStore("127.0.0.1", server.port, 1, False, TIMEOUT, wait_for_workers=False)
    return Ranks(rank, size, rank, store, prefix="test")


def outcomes(server: Any, size: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What `work` gives or raises in each of `size` ranks that run at once."""

    def run(rank: int) -> Any:
        one = connect(server, rank, size)
        try:
            with one.together():
                return work(one)
        except BaseException as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def test_alone_there_is_nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "1"):
        if value:
            monkeypatch.setenv("WORLD_SIZE", value)
        else:
            monkeypatch.delenv("WORLD_SIZE", raising=False)
        alone = find_ranks()
        assert alone.first
        assert is_first()
        alone.barrier("x")
        assert alone.total("y", 7) == 7
        assert alone.share("z", [1]) == [1]
        assert alone.end(ValueError())
    with pytest.raises(ImageError, match="mine"), alone.together():
        raise ImageError("mine")


@pytest.mark.parametrize("size", [2, 3, 5])
def test_values_are_shared_and_summed(server: Any, size: int) -> None:
    arrived: list[int] = []

    def work(one: Ranks) -> Any:
        time.sleep(0.05 * one.rank)
        arrived.append(one.rank)
        one.barrier("first")
        assert sorted(arrived) == list(range(size))
        total = one.total("images", 10**12 + one.rank)
        return total, one.share("value", {"a": [None, "é"]} if one.first else None)

    total = size * 10**12 + size * (size - 1) // 2
    assert outcomes(server, size, work) == [(total, {"a": [None, "é"]})] * size


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_one_fails_and_the_waiting_others_leave_at_once(server: Any, failing: int) -> None:
    def work(one: Ranks) -> None:
        if one.rank == failing:
            time.sleep(0.2)
            raise ImageError("a bad picture")
        one.barrier("never")

    started = time.monotonic()
    found = outcomes(server, 3, work)
    assert time.monotonic() - started < 20  # the store's own limit is 60
    for rank, error in enumerate(found):
        kind = ImageError if rank == failing else EndedTogetherError
        assert type(error) is kind
        if rank != failing:
            assert f"process {rank} of this build ends too, since process {failing} failed" in str(
                error
            )


def test_of_several_that_fail_one_says_why(server: Any) -> None:
    def work(one: Ranks) -> None:
        one.barrier("start")
        raise ImageError(f"rank {one.rank}")

    found = outcomes(server, 4, work)
    assert sorted(type(error).__name__ for error in found) == [
        "EndedTogetherError",
        "EndedTogetherError",
        "EndedTogetherError",
        "ImageError",
    ]


def test_interrupts_that_follow_a_failure_are_no_news(server: Any) -> None:
    """The launcher interrupts the others after one failed."""
    failed = threading.Event()

    def work(one: Ranks) -> None:
        if one.rank == 1:
            one.end(StoreError("disk full"))
            failed.set()
            raise StoreError("disk full")
        failed.wait()
        raise KeyboardInterrupt

    found = outcomes(server, 3, work)
    assert [type(error) for error in found] == [EndedTogetherError, StoreError, EndedTogetherError]


def test_interrupts_of_all_stay_interrupts(server: Any) -> None:
    def work(one: Ranks) -> None:
        raise KeyboardInterrupt

    found = outcomes(server, 3, work)
    assert [type(error) for error in found] == [KeyboardInterrupt] * 3


def test_a_process_that_was_interrupted_does_not_leave_others_waiting(server: Any) -> None:
    def work(one: Ranks) -> None:
        if one.rank == 2:
            raise KeyboardInterrupt
        one.barrier("never") if one.first else one.share("nor this")

    found = outcomes(server, 3, work)
    assert [type(error) for error in found] == [EndedTogetherError] * 2 + [KeyboardInterrupt]
    assert "process 2 was interrupted" in str(found[0])


def test_waiting_ends_by_an_interrupt(server: Any) -> None:
    one = connect(server, 0, 2)

    def stop() -> None:
        raise KeyboardInterrupt

    one.check = stop
    with pytest.raises(KeyboardInterrupt):
        one.barrier("never")


def test_the_first_waits_for_the_others_but_not_for_ever(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks_module, "LEAVE_S", 30)
    left = []

    def work(one: Ranks) -> bool:
        if one.first:
            return one.end(ValueError()) and left == [True]
        time.sleep(0.15)
        left.append(True)
        return True

    assert outcomes(server, 2, work) == [True, True]
    monkeypatch.setattr(ranks_module, "LEAVE_S", 0.3)
    killed = connect(server, 0, 3)
    killed.prefix = "other"
    started = time.monotonic()
    assert not killed.end(ValueError())
    assert 0.3 <= time.monotonic() - started < 20


def test_lost_processes_are_an_error_in_words(server: Any) -> None:
    one = connect(server, 1, 2)

    class Gone:
        def __getattr__(self, name: str) -> Any:
            def fail(*values: Any) -> None:
                raise RuntimeError("Connection reset by peer")

            return fail

    one.store = Gone()
    for ask in (lambda: one.barrier("x"), lambda: one.share("y")):
        with pytest.raises(StoreError, match="expected to reach the other processes"):
            ask()
    with pytest.raises(ImageError, match="mine"), one.together():
        raise ImageError("mine")


@pytest.mark.parametrize(
    "changes",
    [
        {"RANK": None},
        {"RANK": "2"},
        {"RANK": "-1"},
        {"RANK": "x"},
        {"WORLD_SIZE": "0"},
        {"WORLD_SIZE": "two"},
        {"MASTER_ADDR": None},
        {"MASTER_PORT": None},
        {"MASTER_PORT": "http"},
    ],
)
def test_a_wrong_environment_is_told(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None]
) -> None:
    whole = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in {**whole, **changes}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="start with torchrun, or unset WORLD_SIZE"):
        find_ranks()


def test_the_environment_of_torchrun_is_found(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(server.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    found, again = find_ranks(), find_ranks()
    assert (found.rank, found.size, found.local_rank, found.first) == (3, 4, 1, False)
    assert found.prefix != again.prefix
    assert not is_first()
    found.store.set("a", "b")
    assert server.get("a") == b"b"
