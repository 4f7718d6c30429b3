"""Segments: what was written comes back sorted, by any safetensors reader; damage is named."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from isae.errors import StoreCorruptError, StoreError
from isae.store.segments import (
    GridRows,
    Segment,
    SegmentFile,
    sorting,
    write_segment,
    write_tensors,
)
from isae.store.work import Work, open_segments


def make_segment(rows: int, seed: int = 0, keys: int = 2**63) -> Segment:
    """Rows of two grids in arrival order; few `keys` are many equal ones."""
    rng = np.random.default_rng(seed)
    grids = {}
    for stride, layers in ((16, {"a": 3, "b": 1}), (8, {"c": 5})):
        place_R3 = np.stack([np.arange(rows), rng.integers(0, 9, rows), np.zeros(rows)], axis=1)
        values = {
            name: rng.standard_normal((rows, width)).astype(np.float16)
            for name, width in layers.items()
        }
        place_R3 = rng.permutation(place_R3.astype(np.int32))
        key_R = rng.integers(0, keys, rows, dtype=np.uint64)
        grids[stride] = GridRows(key_R, place_R3, values)
    sizes_S2 = rng.integers(0, 500, (4, 2)).astype(np.int32)
    largest = np.ones(3, dtype=np.float16)
    return Segment(
        grids, sizes_S2, {"first": 8, "bad": [[3, "é.jpg", "x"]]}, {"a/largest": largest}
    )


@given(rows=st.integers(0, 60), keys=st.sampled_from([1, 2, 5, 2**63]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_a_segment_comes_back_sorted(rows: int, keys: int, seed: int) -> None:
    segment = make_segment(rows, seed, keys)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "segment-000001.safetensors"
        write_segment(path, segment)
        found, theirs = SegmentFile(path), load_file(path)
        assert found.facts == segment.facts
        with safe_open(path, "numpy") as file:
            assert json.loads(file.metadata()["isae"]) == segment.facts
        np.testing.assert_array_equal(found.sizes_S2, segment.sizes_S2)
        np.testing.assert_array_equal(found.whole("a/largest"), segment.arrays["a/largest"])
        for stride, grid in segment.grids.items():
            # Python's own sort, of (key, image, y, x).
            names = zip(grid.key_R.tolist(), grid.place_R3.tolist(), strict=True)
            order = [place for _, place in sorted((name, at) for at, name in enumerate(names))]
            expected = {
                f"{stride}.key": grid.key_R[order],
                f"{stride}.place": grid.place_R3[order],
                **{name: values[order] for name, values in grid.layers.items()},
            }
            for name, rows_RC in expected.items():
                assert found.rows(name) == rows
                assert found.dtype(name) == rows_RC.dtype
                np.testing.assert_array_equal(found.whole(name), rows_RC)
                np.testing.assert_array_equal(theirs[name], rows_RC)


def test_rows_are_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "segment.safetensors"
    write_segment(path, make_segment(37))
    found = SegmentFile(path)
    wanted: list[tuple[str, int, np.ndarray[Any, Any]]] = [
        ("16.key", 5, np.empty(9, dtype=np.uint64)),
        ("c", 30, np.empty((7, 5), dtype=np.float16)),
        ("a", 0, np.empty((0, 3), dtype=np.float16)),
        ("16.place", 36, np.empty((1, 3), dtype=np.int32)),
    ]
    found.read_into(wanted)
    for name, start, out in wanted:
        np.testing.assert_array_equal(out, found.whole(name)[start : start + len(out)])
    assert found.rows("no such tensor") == 0


def test_a_segment_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "segment-000000.safetensors"
    with pytest.raises(KeyError):  # complex numbers have no place in a segment
        write_tensors(path, {"x": np.zeros(3, dtype=np.complex64)}, {})
    with pytest.raises(TypeError):
        write_tensors(path, {"x": np.zeros(3)}, {"not JSON": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_segment_is_named(tmp_path: Path) -> None:
    path = tmp_path / "segment-000000.safetensors"
    write_segment(path, make_segment(40))
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(StoreCorruptError, match=r"segment-000000.*makes it anew"):
            read_all(path)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 40,
        b"\x00" * 40,
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (19).to_bytes(8, "little") + b'{"__metadata__": 3}',
        (1 << 40).to_bytes(8, "little") + b"{}",
        (1 << 17).to_bytes(8, "little") + b"[" * (1 << 17),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "unit-16-000000.safetensors"
    path.write_bytes(data)
    with pytest.raises(StoreCorruptError, match="unit-16-000000"):
        SegmentFile(path)


def read_all(path: Path) -> None:
    found = SegmentFile(path)
    for name in found.header:
        found.whole(name)


def test_work_lists_what_is_whole(tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    assert work.plan is None
    assert work.segments_done() == set()
    assert work.units_done() == set()
    work.begin({"seed": 3})
    assert work.plan == {"seed": 3}
    with pytest.raises(StoreError, match="another build began there"):
        work.begin({"seed": 4})
    assert work.plan == {"seed": 3}
    for path in (work.segment(0), work.segment(1_234_567), work.unit(8, 12), work.unit(16, 0)):
        path.write_bytes(b"")
    # What killed writers leave, and other files.
    for name in (
        ".segment-000007.1-0a0b0c0d.tmp.safetensors",
        "segment-x.safetensors",
        "cuts-8.npy",
    ):
        (work.folder / name).write_bytes(b"")
    assert work.segments_done() == {0, 1_234_567}
    assert work.units_done() == {(8, 12), (16, 0)}
    with pytest.raises(
        StoreError, match=r"all 4 segments.*3 missing \(segment-000001\.saf.*--resume"
    ):
        open_segments(work, 4)
    work.forget_units()
    assert work.units_done() == set()
    assert not work.cuts(8).exists()
    work.end()
    write_tensors(work.segment(5), {}, {})
    work.begin({"seed": 4})
    assert [path.name for path in work.folder.iterdir()] == ["plan.json"]


def test_files_of_another_build_are_refused(tmp_path: Path) -> None:
    """Of the same shapes, each file sound by itself."""
    work, other = Work(tmp_path / "work"), Work(tmp_path / "other")
    for number, one in enumerate((work, other)):
        one.begin({"build": f"{number}"})
        segment = make_segment(40)
        segment.facts = one.signed({"images": 3})
        write_segment(one.segment(0), segment)
    opened = work.open(work.segment(0))
    opened.check()
    other.segment(0).replace(work.segment(0))
    with pytest.raises(StoreCorruptError, match="found another file of this name"):
        opened.whole("sizes")
    with pytest.raises(StoreCorruptError, match="found one of another build"):
        work.open(work.segment(0))
    said: list[str] = []
    assert work.whole_segments([0], said.append) == set()
    assert "another build" in said[0]
    (tmp_path / "other" / "plan.json").replace(tmp_path / "work" / "plan.json")
    with pytest.raises(StoreError, match="found that another one began in it"):
        work.check_there()


def test_equal_keys_are_sorted_by_place() -> None:
    key_R = np.array([7, 3, 7, 7, 3], dtype=np.uint64)
    place_R3 = np.array([[2, 0, 1], [1, 1, 1], [2, 0, 0], [0, 9, 9], [1, 0, 5]], dtype=np.int32)
    assert sorting(key_R, place_R3).tolist() == [4, 1, 3, 2, 0]
