"""`isae-bench store`: builds, memory, bars and the command; reading is in test_store_read.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isae.benchmarks import (
    cli,
    store_bars,
    store_bench,
    store_build,
    store_child,
    store_codec,
    store_memory,
    store_ours,
    store_tables,
)
from isae.benchmarks.measure import Effort
from isae.benchmarks.store_peer import Job
from isae.benchmarks.store_peers import PEERS
from isae.store import open_store

ONE = Effort(warmup=0, seconds=0.0, least=1, most=1)
LAYER = "mixed4a"
Array = np.ndarray[Any, Any]


HOLD_64_MIB = """
import json
import numpy
from isae.benchmarks.store_child import PeakMemory
with PeakMemory() as peak:
    held = numpy.ones(64 << 17)
    del held
with PeakMemory() as after:
    pass
print(json.dumps([peak.found, after.found]))
"""


def test_memory_is_that_of_what_is_held() -> None:
    """In a new process: one that built a store keeps what it freed, so that 64 MiB may be there."""
    command = [sys.executable, "-c", HOLD_64_MIB]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found, after = json.loads(done.stdout)
    if not found:
        pytest.skip("this system does not say how much memory was used at most")
    assert 60 << 20 < found["growth_bytes"] < 100 << 20
    assert after["growth_bytes"] < 30 << 20  # the former peak is forgotten


def test_memory_of_a_reader_is_what_it_maps_and_keeps(
    small_store: Path, tmp_path: Path, rows_like: Callable[..., Array]
) -> None:
    array = (small_store / open_store(small_store).layer(LAYER).array / "zarr.json").read_text()
    rows = np.tile(rows_like(1024, 512), (64, 1))  # 64 MiB
    job = Job(str(tmp_path), len(rows), 512, "float16", 1024, 8192, 2, 0, array)
    peer = PEERS["memmap"](job)
    peer.write(rows)
    del rows
    found = store_child.TASKS["read"]({"rows": job.rows, "seed": 0, **peer.described()})
    if not found:
        pytest.skip("this system does not say how much memory was used at most")
    assert 60 << 20 < found["growth_bytes"] < 100 << 20
    assert found["anonymous_growth_bytes"] < 30 << 20


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
    forward = found["rounds"][0]["forward"]
    alone, together = (forward[name]["cpu_s_per_image"] for name in ("one_core", "every_core"))
    assert forward["cpu_s_per_image"] == min(alone, together)
    more_s = 6 * (together - min(alone, together)) / found["cores"]
    assert found["share_every_core"]["median"] == pytest.approx(
        (ideal_s + more_s) / found["wall_s"]["median"]
    )
    assert open_store(tmp_path / "store").images.num_rows == 6


def test_a_damaged_build_has_no_share(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here = store_build.in_child

    def damaging(task: dict[str, Any]) -> dict[str, Any]:
        found = run_here(task)
        if task["task"] == "codec":
            (Path(task["store"]) / "images.parquet").write_bytes(b"x")
        return found

    monkeypatch.setattr(store_build, "in_child", damaging)
    job = store_bench.StoreJob(
        None, images="synthetic:2", layer=LAYER, sizes=(64,), limit=2, train_steps=2
    )
    found = store_bench.bench_store(job, peers=[], device=torch.device("cpu"), effort=ONE)
    (build,) = found["build"]
    assert build["share"] is None
    assert build["fault"].startswith("images.parquet: ")
    assert found["failed"] == ["build, 64 pixels (small)"]
    assert found["read"] == []
    assert [(bar["found"], bar["met"]) for bar in found["bars"]] == [(None, False)] * 2
    table = store_tables.store_table(found).splitlines()
    assert max(map(len, table)) <= 80
    assert table[1].startswith("build, 64 pixels, codec small FAILED: images.parquet")


def test_the_codec_is_timed_on_whole_chunks(
    small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a chunk that is filled up with zeros take less time than others."""
    seen: list[Array] = []
    encode = store_codec.chunk_encoder

    def chunk_encoder(*kind: Any) -> Callable[[Array], bytes]:
        def coded(chunk: Array) -> bytes:
            seen.append(chunk)
            return encode(*kind)(chunk)

        return coded

    def second(once: Callable[[], int], seconds: float) -> dict[str, float]:
        once()
        return {"cpu_s_per_image": 1.0, "wall_s_per_image": 1.0}

    monkeypatch.setattr(store_codec, "chunk_encoder", chunk_encoder)
    monkeypatch.setattr(store_child, "_repeat", second)
    layer = open_store(small_store).layer(LAYER)
    chunk = open_store(small_store).activations(LAYER).chunk_rows
    assert chunk < layer.rows < 2 * chunk
    task = {"task": "codec", "store": str(small_store), "codec": None, "images": 40, "seconds": 0}
    found = store_child.TASKS["codec"](task)
    # One chunk took a second.
    assert found["cpu_s_per_image"] == pytest.approx(layer.rows / chunk / 40)
    assert all(one.any(axis=1).all() for one in seen)


def test_memory_of_more_rows(here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = store_memory.bench_memory([300], tmp_path, codec=None, batch=64, threads=1)
    assert found["rows"] == 512
    assert found["build_growth"] == found["read_growth"] == 0
    assert list(tmp_path.iterdir()) == []


def test_growth_is_of_everything_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a build also its decoding processes, and what was there before."""
    known = iter([(100, 20, 5), (100, 10, 0), (100, 40, 10), (100, 10, 0)])

    def measured(task: dict[str, Any]) -> dict[str, Any]:
        parts = zip(("before", "growth", "children"), next(known), strict=True)
        memory = {f"{name}_bytes": count for name, count in parts}
        if task["task"] == "read":
            return memory
        Path(task["config"]["out"]).mkdir()
        return {"rows": {store_memory.LAYER: task["config"]["limit"] * 256}, "memory": memory}

    monkeypatch.setattr(store_memory, "in_child", measured)
    found = store_memory.bench_memory([1, 257], tmp_path, codec=None, batch=64, threads=1)
    assert [one["rows"] for one in found] == [256, 512]
    assert [one["build_bytes"] for one in found] == [125, 150]
    assert [one["build_growth"] for one in found] == pytest.approx([0, 0.2])
    assert [one["read_growth"] for one in found] == [0, 0]
    judged = {bar["name"].split(",")[0]: bar["met"] for bar in bars_of(memory=found)}
    assert judged == {"memory of build": False, "memory of read": True}


def bars_of(**parts: Any) -> list[dict[str, Any]]:
    nothing: dict[str, Any] = {"build": [], "read": [], "training": [], "memory": []}
    return store_bars.bars(nothing | parts, training="training" in parts)


@pytest.mark.parametrize(
    ("codec", "times", "met"), [("small", 2.5, True), ("small", 1.9, False), ("fast", 2.5, False)]
)
def test_bars_of_reading(codec: str, times: float, met: bool) -> None:
    ours = {"name": "isae-2t", "read_mb_per_s": {"median": 1001}, "shuffle": {"sigmas": 3.1}}
    zarr = {"name": "zarr", "first_times_faster": {"median": times}}
    sizes = {"small": (2.2, 900), "zstd-3": (1.7, 901)}
    codecs = [
        {"codec": name, "fault": None, "compression": size, "decode_mb_per_s": {"median": speed}}
        for name, (size, speed) in sizes.items()
    ]
    part = {"store": {"codec": codec}, "readers": [ours, zarr], "codecs": codecs}
    part |= {"stored_dtype": "float16", "dtype": "float16"}
    found = bars_of(read=[part], training=[])
    assert [bar["met"] for bar in found] == [True, met, False, True, False, False]
    assert found[1]["wanted"] == (3 if codec == "fast" else 2)
    assert found[-1] == {
        "name": f"training, {codec}: speed against memory",
        "wanted": 0.95,
        "found": None,
        "met": False,
        "at_most": False,
    }
    lines = store_tables.bar_lines(found)
    assert max(map(len, lines)) <= 80
    said = [line.split()[-1] == "yes" for line in lines[1:]]
    assert said == [bar["met"] for bar in found]
    part |= {"stored_dtype": "uint8"}
    assert len(bars_of(read=[part])) == 3  # of one byte a value nothing is bit-exact


# The command


def run(monkeypatch: pytest.MonkeyPatch, arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["isae-bench", "store", *arguments.split(), "--quiet"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command_prints_a_table_and_writes_json(
    small_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = store_ours.in_child

    def first_alone(task: dict[str, Any]) -> dict[str, Any]:
        """A process takes long to start."""
        return real(task) if task["options"] == ours else {}

    ours = {"path": str(small_store), "layer": LAYER, "rows": 512, "batch": 128}
    ours |= {"threads": 1, "cache": None}
    monkeypatch.setattr(store_ours, "in_child", first_alone)
    out = tmp_path / "out.json"
    options = f"--layer {LAYER} --batch-size 128 --threads 1 --seed 3 --rows 512"
    options += " --peers memmap --seconds 0 --train-steps 2 --latents 128"
    assert run(monkeypatch, f"{small_store} {options} --out {out}") == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80
    assert "memmap" in table
    assert "training, small: speed against memory" in table
    found = json.loads(out.read_text())
    assert found["read"][0]["store"]["content_id"] == open_store(small_store).content_id
    (training,) = found["training"]
    assert training["check"]["passed"]
    assert (training["steps_asked"], training["steps"]) == (2, 3 * 12)
    assert found["failed"] == []
    wanted = {"threads": 1, "seed": 3, "cold": False, "batch": 128, "device": "cpu", "rows": 512}
    wanted |= {"peers": ["memmap"]}
    assert {name: found["job"][name] for name in wanted} == wanted
    assert str(small_store.parent.parent) not in json.dumps(found["job"])
    memory = found["read"][0]["readers"][0]["memory"]
    if memory:  # the base is Python with torch; growth is windows, slabs and compiled code
        assert 50 << 20 < memory["before_bytes"] < 2 << 30
        assert 1 << 20 < memory["growth_bytes"] < 400 << 20


def test_exit_code_1_and_no_training_where_our_reader_gives_other_rows(
    small_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = store_ours.Ours.batches

    def wrong(self: store_ours.Ours, seed: int) -> Iterator[Array]:
        for batch in right(self, seed):
            yield np.repeat(batch[:1], len(batch), 0)

    monkeypatch.setattr(store_ours.Ours, "batches", wrong)
    monkeypatch.setattr(store_ours, "in_child", lambda task: {})
    options = f"--layer {LAYER} --batch-size 64 --peers memmap --seconds 0 --train-steps 2"
    assert run(monkeypatch, f"{small_store} {options}") == cli.EXIT_FAILED_CHECK
    table = capsys.readouterr().out
    assert "isae-2t        FAILED: " in table
    assert "rows/s from the store" not in table
    (bar,) = [line for line in table.splitlines() if line.startswith("training, small")]
    assert bar.split()[-2:] == ["-", "NO"]


@pytest.mark.parametrize("arguments", ["", "--images synthetic:3 --sizes 64,x", "--memory-rows 0"])
def test_what_makes_no_sense_is_refused(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, arguments) == 2
    assert "error: expected" in capsys.readouterr().err
