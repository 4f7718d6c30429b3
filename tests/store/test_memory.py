"""Memory does not grow with the rows once buffers are full: of a build's parts, and of reading.

Each task runs in a process of its own. Its peak is the system's (VmHWM, which begins anew with a
program), of everything: Python, torch, pages of mapped files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isae.benchmarks.soak import SoakReport

HEAD = """
import json, sys
from pathlib import Path

def finish(**found):
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    print(json.dumps({"peak_mib": peak / 1024, **found}))
"""
BUILD = """
from isae.store import BuildConfig, build_store
from isae.store import plan
images, out, plan.SEGMENT_BYTES = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = BuildConfig(images=images, layers=("mixed3b",), size=64, workers=1, dtype="float32",
                     out=out)
finish(rows=build_store(config)["layers"]["mixed3b"]["rows"])
"""
# Rows as activations are, half of them zeros: 64 channels of float16, 64 rows an image.
ROWS = """
import numpy as np
from isae.store.assemble import Assembly, commit, write_arrays
from isae.store.cuts import row_keys
from isae.store.extract import Grid
from isae.store.images_table import ImagesTable, Split
from isae.store.places import open_place
from isae.store.plan import SEGMENT_BYTES
from isae.store.segments import HELD_OUT, GridRows, Segment, write_segment
from isae.store.work import Work
from isae.images import open_source

CHANNELS, PER_IMAGE = 64, 64
out, images = Path(sys.argv[1]), int(sys.argv[2]) // PER_IMAGE
grid = Grid(16, (8, 8), {"rows": CHANNELS})
split = Split(0, images, 0.05)
work = Work(out / "work")
"""
SEGMENTS = """
rng = np.random.default_rng(0)
per_segment = SEGMENT_BYTES // (PER_IMAGE * grid.row_bytes(2))
for number, first in enumerate(range(0, images, per_segment)):
    here = np.arange(first, min(first + per_segment, images))
    image, cell = np.repeat(here, PER_IMAGE), np.tile(np.arange(PER_IMAGE), len(here))
    key_R = row_keys(0, 16, image, cell // 8, cell % 8, split.held_out(image))
    place_R3 = np.stack([image, cell // 8, cell % 8], axis=1).astype(np.int32)
    values_RC = rng.integers(0x3000, 0x4400, (len(image), CHANNELS), dtype=np.uint16)
    values_RC[rng.integers(0, 2, values_RC.shape, dtype=np.uint8) == 0] = 0
    rows = GridRows(key_R, place_R3, {"rows": values_RC.view(np.float16)})
    facts = {"first": first, "train_rows": {"16": int((key_R < HELD_OUT).sum())}}
    sizes_S2 = np.full((len(here), 2), 64, dtype=np.int32)
    write_segment(work.segment(number), Segment({16: rows}, sizes_S2, facts))
"""
STORE = """
def write_images(path):
    with ImagesTable(path, open_source(f"synthetic:{images}"), split) as table:
        for first in range(0, images, 10_000):
            here = range(first, min(first + 10_000, images))
            table.add(dict.fromkeys(here, (64, 64)), here)

assembly = Assembly(open_place(out), work, [grid], "float16", "small", threads=2)
done = write_arrays(assembly, len(work.segments_done()))
layer = {"array": "stride16/rows", "channels": CHANNELS, "stride": 16, "receptive_field": 1,
         "grid": [8, 8], "rows": done.rows[16], "train_rows": done.train_rows[16], "branches": {},
         "note": ""}
commit(assembly, done, {"dtype": "float16", "layers": {"rows": layer}}, write_images)
finish(rows=done.rows[16])
"""
READ = """
from isae.store import open_store
count = 0
for batch in open_store(sys.argv[1]).batches("rows", 4096, seed=0, epochs=1):
    count += len(batch)
finish(rows=count)
"""


def in_process(program: str, *arguments: Any) -> dict[str, Any]:
    """What a program says at its end."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout or "{}")
    return found


def built(images: int, out: Path, segment: int) -> float:
    found = in_process(BUILD, f"synthetic:{images}", out, segment)
    assert found["rows"] == images * 64
    return float(found["peak_mib"])


@pytest.mark.parametrize(
    ("few", "many", "segment"),
    [
        # A row is 2 kB: 74 and 186 MB of rows in segments of 2 MB; three units fill the buffers.
        (600, 1500, 2 << 20),
        # 400 MB and 1.6 GB of rows in segments as they are.
        pytest.param(3200, 12800, 64 << 20, marks=pytest.mark.soak),
    ],
)
def test_memory_does_not_grow_with_the_images(
    tmp_path: Path, few: int, many: int, segment: int, soak_report: SoakReport
) -> None:
    small = built(few, tmp_path / "few", segment)
    large = built(many, tmp_path / "many", segment)
    soak_report.note(
        **{f"build_peak_mib_{few}_images": small, f"build_peak_mib_{many}_images": large}
    )
    # Kept in memory, the added rows alone would be twice that: 112 MB and 1.2 GB.
    assert large - small < 0.5 * (many - few) * 64 * 1936 / 1e6, (small, large)
    assert large < 1.1 * small, (small, large)


@pytest.mark.soak
def test_memory_does_not_grow_from_a_hundred_thousand_to_ten_million_rows(
    tmp_path: Path, soak_report: SoakReport
) -> None:
    peaks: dict[int, tuple[float, float]] = {}
    for rows in (100_032, 1_000_000, 10_000_000):
        out = tmp_path / str(rows)
        in_process(ROWS + SEGMENTS, out, rows)
        written = in_process(ROWS + STORE, out, rows)
        read = in_process(READ, out)
        assert written["rows"] == rows
        assert 0.9 * rows < read["rows"] < rows
        peaks[rows] = (written["peak_mib"], read["peak_mib"])
        soak_report.note(**{f"write_peak_mib_{rows}_rows": written["peak_mib"]})
        soak_report.note(**{f"read_peak_mib_{rows}_rows": read["peak_mib"]})
    (small_build, small_read), *_, (large_build, large_read) = peaks.values()
    assert large_build < 1.1 * small_build, peaks
    assert large_read < 1.1 * small_read, peaks
