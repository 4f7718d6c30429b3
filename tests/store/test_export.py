"""Exports hold the store's numbers and come back; a failed one leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from safetensors.numpy import load_file

from isae.errors import ConfigError, DataError, StoreError, UnknownNameError
from isae.store import BuildConfig, Store, build_store, open_store, verify_store
from isae.store import convert as conversions
from isae.store.export_arrays import export_arrays

TakeIn = Callable[..., Store]
ByPlace = Callable[[Store, str], tuple[np.ndarray, np.ndarray]]


def same_tables(one: pa.Table, other: pa.Table) -> bool:
    """As text, for NaN is not itself."""
    return one.schema.equals(other.schema) and str(one.to_pylist()) == str(other.to_pylist())


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_an_export_comes_back(
    built: Path, tmp_path: Path, kind: str, take_in: TakeIn, by_place: ByPlace
) -> None:
    conversions.export(str(built), kind, str(tmp_path / "files"))
    before = open_store(built)
    for layer in before.layers:
        back = take_in(tmp_path / "files", tmp_path / layer, format=kind, layer=layer, seed=9)
        for mine, expected in zip(by_place(back, layer), by_place(before, layer), strict=True):
            np.testing.assert_array_equal(mine, expected)
        assert vars(back.layer(layer)) == vars(before.layer(layer))
        assert same_tables(back.images, before.images)
        for key in ("model", "size", "positions"):
            assert back.manifest[key] == before.manifest[key]
        assert back.manifest["images"] == before.manifest["images"] | {
            "unreadable": {"count": 0, "first": []}
        }
        assert not np.array_equal(back.positions(layer)[:], before.positions(layer)[:])


def test_an_export_comes_back_whole_or_not_at_all(
    built: Path, tmp_path: Path, take_in: TakeIn
) -> None:
    folder = tmp_path / "x"
    conversions.export(str(built), "npy", str(folder), ["mixed4a"])
    table, index = folder / "images.parquet", folder / "stride16_index.npy"
    with pytest.raises(ConfigError, match="expected no --model"):
        take_in(folder, tmp_path / "out", layer="mixed4a", model="inceptionv1", size=56)
    whole = pq.read_table(table)
    unknown = whole.set_column(3, "split", pa.array(["Train"] * len(whole)))
    for wrong in (whole.take(list(range(len(whole)))[::-1]), unknown):
        pq.write_table(wrong, table)
        with pytest.raises(DataError, match="expected images numbered from 0"):
            take_in(folder, tmp_path / "out", layer="mixed4a")
    table.unlink()
    with pytest.raises(DataError, match="expected the images table of an export"):
        take_in(folder, tmp_path / "out", layer="mixed4a")
    index.unlink()
    with pytest.raises(DataError, match="expected the index of the export"):
        take_in(folder, tmp_path / "out", layer="mixed4a")
    assert not (tmp_path / "out").exists()


def test_npy_files_are_the_rows_in_stored_order(built: Path, tmp_path: Path) -> None:
    conversions.export(str(built), "npy", str(tmp_path / "x"), ["mixed4a", "mixed3b"])
    store = open_store(built)
    meta = json.loads((tmp_path / "x" / "meta.json").read_text())
    assert list(meta["layers"]) == ["mixed4a", "mixed3b"]
    for name, layer in meta["layers"].items():
        values = np.load(tmp_path / "x" / layer["files"][0], mmap_mode="r")
        np.testing.assert_array_equal(values, store.activations(name)[:])
        places = np.load(tmp_path / "x" / layer["index"])
        np.testing.assert_array_equal(places, store.positions(name)[:])
    assert (tmp_path / "x" / "images.parquet").read_bytes() == (
        built / "images.parquet"
    ).read_bytes()


def test_safetensors_are_split(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, take_in: TakeIn
) -> None:
    monkeypatch.setattr("isae.store.export_arrays.SHARD_BYTES", 120_000)
    monkeypatch.setattr("isae.store.export_arrays.PIECE_ROWS", 37)
    found = conversions.export(str(built), "safetensors", str(tmp_path / "x"), ["mixed4a"])
    files = found["layers"]["mixed4a"]["files"]
    assert len(files) > 2
    assert all((tmp_path / "x" / name).stat().st_size <= 120_000 for name in files)
    parts = [load_file(tmp_path / "x" / name) for name in files]
    store = open_store(built)
    for tensor, expected in (
        ("activations", store.activations("mixed4a")[:]),
        ("index", store.positions("mixed4a")[:]),
    ):
        np.testing.assert_array_equal(np.concatenate([one[tensor] for one in parts]), expected)
    back = take_in(tmp_path / "x", tmp_path / "back", format="safetensors", layer="mixed4a")
    assert back.layer("mixed4a").rows == store.layer("mixed4a").rows


def test_zarr_needs_no_codec_of_ours(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "plain"
    conversions.export(str(built), "zarr", str(out), ["mixed3b", "mixed4a"])
    before, after = open_store(built), open_store(out)
    assert verify_store(out) == []
    assert set(after.layers) == {"mixed3b", "mixed4a"}
    assert "isae.bitmap" not in "".join(path.read_text() for path in out.rglob("zarr.json"))
    group = zarr.open_group(out, mode="r")
    for name, layer in after.layers.items():
        np.testing.assert_array_equal(group[layer.array][:], before.activations(name)[:])
        index = group[f"{layer.array.split('/')[0]}/index"][:]
        np.testing.assert_array_equal(index, before.positions(name)[:])
        for field in ("mean_C", "var_C"):
            mine, theirs = after.statistics(name), before.statistics(name)
            np.testing.assert_array_equal(getattr(mine, field), getattr(theirs, field))
    assert same_tables(after.images, before.images)


def test_zarr_of_a_quantised_store_keeps_its_codes(tmp_path: Path) -> None:
    config = BuildConfig(
        images="synthetic:3", layers=("mixed4a",), out=str(tmp_path / "q"), dtype="int8",
        size=32, workers=0,
    )  # fmt: skip
    build_store(config)
    conversions.export(config.out, "zarr", str(tmp_path / "plain"))
    before, after = open_store(config.out), open_store(tmp_path / "plain")
    assert verify_store(after.path) == []
    np.testing.assert_array_equal(after.activations("mixed4a")[:], before.activations("mixed4a")[:])
    array = zarr.open_group(tmp_path / "plain", mode="r")["stride16/mixed4a"]
    scale = np.asarray(array.attrs["isae_quantisation"]["scale"], dtype=np.float32)
    shown = (array[:].view(np.int8) * scale).astype(np.float16)
    np.testing.assert_array_equal(shown, before.activations("mixed4a")[:])


def test_a_failed_export_leaves_nothing(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = copied / "stride8" / "mixed3b" / "c" / "0" / "0"
    shard.write_bytes(b"x" * shard.stat().st_size)
    before = {path.name for path in tmp_path.iterdir()}
    for kind in conversions.TARGETS:
        with pytest.raises(StoreError, match="mixed3b"):
            conversions.export(str(copied), kind, str(tmp_path / "out"))
        assert {path.name for path in tmp_path.iterdir()} == before


def test_a_failed_export_takes_away_its_own_files_only(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        (tmp_path / "out" / "notes.txt").write_text("mine")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("isae.store.export_zarr.encode_shard", fail)
    with pytest.raises(OSError, match="No space"):
        conversions.export(str(built), "zarr", str(tmp_path / "out"), ["mixed4a"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_an_images_table_that_was_damaged_since_is_not_exported(
    copied: Path, tmp_path: Path
) -> None:
    store = open_store(copied)
    assert len(store.images) > 0
    table = copied / "images.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=r"images\.parquet as it was written"):
        export_arrays(store, "npy", str(tmp_path / "out"), layers=["mixed4a"])


def test_what_is_there_is_not_written_over(built: Path, copied: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "mine.txt").write_text("x")
    for kind in conversions.TARGETS:
        for overwrite in (False, True):
            with pytest.raises(StoreError, match="found other files"):
                conversions.export(str(built), kind, str(photos), overwrite=overwrite)
        with pytest.raises(StoreError, match="apart"):
            conversions.export(str(copied), kind, str(copied / "in"), overwrite=True)
    assert (photos / "mine.txt").read_text() == "x"
    out = tmp_path / "out"
    conversions.export(str(built), "npy", str(out), ["mixed4a"])
    with pytest.raises(StoreError, match="found one"):
        conversions.export(str(built), "npy", str(out))
    conversions.export(str(built), "npy", str(out), ["mixed4b"], overwrite=True)
    assert not (out / "mixed4a.npy").exists()
    with pytest.raises(UnknownNameError, match="mixed4a"):
        conversions.export(str(built), "zarr", str(tmp_path / "z"), ["mixed4z"])
    with pytest.raises(ConfigError, match="npy, safetensors or zarr"):
        conversions.export(str(built), "csv", str(tmp_path / "z"))
