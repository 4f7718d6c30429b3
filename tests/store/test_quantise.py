from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isae.errors import ConfigError, DataError, StoreCorruptError
from isae.store.quantise import ATTRIBUTE, LARGEST, QUANTISED, Quantiser, code_values, scales
from isae.store.quantise_loops import as_float32

Array = npt.NDArray[Any]

ALL_HALVES = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
FINITE_HALVES = ALL_HALVES[np.isfinite(ALL_HALVES)]
TOP = {"int8": 127, "float8_e4m3": 448}
BOTH = pytest.mark.parametrize("dtype", QUANTISED)


def true_values(dtype: str) -> Array:
    """What the 256 codes mean, by NumPy's and torch's own types, in float64."""
    codes = np.arange(256, dtype=np.uint8)
    if dtype == "int8":
        values = codes.view(np.int8).astype(np.float64)
        values[128] = np.nan
        return values
    return torch.from_numpy(codes).view(torch.float8_e4m3fn).double().numpy()


def nearest_codes(dtype: str, ratio_I: Array) -> Array:
    """Codes nearest to float64 numbers, by looking at all; of two equally near, the even one."""
    values = true_values(dtype)
    used = np.flatnonzero(np.isfinite(values))
    # -0 is as near as 0; signs are looked at by the tests.
    used = used[~((values[used] == 0) & (used != 0))]
    distance = np.abs(ratio_I[:, None] - values[used])
    near = distance == distance.min(1, keepdims=True)
    order = np.argsort(used % 2, kind="stable")
    chosen: Array = used[order][near[:, order].argmax(1)]
    return chosen


def encode_column(dtype: str, numbers: Array, scale: float = 1.0) -> Array:
    return Quantiser(dtype, np.float32([scale])).encode(numbers[:, None])[:, 0]


def roundtrip(quantiser: Quantiser, rows: Array) -> Array:
    codes = quantiser.encode(rows)
    out = np.full(rows.shape, np.nan, dtype=np.float16)
    quantiser.decode(codes, out)
    return out


@BOTH
def test_codes_mean_what_torch_and_numpy_say(dtype: str) -> None:
    ours, theirs = code_values(dtype), true_values(dtype)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.signbit(ours[theirs == 0]), np.signbit(theirs[theirs == 0]))
    assert np.nanmax(ours) == -np.nanmin(ours) == TOP[dtype]


def test_all_float16_numbers_are_widened_exactly() -> None:
    with np.errstate(invalid="ignore"):  # signalling NaN
        expected = ALL_HALVES.astype(np.float32)
    found = as_float32(ALL_HALVES[:, None])[:, 0]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@BOTH
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_every_float16_number_gets_the_nearest_code(dtype: str, kind: type) -> None:
    # With scale 1 ratios are exact, so that all ties (x.5, and midway between two floats) are too.
    numbers = FINITE_HALVES.astype(kind)
    codes = encode_column(dtype, numbers)
    nearest = nearest_codes(dtype, np.clip(numbers.astype(np.float64), -TOP[dtype], TOP[dtype]))
    values = true_values(dtype)
    np.testing.assert_array_equal(values[codes], values[nearest])
    if dtype == "float8_e4m3":  # the sign is kept, of zero and of what rounds to it, too
        np.testing.assert_array_equal(codes >> 7, np.signbit(numbers))
        cast = torch.from_numpy(numbers).clamp(-448, 448).to(torch.float8_e4m3fn)
        np.testing.assert_array_equal(codes, cast.view(torch.uint8).numpy())
    else:
        np.testing.assert_array_equal(codes.view(np.int8)[numbers == 0], 0)


@BOTH
def test_midway_between_codes_goes_to_the_even_one(dtype: str) -> None:
    values = np.unique(true_values(dtype)[np.isfinite(true_values(dtype))])
    middle = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    below, above = np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf)
    for numbers, expected in ((below, values[:-1]), (above, values[1:])):
        codes = encode_column(dtype, numbers.astype(np.float32))
        np.testing.assert_array_equal(true_values(dtype)[codes], expected)
    codes = encode_column(dtype, middle)
    chosen = true_values(dtype)[codes]
    assert (np.isin(chosen, values[:-1]) | np.isin(chosen, values[1:])).all()
    assert (codes % 2 == 0).all()


@BOTH
@pytest.mark.parametrize("scale", [1e-9, 0.0123, 0.37])
def test_any_scale_against_float64(dtype: str, scale: float) -> None:
    rng = np.random.default_rng(3)
    numbers = (rng.normal(0, 0.4 * TOP[dtype], 4001) * scale).astype(np.float32)
    ratio = numbers.astype(np.float64) / np.float64(np.float32(scale))
    codes = encode_column(dtype, numbers, scale)
    values = true_values(dtype)
    best = np.abs(values[nearest_codes(dtype, ratio)] - ratio)
    # The division is one float32 operation: it moves the ratio by 2^-24 of itself.
    assert (np.abs(values[codes] - ratio) <= best + 2.0**-23 * np.abs(ratio)).all()


@BOTH
def test_beyond_the_scale_is_saturated(dtype: str) -> None:
    largest = np.finfo(np.float32).max
    numbers = np.float32([TOP[dtype] * 1.0001, 464, 480, 1e9, largest])
    top = {"int8": [127, 129], "float8_e4m3": [0x7E, 0xFE]}[dtype]
    for scale in (1.0, 1e-30):  # the second makes the ratio infinite
        assert set(encode_column(dtype, numbers, scale)) == {top[0]}
        assert set(encode_column(dtype, -numbers, scale)) == {top[1]}


@BOTH
def test_all_codes_decode_as_the_formula_says(dtype: str) -> None:
    scale = np.float32([1.0, 2.0**-24, 3e-9, 1.2e-38, 0.0371, LARGEST / TOP[dtype]])
    quantiser = Quantiser(dtype, scale)
    values = true_values(dtype)
    used = np.flatnonzero(np.isfinite(values))
    codes = np.repeat(used[:, None], len(scale), axis=1).astype(np.uint8)
    out = np.full(codes.shape, np.nan, dtype=np.float16)
    quantiser.decode(codes, out)
    product = torch.from_numpy(values[used]).float()[:, None] * torch.from_numpy(scale)
    expected = product.half().numpy()
    np.testing.assert_array_equal(out.view(np.uint16), expected.view(np.uint16))
    assert np.isfinite(out).all()
    again = Quantiser(dtype, scale[:1]).encode(out[:, :1])
    np.testing.assert_array_equal(again, codes[:, :1])


@BOTH
def test_a_code_that_is_never_written_is_an_error(dtype: str) -> None:
    quantiser = Quantiser(dtype, np.float32([1, 2]))
    unused = np.flatnonzero(np.isnan(true_values(dtype)))
    assert len(unused) == (1 if dtype == "int8" else 2)
    for code in unused:
        codes = np.zeros((5, 2), dtype=np.uint8)
        codes[3, 1] = code
        with pytest.raises(StoreCorruptError, match="never writes"):
            quantiser.decode(codes, np.empty((5, 2), dtype=np.float16))


@BOTH
def test_the_largest_number_has_the_top_code_and_comes_back(dtype: str) -> None:
    largest = FINITE_HALVES[FINITE_HALVES > 0]
    quantiser = Quantiser(dtype, scales(dtype, largest))
    rows = np.stack([largest, -largest])
    codes = quantiser.encode(rows)
    np.testing.assert_array_equal(np.unique(codes[0]), 127 if dtype == "int8" else 0x7E)
    np.testing.assert_array_equal(np.unique(codes[1]), 129 if dtype == "int8" else 0xFE)
    np.testing.assert_array_equal(roundtrip(quantiser, rows), rows)


@BOTH
def test_scales_of_zero_and_of_tiny_channels(dtype: str) -> None:
    found = scales(dtype, np.asarray([0, 1e-45, 1e-38, 1, LARGEST]))
    tiny = np.finfo(np.float32).tiny
    np.testing.assert_array_equal(found[:3], np.float32([1, tiny, tiny]))
    np.testing.assert_allclose(found[3:], np.asarray([1, LARGEST]) / TOP[dtype], rtol=2.0**-24)
    rows = np.float32([[0.0, 1e-45, -1e-38, 0.5, 65503.0]])
    out = roundtrip(Quantiser(dtype, found), rows)
    np.testing.assert_array_equal(out[0, :3], 0)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, 65505.0])
def test_scales_of_numbers_beyond_float16_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="65504"):
        scales("int8", np.asarray([1.0, bad]))


ROWS = hnp.arrays(
    np.float16,
    st.tuples(st.integers(1, 9), st.integers(1, 7)),
    elements=st.floats(-65504, 65504, width=16),
)


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_int8_roundtrip_is_within_half_a_step(rows: Array) -> None:
    scale = scales("int8", np.abs(rows).max(0))
    exact, back = rows.astype(np.float64), roundtrip(Quantiser("int8", scale), rows)
    # Half a step; float16 rounds by 2^-11 of the number or by 2^-25; float32 by 2^-23 twice.
    bound = scale * 0.5 + np.abs(exact) * (2.0**-11 + 2.0**-22) + scale * 2.0**-12 + 2.0**-25
    assert (np.abs(exact - back) <= bound).all()


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_e4m3_roundtrip_is_within_a_sixteenth(rows: Array) -> None:
    scale = scales("float8_e4m3", np.abs(rows).max(0))
    exact, back = rows.astype(np.float64), roundtrip(Quantiser("float8_e4m3", scale), rows)
    # 3 fraction bits: 2^-4 of normal numbers, 2^-10 of a scale below 2^-6; float16 as for int8.
    relative = np.where(np.abs(exact) >= scale * 2.0**-6, np.abs(exact) * 2.0**-4, 0)
    bound = np.maximum(relative, scale * 2.0**-10) * (1 + 2.0**-11)
    bound += np.abs(exact) * (2.0**-11 + 2.0**-22) + 2.0**-25
    assert (np.abs(exact - back) <= bound).all()


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(QUANTISED))
def test_attributes_survive_json(rows: Array, dtype: str) -> None:
    quantiser = Quantiser(dtype, scales(dtype, np.abs(rows).max(0)))
    text = json.dumps(quantiser.attributes(), allow_nan=False)
    again = Quantiser.from_attributes(json.loads(text) | {"other": 1}, quantiser.channels)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again.scale_C, quantiser.scale_C)
    np.testing.assert_array_equal(roundtrip(again, rows), roundtrip(quantiser, rows))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "int4"},
        {"dtype": "float8_e4m3"},
        {"dtype": ["int8"]},
        {"version": 2},
        {"version": None},
        {"scale": None},
        {"scale": "0.5"},
        {"scale": [0.5]},
        {"scale": [0.5, "0.25"]},
        {"scale": [0.5, True]},
        {"scale": [0.5, None]},
        {"scale": [0.5, 0.0]},
        {"scale": [0.5, -0.25]},
        {"scale": [0.5, float("nan")]},
        {"scale": [0.5, float("inf")]},
        {"scale": [0.5, 1e300]},
        {"scale": [0.5, 10**400]},
        {"scale": [0.5, 0.1]},  # is not a float32
        {"scale": [0.5, 1e-40]},
        {"scale": [0.5, 600.0]},  # 127 times it is beyond float16
        {"scale": [[0.5, 0.25]]},
        {"formula": "x = byte"},
        {"more": 1},
    ],
)
def test_attributes_that_were_not_written_so_are_refused(change: dict[str, Any]) -> None:
    good = Quantiser("int8", np.float32([0.5, 0.25])).attributes()
    assert Quantiser.from_attributes(good, 2).channels == 2
    with pytest.raises(StoreCorruptError, match=ATTRIBUTE):
        Quantiser.from_attributes({ATTRIBUTE: good[ATTRIBUTE] | change}, 2)


@pytest.mark.parametrize("missing", ["dtype", "version", "scale", "formula", ATTRIBUTE])
def test_missing_attributes_are_refused(missing: str) -> None:
    good = Quantiser("int8", np.float32([0.5, 0.25])).attributes()
    held = good if missing == ATTRIBUTE else good[ATTRIBUTE]
    del held[missing]
    with pytest.raises(StoreCorruptError, match=ATTRIBUTE):
        Quantiser.from_attributes(good)


def test_scales_of_another_array_are_refused() -> None:
    attributes = Quantiser("int8", np.float32([0.5, 0.25])).attributes()
    with pytest.raises(StoreCorruptError, match="3 scales"):
        Quantiser.from_attributes(attributes, 3)


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_numbers_that_are_not_finite_are_refused(dtype: str, bad: float, kind: type) -> None:
    quantiser = Quantiser(dtype, np.ones(700, dtype=np.float32))
    rows = np.zeros((901, 700), dtype=kind)  # several blocks
    assert not quantiser.encode(rows).any()
    for place in ((0, 0), (450, 333), (900, 699)):
        wrong = rows.copy()
        wrong[place] = bad
        with pytest.raises(DataError, match="finite"):
            quantiser.encode(wrong)


@BOTH
def test_arrays_that_do_not_fit_are_refused(dtype: str) -> None:
    quantiser = Quantiser(dtype, np.ones(3, dtype=np.float32))
    for rows in (np.zeros((2, 4)), np.zeros((2, 3)), np.zeros(3), np.zeros((2, 3, 1))):
        kind = np.float64 if rows.shape == (2, 3) else np.float16
        with pytest.raises(DataError, match="3 channels"):
            quantiser.encode(rows.astype(kind))
    codes, out = np.zeros((2, 3), dtype=np.uint8), np.zeros((2, 3), dtype=np.float16)
    wrong: list[tuple[Array, Array]] = [
        (codes[:1], out),
        (codes[:, :2], out[:, :2].copy()),
        (codes.view(np.int8), out),
        (codes, out.astype(np.float32)),
        (codes, np.zeros((3, 2), dtype=np.float16).T),
        (codes[0], out[0]),
    ]
    for one, other in wrong:
        with pytest.raises(DataError, match="3"):
            quantiser.decode(one, other)


def test_other_dtypes_and_scales_are_refused() -> None:
    with pytest.raises(ConfigError, match="int8 or float8_e4m3"):
        Quantiser("float16", np.ones(2, dtype=np.float32))
    with pytest.raises(ConfigError, match="int8 or float8_e4m3"):
        scales("int4", np.ones(2))
    for scale in ([0.0], [-1.0], [np.nan], [np.inf], [516.5], [1e-40], [[1.0]]):
        with pytest.raises(DataError, match="one scale per channel"):
            Quantiser("int8", np.asarray(scale, dtype=np.float32))


@BOTH
def test_pieces_strides_and_read_only_arrays(dtype: str) -> None:
    rng = np.random.default_rng(5)
    rows = np.maximum(rng.normal(0, 3, (1031, 257)), 0).astype(np.float16)  # blocks of 510 rows
    quantiser = Quantiser(dtype, scales(dtype, rows.max(0)))
    codes, back = quantiser.encode(rows), roundtrip(quantiser, rows)
    pieces = [quantiser.encode(rows[start : start + 97]) for start in range(0, len(rows), 97)]
    np.testing.assert_array_equal(np.concatenate(pieces), codes)
    np.testing.assert_array_equal(quantiser.encode(rows.astype(np.float32)), codes)
    np.testing.assert_array_equal(quantiser.encode(np.asfortranarray(rows)), codes)
    frozen = np.frombuffer(rows.tobytes(), dtype=np.float16).reshape(rows.shape)
    np.testing.assert_array_equal(quantiser.encode(frozen), codes)
    out = np.full((3000, 257), 7, dtype=np.float16)
    stored = np.frombuffer(codes.tobytes(), dtype=np.uint8).reshape(codes.shape)
    quantiser.decode(stored, out[5 : 5 + len(rows)])
    quantiser.decode(np.asfortranarray(codes)[::-1], out[1500 : 1500 + len(rows)])
    np.testing.assert_array_equal(out[5 : 5 + len(rows)], back)
    np.testing.assert_array_equal(out[1500 : 1500 + len(rows)], back[::-1])
    assert (out[:5] == 7).all()
    assert (out[5 + len(rows) : 1500] == 7).all()
    assert quantiser.encode(rows[:0]).shape == (0, 257)
    quantiser.decode(codes[:0], out[:0])


def test_other_threads_run_while_rows_are_decoded() -> None:
    quantiser = Quantiser("int8", np.ones(1024, dtype=np.float32))
    codes = np.ones((40_000, 1024), dtype=np.uint8)
    out = np.zeros(codes.shape, dtype=np.float16)
    quantiser.decode(codes[:1], out[:1])  # compiles
    spans: list[tuple[float, float]] = []

    def decode() -> None:
        start = time.perf_counter()
        quantiser.decode(codes, out)
        spans.append((start, time.perf_counter()))

    for _ in range(5):  # a busy machine may not let this thread run meanwhile
        worker, ticks = threading.Thread(target=decode), []
        worker.start()
        while worker.is_alive():
            ticks.append(time.perf_counter())
            time.sleep(1e-3)
        start, stop = spans[-1]
        quarter = (stop - start) / 4
        # Were the interpreter locked, there could be ticks only beside the ends.
        if any(start + quarter < tick < stop - quarter for tick in ticks):
            break
    else:
        pytest.fail("no other thread ran during any of 5 decodes")
    assert (out == 1).all()
