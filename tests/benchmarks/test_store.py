"""`isae-bench store`: nobody has a speed who gives other rows, and shuffling is told from order."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isae.benchmarks import (
    cli,
    store_build,
    store_child,
    store_memory,
    store_ours,
    store_peer,
    store_peers,
    store_read,
)
from isae.benchmarks.measure import Effort
from isae.benchmarks.shuffle_quality import RowBook, epoch_hashes, ideal, pairs_of, row_hashes
from isae.benchmarks.store_codec import bench_codecs
from isae.benchmarks.store_peer import Batches, Job, Peer
from isae.benchmarks.store_peers import PEERS
from isae.errors import DataError, UnknownNameError
from isae.randomness import keyed_rng
from isae.store import BuildConfig, build_store, open_store

ONE = Effort(warmup=0, seconds=0.0, least=1, most=1)
LAYER = "mixed4a"
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "store"
    config: dict[str, Any] = {"size": 96, "workers": 0, "weights": "random:0", "holdout": 0.2}
    build_store(BuildConfig(images="synthetic:40", layers=(LAYER,), out=str(path), **config))
    return path


def rows_like(count: int, channels: int, dtype: str = "float16", seed: int = 0) -> Array:
    rows = keyed_rng(seed, "rows").standard_normal((count, channels))
    return np.maximum(rows, 0).astype(dtype)


# The measure of the shuffle


@pytest.mark.parametrize("batch", [1, 4, 12, 50])
def test_pairs_under_a_permutation_have_the_mean_and_spread_that_is_said(batch: int) -> None:
    images = np.repeat(np.arange(12), [9, 1, 1, 2, 8, 3, 3, 4, 7, 5, 5, 2])
    batches = len(images) // batch
    _, counts = np.unique(images, return_counts=True)
    mean, sigma = ideal(counts, len(images), batch, batches)
    rng = np.random.default_rng(batch)
    drawn = []
    for _ in range(3000 if 1 < batch < 50 else 30):
        order = rng.permutation(images)
        parts = [order[i * batch : (i + 1) * batch] for i in range(batches)]
        drawn.append(sum(pairs_of(part) for part in parts))
    if batch in (1, 50):  # no pairs at all, or all of them
        assert sigma == pytest.approx(0, abs=1e-4)
        assert set(drawn) == {round(mean)}
        return
    # Of 3000 draws the mean is good to 1/55 of sigma, sigma itself to about 1.3 %.
    assert np.mean(drawn) == pytest.approx(mean, abs=4 * sigma / 3000**0.5)
    assert np.std(drawn) == pytest.approx(sigma, rel=0.07)


@pytest.mark.parametrize("repeated", [0, 300])
def test_an_order_by_image_is_seen_and_a_permutation_passes(repeated: int) -> None:
    rows = rows_like(3000, 24)
    rows[:repeated] = 0  # dead rows, which nobody can tell apart
    images = np.arange(3000) % 150
    book = RowBook(rows, images)
    hashes = row_hashes(rows, rows.dtype)
    by_image = np.argsort(images, kind="stable")
    assert book.told_apart == 1 - repeated / 3000
    assert book.shared(hashes[by_image], 100).z > 50
    orders = [np.random.default_rng(seed).permutation(3000) for seed in range(40)]
    scores = [book.shared(hashes[order], 100).z for order in orders]
    # Of 40 draws the mean is good to 0.16; none is beyond 4 but once in 400 tests.
    assert abs(np.mean(scores)) < 0.65
    assert 0.6 < np.std(scores) < 1.4
    assert max(map(abs, scores)) < 4.5


def test_rows_are_known_by_every_bit_of_their_values_and_their_places() -> None:
    rows = rows_like(5000, 24)
    rows[:2, 3] = 1, 2
    book = RowBook(rows, np.arange(5000))
    order = np.random.default_rng(0).permutation(5000)

    def fault(changed: Array) -> str | None:
        return book.fault(row_hashes(changed[order], np.dtype("float16")))

    assert fault(rows) is None
    assert fault(rows.astype(np.float32)) is None
    assert fault(rows[:, ::-1]) is not None
    exchanged = rows.copy()
    exchanged[[0, 1], 3] = rows[[1, 0], 3]  # every column still holds the same numbers
    assert fault(exchanged) == "expected every row once, found 2 unknown and 0 repeated rows"
    for bit in range(16):
        flipped = rows.copy()
        flipped.view(np.uint16)[4321, 5] ^= np.uint16(1 << bit)
        assert fault(flipped) is not None, bit
    twice = rows.copy()
    twice[10] = twice[11]
    assert fault(twice) == "expected every row once, found 0 unknown and 1 repeated rows"
    short = book.fault(row_hashes(rows[:-1], rows.dtype))
    assert short == "expected 5,000 rows in an epoch, found 4,999"


# Peers


def job_of(store: Path, folder: Path, rows: int, batch: int = 64, block: int = 128) -> Job:
    array = open_store(store).layer(LAYER).array
    metadata = json.loads((store / array / "zarr.json").read_text())
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [block, 24]
    shard = metadata["codecs"][0]["configuration"]
    shard["chunk_shape"] = [32, 24]
    return Job(str(folder), rows, 24, "float16", batch, block, 3, json.dumps(metadata))


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_gives_every_row_once_in_each_epoch(
    name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_peer, "WINDOW_ROWS", 256)
    rows = rows_like(1000, 24)
    book = RowBook(rows, np.arange(1000) // 7)
    peer = PEERS[name](job_of(store, tmp_path, 1000))
    peer.write(rows)
    with closing(peer.batches(5)) as batches:
        given = [next(batches).copy() for _ in range(32)]
    assert {one.shape for one in given} == {(64, 24)}
    stream = row_hashes(np.concatenate(given), rows.dtype)
    first, second = stream[:1000], stream[1000:2000]
    assert book.fault(first) is None
    assert book.fault(second) is None
    assert not np.array_equal(first, second)
    with closing(peer.batches(6)) as batches:
        assert not np.array_equal(epoch_hashes(batches, 1000, rows.dtype), first)


@pytest.mark.parametrize("rows", [1, 63, 64, 128, 129])
def test_peers_read_few_rows_too(rows: int, store: Path, tmp_path: Path) -> None:
    data = rows_like(rows, 24)
    book = RowBook(data, np.arange(rows))
    for name, kind in PEERS.items():
        (tmp_path / name).mkdir()
        peer = kind(job_of(store, tmp_path / name, rows, batch=1))
        peer.write(data)
        with closing(peer.batches(0)) as batches:
            assert book.fault(epoch_hashes(batches, rows, data.dtype)) is None, name


def test_names_of_peers() -> None:
    assert store_peers.chosen_store_peers("none") == []
    assert store_peers.chosen_store_peers("all") == list(PEERS.values())
    assert store_peers.chosen_store_peers("zarr, memmap") == [PEERS["zarr"], PEERS["memmap"]]
    with pytest.raises(UnknownNameError, match="nearest: memmap"):
        store_peers.chosen_store_peers("memap")


# Reading


def read(store: Path, folder: Path, peers: list[type[Peer]], **options: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"rows": 900, "batch": 100, "threads": 2, "effort": ONE}
    settings |= {"memory": False, **options}
    return store_read.bench_read(store, LAYER, folder=folder, peers=peers, **settings)


@pytest.mark.parametrize("cold", [False, True])
def test_everybody_reads_the_same_rows(store: Path, tmp_path: Path, cold: bool) -> None:
    result = read(store, tmp_path, list(PEERS.values()), cold=cold)
    assert result["failed"] == []
    assert result["absent"] == []
    assert result["rows"] == 900
    assert result["page_cache"].startswith("cold" if cold else "warm")
    for row in result["readers"]:
        assert row["fault"] is None, row
        assert row["read_mb_per_s"]["median"] > 0
        assert row["first_batch_s"]["median"] > 0
        assert abs(row["shuffle"]["z"]) < 5  # the store's order is random: one in 10^6
    rows = {row["name"]: row for row in result["readers"]}
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
    """Has the right rows in an order of its own: alike ones together."""

    name = "sorted"

    def _gathered(self, rows: Array, seed: int) -> Batches:
        while True:
            yield rows[np.argsort(self.images)]

    images: Any = None


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


def test_who_gives_other_rows_has_no_speed(store: Path, tmp_path: Path) -> None:
    result = read(store, tmp_path, [Careless, Crashes, Refuses, PEERS["memmap"]])
    assert result["failed"] == ["careless", "crashes"]
    rows = {row["name"]: row for row in result["readers"]}
    assert "9 unknown" not in rows["careless"]["fault"]
    assert rows["careless"]["fault"].endswith("found 0 unknown and 9 repeated rows")
    assert rows["crashes"]["fault"] == "OSError: no such luck"
    assert rows["careless"]["read_mb_per_s"] is None
    assert rows["memmap"]["read_mb_per_s"] is not None
    assert result["absent"] == [{"name": "refuses", "reason": "ValueError: not these"}]


def test_a_bad_shuffle_is_seen_through_the_whole_benchmark(store: Path, tmp_path: Path) -> None:
    image = open_store(store).positions(LAYER)[0:900][:, 0]
    Sorted.images = image
    result = read(store, tmp_path, [Sorted])
    row = result["readers"][-1]
    assert row["fault"] is None
    assert row["shuffle"]["z"] > 20


def test_what_cannot_be_read_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="smaller --batch-size"):
        read(store, tmp_path, [], batch=10**6)
    with pytest.raises(UnknownNameError, match="nearest: mixed4a"):
        store_read.bench_read(
            store, "mixed4x", folder=tmp_path, rows=9, batch=3, threads=1, peers=[], effort=ONE
        )


def test_codecs_are_compared_on_whole_chunks() -> None:
    rows = bench_codecs(rows_like(500, 40), 200, ONE)
    found = {row["codec"]: row for row in rows}
    assert [row["fault"] for row in rows] == [None] * 5
    assert found["none"]["compression"] == pytest.approx(1, rel=1e-3)
    assert found["small"]["compression"] > found["zstd-3"]["compression"] > 1.2
    assert all(row["decode_mb_per_s"]["median"] > 0 for row in rows)


# Processes of their own


def test_memory_is_that_of_what_is_held() -> None:
    with store_child.PeakMemory() as peak:
        held = np.ones(64 << 17)  # 64 MiB
        del held
    if not peak.found:
        pytest.skip("this system does not say how much memory was used at most")
    assert 60 << 20 < peak.found["growth_bytes"] < 100 << 20
    with store_child.PeakMemory() as peak:
        pass
    assert peak.found["growth_bytes"] < 30 << 20  # the former peak is forgotten


def test_a_reader_is_measured_in_a_process_of_its_own(store: Path) -> None:
    job = store_read._job(store / open_store(store).layer(LAYER).array, rows_like(9, 508), 3, 0)
    ours = store_ours.our_readers(store, LAYER, 900, 100, 2)[0]
    found = store_ours.measured_memory(ours, job)
    assert found == {} or 0 <= found["growth_bytes"] < 200 << 20


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tasks in this process: their start is what takes long."""
    threads = torch.get_num_threads()

    def run_here(task: dict[str, Any]) -> dict[str, Any]:
        if "config" in task:
            task = {**task, "config": {**task["config"], "workers": 0}}
        return store_child.TASKS[task["task"]](task)

    for module in (store_build, store_memory):
        monkeypatch.setattr(module, "in_child", run_here)
    monkeypatch.setattr(store_build, "WARM_UP_IMAGES", 1)
    yield
    torch.set_num_threads(threads)


def test_a_build_is_judged_by_its_parts(here: None, tmp_path: Path) -> None:
    order = store_build.Order("synthetic:6", (LAYER,), 64, None, 6, 0)
    found = store_build.bench_build(order, tmp_path, ONE)
    cost = found["core_ms_per_image"]
    assert found["images"] == 6
    assert all(cost[stage] > 0 for stage in store_build.STAGES)
    assert cost["own"] == pytest.approx(
        cost["whole"] - cost["decode"] - cost["forward"] - cost["codec"]
    )
    ideal_s = 6e-3 * (cost["decode"] + cost["forward"] + cost["codec"]) / found["cores"]
    assert found["share"]["median"] == pytest.approx(ideal_s / found["wall_s"]["median"])
    assert open_store(tmp_path / "store").images.num_rows == 6


def test_memory_of_more_rows(here: None, tmp_path: Path) -> None:
    found = store_memory.bench_memory([300, 600], tmp_path, codec=None, batch=64, threads=1)
    assert [one["rows"] for one in found] == [512, 768]
    assert found[0]["build_growth"] == 0
    assert found[1]["read_growth"] > -0.5
    assert list(tmp_path.iterdir()) == []


# The command


def run(monkeypatch: pytest.MonkeyPatch, arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["isae-bench", "store", *arguments.split(), "--quiet"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command_prints_a_table_and_writes_json(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store_ours, "in_child", lambda task: {})
    out = tmp_path / "out.json"
    options = (
        f"--layer {LAYER} --batch-size 64 --peers memmap --seconds 0 --train-steps 2 --latents 128"
    )
    assert run(monkeypatch, f"{store} {options} --out {out}") == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80
    assert "memmap" in table
    found = json.loads(out.read_text())
    assert found["read"][0]["store"]["content_id"] == open_store(store).content_id
    assert found["training"][0]["rows_per_s"]["store"]["median"] > 0
    assert found["failed"] == []


def test_exit_code_1_where_a_reader_gives_other_rows(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(store_peers.PEERS, Careless.name, Careless)
    monkeypatch.setattr(store_ours, "in_child", lambda task: {})
    options = f"--layer {LAYER} --batch-size 64 --peers careless --seconds 0"
    assert run(monkeypatch, f"{store} {options}") == cli.EXIT_FAILED_CHECK
    assert "careless       FAILED: expected every row once" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", ["", "--images synthetic:3 --sizes 64,x", "--memory-rows 0"])
def test_what_makes_no_sense_is_refused(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, arguments) == 2
    assert "error: expected" in capsys.readouterr().err
