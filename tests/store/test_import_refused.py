"""Caches that are broken, do not fit together or are misnamed are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from isae.errors import ConfigError, DataError, StoreError
from isae.store import Store
from isae.store.import_config import ImportConfig

TakeIn = Callable[..., Store]
ROWS = np.maximum(np.random.default_rng(10).normal(size=(10, 4)), 0).astype("float32")


def spoil(values: np.ndarray, number: float) -> np.ndarray:
    values = values.copy()
    values[7, 2] = number
    return values


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"a": spoil(ROWS, np.nan)}, {}, "found nan in row 7 of a.npy"),
        ({"a": ROWS, "b": spoil(ROWS, -np.inf)}, {}, "found -inf in row 7 of b.npy"),
        ({"a": spoil(ROWS, 70000)}, {"dtype": "float16"}, "found 70000 in row 7"),
        ({"a": ROWS, "b": ROWS[:, :3]}, {}, "4 float32 in a.npy and 3 float32 in b.npy"),
        ({"a": ROWS, "b": ROWS.astype("float16")}, {}, "one width and dtype"),
        ({"a": ROWS.astype("float64")}, {}, "found 'float64'"),
        ({"a": ROWS.astype("int32")}, {}, "found 'int32'"),
        ({"a": ROWS.astype(">f4")}, {}, "big-endian"),
        ({"a": np.asfortranarray(ROWS)}, {}, "C order"),
        ({"a": ROWS[0]}, {}, "rows, channels"),
        ({"a": ROWS[:0]}, {}, "at least one row"),
        ({"a": ROWS, "index": np.zeros((10, 3), int)}, {}, "once"),
        ({"a": ROWS, "index": np.zeros((9, 3), int)}, {}, "10 rows, found 9"),
        ({"a": ROWS, "index": np.zeros((10, 2), int)}, {}, "whole numbers"),
        ({"a": ROWS, "index": np.zeros((10, 3))}, {}, "whole numbers"),
        ({"a": ROWS, "index": -np.ones((10, 3), int)}, {}, "found .-1, -1, -1. in row 0"),
        ({"a": ROWS, "index": np.full((10, 3), 2**31 - 2)}, {}, "few gaps"),
        ({}, {}, "found none"),
    ],
)
def test_wrong_arrays_are_refused(
    tmp_path: Path,
    files: dict[str, np.ndarray],
    options: dict[str, Any],
    message: str,
    take_in: TakeIn,
) -> None:
    for name, values in files.items():
        np.save(tmp_path / f"{name}.npy", values)
    with pytest.raises((DataError, ConfigError, StoreError), match=message):
        take_in(tmp_path, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_broken_files_are_refused(tmp_path: Path, take_in: TakeIn) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    save_file({"activations": ROWS}, tmp_path / "a.safetensors")
    for kind in ("npy", "safetensors"):
        path = tmp_path / f"a.{kind}"
        whole = path.read_bytes()
        for data in (whole[:-5], whole[:20], whole[:4], b"", b"\xff" * 200):
            path.write_bytes(data)
            with pytest.raises(DataError, match=f"a.{kind}"):
                take_in(path, tmp_path / "out", format=kind)
    assert not (tmp_path / "out").exists()


def test_an_index_in_some_files_only(tmp_path: Path, take_in: TakeIn) -> None:
    index = np.stack(np.unravel_index(np.arange(10), (10, 1, 1)), axis=1).astype(np.int32)
    save_file({"activations": ROWS, "index": index}, tmp_path / "a.safetensors")
    save_file({"activations": ROWS}, tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=r"in every file or in none, found none in .*b\.safe"):
        take_in(tmp_path, tmp_path / "out", format="safetensors")


def test_a_header_that_does_not_fit_its_tensor(tmp_path: Path, take_in: TakeIn) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"activations": ROWS, "b": ROWS}, path)
    path.write_bytes(path.read_bytes().replace(b"[10,4]", b"[12,4]"))
    with pytest.raises(DataError, match="expected 192 bytes of tensor 'activations'"):
        take_in(path, tmp_path / "out", format="safetensors")
    listed = b'{"activations":{"dtype":["F32"],"shape":[2,2],"data_offsets":[0,16]}}'
    for header in (b"[" * (1 << 17), listed):
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        with pytest.raises(DataError, match=r"expected a \.safetensors file"):
            take_in(path, tmp_path / "out", format="safetensors")
    save_file({"activations": ROWS.astype("uint8")}, path)
    with pytest.raises(ConfigError, match="found 'uint8'"):
        take_in(path, tmp_path / "out", format="safetensors")


@pytest.mark.parametrize(
    "name", ["sizes", "1.key", "16.place", "x.crc", "zarr.json", "__metadata__", "stride1_index"]
)
def test_layers_are_not_named_as_what_lies_beside_them(name: str) -> None:
    with pytest.raises(ConfigError, match="--layer with a name"):
        ImportConfig("x.npy", "npy", name, "out")
    assert ImportConfig("x.npy", "npy", f"blocks.3.attn.{name}x", "out").layer
