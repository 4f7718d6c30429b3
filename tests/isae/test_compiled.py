"""Compiled loops: what numba keeps on disk is never older than the files it was made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INNER = """
from isae.compiled import compiled

@compiled()
def inner(x: float) -> float:
    return x + {number}
"""
OUTER = """
from inner_loop import inner
from isae.compiled import compiled

@compiled()
def outer(x: float) -> float:
    return inner(x) * 2

if __name__ == "__main__":
    print(outer(1.0))
"""


def test_a_change_in_another_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "outer_loop.py").write_text(OUTER)
    results = []
    for number in (1, 5, 5):
        (tmp_path / "inner_loop.py").write_text(INNER.format(number=number))
        done = subprocess.run(
            [sys.executable, "-c", "import outer_loop; print(outer_loop.outer(1.0))"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        results.append(float(done.stdout))
    assert results == [4.0, 12.0, 12.0]
    kept = {path.name.split(".")[0] for path in (tmp_path / "__pycache__").glob("outer_loop*.nbi")}
    assert kept == {"outer_loop"}
    assert len(list((tmp_path / "__pycache__").glob("outer_loop*.nbi"))) == 2
