"""Merging: the rows of all stores, each image once, a held-out image stays held out."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image

from isae.errors import ConfigError, StoreError, StoreIncompleteError
from isae.images import open_source
from isae.progress import QUIET, Reporter
from isae.store import BuildConfig, Store, build_store, open_store, verify_store
from isae.store.convert import export
from isae.store.import_arrays import import_arrays
from isae.store.import_config import ImportConfig
from isae.store.merge import MergeConfig, merge_stores
from isae.store.merged_rows import image_parts
from isae.store.repair import repair_store
from isae.store.same_images import find_copies
from isae.store.summary import describe, summarise

Array = npt.NDArray[Any]
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


def test_the_merge_of_halves_has_the_rows_of_the_whole(
    halves: dict[str, Path],
    merged: Store,
    by_place: Callable[[Store, str], tuple[np.ndarray, np.ndarray]],
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
    monkeypatch.setattr("isae.store.merged_rows.SEGMENT_BYTES", 100_000)
    config = MergeConfig((str(halves["a"]), str(halves["b"])), str(tmp_path / "out"), seed=5)
    assert merge_stores(config)["content_id"] == merged.content_id


def test_an_interrupted_merge_goes_on(
    halves: dict[str, Path], merged: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isae.store import gather

    monkeypatch.setattr("isae.store.merged_rows.SEGMENT_BYTES", 100_000)
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


def test_an_export_that_came_back_is_not_taken_for_a_merged_store(
    merged: Store, tmp_path: Path
) -> None:
    """Its rows are in another order, and may have been changed on the way."""
    out = str(tmp_path / "back")
    export(merged.path, "npy", str(tmp_path / "npy"), ("mixed4a",))
    options = {"source": str(tmp_path / "npy"), "format": "npy", "layer": "mixed4a", "out": out}
    import_arrays(ImportConfig(**options))
    (Path(out) / "stride16" / "mixed4a" / "c" / "0" / "0").unlink()
    with pytest.raises(StoreError, match="convert it again"):
        repair_store(out)
    assert all("config" in part for part in image_parts(merged))
    assert not any("config" in part for part in image_parts(open_store(out)))


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


def photos(folder: Path, names: list[str], seed: int, size: tuple[int, int] = (60, 50)) -> Path:
    """A folder of different photos of one size."""
    generator = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size).save(folder / name)
    return folder


@pytest.fixture
def merge_of(tmp_path: Path) -> Callable[..., tuple[Store, str]]:
    """Build a store of each folder, merge them; the new one, and what was said."""

    def merge(*folders: Path, keep_copies: bool = False, **changes: object) -> tuple[Store, str]:
        options = {"layers": ("mixed4a", "mixed3b"), **changes}
        paths = []
        for number, folder in enumerate(folders):
            out = tmp_path / "stores" / f"{number}-{len(options)}-{options.get('positions')}"
            if not out.exists():
                build(folder, out, seed=number, **options)
            paths.append(str(out))
        said = io.StringIO()
        config = MergeConfig(tuple(paths), str(tmp_path / "out"), keep_copies=keep_copies)
        merge_stores(config, overwrite=True, reporter=Reporter(stream=said))
        return open_store(config.out), said.getvalue()

    return merge


def test_a_folder_inside_another_one_is_found_by_its_paths(
    halves: dict[str, Path], tmp_path: Path
) -> None:
    config = MergeConfig((str(halves["a"]), str(halves["whole"])), str(tmp_path / "x"))
    with pytest.raises(
        ConfigError, match=r"found 5 images twice, such as 0.png of .*a.store and a"
    ):
        merge_stores(config)


def test_a_copy_is_found_by_its_rows_whatever_its_name(
    tmp_path: Path, merge_of: Callable[..., tuple[Store, str]]
) -> None:
    first = photos(tmp_path / "first", ["a/1.png", "a/2.png", "b/1.png", "b/2.png"], 0)
    second = photos(tmp_path / "second", ["a/1.png", "b/1.png", "c/5.png"], 1)
    for number, name in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/2.png")):
        shutil.copy(first / name, second / "c" / f"copy-{number}.png")
    with pytest.raises(ConfigError, match=r"4 images twice, such as a/1.png of .*-0.png.*--keep"):
        merge_of(first, second, holdout=0.5)
    store, said = merge_of(first, second, holdout=0.5, keep_copies=True)
    assert "4 images are there twice" in said
    assert verify_store(store.path) == []
    sides = store.images.column("split").to_pylist()
    old = [side for one in store.manifest["made"]["of"] for side in splits(one)]
    copies = {image: image + 7 for image in range(4)}
    assert any(old[one] != old[other] for one, other in copies.items())
    for one, other in copies.items():
        held_out = "holdout" in (old[one], old[other])
        assert sides[one] == sides[other] == ("holdout" if held_out else "train")
    assert sides[4:7] == old[4:7]
    moved = [n for n, (was, now) in enumerate(zip(old, sides, strict=True)) if was != now]
    assert store.manifest["images"]["moved_to_holdout"] == moved
    assert store.manifest["images"]["copies"] == [[one, other] for one, other in copies.items()]
    check_new_split(store, copies, tmp_path)
    assert store.manifest["images"]["held_out"] == sides.count("holdout")
    told = describe(summarise(store.path, store.manifest))
    assert f"{sides.count('holdout')} held out, {len(moved)} of them copies" in told


def check_new_split(store: Store, copies: dict[int, int], folder: Path) -> None:
    """An export that is split anew keeps the copies of a photo on one side."""
    export(store.path, "npy", str(folder / "npy"), ("mixed4a",))
    for seed in range(4):
        out = str(folder / f"back-{seed}")
        options = {"source": str(folder / "npy"), "format": "npy", "layer": "mixed4a", "out": out}
        import_arrays(ImportConfig(**options, holdout=0.5, seed=seed))
        sides = splits(out)
        assert all(sides[one] == sides[other] for one, other in copies.items())
        assert "moved_to_holdout" not in open_store(out).manifest["images"]
    meta = folder / "npy" / "meta.json"
    about = json.loads(meta.read_text())
    del about["images"]["copies"]
    meta.write_text(json.dumps(about))
    said = io.StringIO()
    options["out"] = str(folder / "older")
    import_arrays(ImportConfig(**options, holdout=0.5), reporter=Reporter(stream=said))
    assert "does not say which of its images are copies" in said.getvalue()


def splits(store: str) -> list[str]:
    found: list[str] = open_store(store).images.column("split").to_pylist()
    return found


def test_a_copy_is_found_where_places_were_drawn_and_numbers_rounded(
    tmp_path: Path,
    merge_of: Callable[..., tuple[Store, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast = iter([False, True, False, False])
    monkeypatch.setattr("isae.inception.loading.has_fast_bf16", lambda device: next(fast))
    names = [f"{number}.png" for number in range(4)]
    first = photos(tmp_path / "first", names, 0)
    second = photos(tmp_path / "second", ["0.png", "00.png", *names[1:]], 1)
    shutil.copy(first / "3.png", second / "3.png")
    with pytest.raises(ConfigError, match=r"1 images twice, such as 3.png of .* and 3.png of"):
        merge_of(first, second, positions="9")
    _, said = merge_of(first, second, positions="1")
    assert "the stores' networks ran" not in said
    assert "4 images have the name and size of one in another store, but no place" in said


class SomeStore:
    """What is looked at of a store: rows of one layer at some places of a 7 x 7 grid."""

    def __init__(self, root: str, places: list[list[int]], rows: Array, **more: Any) -> None:
        count = len(places)
        names = more.get("names", ["1.png"] * count)
        columns = {"name": names, "split": ["train"] * count}
        sizes = {"width": [100] * count, "height": [90] * count}
        self.images = pa.table({key: pa.chunked_array([v]) for key, v in (columns | sizes).items()})
        of_row = [(image, cell) for image, cells in enumerate(places) for cell in cells]
        self.place_R3 = np.array([(i, c // 7, c % 7) for i, c in of_row], dtype=np.int32)
        self.rows_RC = np.stack([rows[cell] for _, cell in of_row])
        self.layers = {"mixed4a": SimpleNamespace(stride=16, grid=(7, 7), channels=rows.shape[1])}
        part = {"kind": "folder", "seed": 0, "count": count, "spec": root}
        self.manifest = {
            "positions": "random:4",
            "model": {"compute_dtype": "float32"},
            "images": {"parts": [part], "copies": more.get("copies", [])},
            "identity": {"merged": []},
        }

    def layer(self, name: str) -> Any:
        return self.layers[name]

    def positions(self, name: str) -> Array:
        return self.place_R3

    def activations(self, name: str) -> Array:
        return self.rows_RC


PHOTO = np.random.default_rng(0).random((49, 32)).astype(np.float16)


def found(*stores: SomeStore) -> tuple[list[list[int]], int]:
    copies = find_copies(cast(list[Store], stores), QUIET)
    return copies.groups, copies.untold


def test_copies_are_compared_pair_by_pair() -> None:
    """The first and second share a cell, the second and third another."""
    second = SomeStore("/b", [[24, 40, 41, 42]], PHOTO)
    first = SomeStore("/a", [[24, 1, 2, 3]], PHOTO)
    assert found(first, second, SomeStore("/c", [[40, 10, 11, 12]], PHOTO)) == ([[0, 1, 2]], 0)
    assert found(first, second, SomeStore("/c", [[14, 10, 11, 12]], PHOTO)) == ([[0, 1]], 1)
    others = PHOTO[:, ::-1]
    assert found(first, SomeStore("/b", [[24, 40, 41, 42]], others)) == ([], 0)


def test_every_copy_that_an_earlier_merge_kept_is_found() -> None:
    twice = [[24, 1, 2, 3], [24, 25, 5, 6]]
    for cells in ([24, 25, 8, 9], [25, 8, 9, 10]):
        kept = SomeStore("/kept", twice, PHOTO, copies=[[0, 1]])
        assert found(kept, SomeStore("/more", [cells], PHOTO)) == ([[0, 1, 2]], 0)
    # Copies that are all in one store are known, and nothing new.
    copies = find_copies(cast(list[Store], [kept, SomeStore("/x", [[3]], PHOTO[::-1])]), QUIET)
    assert (copies.groups, copies.known) == ([], [[0, 1]])


def test_places_where_nothing_is_active_tell_nothing() -> None:
    dark = PHOTO.copy()
    dark[24] = 0
    first = SomeStore("/a", [[24, 25, 2, 3]], dark)
    assert found(first, SomeStore("/b", [[24, 25, 8, 9]], dark)) == ([[0, 1]], 0)
    assert found(first, SomeStore("/b", [[24, 8, 9, 10]], dark)) == ([], 1)


def test_one_path_on_two_machines_may_be_two_photos() -> None:
    """The rows decide; where no place is common, the path does."""
    first, others = SomeStore("/data", [[24, 1, 2, 3]], PHOTO), PHOTO[:, ::-1]
    assert found(first, SomeStore("/data", [[24, 8, 9, 10]], others)) == ([], 0)
    assert found(first, SomeStore("/data", [[24, 8, 9, 10]], PHOTO)) == ([[0, 1]], 0)
    assert found(first, SomeStore("/data", [[8, 9, 10, 11]], others)) == ([[0, 1]], 0)


def test_one_file_is_found_through_links(tmp_path: Path) -> None:
    """Linked folders, linked files; and a copy in a folder of another name, by its rows."""
    cats, every = tmp_path / "cats", tmp_path / "all"
    cats.mkdir()
    every.mkdir()
    (cats / "1.png").write_bytes(b"")
    (every / "c").symlink_to(cats)
    (every / "other.png").symlink_to(cats / "1.png")
    first = SomeStore(str(cats), [[24]], PHOTO)
    for name in ("c/1.png", "other.png"):
        assert found(first, SomeStore(str(every), [[8]], PHOTO, names=[name])) == ([[0, 1]], 0)
    (every / "d").mkdir()
    second = SomeStore(str(every), [[24, 8]], PHOTO, names=["d/1.png"])
    assert found(first, second) == ([[0, 1]], 0)
    # A name that many images have is looked at with its folder.
    many = [f"{number}/1.png" for number in range(5)]
    third = SomeStore("/x", [[24]] * 5, PHOTO, names=many)
    fourth = SomeStore("/y", [[24]] * 2, PHOTO, names=["1.png", "3/1.png"])
    assert found(third, fourth) == ([[3, 6]], 0)


def test_the_same_synthetic_pictures_are_found(tmp_path: Path) -> None:
    stores = [
        str(build(f"synthetic:{count}", tmp_path / f"{count}", seed=1, layers=("mixed4a",)))
        for count in (3, 5)
    ]
    with pytest.raises(ConfigError, match="found 3 images twice"):
        merge_stores(MergeConfig(tuple(stores), str(tmp_path / "x")))


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
    left = copied / "work" / "repair" / "layers" / "segment-000000.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of a repair that was killed")
    made = merge_stores(MergeConfig(paths, str(copied)), overwrite=True)
    assert open_store(copied).content_id == made["content_id"]
    assert not (copied / "work").exists()
    assert json.loads((copied / "manifest.json").read_text())["images"]["title"]
