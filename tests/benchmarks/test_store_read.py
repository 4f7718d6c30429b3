"""Nobody has a speed who gives other rows, or does not shuffle them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from isae.benchmarks import (
    store_codec,
    store_entries,
    store_ours,
    store_peers,
    store_read,
    store_tables,
)
from isae.benchmarks.measure import Effort
from isae.benchmarks.shuffle_quality import Shared
from isae.benchmarks.store_check import judged
from isae.benchmarks.store_codec import bench_codecs
from isae.benchmarks.store_peer import Batches, Job, Peer
from isae.benchmarks.store_peers import PEERS
from isae.errors import DataError, UnknownNameError
from isae.store import open_store
from isae.store.codecs import RowCodec, named_codec

ONE = Effort(warmup=0, seconds=0.0, least=1, most=1)
LAYER = "mixed4a"
Array = np.ndarray[Any, Any]


def read(store: Path, folder: Path, peers: list[type[Peer]], **options: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"rows": 900, "batch": 100, "threads": 2, "memory": False}
    settings |= {"effort": ONE, **options}
    return store_read.bench_read(store, LAYER, folder=folder, peers=peers, **settings)


@pytest.mark.parametrize("cold", [False, True])
def test_everybody_reads_the_same_rows(small_store: Path, tmp_path: Path, cold: bool) -> None:
    few = [PEERS[name] for name in ("memmap", "reservoir", "zarr-small")]
    result = read(small_store, tmp_path, few if cold else [*PEERS.values()], cold=cold)
    assert result["failed"] == []
    assert [one["name"] for one in result["absent"]] == ["zarr-small"]  # which is zarr here
    assert result["rows"] == 900
    assert result["page_cache"].startswith("cold" if cold else "warm")
    for row in result["readers"]:
        assert row["fault"] is None, row
        assert row["read_mb_per_s"]["median"] > 0
        assert row["first_batch_s"]["median"] > 0
        assert row["write_mb_per_s"] > 0
        shuffle = row["shuffle"]
        assert [one["batches"] for one in shuffle["seeds"]] == [9] * 5
        # The store's order is random: one in 10^6.
        assert shuffle["sigmas"] == pytest.approx(abs(shuffle["mean_z"]) * 5**0.5)
        assert max(abs(one["z"]) for one in shuffle["seeds"]) == shuffle["largest_z"] < 5
    rows = {row["name"]: row for row in result["readers"]}
    # After its first epoch it reads no file, cold or not.
    assert ("isae-2t-ram" in rows) != cold
    assert rows["memmap"]["compression"] == 1
    assert rows["reservoir"]["compression"] == pytest.approx(0.5, rel=0.01)
    speeds = [rows[name]["read_mb_per_s"]["median"] for name in ("isae-2t", "memmap")]
    assert rows["memmap"]["first_times_faster"]["median"] == pytest.approx(speeds[0] / speeds[1])


class Careless(store_peers.Memmap):
    """Gives one row for another."""

    name = "careless"

    def batches(self, seed: int) -> Batches:
        for batch in super().batches(seed):
            batch[0] = batch[1]
            yield batch


class Sorted(store_peers.Memmap):
    """Has the right rows, alike ones together from epoch `first` on."""

    name = "sorted"
    first = 0
    images: Any = None

    def _places(self, seed: int) -> Iterator[Array]:
        rng = np.random.default_rng(seed)
        for epoch in itertools.count():
            order = rng.permutation(900)
            order = order if epoch < self.first else order[np.argsort(self.images[order])]
            yield from order.reshape(9, 100)


class SortedLater(Sorted):
    """Shuffles the first epoch well, before rows come from memory."""

    name, first, fills_memory = "sorted-later", 1, True


class Constant(store_peers.Memmap):
    """Has one order for all seeds."""

    name = "constant"

    def _places(self, seed: int) -> Iterator[Array]:
        return super()._places(0)


class Forgetful(store_peers.Memmap):
    """Gives a row twice from its second epoch on."""

    name = "forgetful"

    def batches(self, seed: int) -> Batches:
        for number, batch in enumerate(super().batches(seed)):
            if number >= 9:
                batch[0] = batch[1]
            yield batch


class Crashes(store_peers.Memmap):
    """Cannot read."""

    name = "crashes"

    def batches(self, seed: int) -> Batches:
        raise OSError("no such luck")


class Refuses(store_peers.Memmap):
    """Cannot write."""

    name = "refuses"

    def write(self, rows_NC: Array) -> None:
        raise ValueError("not these")


def test_who_gives_other_rows_has_no_speed(small_store: Path, tmp_path: Path) -> None:
    result = read(small_store, tmp_path, [Careless, Crashes, Refuses, PEERS["memmap"]])
    assert result["failed"] == ["careless", "crashes"]
    rows = {row["name"]: row for row in result["readers"]}
    assert "9 unknown" not in rows["careless"]["fault"]
    assert rows["careless"]["fault"].endswith("found 0 unknown and 9 repeated rows")
    assert rows["crashes"]["fault"] == "OSError: no such luck"
    assert rows["careless"]["read_mb_per_s"] is None
    assert rows["memmap"]["read_mb_per_s"] is not None
    assert result["absent"] == [{"name": "refuses", "reason": "ValueError: not these"}]


def test_who_does_not_shuffle_has_no_speed(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = open_store(small_store).positions(LAYER)[0:900][:, 0]
    monkeypatch.setattr(Sorted, "images", image)
    kinds: list[type[Peer]] = [Sorted, SortedLater, Constant, Forgetful]
    result = read(small_store, tmp_path, kinds)
    assert result["failed"] == ["sorted", "sorted-later", "constant", "forgetful"]
    rows = {row["name"]: row for row in result["readers"]}
    assert all(rows[name]["read_mb_per_s"] is None for name in result["failed"])
    assert rows["sorted"]["shuffle"]["mean_z"] > 20
    assert "not shuffled: expected the z of 5 seeds within 1.79 of 0" in rows["sorted"]["fault"]
    assert "not shuffled" in rows["sorted-later"]["fault"]
    assert "another order for another seed" in rows["constant"]["fault"]
    assert "repeated rows" in rows["forgetful"]["fault"]


@pytest.mark.parametrize(
    ("scores", "passes"),
    [
        ([1.7, -2.9, 0.3, 2.2, -1.0], True),
        ([2.0, 1.9, 1.8, 2.1, 1.7], False),  # none of them alone would tell
        ([-2.0, -1.9, -1.8, -2.1, -1.7], False),
        ([9.5, 0.1, -0.2, 0.3, 0.0], False),
        ([math.nan] * 5, True),  # a permutation leaves no room
    ],
)
def test_the_mean_of_the_seeds_decides(scores: list[float], passes: bool) -> None:
    found = judged([Shared(0, 0.0, 1.0, z, 9, 100, 1.0) for z in scores])
    assert (found["fault"] is None) == passes


def test_nobody_is_compared_with_a_first_reader_that_is_wrong(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = store_ours.Ours.batches

    def wrong(self: store_ours.Ours, seed: int) -> Batches:
        for batch in right(self, seed):
            yield batch[:, ::-1] if self.name == "isae-2t" else batch

    monkeypatch.setattr(store_ours.Ours, "batches", wrong)
    result = read(small_store, tmp_path, [PEERS["memmap"]])
    assert result["failed"] == ["isae-2t"]
    assert all(row["first_times_faster"] is None for row in result["readers"])
    assert result["readers"][-1]["read_mb_per_s"]["median"] > 0
    table = store_tables.read_lines(result | {"store": {"layer": LAYER, "codec": "small"}})
    assert max(map(len, table)) <= 80
    assert any(line.startswith("isae-2t        FAILED: expected every row once") for line in table)


def test_speeds_are_of_stored_bytes() -> None:
    metadata = {"data_type": "uint8"}  # given as float16
    job = Job("", 900, 508, "float16", 100, 128, 2, 0, json.dumps(metadata))
    assert store_entries.stored_bytes(job) == 900 * 508


def test_what_cannot_be_read_is_refused(small_store: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="smaller --batch-size"):
        read(small_store, tmp_path, [], batch=10**6)
    with pytest.raises(UnknownNameError, match="nearest: mixed4a"):
        store_read.bench_read(
            small_store,
            "mixed4x",
            folder=tmp_path,
            rows=9,
            batch=3,
            threads=1,
            peers=[],
            effort=ONE,
        )


def test_codecs_are_compared_on_whole_chunks(rows_like: Callable[..., Array]) -> None:
    rows = bench_codecs(rows_like(500, 40), 200, ONE)
    found = {row["codec"]: row for row in rows}
    assert [row["fault"] for row in rows] == [None] * 5
    assert found["none"]["compression"] == pytest.approx(1, rel=1e-3)
    assert found["small"]["compression"] > found["zstd-3"]["compression"] > 1.2
    assert all(row["decode_mb_per_s"]["median"] > 0 for row in rows)


def test_what_a_codec_leaves_out_is_not_right_from_before(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = named_codec("none").for_array(np.dtype("float16"), 40)

    class Lazy:
        def decode(self, data: bytes, out_RC: Array) -> None:
            whole = out_RC.copy()
            codec.decode(data, whole)
            out_RC[:-1] = whole[:-1]

    chunks = [np.full((64, 40), value, np.float16) for value in (1, 2)]
    coded = [codec.encode(chunk) for chunk in chunks]
    assert store_codec._fault(codec, coded, chunks) is None
    monkeypatch.setattr(np, "empty_like", lambda chunk: chunk.copy())  # what memory may hold
    fault = store_codec._fault(cast(RowCodec, Lazy()), coded, chunks)
    assert fault == "expected chunk 0 as it was coded, found other bits"
