"""The data of a report against the tables they are of, and against the store and the SAE."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from playwright.sync_api import Page, expect

from isae.analysis.branches.analyze import analyze_branches
from isae.analysis.branches.config import BranchesConfig
from isae.analysis.layers.analyze import analyze_layers
from isae.analysis.layers.config import LayersConfig
from isae.analysis.report.analyze import write_report
from isae.analysis.report.config import ReportConfig
from isae.analysis.study.config import StudyConfig
from isae.analysis.study.layout import begin_study
from isae.errors import DataError, RunError
from isae.inception import layer_table
from isae.store import BuildConfig, build_store, open_store
from isae.train import SAE

N, K, DEAD = 100, 4, 3
FIRST, SECOND = "mixed5a", "mixed5b"
LIGHT = BranchesConfig(
    heldout_rows=0, pictures=0, reference_rows=0, samples=100, figures=False, device="cpu"
)
PAIRS = LayersConfig(
    least_images=3, shuffles=5, resamples=100, label_draws=100, virtual_images=0, device="cpu"
)
CONFIG = ReportConfig(title="</script>", sample=60, epochs=20, device="cpu")
EVIL = "n01</script>\u2028\"'/x.JPEG"
Read = Callable[[str], tuple[str, Any]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, random_run: Callable[..., Path]) -> Path:
    """A study of two layers with SAEs of random rows, branches and layers analysed."""
    folder = tmp_path_factory.mktemp("reported") / "study"
    begin_study(folder, StudyConfig("synthetic:30", layers=(SECOND, FIRST), seeds=1, untrained=1))
    trained = folder / "trained"
    build_store(
        BuildConfig(
            images="synthetic:30", layers=(FIRST, SECOND), out=str(trained / "store"), size=64,
            positions="all", workers=0, holdout=0.2, seed=2, device="cpu",
        )
    )  # fmt: skip
    (trained / "seed0").mkdir()
    runs = [trained / "seed0" / layer for layer in (FIRST, SECOND)]
    for run in runs:
        random_run(trained, run.name, N, K, DEAD).rename(run)
        analyze_branches(run, config=LIGHT)
    analyze_layers(runs, out=trained / "seed0" / "layers", config=PAIRS)
    return folder


@pytest.fixture(scope="module")
def written(
    study: Path, tmp_path_factory: pytest.TempPathFactory, make_up_analyses: Callable[..., None]
) -> tuple[Path, dict[str, Any]]:
    """(a report of it, its summary): the first layer has every analysis, most of them made up."""
    run = study / "trained" / "seed0" / FIRST
    make_up_analyses(run, study / "trained" / "stability" / FIRST, N, EVIL)
    out = tmp_path_factory.mktemp("report") / "out"
    return out, write_report([study], out, config=CONFIG)


@pytest.fixture(scope="module")
def data(written: tuple[Path, Any], read_script: Read) -> Callable[[str], Any]:
    """data(name): what the script of that name hands over."""

    def value(name: str) -> Any:
        said, found = read_script((written[0] / "data" / f"{name}.js").read_text())
        assert said == name
        return found

    return value


def column_values(column: dict[str, Any]) -> list[Any]:
    if column["kind"] == "text":
        return list(column["values"])
    if column["kind"] == "category":
        codes = np.frombuffer(base64.b64decode(column["codes"]), "<u2")
        return [column["names"][code] for code in codes]
    return np.frombuffer(base64.b64decode(column["values"]), "<f4").tolist()


def columns_of(data: Callable[[str], Any], layer: str) -> dict[str, list[Any]]:
    found = data(f"columns/{layer}")
    values = {one["name"]: column_values(one) for one in found["columns"]}
    assert len(values) == len(found["columns"])
    assert {len(one) for one in values.values()} == {found["features"]} == {N}
    return values


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
def test_numbers_are_the_tables(name: str, study: Path, data: Callable[[str], Any]) -> None:
    table, column = NUMBERS[name] or ("", "")
    path = study / "trained/seed0" / FIRST / "analysis" / f"{table}.parquet"
    given = [np.nan if one is None else one for one in pq.read_table(path)[column].to_pylist()]
    alive = np.array(pq.read_table(path.parents[1] / "branches/features.parquet")["alive"])
    expected = np.array(given, np.float32)
    if name.startswith(("share", "q_both")):
        expected[~alive] = np.nan
    np.testing.assert_array_equal(columns_of(data, FIRST)[name], expected)
    assert np.isfinite(expected).sum() > 5


def test_categories_and_labels_are_the_tables(study: Path, data: Callable[[str], Any]) -> None:
    found = columns_of(data, FIRST)
    table = pq.read_table(study / f"trained/seed0/{FIRST}/analysis/branches/features.parquet")
    alive = table["alive"].to_pylist()
    assert found["state"] == ["alive" if one else "dead" for one in alive]
    assert found["state"].count("dead") >= DEAD
    dominant = table["dominant_decoder"].to_pylist()
    assert found["branch"] == [b if on else "none" for b, on in zip(dominant, alive, strict=True)]
    assert found["lies_in"] == [one or "none" for one in table["assigned"].to_pylist()]
    assert found["label"] == [EVIL if i % 2 else "" for i in range(N)]
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


def test_angles_are_those_of_the_harmonic_that_counts(
    study: Path, data: Callable[[str], Any]
) -> None:
    found = columns_of(data, FIRST)
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


def test_matches_are_the_comparison_of_layers(study: Path, data: Callable[[str], Any]) -> None:
    rows = pq.read_table(study / "trained/seed0/layers/nearest.parquet").to_pylist()
    mine = [row for row in rows if row["layer"] == FIRST]
    found = columns_of(data, FIRST)
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
    study: Path, data: Callable[[str], Any]
) -> None:
    codes, image = dense_codes(study, FIRST)
    profile = np.stack([codes[image == i].max(axis=0) for i in range(30)])
    found = columns_of(data, FIRST)
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


def test_neighbours_are_the_nearest_decoder_rows(study: Path, data: Callable[[str], Any]) -> None:
    sae = SAE.load(study / "trained/seed0" / SECOND / "sae" / SECOND)
    rows = sae.W_dec_ND.detach().double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = rows @ rows.T
    np.fill_diagonal(cosine, -2)
    page = data(f"details/{SECOND}/1")[5]
    assert page["feature"] == 69
    best = np.argsort(-cosine[69])[: CONFIG.neighbours]
    assert [one["feature"] for one in page["neighbours"]] == best.tolist()
    given = [one["cosine"] for one in page["neighbours"]]
    np.testing.assert_allclose(given, cosine[69, best], rtol=1e-5)
    np.testing.assert_allclose(
        columns_of(data, SECOND)["neighbour_cosine"], cosine.max(axis=1), rtol=1e-5
    )


def test_a_page_shows_what_the_tables_have(written: Any, data: Callable[[str], Any]) -> None:
    first, second = data(f"details/{FIRST}/0"), data(f"details/{FIRST}/1")
    assert (len(first), len(second)) == (64, 36)
    page, folder = second[2], written[0]
    assert page["feature"] == 66
    patches = page["patches"]
    assert (patches["sheet"], patches["row"]) == (f"sheets/{FIRST}/1.jpg", 2)
    assert (patches["tile"], patches["tiles"]) == (48, 14)
    assert [one["value"] for one in patches["entries"]] == [2.5, 0.333333]
    assert patches["entries"][0]["name"] == EVIL
    assert base64.b64decode(patches["entries"][1]["heat"]["values"]) == b"\x01"
    assert patches["entries"][0]["border"] is True
    heat = patches["entries"][0]["heat"]
    assert (heat["rows"], heat["columns"], heat["values"]) == (1, 3, [0, 255, None])
    centre = [sum(layer_table("inceptionv1")[FIRST].window(cell, 64)) / 2 for cell in (0, 1, 2)]
    half = (centre[1] - centre[0]) / 2  # in a patch of 32 pixels that starts at (8, 0)
    ends = (centre[0] - half - 8, centre[0] - half, centre[2] + half - 8, centre[0] + half)
    np.testing.assert_allclose(heat["box"], np.array(ends) / 32, atol=1e-3)
    assert [(one["file"], one["kind"]) for one in page["pictures"]] == [
        (f"pictures/{FIRST}/0.png", "feature"), (f"pictures/{FIRST}/1.png", "diversity"),
    ]  # fmt: skip
    for one in (patches["sheet"], *(each["file"] for each in page["pictures"])):
        assert (folder / one).is_file()
    assert [one["name"] for one in first[5]["tuning"]] == [
        "arc, light disc", "arc, by radius at its best angle (straight: 2)", "line",
    ]  # fmt: skip
    assert (first[5]["tuning"][1]["x"], first[5]["tuning"][1]["y"]) == ([12.5], [1.0])
    assert first[5]["tuning"][2]["x"] == [0.0, 60.0, 120.0]
    assert first[5]["tuning"][2]["y"] == [0.5, 3.0, 0.3333]
    assert first[6]["tuning"] == []
    assert [(one["kind"], one["name"]) for one in first[3]["labels"]] == [
        ("class", EVIL), ("best edge artefact", "edge"),
    ]  # fmt: skip
    assert first[0]["labels"] == []


def test_what_is_absent_is_null_and_named(
    study: Path, written: tuple[Path, dict[str, Any]], data: Callable[[str], Any]
) -> None:
    page = data(f"details/{SECOND}/0")[0]
    for part in ("patches", "tuning", "labels", "pictures"):
        assert page[part] is None
    overview = data("overview")
    assert [one["name"] for one in overview["layers"]] == [FIRST, SECOND]
    assert overview["title"] == "</script>"
    assert overview["layers"][0]["has"] | {"branches": True} == overview["layers"][0]["has"]
    assert not overview["layers"][1]["has"]["tuning"]
    notes = written[1]["notes"]
    assert f"no tuning of {SECOND}: isae-analyze all {study} --only tuning" in notes
    assert f"no label of {SECOND}: isae-analyze all {study} --only label" in notes
    assert not any(note.startswith(("no branches", "no layers")) for note in notes)
    said = [f"{one['what']}: {one['how']}" for one in overview["missing"]]
    assert set(said) <= set(notes)
    assert f"no label of {SECOND}: isae-analyze all {study} --only label" in said
    assert {"curve", "label", "tuned_to", "picture"}.isdisjoint(columns_of(data, SECOND))


def test_the_map_holds_every_feature_of_every_layer(
    study: Path, written: tuple[Path, dict[str, Any]], data: Callable[[str], Any]
) -> None:
    found, drawn = data("map"), written[1]["map"]
    x, y = (np.frombuffer(base64.b64decode(found[axis]), "<u2") for axis in "xy")
    assert found["layers"] == [FIRST, SECOND]
    active = [columns_of(data, layer)["active_images"] for layer in (FIRST, SECOND)]
    on = np.concatenate(active) >= CONFIG.least_images
    np.testing.assert_array_equal(x != 65535, on)
    np.testing.assert_array_equal(y != 65535, on)
    assert max(np.ptp(x[on].astype(int)), np.ptp(y[on].astype(int))) == 65534
    assert (drawn["shown"], drawn["left_out"]) == (on.sum(), (~on).sum())
    quality = drawn["quality"]
    assert set(quality) == {"UMAP", "two components"}
    assert drawn["method"] == max(quality, key=lambda name: quality[name]["kept"])
    assert quality["UMAP"]["kept"] > 2 * quality["UMAP"]["chance"]
    assert "mean something" in found["how"]


def test_the_same_report_again_is_the_same_bytes_and_free_of_traces(
    study: Path, written: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    write_report([study], tmp_path / "again", config=CONFIG)
    ours, theirs = (
        {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "summary.json" and path.parent.name != "app"
        }
        for folder in (written[0], tmp_path / "again")
    )
    assert ours == theirs
    assert {"index.html", "data/overview.js", "data/map.js"} <= set(ours)
    with pytest.raises(RunError, match="replace it with --overwrite"):
        write_report([study], written[0], config=CONFIG)


def test_runs_of_different_stores_stand_side_by_side(
    study: Path, tmp_path: Path, random_run: Callable[..., Path], read_script: Read
) -> None:
    build_store(
        BuildConfig(
            images="synthetic:30", layers=(SECOND,), out=str(tmp_path / "store"), size=64,
            positions="3", workers=0, holdout=0.5, seed=2, device="cpu",
        )
    )  # fmt: skip
    other = random_run(tmp_path, SECOND, 40, K, 0)
    runs = [study / "trained/seed0" / SECOND, other]
    config = ReportConfig(epochs=1, sample=5, device="cpu", map_neighbours=99)
    summary = write_report(runs, tmp_path / "out", config=config)
    assert [one["name"] for one in summary["layers"]] == [SECOND, f"{SECOND}-2"]
    assert [one["features"] for one in summary["layers"]] == [N, 40]
    assert summary["layers"][1]["dead"] is None
    assert summary["map"]["images"] == 30
    assert len(summary["made_of"]["stores"]) == 2
    page = read_script((tmp_path / f"out/data/details/{SECOND}-2/0.js").read_text())[1][0]
    assert page["branches"] is None
    assert page["density"]["places"] == 90
    bare = write_report(runs, tmp_path / "bare", config=ReportConfig(draw_map=False, device="cpu"))
    assert bare["map"] is None
    assert bare["notes"][0] == "no map: it was left out (--no-map)"
    assert f"no label of {SECOND}, {SECOND}-2: isae-analyze label {runs[0]}" in bare["notes"]
    assert not (tmp_path / "bare/data/map.js").exists()


@pytest.fixture
def copied(study: Path, tmp_path: Path) -> Iterator[Path]:
    """A run that may be spoilt."""
    shutil.copytree(study / "trained/seed0" / FIRST, tmp_path / "run")
    yield tmp_path / "run"
    assert not (tmp_path / "out").exists()


def test_an_analysis_of_another_store_is_left_out_and_said(
    study: Path, tmp_path: Path, read_script: Read
) -> None:
    run = tmp_path / "run"
    shutil.copytree(study / "trained/seed0" / FIRST, run)
    path = run / "analysis/branches/summary.json"
    about = json.loads(path.read_text())
    about["store"]["content_id"] = "f" * 64
    path.write_text(json.dumps(about))
    config = ReportConfig(draw_map=False, device="cpu")
    summary = write_report([run], tmp_path / "out", config=config)
    assert any(f"{FIRST}: branches is of another store" in note for note in summary["notes"])
    assert not summary["layers"][0]["has"]["branches"]
    page = read_script((tmp_path / f"out/data/details/{FIRST}/0.js").read_text())[1][0]
    assert page["branches"] is None


def test_what_stands_in_the_way_is_said(copied: Path, tmp_path: Path) -> None:
    config, out = ReportConfig(draw_map=False, device="cpu"), tmp_path / "out"

    def report(*paths: Path) -> None:
        write_report(paths, out, config=config)

    with pytest.raises(RunError, match="expected the folder of a study or of finished runs"):
        report()
    with pytest.raises(RunError, match=r"every run once, found .* twice"):
        report(copied, copied)
    with pytest.raises(RunError, match="found nothing at"):
        report(tmp_path / "nowhere")
    table = copied / "analysis/branches/features.parquet"
    kept = pq.read_table(table)
    pq.write_table(kept.drop_columns(["dominant_decoder"]), table)
    with pytest.raises(DataError, match="expected the column 'dominant_decoder' in"):
        report(copied)
    pq.write_table(pa.concat_tables([kept, kept]), table)
    with pytest.raises(DataError, match=r"at most once each in .*branches/features"):
        report(copied)
    table.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="expected a Parquet table in"):
        report(copied)
    (copied / "analysis/branches/summary.json").write_text("{")
    with pytest.raises(DataError, match="expected JSON in"):
        report(copied)


def test_the_pages_show_what_was_written(
    written: tuple[Path, dict[str, Any]],
    visit: Callable[..., Page],
    go: Callable[[Page, str], None],
) -> None:
    """In a browser, without a complaint: the whole way from tables to pages, hostile texts too."""
    page = visit((written[0] / "index.html").as_uri())
    expect(page.get_by_role("heading", level=1)).to_have_text("</script>")
    go(page, "#/features?sort=-rate")
    expect(page.locator("#tally")).to_have_text(f"{2 * N} features")
    go(page, f"#/feature/{FIRST}/66")
    expect(page.locator("#part-patches figcaption")).to_have_count(2)
    expect(page.locator("#part-pictures img")).to_have_count(2)
    go(page, f"#/feature/{FIRST}/5")
    assert page.locator("#part-branches tbody tr").count() == 4
    assert page.locator("#part-tuning svg").count() >= 2
    assert page.locator("#part-labels tbody tr").count() > 0
    assert page.locator("[role=alert]").count() == 0
    go(page, f"#/feature/{SECOND}/0")
    expect(page.locator("#part-labels")).to_contain_text("Not in this report")
    go(page, "#/map")
    expect(page.locator(".tally")).to_contain_text(f"{2 * N} features")
    assert page.locator("[role=alert]").count() == 0
