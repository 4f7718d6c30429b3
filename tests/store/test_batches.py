"""Batches: every row once an epoch, any batch can be the first, the same whatever the reading."""

from __future__ import annotations

import os
import sys
import threading
import time
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.errors import ConfigError, StoreError
from isae.randomness import keyed_rng
from isae.store import batches, order
from isae.store.batches import dealt_batches, shuffled_batches
from isae.store.order import Deal, batch_rows, make_order
from isae.store.pipeline import BEHIND


def rows_of(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)[:, None]


class Slow:
    """Rows that are read, not gathered from where they are; reading takes a while, unevenly."""

    def __init__(self, rows: np.ndarray, seconds: float = 0.0) -> None:
        self.rows, self.seconds = rows, seconds
        self.shape, self.dtype = rows.shape, rows.dtype
        self.reads: list[tuple[int, int]] = []

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.rows[rows]

    def read_into(self, start: int, stop: int, out: np.ndarray) -> None:
        assert out.flags.c_contiguous
        self.reads.append((start, stop))
        time.sleep(self.seconds * (start % 3))
        np.copyto(out, self.rows[start:stop])


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "BLOCK_ROWS", 16)
    monkeypatch.setattr(order, "WINDOW_BLOCKS", 3)


def stream(rows: int, seed: int, length: int) -> np.ndarray:
    """The first `length` row numbers by the definition, written down once more, plainly."""
    found: list[int] = []
    epoch = 0
    while len(found) < length:
        blocks = keyed_rng(seed, "blocks", epoch).permutation(-(-rows // 16))
        for window in range(-(-len(blocks) // 3)):
            joined: list[int] = []
            for block in blocks[3 * window : 3 * window + 3]:
                joined += range(16 * block, min(16 * block + 16, rows))
            shuffle = keyed_rng(seed, "window", epoch, window).permutation(len(joined))
            found += [joined[place] for place in shuffle]
        epoch += 1
    return np.asarray(found[:length])


def read(source: Any, rows: int, batch: int, count: int, **options: Any) -> list[np.ndarray]:
    iterator = shuffled_batches(source, rows, batch, **options)
    found = list(islice(iterator, count))
    iterator.close()  # type: ignore[attr-defined]
    return found


@given(
    rows=st.integers(1, 200),
    batch=st.integers(1, 90),
    start=st.integers(0, 40),
    seed=st.integers(0, 2**40),
    threads=st.integers(1, 8),
    in_memory=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_batches_are_the_stream_cut_up(
    rows: int, batch: int, start: int, seed: int, threads: int, in_memory: bool
) -> None:
    source = rows_of(rows + 7) if in_memory else Slow(rows_of(rows + 7))
    found = read(source, rows, batch, 4, seed=seed, start_batch=start, threads=threads)
    expected = stream(rows, seed, (start + 4) * batch)[start * batch :]
    assert [one.shape for one in found] == [(batch, 1)] * 4
    np.testing.assert_array_equal(np.concatenate(found)[:, 0], expected)


@given(
    rows=st.integers(1, 150),
    batch=st.integers(1, 40),
    ranks=st.integers(1, 5),
    start=st.integers(0, 9),
    threads=st.integers(1, 4),
)
@settings(deadline=None, max_examples=60)
def test_the_ranks_together_are_the_single_process(
    rows: int, batch: int, ranks: int, start: int, threads: int
) -> None:
    source = Slow(rows_of(rows))
    whole = read(source, rows, batch * ranks, 5, seed=4, start_batch=start)
    options = {"seed": 4, "ranks": ranks, "start_batch": start, "threads": threads}
    shares = [read(source, rows, batch, 5, rank=rank, **options) for rank in range(ranks)]
    for number, expected in enumerate(whole):
        together = np.concatenate([share[number] for share in shares])
        np.testing.assert_array_equal(together, expected)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 48, 131])
@pytest.mark.parametrize("batch", [1, 10, 64])
def test_each_epoch_has_every_row_once(rows: int, batch: int) -> None:
    count = -(-3 * rows // batch)
    found = np.concatenate(read(Slow(rows_of(rows + 5)), rows, batch, count, seed=1))[:, 0]
    epochs = [found[epoch * rows : (epoch + 1) * rows] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(rows))
    if rows > 20:
        assert not np.array_equal(epochs[0], epochs[1])


def test_one_to_eight_threads_and_twenty_places_to_resume() -> None:
    source = Slow(rows_of(1000), seconds=2e-4)
    expected = read(source, 1000, 23, 120, seed=8, threads=1)
    starts = keyed_rng(0, "resume").integers(0, 117, 20).tolist()
    for number, start in enumerate([0] * 8 + starts):
        options = {"seed": 8, "threads": number % 8 + 1, "start_batch": start}
        for one, other in zip(
            read(source, 1000, 23, 3, **options), expected[start : start + 3], strict=True
        ):
            np.testing.assert_array_equal(one, other)


@given(
    rows=st.integers(1, 120),
    batch=st.integers(1, 30),
    ranks=st.integers(1, 4),
    epochs=st.integers(1, 3),
    drop_last=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_a_number_of_epochs(
    rows: int, batch: int, ranks: int, epochs: int, drop_last: bool
) -> None:
    options = {"seed": 2, "ranks": ranks, "epochs": epochs, "drop_last": drop_last}
    shares = [
        [one[:, 0] for one in shuffled_batches(rows_of(rows), rows, batch, rank=rank, **options)]
        for rank in range(ranks)
    ]
    found = np.sort(np.concatenate([row for share in shares for row in share] or [[]]))
    if drop_last:
        whole = rows * epochs // (batch * ranks)
        assert [[len(one) for one in share] for share in shares] == [[batch] * whole] * ranks
        assert len(found) == whole * batch * ranks
        assert not len(found) or np.bincount(found.astype(int)).max() <= epochs
    else:
        np.testing.assert_array_equal(found, np.repeat(np.arange(rows), epochs))


@given(rows=st.integers(1, 90), batch=st.integers(1, 70), step=st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_row_numbers_are_those_of_the_rows(rows: int, batch: int, step: int) -> None:
    deal = Deal(batch, rank=1, ranks=2, first=3, step=step)
    numbers = list(islice(batch_rows(make_order(rows, deal, 5), deal), 6))
    found = islice(dealt_batches(rows_of(rows + 9), make_order(rows, deal, 5), deal), 6)
    for one, other in zip(found, numbers, strict=True):
        np.testing.assert_array_equal(one[:, 0], other)


def test_a_stretch_that_does_not_start_at_row_0() -> None:
    for source in (rows_of(90), Slow(rows_of(90))):
        found = np.concatenate(
            list(shuffled_batches(source, 30, 7, seed=0, first_row=55, epochs=1))
        )
        assert sorted(found[:, 0].tolist()) == list(range(55, 85))


def test_seeds_differ() -> None:
    first, second = (next(shuffled_batches(rows_of(100), 100, 50, seed=seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_batches_that_are_kept_stay_as_they_are() -> None:
    source = Slow(np.arange(600, dtype=np.float32).reshape(200, 3))
    kept = read(source, 200, 11, 60, seed=3, threads=3)
    copies = [one.copy() for one in read(source, 200, 11, 60, seed=3)]
    for one, other in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(one, other)
    kept[0][:] = -1
    np.testing.assert_array_equal(kept[1], copies[1])
    assert float(source.rows.min()) == 0


def test_a_rank_reads_only_the_windows_that_it_needs() -> None:
    source = Slow(rows_of(48 * 6))
    read(source, 48 * 6, 48, 3, seed=0, rank=1, ranks=3, threads=1)
    # A batch is a window; those numbered 1 and 4 of every epoch are needed, three blocks each.
    rows = make_order(48 * 6, Deal(48), 0)
    needed = [rows.window_at(48 * number).blocks for number in (1, 4, 7, 10, 13, 16, 19)]
    expected = [block for blocks in needed for block in blocks]
    assert len(source.reads) >= 9
    assert source.reads == expected[: len(source.reads)]


@pytest.mark.parametrize("threads", [1, 4])
def test_reading_ahead_is_bounded(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows, and `threads` + 1 slabs ahead, however long the caller takes."""
    taken = []

    def watched(columns: int, dtype: np.dtype[Any], most: int) -> Any:
        def allocate(rows: int) -> tuple[np.ndarray, np.ndarray]:
            taken.append(rows)
            array = np.empty((rows, columns), dtype)
            return array, array

        return allocate

    monkeypatch.setattr(batches, "_ordinary", watched)
    source = Slow(rows_of(4800))
    iterator = shuffled_batches(source, 4800, 6, seed=0, threads=threads)
    next(iterator)

    def windows() -> int:  # of 48 rows in three blocks, gathered from to the end
        return len(taken) * 12 // 48

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if len(taken) >= 2 and len(source.reads) >= 3 * (windows() + 1):
            break
        time.sleep(0.01)
    time.sleep(0.1)  # what more would be read would be by now
    assert taken == [12] * len(taken)
    assert 2 <= len(taken) <= threads + 2
    assert 3 * (windows() + 1) <= len(source.reads) <= 3 * (windows() + 2)
    iterator.close()  # type: ignore[attr-defined]


def addresses(source: Any, hold: int, count: int = 200) -> set[int]:
    """Where batches lie whose caller keeps the last `hold` of them, a batch a slab."""
    kept: list[Any] = []
    found = set()
    iterator = shuffled_batches(source, 4800, 12, seed=0, threads=2)
    for batch in islice(iterator, count):
        kept = [*kept, torch.from_numpy(batch)[3:]][-hold:]
        found.add(batch.__array_interface__["data"][0])
    iterator.close()  # type: ignore[attr-defined]
    return found


def test_memory_is_used_again_once_nobody_looks_at_it() -> None:
    """Slabs are the caller's batch, the one before it, and three ahead."""
    assert len(addresses(Slow(rows_of(4800)), hold=1)) <= 5
    # Parts of batches that only torch knows of: none of their memory is used again.
    kept, copies = [], []
    for batch in islice(shuffled_batches(Slow(rows_of(4800)), 4800, 12, seed=0), 100):
        kept.append(torch.from_numpy(batch)[5:7])
        copies.append(batch[5:7].copy())
    for one, other in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(one.numpy(), other)
    assert len({one.data_ptr() for one in kept}) == 100


def running() -> int:
    return sum(one.name.startswith("isae-read-ahead") for one in threading.enumerate())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads have no priority there")
@pytest.mark.parametrize("pinned", [False, True])
def test_threads_that_read_give_way_unless_a_gpu_waits(pinned: bool) -> None:
    found: set[int] = set()

    class Looking(Slow):
        def read_into(self, start: int, stop: int, out: np.ndarray) -> None:
            if threading.get_native_id() != caller:
                found.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            super().read_into(start, stop, out)

    caller = threading.get_native_id()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    deal = Deal(7, 0, 1, 0)
    ordered = make_order(400, deal, 0, None, False)
    stream = dealt_batches(Looking(rows_of(400)), ordered, deal, threads=2, pinned=pinned)
    for _ in range(20):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert found == {own if pinned else min(own + BEHIND, 19)}
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


@pytest.mark.parametrize(("threads", "pinned"), [(1, False), (2, False), (2, True)])
def test_who_waits_helps_threads_that_give_way(threads: int, pinned: bool) -> None:
    # Threads that are helped end a block once the caller has read one.
    helps = threads > 1 and not pinned
    caller, helped = threading.get_native_id(), threading.Event()
    readers: list[bool] = []

    class Stuck(Slow):
        def read_into(self, start: int, stop: int, out: np.ndarray) -> None:
            readers.append(threading.get_native_id() == caller)
            if readers[-1]:
                helped.set()
            elif helps:
                assert helped.wait(30)
            super().read_into(start, stop, out)

    source = Stuck(rows_of(480))
    deal = Deal(7, 0, 1, 0)
    ordered = make_order(480, deal, 0, None, False)
    chosen = dealt_batches(source, ordered, deal, threads=threads, pinned=pinned)
    found = np.concatenate([np.asarray(one)[:, 0] for one in islice(chosen, 60)])
    chosen.close()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(found, stream(480, 0, 420))
    assert any(readers) == helps


def test_closing_ends_the_threads() -> None:
    before = running()
    iterator = shuffled_batches(Slow(rows_of(10**4), 1e-3), 10**4, 5, seed=0, threads=3)
    next(iterator)
    assert running() == before + 3
    iterator.close()  # type: ignore[attr-defined]
    assert running() == before
    iterator = shuffled_batches(rows_of(100), 100, 5, seed=0)
    assert running() == before  # nothing starts before the first batch is asked for
    next(iterator)
    del iterator
    assert running() == before


def test_no_rows_is_an_error() -> None:
    with pytest.raises(StoreError, match="expected rows to read, found none"):
        shuffled_batches(rows_of(4), 0, 2, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size of at least 1"),
        ({"start_batch": -1}, "first batch of at least 0"),
        ({"threads": 0}, "1 to 64 threads"),
        ({"rank": 2, "ranks": 2}, r"a rank in \[0, 2\)"),
        ({"ranks": 0}, "at least one rank"),
        ({"epochs": 0}, "at least one epoch"),
    ],
)
def test_numbers_out_of_range(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shuffled_batches(rows_of(4), 4, **{"batch_size": 2, "seed": 0, **options})


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_an_error_while_reading_ahead_reaches_the_caller(threads: int) -> None:
    """After the batches that do not need what failed, whatever the threads."""

    class Failing(Slow):
        def read_into(self, start: int, stop: int, out: np.ndarray) -> None:
            if start == 16 * bad:
                raise StoreError("broken")
            super().read_into(start, stop, out)

    bad = int(stream(480, 0, 200)[150]) // 16  # a block of the fourth window
    iterator = shuffled_batches(Failing(rows_of(480), 1e-4), 480, 10, seed=0, threads=threads)
    good = list(islice(iterator, 14))
    np.testing.assert_array_equal(np.concatenate(good)[:, 0], stream(480, 0, 140))
    with pytest.raises(StoreError, match="broken"):
        next(iterator)
    assert next(iterator, None) is None
    assert not running()


def test_an_error_before_the_first_batch() -> None:
    class Failing:
        def __getitem__(self, rows: slice) -> np.ndarray:
            raise StoreError("broken")

    with pytest.raises(StoreError, match="broken"):
        next(shuffled_batches(Failing(), 100, 10, seed=0))


def test_too_little_memory_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        def allocate(rows: int) -> Any:
            raise MemoryError("none left")

        return allocate

    monkeypatch.setattr(batches, "_ordinary", refuse)
    with pytest.raises(MemoryError, match="none left"):
        next(shuffled_batches(rows_of(100), 100, 10, seed=0))


def test_an_open_iterator_does_not_keep_python_from_ending() -> None:
    import subprocess
    import sys

    code = (
        "import numpy as np; from isae.store.batches import shuffled_batches\n"
        "it = shuffled_batches(np.zeros((10**5, 8)), 10**5, 64, seed=0, threads=3); next(it)\n"
        "print('done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def same_image_pairs(images: np.ndarray) -> int:
    counts = np.unique(images, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def ideal_pairs(counts: np.ndarray, batch: int, batches_: int) -> tuple[float, float]:
    """Mean and deviation of the number of pairs of rows of one image that share a batch, over
    `batches_` batches of a random permutation of rows of which image g has counts[g].

    With P2, P3, P22 the chances that two rows, three rows, and each of two disjoint pairs are of
    one image: E[T] = M C P2, C = B (B - 1) / 2; of the pairs of pairs in a batch, C are the same
    pair, B (B - 1) (B - 2) share a row and C (C - 1) - that are disjoint.
    """
    n = counts.astype(float)
    total = n.sum()
    two, three = (n * (n - 1)).sum(), (n * (n - 1) * (n - 2)).sum()
    four = (n * (n - 1) * (n - 2) * (n - 3)).sum() + two**2 - ((n * (n - 1)) ** 2).sum()
    p2 = two / (total * (total - 1))
    p3 = three / (total * (total - 1) * (total - 2))
    p22 = four / (total * (total - 1) * (total - 2) * (total - 3))
    c, sharing = batch * (batch - 1) / 2, batch * (batch - 1.0) * (batch - 2)
    mean = c * p2
    square = c * p2 + sharing * p3 + (c * (c - 1) - sharing) * p22
    variance = batches_ * (square - mean**2)
    variance += batches_ * (batches_ - 1) * (c**2 * p22 - mean**2)
    return batches_ * mean, float(np.sqrt(variance))


def test_the_ideal_is_that_of_random_permutations() -> None:
    generator = np.random.default_rng(0)
    images = np.repeat(np.arange(12), generator.integers(1, 9, 12))
    counts, size = np.bincount(images), len(images) // 3
    found = []
    for _ in range(4000):
        generator.shuffle(images)
        found.append(sum(same_image_pairs(images[i * size : (i + 1) * size]) for i in range(3)))
    mean, deviation = ideal_pairs(counts, size, 3)
    # 4000 draws: the mean to deviation / 63, the deviation to about 1 in 90; three sigma each.
    assert abs(np.mean(found) - mean) < 3 * deviation / 63
    assert np.std(found) == pytest.approx(deviation, rel=3 / 80)


def stored_images(images: int, cells: int, seed: int) -> np.ndarray:
    """The image of every row, in the order of a store: by the shuffle's keys."""
    from isae.store.cuts import row_keys

    image = np.repeat(np.arange(images), cells)
    place = np.tile(np.arange(cells), images)
    keys = row_keys(seed, 16, image, place, place, np.zeros(len(image), dtype=bool))
    return image[np.argsort(keys, kind="stable")]


def excess(images: np.ndarray, batch: int, seed: int, epochs: int) -> list[float]:
    """By epoch: how many sigma the pairs of one image in a batch lie above a random permutation."""
    whole = len(images) // batch
    mean, deviation = ideal_pairs(np.bincount(images), batch, whole)
    deal = Deal(batch)
    rows = np.concatenate(
        list(batch_rows(make_order(len(images), deal, seed, epochs), deal))
    ).reshape(epochs, len(images))
    found = []
    for epoch in rows:
        cut = images[epoch[: whole * batch]].reshape(whole, batch)
        found.append((sum(map(same_image_pairs, cut)) - mean) / deviation)
    return found


@pytest.mark.parametrize("batch", [64, 1024])
def test_batches_are_as_well_mixed_as_a_permutation(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "BLOCK_ROWS", 1024)
    monkeypatch.setattr(order, "WINDOW_BLOCKS", 4)
    scores = [
        score
        for seed in range(4)
        for score in excess(stored_images(1500, 49, seed), batch, seed, 3)
    ]
    assert max(map(abs, scores)) < 3
    # The mean of 12 such scores has the deviation 1 / sqrt(12).
    assert abs(np.mean(scores)) < 3 / np.sqrt(12)


def test_a_poor_shuffle_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows stored by image and shuffled within windows only: far from a permutation."""
    monkeypatch.setattr(order, "BLOCK_ROWS", 1024)
    monkeypatch.setattr(order, "WINDOW_BLOCKS", 4)
    assert excess(np.repeat(np.arange(1500), 49), 1024, 0, 1)[0] > 100
