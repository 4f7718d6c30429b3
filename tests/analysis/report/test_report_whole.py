"""A whole report: a page, what is absent, the map, the same bytes again, a browser."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from isae.analysis.report.analyze import write_report
from isae.errors import RunError
from isae.inception import layer_table

Data = Callable[[str], Any]
FIRST, SECOND, N = "mixed5a", "mixed5b", 100


def test_a_page_shows_what_the_tables_have(written: Any, data: Data, reported: ModuleType) -> None:
    first, second = data(f"details/{FIRST}/0"), data(f"details/{FIRST}/1")
    assert (len(first), len(second)) == (64, 36)
    page, folder = second[2], written[0]
    assert page["feature"] == 66
    patches = page["patches"]
    assert (patches["sheet"], patches["row"]) == (f"sheets/{FIRST}/1.jpg", 2)
    assert (patches["tile"], patches["tiles"]) == (48, 14)
    assert [one["value"] for one in patches["entries"]] == [2.5, 0.333333]
    assert patches["entries"][0]["name"] == reported.EVIL
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
        ("class", reported.EVIL), ("best edge artefact", "edge"),
    ]  # fmt: skip
    assert first[0]["labels"] == []


def test_what_is_absent_is_null_and_named(
    study: Path, written: tuple[Path, dict[str, Any]], data: Data, columns_of: Data
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
    assert {"curve", "label", "tuned_to", "picture"}.isdisjoint(columns_of(SECOND))


def test_the_map_holds_every_feature_of_every_layer(
    study: Path,
    written: tuple[Path, dict[str, Any]],
    data: Data,
    columns_of: Data,
    reported: ModuleType,
) -> None:
    found, drawn = data("map"), written[1]["map"]
    x, y = (np.frombuffer(base64.b64decode(found[axis]), "<u2") for axis in "xy")
    assert found["layers"] == [FIRST, SECOND]
    active = [columns_of(layer)["active_images"] for layer in (FIRST, SECOND)]
    on = np.concatenate(active) >= reported.CONFIG.least_images
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
    study: Path, written: tuple[Path, dict[str, Any]], tmp_path: Path, reported: ModuleType
) -> None:
    write_report([study], tmp_path / "again", config=reported.CONFIG)
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
        write_report([study], written[0], config=reported.CONFIG)


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
