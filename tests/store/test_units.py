"""Units: rows of all segments in the order of one sort, statistics of the training rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from isae.store.array import StoredArray
from isae.store.codecs import named_codec
from isae.store.cuts import Runs, row_keys, write_cuts
from isae.store.error_sums import ErrorSums
from isae.store.file_hash import entry
from isae.store.manifest import as_json
from isae.store.places import open_place
from isae.store.quantise import QUANTISED, Quantiser, scales
from isae.store.segments import GridRows, Segment, SegmentFile, write_segment
from isae.store.shards import ShardFormat
from isae.store.statistics import Accumulator, ChannelStatistics
from isae.store.units import GridForm, UnitMaker
from isae.store.work import Work

Array = npt.NDArray[Any]
STRIDE, SIDE = 16, 3
CHUNK, SHARD = 16, 64
LAYERS = {"a": 5, "b": 2}


class Case:
    """Rows of some images in segments, and the same rows in one sort."""

    def __init__(self, folder: Path, images: int, segments: int, keep: int = 63) -> None:
        rng = np.random.default_rng(images)
        self.place = open_place(folder / "store")
        self.work = Work(folder / "work")
        image, cell = np.divmod(np.arange(images * SIDE**2), SIDE**2)
        y, x = np.divmod(cell, SIDE)
        held_out = image % 6 == 5
        # Fewer bits make equal keys.
        key_R = row_keys(1, STRIDE, image, y, x, held_out) >> np.uint64(63 - keep)
        self.train_rows = int((~held_out).sum())
        place_R3 = np.stack([image, y, x], axis=1).astype(np.int32)
        values = {name: self._values(rng, len(image), width) for name, width in LAYERS.items()}
        parts = np.array_split(rng.permutation(len(image)), segments)
        for number, part in enumerate(parts):
            layers = {name: rows_RC[part] for name, rows_RC in values.items()}
            grid = GridRows(key_R[part], place_R3[part], layers)
            segment = Segment({STRIDE: grid}, np.zeros((0, 2), np.int32))
            write_segment(self.work.segment(number), segment)
        order = np.lexsort((x, y, image, key_R))
        self.key_R, self.place_R3 = key_R[order], place_R3[order]
        self.values = {name: rows_RC[order] for name, rows_RC in values.items()}

    @staticmethod
    def _values(rng: np.random.Generator, rows: int, width: int) -> Array:
        values = rng.standard_normal((rows, width)) * np.arange(1, width + 1)
        return np.where(rng.random((rows, width)) < 0.6, 0, values).astype(np.float16)

    def form(self, quantised: str | None = None) -> GridForm:
        rows, kind = len(self.key_R), np.dtype(np.uint8 if quantised else np.float16)
        index = self._array(np.dtype(np.int32), 3)
        layers = {name: self._array(kind, width) for name, width in LAYERS.items()}
        quantisers = {}
        if quantised:
            for name, rows_RC in self.values.items():
                largest_C = np.abs(rows_RC.astype(np.float32)).max(axis=0)
                quantisers[name] = Quantiser(quantised, scales(quantised, largest_C))
        return GridForm(STRIDE, rows, self.train_rows, index, layers, quantisers)

    def _array(self, kind: np.dtype[Any], columns: int) -> ShardFormat:
        codec = named_codec("small").for_array(kind, columns)
        return ShardFormat(len(self.key_R), columns, kind, CHUNK, SHARD, codec)

    def make(self, form: GridForm) -> None:
        """All units, in an order of chance, each from a maker of its own as another process."""
        found = sorted(self.work.segments_done())
        segments = [SegmentFile(self.work.segment(number)) for number in found]
        write_cuts(self.work.cuts(STRIDE), Runs(segments, STRIDE), SHARD)
        numbers = np.random.default_rng(0).permutation(form.units).tolist()
        rows = [UnitMaker(self.place, self.work, segments, form).make(n) for n in numbers]
        assert sum(rows) == len(self.key_R)
        assert sorted(rows)[1:] == [SHARD] * (form.units - 1)
        assert self.work.units_done() == {(STRIDE, number) for number in numbers}
        for name, one in (("index", form.index), *form.layers.items()):
            quantiser = form.quantisers.get(name)
            attributes = quantiser.attributes() if quantiser else {}
            self.place.write(f"stride{STRIDE}/{name}/zarr.json", as_json(one.metadata(attributes)))

    def units(self, form: GridForm) -> list[SegmentFile]:
        return [SegmentFile(self.work.unit(STRIDE, number)) for number in range(form.units)]

    def array(self, name: str) -> StoredArray:
        files = self.place.keys()
        listed = {key: entry(self.place.read(key)) for key, _ in files}
        return StoredArray(self.place, f"stride{STRIDE}/{name}", listed)


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., Case]:
    return lambda *sizes: Case(tmp_path, *sizes)


def sums(unit: SegmentFile, prefix: str) -> Mapping[str, Array]:
    return {
        name.removeprefix(f"{prefix}/"): unit.whole(name)
        for name in unit.header
        if name.startswith(f"{prefix}/")
    }


def statistics(units: list[SegmentFile], name: str) -> ChannelStatistics:
    found = Accumulator(LAYERS[name])
    for unit in units:
        found.merge(Accumulator.from_arrays(sums(unit, f"{name}/sums")))
    return found.finish()


def assert_statistics(found: ChannelStatistics, rows_RC: Array) -> None:
    """Of these rows, all computed in float64."""
    rows = rows_RC.astype(np.float64)
    assert found.count == len(rows)
    # Sums of at most some hundred numbers in float64: far below these bounds.
    np.testing.assert_allclose(found.mean_C, rows.mean(axis=0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.var_C, rows.var(axis=0), rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(found.max_C, rows.max(axis=0))
    np.testing.assert_allclose(found.nonzero_C, (rows != 0).mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("images", "segments", "keep"),
    # One unit that is not full; units that end with the rows; segments without rows; equal keys.
    [(2, 1, 63), (64, 5, 63), (41, 7, 63), (3, 40, 63), (41, 7, 3), (41, 2, 0)],
)
def test_units_hold_the_rows_of_one_sort(
    make_case: Callable[..., Case], images: int, segments: int, keep: int
) -> None:
    case = make_case(images, segments, keep)
    form = case.form()
    case.make(form)
    np.testing.assert_array_equal(case.array("index")[:], case.place_R3)
    for name in LAYERS:
        np.testing.assert_array_equal(case.array(name)[:], case.values[name])
        theirs = zarr.open_array(case.place.local / f"stride{STRIDE}/index", mode="r")
        np.testing.assert_array_equal(theirs[:], case.place_R3)
    for number, unit in enumerate(case.units(form)):
        assert unit.facts["first_key"] == f"{case.key_R[number * SHARD]:016x}"
        files = {f"stride{STRIDE}/{name}/c/{number}/0" for name in ("index", *LAYERS)}
        assert set(unit.facts["files"]) == files
        for key, said in unit.facts["files"].items():
            data = case.place.read(key)
            chunks = str(said.pop("chunks"))
            assert said == entry(data)
            assert len(chunks) % 8 == 0
            # Each chunk ends in its checksum, so it is found in the file, in the same order.
            ends = [
                data.find(bytes.fromhex(chunks[at : at + 8])) for at in range(0, len(chunks), 8)
            ]
            assert ends == sorted(ends)
            assert -1 not in ends


@pytest.mark.parametrize("images", [2, 5, 41, 64])
def test_statistics_are_of_the_training_rows_of_all_units(
    make_case: Callable[..., Case], images: int
) -> None:
    case = make_case(images, 3)
    form = case.form()
    case.make(form)
    units = case.units(form)
    for name, rows_RC in case.values.items():
        assert_statistics(statistics(units, name), rows_RC[: case.train_rows])


@pytest.mark.parametrize("dtype", sorted(QUANTISED))
def test_quantised_units_keep_codes_and_their_errors(
    make_case: Callable[..., Case], dtype: str
) -> None:
    case = make_case(41, 4)
    form = case.form(dtype)
    case.make(form)
    units = case.units(form)
    for name, exact_RC in case.values.items():
        stored_RC = zarr.open_array(case.place.local / f"stride{STRIDE}/{name}", mode="r")[:]
        assert stored_RC.dtype == np.uint8
        shown_RC = case.array(name)[:]
        np.testing.assert_array_equal(stored_RC, form.quantisers[name].encode(exact_RC))
        exact, shown = (rows[: case.train_rows].astype(np.float64) for rows in (exact_RC, shown_RC))
        # int8: half a step of largest/127; float8_e4m3: half of the last of four bits, or half
        # of the smallest step near zero; and float16 rounds once more.
        largest = np.abs(exact_RC.astype(np.float64)).max(axis=0)
        step = largest / 254 if dtype == "int8" else np.maximum(np.abs(exact) / 16, largest / 2**18)
        assert (np.abs(shown - exact) <= step + np.abs(exact) / 2**11).all()
        assert_statistics(statistics(units, name), shown_RC[: case.train_rows])
        errors = ErrorSums(LAYERS[name])
        for unit in units:
            errors.merge(ErrorSums.from_arrays(sums(unit, f"{name}/errors")))
        squares = ((exact - shown) ** 2).sum()
        np.testing.assert_allclose(
            errors.relative_error, np.sqrt(squares / (exact**2).sum()), rtol=1e-9
        )
        variance = exact.var(axis=0).sum()
        expected = squares / len(exact) / variance
        np.testing.assert_allclose(errors.fvu_floor(variance), expected, rtol=1e-9)


def test_a_unit_made_again_is_the_same(make_case: Callable[..., Case]) -> None:
    case = make_case(41, 4)
    form = case.form()
    case.make(form)
    files = case.place.keys()
    before = {key: case.place.read(key) for key, _ in files}
    unit = case.work.unit(STRIDE, 2).read_bytes()
    for key in before:
        if key.endswith("c/2/0"):
            case.place.delete(key)
    case.make(form)
    assert {key: case.place.read(key) for key in before} == before
    assert case.work.unit(STRIDE, 2).read_bytes() == unit


def test_the_mark_of_a_unit_comes_after_its_files(
    make_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(41, 4)
    form = case.form()
    write = case.place.write

    def fail(key: str, data: bytes) -> None:
        if key.endswith("b/c/3/0"):
            raise OSError("disk full")
        write(key, data)

    monkeypatch.setattr(case.place, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        case.make(form)
    assert (STRIDE, 3) not in case.work.units_done()
