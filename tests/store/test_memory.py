"""Memory of a build does not grow with the number of images once its buffers are full."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = """
import json, resource, sys
from isae.store import BuildConfig, build_store
from isae.store import plan
plan.SEGMENT_BYTES = json.loads(sys.argv[3])
config = BuildConfig(images=sys.argv[1], layers=("mixed3b",), size=64, workers=1,
                     dtype="float32", out=sys.argv[2])
rows = build_store(config)["layers"]["mixed3b"]["rows"]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"rows": rows, "peak_mib": peak / 1024}))
"""


def peak_mib(images: int, out: Path, segment: int) -> float:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"synthetic:{images}", str(out), json.dumps(segment)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"] == images * 64
    return float(found["peak_mib"])


@pytest.mark.parametrize(
    ("few", "many", "segment"),
    [
        # A row is 2 kB: 20 and 200 MB of rows in segments of 2 MB.
        (160, 1600, 2 << 20),
        # 400 MB and 1.6 GB of rows in segments as they are.
        pytest.param(3200, 12800, 64 << 20, marks=pytest.mark.soak),
    ],
)
def test_memory_does_not_grow_with_the_images(
    tmp_path: Path, few: int, many: int, segment: int
) -> None:
    small = peak_mib(few, tmp_path / "few", segment)
    large = peak_mib(many, tmp_path / "many", segment)
    # Kept in memory, the added rows alone would be twice that: 177 MB and 1.2 GB.
    assert large - small < 0.5 * (many - few) * 64 * 1936 / 1e6, (small, large)
    assert large < 1.1 * small, (small, large)
