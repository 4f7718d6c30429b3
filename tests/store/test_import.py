"""Caches made elsewhere become whole stores, also after an import that was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from isae.analysis.inputs import open_run
from isae.errors import ConfigError, DataError, StoreError, StoreIncompleteError
from isae.progress import Reporter
from isae.store import Store, gather, open_store
from isae.store import convert as conversions
from isae.store.import_arrays import import_arrays
from isae.store.import_config import ImportConfig
from isae.store.import_index import StoredIndex
from isae.store.row_files import in_order
from isae.train import TrainConfig, train

TakeIn = Callable[..., Store]
ByPlace = Callable[[Store, str], tuple[np.ndarray, np.ndarray]]

SHORT: dict[str, Any] = {"latents": 32, "k": 4, "steps": 5, "batch_size": 64}


def some_rows(rows: int, columns: int, dtype: str = "float16") -> np.ndarray:
    values = np.random.default_rng(rows).normal(size=(rows, columns))
    return np.maximum(values, 0).astype(dtype)


def test_a_cache_can_be_trained_on(tmp_path: Path, take_in: TakeIn) -> None:
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
    take_in: TakeIn, by_place: ByPlace,
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


def test_an_index_gives_images_and_cells(
    tmp_path: Path, take_in: TakeIn, by_place: ByPlace
) -> None:
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


def test_bfloat16_and_named_tensors(tmp_path: Path, take_in: TakeIn, by_place: ByPlace) -> None:
    values = torch.randn(50, 6).bfloat16()
    save_torch({"a": values, "b": values[:, :3].contiguous()}, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="a, b; name one with --tensor"):
        take_in(tmp_path / "x.safetensors", tmp_path / "no", format="safetensors")
    store = take_in(tmp_path / "x.safetensors", tmp_path / "out", format="safetensors", tensor="a")
    np.testing.assert_array_equal(by_place(store, "cache")[1], values.float().numpy())
    with pytest.raises(DataError, match="expected a tensor 'c'"):
        take_in(tmp_path, tmp_path / "no", format="safetensors", tensor="c")


def test_a_layer_of_a_known_network(tmp_path: Path, take_in: TakeIn) -> None:
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


def test_no_image_held_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", some_rows(10, 4, "float32")[:1])
    config = ImportConfig(str(tmp_path / "a.npy"), "npy", "cache", str(tmp_path / "out"))
    import_arrays(config, reporter=Reporter())
    assert "no image is held out" in capsys.readouterr().err
    assert open_store(config.out).layer("cache").train_rows == 1


def test_numbers_in_names_are_numbers() -> None:
    names = ["part10.npy", "part9.npy", "a.npy", "part2b.npy", "part2.npy"]
    found = [path.name for path in in_order([Path(name) for name in names])]
    assert found == ["a.npy", "part2.npy", "part2b.npy", "part9.npy", "part10.npy"]


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


def test_an_interrupted_import_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, take_in: TakeIn
) -> None:
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
