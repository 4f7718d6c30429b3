"""The map of features: its measure against scikit-learn's, planted groups, images of two stores."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csr_array
from sklearn.manifold import trustworthiness
from sklearn.metrics.pairwise import cosine_distances

from isae.analysis.inputs import open_run
from isae.analysis.report.config import ReportConfig
from isae.analysis.report.feature_map import COMPONENTS, lay_out, principal_directions
from isae.analysis.report.map_quality import NEIGHBOURS, measure_map
from isae.analysis.report.profiles import common_images, read_profiles
from isae.errors import ConfigError
from isae.progress import QUIET
from isae.store import BuildConfig, build_store

LAYER = "mixed5b"


def profiles(features: int, images: int, seed: int) -> np.ndarray:
    """Sparse profiles of positive values, each active on some images."""
    rng = np.random.default_rng(seed)
    dense = rng.exponential(size=(features, images)) * (rng.uniform(size=(features, images)) < 0.4)
    dense[:, 0] += 0.01
    return dense.astype(np.float32)


def test_the_measure_is_that_of_scikit_learn() -> None:
    dense, rng = profiles(60, 12, 0), np.random.default_rng(1)
    unit = dense / np.linalg.norm(dense, axis=1, keepdims=True)
    place = np.stack([unit[:, 1] + 0.1 * rng.normal(size=60), unit[:, 2]], axis=1)
    found = measure_map(csr_array(unit), place, np.arange(60))
    assert found is not None
    expected = trustworthiness(dense, place, n_neighbors=NEIGHBOURS, metric="cosine")
    np.testing.assert_allclose(found.trustworthiness, expected, rtol=1e-6)
    by_profile, on_map = cosine_distances(dense), np.linalg.norm(place[:, None] - place, axis=2)
    for far in (by_profile, on_map):
        np.fill_diagonal(far, np.inf)
    near, drawn = (np.argsort(far, axis=1)[:, :NEIGHBOURS] for far in (by_profile, on_map))
    kept = [len(set(one) & set(two)) for one, two in zip(near, drawn, strict=True)]
    np.testing.assert_allclose(found.kept, np.mean(kept) / NEIGHBOURS)
    np.testing.assert_allclose(found.chance, NEIGHBOURS / 59)
    assert measure_map(csr_array(unit[:8]), place[:8], np.arange(8)) is None


def test_directions_are_the_leading_singular_vectors() -> None:
    dense = profiles(50, 9, 2)
    unit = dense / np.linalg.norm(dense, axis=1, keepdims=True)
    found = principal_directions(csr_array(unit), 4)
    left, length, _ = np.linalg.svd(unit.astype(np.float64), full_matrices=False)
    expected = left[:, :4] * length[:4]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-5)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-5)


def test_features_that_fire_on_the_same_images_lie_together_across_layers() -> None:
    rng = np.random.default_rng(3)
    layers = []
    for _ in range(2):  # feature i of both layers fires on the images of group i % 3
        dense = np.zeros((14, 30), np.float32)
        for i in range(12):
            dense[i, 10 * (i % 3) : 10 * (i % 3) + 10] = rng.uniform(1, 2, 10)
        dense[12, 0] = 1.0  # on one image alone; the last one on none
        layers.append(csr_array(dense))
    drawn = lay_out(layers, ReportConfig(map_neighbours=20))
    assert drawn.method == COMPONENTS
    x, y = drawn.x_N.reshape(2, 14), drawn.y_N.reshape(2, 14)
    assert (x[:, 12:] == 65535).all()
    assert (y[:, 12:] == 65535).all()
    assert (drawn.shown, drawn.left_out, drawn.images) == (24, 4, 30)
    group = np.tile(np.arange(12) % 3, 2)
    place = np.stack([x[:, :12].ravel(), y[:, :12].ravel()], axis=1)
    far = np.linalg.norm(place[:, None] - place, axis=2)
    same = group[:, None] == group
    assert far[same].max() < far[~same].min() / 4
    assert "left out" in drawn.how(ReportConfig())


def test_an_empty_map_is_no_mistake() -> None:
    drawn = lay_out([csr_array(np.zeros((3, 5), np.float32))], ReportConfig())
    assert (drawn.x_N.tolist(), drawn.shown, drawn.qualities) == ([65535] * 3, 0, {})


def test_images_of_two_stores_are_the_same_images(
    tmp_path: Path, random_run: Callable[..., Path]
) -> None:
    rng = np.random.default_rng(4)
    names = [f"{name}.png" for name in "bdfhjlnp"]
    for where, mine in (("one", names), ("two", [*"aceg", *names[3:], "z"])):
        (tmp_path / where / "photos").mkdir(parents=True)
        for name in mine:
            path = tmp_path / where / "photos" / (name if "." in name else f"{name}.png")
            if where == "two" and name in names:
                shutil.copy(tmp_path / "one" / "photos" / name, path)
            else:
                pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
        build_store(
            BuildConfig(
                images=str(tmp_path / where / "photos"), layers=(LAYER,), size=64, workers=0,
                out=str(tmp_path / where / "store"), positions="all", device="cpu", holdout=0.2,
            )
        )  # fmt: skip
    runs = [open_run(random_run(tmp_path / where, LAYER, 30, 4, 1)) for where in ("one", "two")]
    chosen = common_images([run.store for run in runs], 100, seed=0)
    shared = [
        [run.store.images["name"][int(i)].as_py() for i in images]
        for run, images in zip(runs, chosen, strict=True)
    ]
    assert shared[0] == shared[1]
    assert sorted(shared[0]) == names[3:]
    assert chosen[0].tolist() != chosen[1].tolist()
    fewer = common_images([run.store for run in runs], 3, seed=0)
    assert [len(one) for one in fewer] == [3, 3]
    assert set(fewer[0].tolist()) < set(chosen[0].tolist())
    # One SAE on both stores: the same pictures have the same codes.
    runs[1] = open_run(tmp_path / "one" / "run")
    runs[1] = type(runs[1])(**{**vars(runs[1]), "store": open_run(tmp_path / "two/run").store})
    one, two = (
        read_profiles(run, images[::-1].copy(), 64, "cpu", QUIET).profile_NI.toarray()
        for run, images in zip(runs, chosen, strict=True)
    )
    assert (one > 0).any(axis=0).all()
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="--map-images of at least 2, found 1"):
        ReportConfig(map_images=1)
    with pytest.raises(ConfigError, match="map_neighbours of at least 2"):
        ReportConfig(map_neighbours=1)
