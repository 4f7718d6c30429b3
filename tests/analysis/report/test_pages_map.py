"""The map of features in a browser: points are where they belong, and all can be reached."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from isae.analysis.style import branch_colour

Visit = Callable[..., Page]
Go = Callable[[Page, str], None]


def places(report: Any) -> np.ndarray:
    """Place of every feature, [features, (x, y)] in 0..1, y downwards; NaN: none."""
    drawn = report.columns["places"]
    places = np.stack([np.floor(drawn["x"]), np.floor(drawn["y"])], axis=1)
    places[report.all("dead")] = np.nan
    return np.stack([places[:, 0] / 65534, 1 - places[:, 1] / 65534], axis=1)


def name(report: Any, row: int) -> str:
    for layer, count in report.layers.items():
        if row < count:
            return f"{layer} {row}"
        row -= count
    raise AssertionError


def lonely(report: Any) -> int:
    """The feature farthest from its nearest neighbour: no other hides it."""
    place = np.nan_to_num(places(report), nan=-9)
    far = np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1))
    np.fill_diagonal(far, np.inf)
    nearest = far.min(axis=1)
    nearest[report.all("dead")] = 0
    return int(np.argmax(nearest))


def at_middle(report: Any, row: int, zoom: int) -> str:
    x, y = places(report)[row]
    return f"at={x:.6g},{y:.6g},{zoom}"


@pytest.fixture
def middle() -> Callable[[Page], tuple[float, float]]:
    """middle(page): the middle of its map, in pixels of the window."""

    def middle(page: Page) -> tuple[float, float]:
        box = page.locator("#map").bounding_box()
        assert box is not None
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    return middle


def test_a_point_lies_at_its_place_in_its_colour_and_opens_its_feature(
    report: Any, visit: Visit, middle: Callable[[Page], tuple[float, float]],
    wait_shown: Callable[[Page], None],
) -> None:  # fmt: skip
    row = lonely(report)
    page = visit(f"{report.page}#/map?{at_middle(report, row, 20)}")
    colour = page.evaluate(
        """() => {
            const map = document.getElementById('map'), context = map.getContext('2d');
            return [...context.getImageData(map.width / 2, map.height / 2, 1, 1).data];
        }"""
    )
    want = branch_colour(str(report.all("branch")[row]), 0)
    wanted = np.array([int(want[at : at + 2], 16) for at in (1, 3, 5)])
    assert np.abs(np.array(colour[:3]) - (wanted + 0.15 * (255 - wanted))).max() <= 3
    x, y = middle(page)
    page.mouse.move(x + 1, y + 1)
    tooltip = page.locator("#tooltip")
    expect(tooltip).to_contain_text(name(report, row))
    expect(tooltip).to_contain_text(f"largest branch: {report.all('branch')[row]}")
    page.mouse.move(x + 60, y + 60)
    expect(tooltip).to_be_hidden()
    page.mouse.click(x, y)
    wait_shown(page)
    expect(page.get_by_role("heading", level=1)).to_have_text(name(report, row))
    page.go_back()
    wait_shown(page)
    assert "20" in page.url


def test_the_middle_s_list_is_numpys_and_follows_the_filter(
    report: Any, visit: Visit, go: Go
) -> None:
    page = visit(f"{report.page}#/map")
    for query, chosen in (
        ("", ~report.all("dead")),
        ("is.branch=3x3", ~report.all("dead") & (report.all("branch") == "3x3")),
        ("layer=mixed5b", ~report.all("dead") & (np.arange(470) >= 340)),
    ):
        go(page, f"#/map?{query}")
        far = np.hypot(*(places(report) - 0.5).T)
        far[~chosen] = np.inf
        want = [name(report, row) for row in np.argsort(far, kind="stable")[:12]]
        shown = page.locator(".near a")
        expect(shown.first).to_have_text(want[0])
        assert shown.all_inner_texts() == want[: shown.count()]
        assert shown.count() >= 5
    expect(page.locator(".tally")).to_contain_text("130 of 470 features")
    expect(page.locator(".tally")).to_contain_text(
        f"{report.all('dead').sum()} have no place on the map"
    )


def test_the_keyboard_moves_zooms_and_opens(
    report: Any, visit: Visit, wait_shown: Callable[[Page], None]
) -> None:
    row = lonely(report)
    page = visit(f"{report.page}#/map?{at_middle(report, row, 8)}")
    page.locator("#map").focus()
    page.keyboard.press("+")
    page.wait_for_url("**/*12.8*")
    expect(page.locator("#status")).to_contain_text(name(report, row))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_shown(page)
    expect(page.get_by_role("heading", level=1)).to_have_text(name(report, row))
    page.go_back()
    wait_shown(page)
    page.locator("#map").focus()
    page.keyboard.press("0")
    page.wait_for_url(re.compile("#/map$"))


def test_names_of_the_legend_choose_and_colours_change(
    report: Any, visit: Visit, wait_shown: Callable[[Page], None]
) -> None:
    page = visit(f"{report.page}#/map")
    button = page.get_by_role("button", name=re.compile("^pool"))
    button.click()
    page.wait_for_url("**/*is.branch=pool")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(button).to_be_focused()
    chosen = (report.all("branch") == "pool").sum()
    expect(page.locator(".tally")).to_contain_text(f"{chosen} of 470 features")
    page.get_by_label("Colour", exact=True).select_option("rate")
    page.wait_for_url("**/*colour=rate*")
    expect(page.locator(".legend")).to_contain_text("logarithmically")
    page.get_by_role("link", name="As a table").click()
    wait_shown(page)
    expect(page.locator("#tally")).to_have_text(f"{chosen} of 470 features")


def test_a_missing_map_is_said(made_up: ModuleType, tmp_path: Path, visit: Visit) -> None:
    bare = made_up.build(tmp_path, {"mixed3a": 70}, blocks=1)
    (tmp_path / "data" / "map.js").unlink()
    page = visit(f"{bare.page}#/map", complains=("ERR_FILE_NOT_FOUND",))
    expect(page.get_by_role("alert")).to_contain_text("data/map.js is missing")
