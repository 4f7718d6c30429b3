"""Work whose memory or processor time is measured: each task in a process of its own.

`python -m isae.benchmarks.store_child TASK`, TASK and answer being JSON. Memory is that of the
process (and, of a build, of its decoding processes) over what it had once everything was imported:
the peak of resident memory as the system counts it (VmHWM, reset before), which counts pages of
mapped files, and the largest anonymous part (RssAnon) of samples every few milliseconds, which does
not: the system can take back pages of files at any time. The child processes' resident memory is
added up five times a second. (ru_maxrss of children would count the parent's memory, which a child
has until it runs a program of its own.)
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from isae.errors import RunError

SAMPLE_S = 0.003
SELDOM_S = 0.05
"""Where time is measured too: waking up for a sample takes time from what is measured."""
CHILDREN_S = 0.2
"""Seconds between two looks at the child processes, which take much longer than a sample."""
FORWARD_BATCH = 32
"""Images of a forward pass, as isae-store builds."""
CODEC_CHUNKS = 4
"""Chunks of a layer on which its codec is measured, at most."""
LEAST = 1
STATUS, REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
STATM, STATM_BYTES = Path("/proc/self/statm"), 128
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def in_child(task: dict[str, Any]) -> dict[str, Any]:
    """Run a task in a new process; its answer. Raises RunError with its last words."""
    command = [sys.executable, "-m", "isae.benchmarks.store_child", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"expected the task {task['task']} to end, found: {last}; run it again")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


class PeakMemory:
    """Peak memory of this process while in the context; {} where the system does not say."""

    def __init__(self, every: float = SAMPLE_S) -> None:
        """every: seconds from one sample to the next."""
        self.every = every

    def __enter__(self) -> PeakMemory:
        gc.collect()
        self.known = STATUS.exists() and os.access(REFS, os.W_OK)
        self.found: dict[str, int] = {}
        if self.known:
            REFS.write_text("5")  # the peak starts anew from what is resident now
            self.before = _status()
            self.anonymous = self.before["RssAnon"]
            self.children = 0
            self.stop = threading.Event()
            self.thread = threading.Thread(target=self._sample, name="bench-memory", daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.known:
            self.stop.set()
            self.thread.join()
            after = _status()
            self.found = {
                "before_bytes": self.before["VmRSS"],
                "growth_bytes": max(0, after["VmHWM"] - self.before["VmRSS"]),
                "anonymous_growth_bytes": self.anonymous - self.before["RssAnon"],
                "children_bytes": self.children,
            }

    def _sample(self) -> None:
        children_every = max(1, round(CHILDREN_S / self.every))
        # Thirty times as fast as STATUS, whose reading took 5 % of a core from what is measured.
        with STATM.open("rb", buffering=0) as statm:
            for number in itertools.count():
                if self.stop.wait(self.every):
                    return
                _, resident, of_files, *_ = os.pread(statm.fileno(), STATM_BYTES, 0).split()
                pages = int(resident) - int(of_files)
                self.anonymous = max(self.anonymous, pages * PAGE_BYTES)
                if number % children_every == 0:
                    self.children = max(self.children, _children_bytes())


def _children_bytes() -> int:
    """Resident memory of this process's children, added up; those just forked do not count."""
    own = Path("/proc/self/cmdline").read_bytes()
    total = 0
    for listed in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError, KeyError):  # threads and processes come and go
            for process in listed.read_text().split():
                folder = Path("/proc") / process
                if (folder / "cmdline").read_bytes() not in (own, b""):
                    total += _status(folder / "status")["VmRSS"]
    return total


def _status(path: Path = STATUS) -> dict[str, int]:
    """Bytes of a process's kinds of memory."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {
        words[0].rstrip(":"): int(words[1]) * 1024
        for words in lines
        if words[0] in ("VmRSS:", "VmHWM:", "RssAnon:")
    }


def processor_seconds() -> tuple[float, float]:
    """Processor seconds of this process and of its ended children so far."""
    own, others = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime, others.ru_utime + others.ru_stime


def read_task(task: dict[str, Any]) -> dict[str, Any]:
    """Read one epoch of batches, keeping none; the memory that it took.

    Imported before is what the reader's own module imports and what it names: memory that is there
    anyway would make growth look small.
    """
    from isae.benchmarks.store_ours import reader_of

    for name in task["modules"]:
        importlib.import_module(name)
    left = task["rows"]
    with (
        PeakMemory() as peak,
        closing(reader_of(task["reader"], task["options"]).batches(task["seed"])) as batches,
    ):
        while left > 0:
            left -= len(next(batches))
    return dict(peak.found)


def build_task(task: dict[str, Any]) -> dict[str, Any]:
    """Build a tiny store, then one as described: seconds and memory of the last build.

    The tiny build has the imports, the weights and compiled code loaded; where `start` is asked
    for, a second one says what every build needs to start and to end, the last one too.
    """
    config = task["config"]
    tiny = {**config, **task["warm_up"]}
    timed_build(tiny)
    shutil.rmtree(tiny["out"])
    start = None
    if task["start"]:
        start = timed_build(tiny)
        shutil.rmtree(tiny["out"])
    with PeakMemory(SELDOM_S if task["start"] else SAMPLE_S) as peak:
        found = timed_build(config)
    return {**found, "start": start, "memory": peak.found}


def timed_build(config: dict[str, Any]) -> dict[str, Any]:
    """Wall and processor seconds of a build, its images and rows."""
    from isae.store import BuildConfig, build_store

    before, started = processor_seconds(), time.perf_counter()
    manifest = build_store(BuildConfig(**config))
    wall = time.perf_counter() - started
    own, workers = (now - then for now, then in zip(processor_seconds(), before, strict=True))
    return {
        "wall_s": wall,
        "cpu_s": own + workers,
        "workers_cpu_s": workers,
        "images": manifest["images"]["used"],
        "rows": {name: layer["rows"] for name, layer in manifest["layers"].items()},
    }


def decode_task(task: dict[str, Any]) -> dict[str, Any]:
    """Decode and resize in this process alone, a sample of a build's images."""
    from isae.images import decode_batches, open_source

    config = task["config"]
    source = open_source(config["images"], seed=config["seed"], limit=task["sample"])

    def once() -> int:
        batches = decode_batches(source, config["size"], FORWARD_BATCH, 0)
        return sum(len(batch.indices) for batch in batches)

    next(decode_batches(source, config["size"], 1, 0))
    return _repeat(once, task["seconds"])


def forward_task(task: dict[str, Any]) -> dict[str, Any]:
    """The forward pass alone on decoded images: with one thread, and with every core at work.

    The answer is of the cheaper in processor time; `every_core` is of as many threads as cores,
    each with passes of its own: cores share caches, memory and heat, so a pass then takes longer.
    """
    import torch

    from isae.freed_memory import keep_freed_memory
    from isae.images import decode_batches, open_source
    from isae.inception import CHUNK, load_model

    keep_freed_memory()  # as a build does
    config = task["config"]
    source = open_source(config["images"], seed=config["seed"], limit=task["sample"])
    batches = decode_batches(source, config["size"], FORWARD_BATCH, 0)
    pixels = [batch.pixels_BCHW for batch in batches]
    network = load_model()
    cores = len(os.sched_getaffinity(0))
    chunks = [chunk for images_BCHW in pixels for chunk in torch.split(images_BCHW, CHUNK)]
    torch.set_num_threads(1)

    def once(threads: int) -> int:
        def work(first: int) -> None:
            torch.set_num_threads(1)
            for chunk in chunks[first:] + chunks[:first]:
                network.activations(chunk, config["layers"])

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        return threads * sum(map(len, chunks))

    once(1)
    found = {n: _repeat(lambda n=n: once(n), task["seconds"]) for n in sorted({1, cores})}  # type: ignore[misc]
    best = min(found.values(), key=lambda one: one["cpu_s_per_image"])
    return {**best, "one_core": found[1], "every_core": found[cores]}


def codec_task(task: dict[str, Any]) -> dict[str, Any]:
    """Compress whole chunks of a store's rows, all of its layers, in one thread.

    Times are for each row of those chunks: one that is filled up with zeros, which only a store of
    fewer rows than a chunk has here, counts with its zeros.
    """
    from isae.benchmarks.store_codec import chunk_encoder, whole_chunks
    from isae.store import open_store

    store = open_store(task["store"])
    cpu = wall = coded = raw = 0.0
    for name, layer in store.layers.items():
        array = store.activations(name)
        size = array.chunk_rows
        encode = chunk_encoder(task["codec"], array.dtype, layer.channels)
        whole = min(CODEC_CHUNKS, layer.rows // size) * size
        chunks = whole_chunks(array[0 : whole or layer.rows], size)

        def once(chunks: list[Any] = chunks, encode: Any = encode) -> int:
            return sum(len(encode(chunk)) for chunk in chunks)

        share = layer.rows / (size * len(chunks))
        coded += once() * share
        raw += layer.rows * layer.channels * array.dtype.itemsize
        times = _repeat(lambda once=once: (once(), 1)[1], task["seconds"])  # type: ignore[misc]
        cpu += times["cpu_s_per_image"] * share / task["images"]
        wall += times["wall_s_per_image"] * share / task["images"]
    return {"cpu_s_per_image": cpu, "wall_s_per_image": wall, "compression": raw / coded}


def _repeat(once: Callable[[], int], seconds: float) -> dict[str, Any]:
    """Processor and wall seconds for each of the things that `once` says it did; medians."""
    cpu: list[float] = []
    wall: list[float] = []
    ends = time.perf_counter() + seconds
    while len(wall) < LEAST or time.perf_counter() < ends:
        began = time.perf_counter(), time.process_time()
        count = once()
        wall.append((time.perf_counter() - began[0]) / count)
        cpu.append((time.process_time() - began[1]) / count)
    return {
        "cpu_s_per_image": statistics.median(cpu),
        "wall_s_per_image": statistics.median(wall),
        "repeats": len(wall),
    }


TASKS = {
    "decode": decode_task,
    "forward": forward_task,
    "codec": codec_task,
    "read": read_task,
    "build": build_task,
}


def main() -> None:
    """Run the task of the command line; its answer is the last line of stdout."""
    task = json.loads(sys.argv[1])
    print(json.dumps(TASKS[task["task"]](task)))


if __name__ == "__main__":
    main()
