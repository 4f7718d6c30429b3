"""The columns and details of a report against the tables, the store and the SAE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from isae.store import open_store
from isae.train import SAE

Data = Callable[[str], Any]
FIRST, SECOND, N = "mixed5a", "mixed5b", 100


NUMBERS = {
    "rate": ("branches/features", "firing_rate"), "mean": ("branches/features", "mean_activation"),
    **{f"{stem}_{branch}": ("branches/features", f"{stem}_{branch}")
       for stem in ("share_decoder", "q_both") for branch in ("1x1", "3x3", "5x5", "pool")},
    "arc_angle": None, "curve_direction": ("curves/features", "direction"),
    "curve_selectivity": ("curves/features", "selectivity"),
    "label_score": ("label/labels", "score"), "label_chance": ("label/labels", "chance"),
    "label_q": ("label/labels", "q"),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, of in NUMBERS.items() if of])
def test_numbers_are_the_tables(name: str, study: Path, columns_of: Data) -> None:
    table, column = NUMBERS[name] or ("", "")
    path = study / "trained/seed0" / FIRST / "analysis" / f"{table}.parquet"
    given = [np.nan if one is None else one for one in pq.read_table(path)[column].to_pylist()]
    alive = np.array(pq.read_table(path.parents[1] / "branches/features.parquet")["alive"])
    expected = np.array(given, np.float32)
    if name.startswith(("share", "q_both")):
        expected[~alive] = np.nan
    np.testing.assert_array_equal(columns_of(FIRST)[name], expected)
    assert np.isfinite(expected).sum() > 5


def test_categories_and_labels_are_the_tables(
    study: Path, data: Data, columns_of: Data, reported: ModuleType
) -> None:
    found = columns_of(FIRST)
    table = pq.read_table(study / f"trained/seed0/{FIRST}/analysis/branches/features.parquet")
    alive = table["alive"].to_pylist()
    assert found["state"] == ["alive" if one else "dead" for one in alive]
    assert found["state"].count("dead") >= reported.DEAD
    dominant = table["dominant_decoder"].to_pylist()
    assert found["branch"] == [b if on else "none" for b, on in zip(dominant, alive, strict=True)]
    assert found["lies_in"] == [one or "none" for one in table["assigned"].to_pylist()]
    assert found["label"] == [reported.EVIL if i % 2 else "" for i in range(N)]
    assert found["curve"] == ["yes" if i == 7 else "no" for i in range(N)]
    assert found["comes_back"] == [
        "no" if i == 4 else "yes" if i == 9 else "none" for i in range(N)
    ]
    excess = np.stack(
        [table[f"excess_decoder_{b}"].to_numpy() for b in ("1x1", "3x3", "5x5", "pool")]
    )
    expected = np.where(alive, excess.max(axis=0), np.nan).astype(np.float32)
    np.testing.assert_array_equal(found["concentration"], expected)
    ratio = np.full(N, np.nan)
    ratio[66] = 3.0 / 2.5  # the neuron's picture and one of a feature without activity do not count
    np.testing.assert_allclose(found["picture"], ratio, rtol=1e-6)
    shown = [one["name"] for one in data(f"columns/{FIRST}")["columns"] if one["shown"]]
    assert shown[:4] == ["label", "taxonomy", "label_score", "label_chance"]


def test_angles_are_those_of_the_harmonic_that_counts(study: Path, columns_of: Data) -> None:
    found = columns_of(FIRST)
    table = pq.read_table(study / f"trained/seed0/{FIRST}/analysis/tuning/features.parquet")
    rows = table.to_pylist()
    for family, first in (("arc", "direction"), ("line", "axis")):  # period 360, and 180
        for i, row in enumerate(rows):
            by = row[f"{family}_by"] if row[f"{family}_clear"] else None
            angle = {None: np.nan, first: row[f"{family}_vector"]}.get(by, row[f"{family}_axis"])
            np.testing.assert_allclose(found[f"{family}_angle"][i], angle, rtol=1e-6)
            one, two = row[f"{family}_selectivity_1"], row[f"{family}_selectivity_2"]
            expected = {None: max(one, two), first: one}.get(by, two)
            np.testing.assert_allclose(found[f"{family}_selectivity"][i], expected, rtol=1e-6)
            assert found[f"{family}_by"][i] == (by or "none")
    assert found["tuned_to"][1] == "arc;line"
    assert found["tuned_to"][4] == "none"


def test_matches_are_the_comparison_of_layers(study: Path, data: Data, columns_of: Data) -> None:
    rows = pq.read_table(study / "trained/seed0/layers/nearest.parquet").to_pylist()
    mine = [row for row in rows if row["layer"] == FIRST]
    found = columns_of(FIRST)
    listed = [one for block in (0, 1) for one in data(f"details/{FIRST}/{block}")]
    for i in range(N):
        there = [row for row in mine if row["feature"] == i and row["nearest"] is not None]
        assert [(m["feature"], m["measure"], m["layer"]) for m in listed[i]["matches"]] == [
            (row["nearest"], row["measure"], SECOND) for row in there
        ]
        np.testing.assert_allclose(
            [m["score"] for m in listed[i]["matches"]], [row["r"] for row in there], rtol=1e-5
        )
        q = [row["q"] for row in mine if row["feature"] == i]
        np.testing.assert_allclose(
            found[f"match_q_{SECOND}"][i], min(q) if q else np.nan, rtol=1e-6
        )
        passed = [row["r"] for row in there if row["q"] <= 0.05]
        np.testing.assert_allclose(
            found[f"match_{SECOND}"][i], max(passed) if passed else np.nan, rtol=1e-6
        )
    assert len(mine) > N // 2


def dense_codes(study: Path, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """(codes of every row [R, N], image of every row), by the definition."""
    store = open_store(study / "trained" / "store")
    sae = SAE.load(study / "trained/seed0" / layer / "sae" / layer)
    rows = store.layers[layer].rows
    x = torch.from_numpy(np.asarray(store.activations(layer)[0:rows], dtype=np.float32))
    value, index = sae.encode(x)
    codes = torch.zeros(rows, N).scatter_(1, index, value).numpy()
    return codes, np.asarray(store.positions(layer)[0:rows])[:, 0]


def test_histograms_and_images_are_those_of_every_place(
    study: Path, data: Data, columns_of: Data
) -> None:
    codes, image = dense_codes(study, FIRST)
    profile = np.stack([codes[image == i].max(axis=0) for i in range(30)])
    found = columns_of(FIRST)
    assert found["active_images"] == (profile > 0).sum(axis=0).tolist()
    pages = [one for block in (0, 1) for one in data(f"details/{FIRST}/{block}")]
    for i, page in enumerate(pages):
        density, positive = page["density"], codes[codes[:, i] > 0, i]
        assert sum(density["counts"]) == len(positive)
        assert density["places"] == len(codes)
        if len(positive):
            edges = np.array(density["edges"])
            np.testing.assert_allclose(np.log2(edges) * 2, np.round(np.log2(edges) * 2), atol=1e-4)
            assert density["counts"] == np.histogram(positive, edges)[0].tolist()
            assert density["counts"][0] * density["counts"][-1] > 0
            np.testing.assert_allclose(density["max"], positive.max(), rtol=1e-5)
        else:
            assert (density["rate"], density["mean"]) == (0.0, None)


def test_neighbours_are_the_nearest_decoder_rows(
    study: Path, data: Data, columns_of: Data, reported: ModuleType
) -> None:
    sae = SAE.load(study / "trained/seed0" / SECOND / "sae" / SECOND)
    rows = sae.W_dec_ND.detach().double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = rows @ rows.T
    np.fill_diagonal(cosine, -2)
    page = data(f"details/{SECOND}/1")[5]
    assert page["feature"] == 69
    best = np.argsort(-cosine[69])[: reported.CONFIG.neighbours]
    assert [one["feature"] for one in page["neighbours"]] == best.tolist()
    given = [one["cosine"] for one in page["neighbours"]]
    np.testing.assert_allclose(given, cosine[69, best], rtol=1e-5)
    np.testing.assert_allclose(
        columns_of(SECOND)["neighbour_cosine"], cosine.max(axis=1), rtol=1e-5
    )
