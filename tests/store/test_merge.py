"""Merging: the rows of all stores, each image once, a held-out image stays held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isae.errors import ConfigError, StoreError, StoreIncompleteError
from isae.images import open_source
from isae.store import BuildConfig, Store, build_store, open_store, verify_store
from isae.store.merge import MergeConfig, merge_stores

SMALL = {
    "layers": ("mixed3b", "mixed4a", "mixed4b"),
    "size": 56,
    "holdout": 0.3,
    "batch_size": 8,
    "workers": 0,
}


def build(images: object, out: Path, **changes: object) -> Path:
    build_store(BuildConfig(images=str(images), out=str(out), **{**SMALL, **changes}))
    return out


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores of the folders a and b, and of the folder that holds both."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("merge")
    photos, generator = folder / "photos", np.random.default_rng(0)
    for number in range(9):
        target = photos / ("a" if number < 5 else "b")
        target.mkdir(parents=True, exist_ok=True)
        height, width = generator.integers(40, 90, 2).tolist()
        coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(target / f"{number}.png")
    (photos / "b" / "8.png").write_bytes(b"no picture")
    return {
        "photos": photos,
        "a": build(photos / "a", folder / "a.store", seed=1),
        "b": build(photos / "b", folder / "b.store", seed=2),
        "whole": build(photos, folder / "whole.store", seed=3),
    }


@pytest.fixture(scope="module")
def merged(halves: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("merged") / "store"
    merge_stores(MergeConfig((str(halves["a"]), str(halves["b"])), str(out), seed=5))
    return open_store(out)


def by_place(store: Store, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Places in order, and the rows there."""
    places = store.positions(layer)[:]
    order = np.lexsort(places.T[::-1])
    return places[order], store.activations(layer)[:][order]


def test_the_merge_of_halves_has_the_rows_of_the_whole(
    halves: dict[str, Path], merged: Store
) -> None:
    whole = open_store(halves["whole"])
    for layer in whole.layers:
        for mine, expected in zip(by_place(merged, layer), by_place(whole, layer), strict=True):
            np.testing.assert_array_equal(mine, expected)
        assert vars(merged.layer(layer)) == vars(whole.layer(layer)) | {
            "rows": merged.layer(layer).rows,
            "train_rows": merged.layer(layer).train_rows,
        }


def test_the_new_store_is_whole(merged: Store) -> None:
    assert verify_store(merged.path) == []
    assert merged.manifest["images"]["unreadable"]["count"] == 1
    assert "work" not in {path.name for path in Path(merged.path).iterdir()}


def test_images_keep_names_sizes_and_split(halves: dict[str, Path], merged: Store) -> None:
    expected = [
        {**row, "image": number}
        for number, row in enumerate(
            row for half in "ab" for row in open_store(halves[half]).images.to_pylist()
        )
    ]
    assert merged.images.to_pylist() == expected
    assert {row["split"] for row in expected} == {"train", "holdout", "unreadable"}
    held_out = [row["image"] for row in expected if row["split"] == "holdout"]
    for name, layer in merged.layers.items():
        places = merged.positions(name)[:]
        assert np.isin(places[:, 0], held_out).tolist() == [
            row >= layer.train_rows for row in range(layer.rows)
        ]


def test_rows_of_both_stores_are_mixed(merged: Store) -> None:
    layer = merged.layer("mixed3b")
    first = merged.positions("mixed3b")[: layer.train_rows, 0] < 5
    halves = first[: layer.train_rows // 2].mean(), first[layer.train_rows // 2 :].mean()
    # 196 draws without replacement a half: the difference has a deviation of about 0.05.
    assert abs(halves[0] - halves[1]) < 0.25
    assert not np.array_equal(first, np.sort(first)[::-1])


def test_its_images_open_again(halves: dict[str, Path], merged: Store) -> None:
    images = merged.manifest["images"]
    source = open_source(images["spec"], seed=int(merged.manifest["seed"]))
    assert source.fingerprint() == images["fingerprint"]
    names = merged.images.column("name").to_pylist()
    assert [source.row(number)["name"] for number in range(len(source))] == names
    whole = open_source(str(halves["photos"]))
    np.testing.assert_array_equal(source.load(6), whole.load(6))


def test_the_seed_alone_decides_the_order(
    halves: dict[str, Path], merged: Store, tmp_path: Path
) -> None:
    paths = (str(halves["a"]), str(halves["b"]))
    same = merge_stores(MergeConfig(paths, str(tmp_path / "same"), seed=5))
    other = merge_stores(MergeConfig(paths, str(tmp_path / "other"), seed=6))
    assert same["content_id"] == merged.content_id != other["content_id"]


def test_segments_do_not_show_in_the_contents(
    halves: dict[str, Path], merged: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isae.store.merge.SEGMENT_BYTES", 100_000)
    config = MergeConfig((str(halves["a"]), str(halves["b"])), str(tmp_path / "out"), seed=5)
    assert merge_stores(config)["content_id"] == merged.content_id


def test_an_interrupted_merge_goes_on(
    halves: dict[str, Path], merged: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isae.store import gather

    monkeypatch.setattr("isae.store.merge.SEGMENT_BYTES", 100_000)
    config = MergeConfig((str(halves["a"]), str(halves["b"])), str(tmp_path / "out"), seed=5)
    written: list[Path] = []

    def write(path: Path, segment: object) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        real(path, segment)

    real = gather.write_segment
    with monkeypatch.context() as patch:
        patch.setattr(gather, "write_segment", write)
        with pytest.raises(KeyboardInterrupt):
            merge_stores(config)
    with pytest.raises(StoreIncompleteError):
        open_store(config.out)
    stamps = {path: path.stat().st_mtime_ns for path in written}
    read: list[Path] = []
    monkeypatch.setattr(
        gather, "write_segment", lambda path, segment: (read.append(path), real(path, segment))
    )
    assert merge_stores(config, resume=True)["content_id"] == merged.content_id
    assert not set(read) & set(stamps)


def test_a_merged_store_can_be_merged(merged: Store, tmp_path: Path) -> None:
    more = build("synthetic:4", tmp_path / "more")
    out = merge_stores(MergeConfig((merged.path, str(more)), str(tmp_path / "out"), codec="fast"))
    store = open_store(tmp_path / "out")
    assert verify_store(store.path) == []
    assert store.images.num_rows == 13
    assert store.images.column("kind").to_pylist()[:9] == [None] * 9
    assert None not in store.images.column("kind").to_pylist()[9:]
    assert [part["count"] for part in out["images"]["parts"]] == [5, 4, 4]
    assert open_source(out["images"]["spec"]).fingerprint() == out["images"]["fingerprint"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ("mixed4a",)}, "layers"),
        ({"size": 64}, "input size"),
        ({"positions": "2"}, "positions"),
        ({"dtype": "float32"}, "dtype"),
        ({"weights": "random:1"}, "weights"),
        ({"dtype": "int8"}, "twice"),
    ],
)
def test_stores_that_differ_are_refused(
    halves: dict[str, Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    other = build("synthetic:2", tmp_path / "other", **changes)
    with pytest.raises(ConfigError, match=message):
        merge_stores(MergeConfig((str(halves["a"]), str(other)), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_an_image_twice_is_refused(halves: dict[str, Path], tmp_path: Path) -> None:
    for pair in (("a", "a"), ("b", "b")):
        with pytest.raises(ConfigError, match="each image once"):
            merge_stores(MergeConfig(tuple(str(halves[one]) for one in pair), str(tmp_path / "x")))
    samples = [
        build(halves["photos"], tmp_path / f"{seed}", limit=5, seed=seed, layers=("mixed4a",))
        for seed in (1, 2)
    ]
    with pytest.raises(ConfigError, match="twice, such as a/"):
        merge_stores(MergeConfig(tuple(map(str, samples)), str(tmp_path / "x")))


def test_the_stores_are_never_written_over(halves: dict[str, Path], tmp_path: Path) -> None:
    before = open_store(halves["a"]).content_id
    paths = (str(halves["a"]), str(halves["b"]))
    for out in (halves["a"], halves["a"] / "inside", halves["a"].parent):
        with pytest.raises(StoreError, match="apart from what is read"):
            merge_stores(MergeConfig(paths, str(out)), overwrite=True)
    assert open_store(halves["a"]).content_id == before
    with pytest.raises(ConfigError, match="at least two"):
        MergeConfig(paths[:1], str(tmp_path / "x"))


def test_a_place_that_is_taken(
    halves: dict[str, Path], copied: Path, small_config: Callable[..., BuildConfig]
) -> None:
    paths = (str(halves["a"]), str(halves["b"]))
    with pytest.raises(StoreError, match="found a store"):
        merge_stores(MergeConfig(paths, str(copied)))
    made = merge_stores(MergeConfig(paths, str(copied)), overwrite=True)
    assert open_store(copied).content_id == made["content_id"]
    assert json.loads((copied / "manifest.json").read_text())["images"]["title"]
