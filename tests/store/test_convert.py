"""Exports hold the store's numbers and come back; caches made elsewhere become whole stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from isae.analysis.inputs import open_run
from isae.errors import ConfigError, DataError, StoreError, StoreIncompleteError, UnknownNameError
from isae.progress import Reporter
from isae.store import BuildConfig, Store, build_store, gather, open_store, verify_store
from isae.store import convert as conversions
from isae.store.export_arrays import export_arrays
from isae.store.import_arrays import import_arrays
from isae.store.import_config import ImportConfig
from isae.store.import_index import StoredIndex
from isae.store.row_files import in_order
from isae.train import TrainConfig, train


def take_in(source: Path, out: Path, **options: Any) -> Store:
    options = {"format": "npy", "layer": "cache", **options}
    import_arrays(ImportConfig(source=str(source), out=str(out), **options))
    assert verify_store(out) == []
    return open_store(out)


def by_place(store: Store, layer: str) -> tuple[np.ndarray, np.ndarray]:
    places = store.positions(layer)[:]
    order = np.lexsort(places.T[::-1])
    return places[order], store.activations(layer)[:][order]


@pytest.mark.parametrize("rows_per_image", [1, 4])
def test_rows_without_an_index_are_warned_of(
    tmp_path: Path, rows_per_image: int, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", some_rows(40, 3))
    config = ImportConfig(
        str(tmp_path / "x.npy"), "npy", "cache", str(tmp_path / "s"), rows_per_image=rows_per_image
    )
    import_arrays(config, reporter=Reporter(quiet=True))
    assert ("no index" in capsys.readouterr().err) == (rows_per_image == 1)


def test_an_index_that_changed_is_another_import(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", some_rows(40, 3))
    np.save(
        tmp_path / "index.npy", np.stack([np.arange(40), 0 * np.arange(40), 0 * np.arange(40)], 1)
    )
    config = ImportConfig(str(tmp_path), "npy", "cache", str(tmp_path / "out"))
    import_arrays(config)
    np.save(tmp_path / "index.npy", np.load(tmp_path / "index.npy")[::-1])
    with pytest.raises(StoreError, match="something else"):
        import_arrays(config, resume=True)


def same_tables(one: pa.Table, other: pa.Table) -> bool:
    """As text, for NaN is not itself."""
    return one.schema.equals(other.schema) and str(one.to_pylist()) == str(other.to_pylist())


def some_rows(rows: int, columns: int, dtype: str = "float16") -> np.ndarray:
    values = np.random.default_rng(rows).normal(size=(rows, columns))
    return np.maximum(values, 0).astype(dtype)


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_an_export_comes_back(built: Path, tmp_path: Path, kind: str) -> None:
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
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_a_cache_can_be_trained_on(tmp_path: Path) -> None:
    np.save(tmp_path / "cache.npy", some_rows(900, 24))
    store = take_in(tmp_path / "cache.npy", tmp_path / "store", holdout=0.1, seed=4)
    layer = store.layer("cache")
    assert (layer.rows, layer.train_rows, layer.grid, layer.branches) == (900, 810, (1, 1), {})
    assert store.activations("cache").dtype == np.float16
    out = tmp_path / "run"
    train(TrainConfig(layer="cache", **SHORT), store, out)
    assert (out / "summary.json").is_file()
    with pytest.raises(StoreError, match="--model and --size"):
        open_run(out)


SHORT: dict[str, Any] = {"latents": 32, "k": 4, "steps": 5, "batch_size": 64}


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    kind=st.sampled_from(["npy", "safetensors"]),
    dtype=st.sampled_from(["float16", "float32"]),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_row_comes_in_once(
    tmp_path_factory: pytest.TempPathFactory,
    widths: list[int], kind: str, dtype: str, seed: int,
) -> None:  # fmt: skip
    """`widths` are the rows of the files."""
    folder = tmp_path_factory.mktemp("files")
    values = some_rows(sum(widths), 5, dtype)
    parts = np.split(values, np.cumsum(widths)[:-1])
    for number, part in enumerate(parts, 8):  # part8 to part11: in order by value, not by text
        if kind == "npy":
            np.save(folder / f"part{number}.npy", part)
        else:
            save_file({"other": part[0], "activations": part}, folder / f"part{number}.safetensors")
    store = take_in(folder, folder / "out", format=kind, seed=seed, rows_per_image=3)
    places, found = by_place(store, "cache")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)
    numbers = np.arange(len(values))
    np.testing.assert_array_equal(places, np.stack([numbers // 3, 0 * numbers, numbers % 3], 1))


def test_an_index_gives_images_and_cells(tmp_path: Path) -> None:
    values = some_rows(60, 7, "float32")
    cells = np.random.default_rng(1).permutation(10 * 4 * 5)[:60]
    index = np.stack([cells // 20 * 2, cells % 20 // 5, cells % 5], axis=1)
    np.save(tmp_path / "rows.npy", values)
    np.save(tmp_path / "index.npy", index.astype(np.int64))
    store = take_in(tmp_path, tmp_path / "out", holdout=0.4, seed=1)
    places, found = by_place(store, "cache")
    order = np.lexsort(index.T[::-1])
    np.testing.assert_array_equal(places, index[order])
    np.testing.assert_array_equal(found, values[order])
    assert store.layer("cache").grid == (4, 5)
    splits = store.images.column("split").to_pylist()
    assert set(splits[1::2]) == {"unreadable"}
    assert "holdout" in splits[::2]
    image = int(places[0, 0])
    assert len(store.rows_of_image("cache", image)) == (index[:, 0] == image).sum()


def test_bfloat16_and_named_tensors(tmp_path: Path) -> None:
    values = torch.randn(50, 6).bfloat16()
    save_torch({"a": values, "b": values[:, :3].contiguous()}, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="a, b; name one with --tensor"):
        take_in(tmp_path / "x.safetensors", tmp_path / "no", format="safetensors")
    store = take_in(tmp_path / "x.safetensors", tmp_path / "out", format="safetensors", tensor="a")
    np.testing.assert_array_equal(by_place(store, "cache")[1], values.float().numpy())
    with pytest.raises(DataError, match="expected a tensor 'c'"):
        take_in(tmp_path, tmp_path / "no", format="safetensors", tensor="c")


def test_a_layer_of_a_known_network(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", some_rows(32, 508))
    np.save(tmp_path / "index.npy", np.stack(np.unravel_index(np.arange(32), (2, 4, 4)), axis=1))
    store = take_in(tmp_path, tmp_path / "out", layer="mixed4a", model="inceptionv1", size=64)
    layer = store.layer("mixed4a")
    assert (layer.stride, layer.grid) == (16, (4, 4))
    assert set(layer.branches) == {"1x1", "3x3", "5x5", "pool"}
    for wrong, message in (
        ({"layer": "mixed4b"}, "channels"),
        ({"layer": "mixed4z"}, "a layer of inceptionv1"),
        ({"layer": "mixed4a", "size": 32}, "cells"),
    ):
        options = {"model": "inceptionv1", "size": 64, **wrong}
        with pytest.raises(ConfigError, match=message):
            take_in(tmp_path, tmp_path / "no", **options)


def spoil(values: np.ndarray, number: float) -> np.ndarray:
    values = values.copy()
    values[7, 2] = number
    return values


ROWS = some_rows(10, 4, "float32")


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
    tmp_path: Path, files: dict[str, np.ndarray], options: dict[str, Any], message: str
) -> None:
    for name, values in files.items():
        np.save(tmp_path / f"{name}.npy", values)
    with pytest.raises((DataError, ConfigError, StoreError), match=message):
        take_in(tmp_path, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_broken_files_are_refused(tmp_path: Path) -> None:
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


def interrupt(config: ImportConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import until the disk is full behind two segments."""
    real, count = gather.write_segment, [0]

    def write(path: Path, segment: Any) -> None:
        count[0] += 1
        if count[0] > 2:
            raise OSError(28, "No space left on device")
        real(path, segment)

    with monkeypatch.context() as patch:
        patch.setattr(gather, "write_segment", write)
        with pytest.raises(OSError, match="No space"):
            import_arrays(config)


def test_an_interrupted_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isae.store.import_arrays.SEGMENT_BYTES", 3000)
    np.save(tmp_path / "x.npy", some_rows(300, 6))
    whole = take_in(tmp_path / "x.npy", tmp_path / "whole")
    config = ImportConfig(
        source=str(tmp_path / "x.npy"), format="npy", layer="cache", out=str(tmp_path / "out")
    )
    interrupt(config, monkeypatch)
    with pytest.raises(StoreIncompleteError):
        open_store(config.out)
    assert import_arrays(config, resume=True)["content_id"] == whole.content_id
    with pytest.raises(StoreError, match="found a store"):
        import_arrays(config)


@pytest.mark.parametrize("name", ["stride16_index.npy", "images.parquet", "meta.json"])
def test_an_interrupted_import_of_changed_files_is_another(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Segments of one split and one index are never joined with segments of another."""
    conversions.export(str(built), "npy", str(tmp_path / "x"), ["mixed4a"])
    monkeypatch.setattr("isae.store.import_arrays.SEGMENT_BYTES", 100_000)
    config = ImportConfig(str(tmp_path / "x"), "npy", "mixed4a", str(tmp_path / "out"))
    interrupt(config, monkeypatch)
    path = tmp_path / "x" / name
    if name.endswith(".npy"):
        np.save(path, np.load(path)[::-1])
    elif name.endswith(".parquet"):
        pq.write_table(other_split(pq.read_table(path)), path)
    else:
        path.write_text(path.read_text().replace('"stride": 16', '"stride": 32'))
    with pytest.raises(StoreError, match="found another files"):
        import_arrays(config, resume=True)


def other_split(table: pa.Table) -> pa.Table:
    """With training images held out and the others not."""
    other = {"train": "holdout", "holdout": "train", "unreadable": "unreadable"}
    split = [other[one] for one in table.column("split").to_pylist()]
    return table.set_column(table.column_names.index("split"), "split", pa.array(split))


def test_an_index_that_changes_after_it_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", some_rows(40, 3))
    numbers = np.arange(40)
    np.save(tmp_path / "index.npy", np.stack([numbers, 0 * numbers, 0 * numbers], 1))
    real = StoredIndex.scan

    def scan(index: StoredIndex, meter: Any) -> Any:
        found = real(index, meter)
        np.save(tmp_path / "index.npy", np.stack([numbers // 2, 0 * numbers, 0 * numbers], 1))
        return found

    monkeypatch.setattr(StoredIndex, "scan", scan)
    with pytest.raises(StoreError, match=r"index.npy to stay as it was"):
        import_arrays(ImportConfig(str(tmp_path), "npy", "cache", str(tmp_path / "out")))


def test_an_export_comes_back_whole_or_not_at_all(built: Path, tmp_path: Path) -> None:
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


def test_an_index_in_some_files_only(tmp_path: Path) -> None:
    index = np.stack(np.unravel_index(np.arange(10), (10, 1, 1)), axis=1).astype(np.int32)
    save_file({"activations": ROWS, "index": index}, tmp_path / "a.safetensors")
    save_file({"activations": ROWS}, tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=r"in every file or in none, found none in .*b\.safe"):
        take_in(tmp_path, tmp_path / "out", format="safetensors")


def test_a_header_that_does_not_fit_its_tensor(tmp_path: Path) -> None:
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


def test_no_image_held_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", ROWS[:1])
    config = ImportConfig(str(tmp_path / "a.npy"), "npy", "cache", str(tmp_path / "out"))
    import_arrays(config, reporter=Reporter())
    assert "no image is held out" in capsys.readouterr().err
    assert open_store(config.out).layer("cache").train_rows == 1


def test_numbers_in_names_are_numbers() -> None:
    names = ["part10.npy", "part9.npy", "a.npy", "part2b.npy", "part2.npy"]
    found = [path.name for path in in_order([Path(name) for name in names])]
    assert found == ["a.npy", "part2.npy", "part2b.npy", "part9.npy", "part10.npy"]
