"""Compiled loops: what numba keeps on disk is never older than the files it was made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from isae.compiled import SUMS, compiled

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


def of_a_new_process(folder: Path, module: str, function: str) -> float:
    """The function's value at 1 in a process that finds only what is on disk."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}; print({module}.{function}(1.0))"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def test_a_change_in_another_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "outer_loop.py").write_text(OUTER)
    results = []
    for number in (1, 5, 5):
        (tmp_path / "inner_loop.py").write_text(INNER.format(number=number))
        results.append(of_a_new_process(tmp_path, "outer_loop", "outer"))
    assert results == [4.0, 12.0, 12.0]
    kept = {path.name.split(".")[0] for path in (tmp_path / "__pycache__").glob("outer_loop*.nbi")}
    assert kept == {"outer_loop"}
    assert len(list((tmp_path / "__pycache__").glob("outer_loop*.nbi"))) == 2


def test_a_changed_constant_of_another_file_is_seen(tmp_path: Path) -> None:
    words = "from numbers_of import SIZE\nfrom isae.compiled import compiled\n\n"
    words += "@compiled()\ndef sized(x: float) -> float:\n    return x * SIZE\n"
    (tmp_path / "sized_loop.py").write_text(words)
    results = []
    for size in (2, 7):
        (tmp_path / "numbers_of.py").write_text(f"SIZE = {size}\n")
        results.append(of_a_new_process(tmp_path, "sized_loop", "sized"))
    assert results == [2.0, 7.0]


def test_a_loop_compiled_in_two_ways_is_kept_twice() -> None:
    def loop(x: float) -> float:
        return x + 1

    ways = compiled(), compiled(parallel=True), compiled(fastmath=SUMS), compiled(nogil=True)
    names = [way(loop)._compile().py_func.__qualname__ for way in ways]
    assert len(set(names)) == len(names)
