"""The pages of a report in a browser, opened from disk: views, a feature, search."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

Visit = Callable[..., Page]
Go = Callable[[Page, str], None]
VIEWS = {
    "#/overview": "Made-up features",
    "#/map?colour=rate": "Map of features",
    "#/features?sort=-rate": "Table of features",
    "#/feature/mixed4c/5": "mixed4c 5",
}
CONTROLS = ("button", "link", "textbox", "searchbox", "combobox", "checkbox", "grid", "application")


def details(report: Any, layer: str, feature: int) -> dict[str, Any]:
    """What the report's file says of a feature, by Python's own JSON."""
    path = report.folder / "data" / "details" / layer / f"{feature // 64}.js"
    page: dict[str, Any] = json.loads(f"[{path.read_text()[len('isae.take(') : -3]}]")[1][
        feature % 64
    ]
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_views_open_from_disk_and_fit_a_narrow_screen(
    report: Any, visit: Visit, go: Go, scheme: str
) -> None:
    """Nor does any complain or ask for anything beyond the folder: `visit` sees to that."""
    page = visit(report.page, color_scheme=scheme, viewport={"width": 320, "height": 640})
    for address, title in VIEWS.items():
        go(page, address)
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_have_text(title)
        assert page.get_by_role("main").count() == 1
        assert "Made-up features" in page.title()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 320, f"{address} is {width} pixels wide"
        view = address.split("/")[1].split("?")[0]
        current = page.locator("nav [aria-current=page]")
        assert current.count() == (view != "feature")


def test_every_control_has_a_name_and_contrast_is_enough(report: Any, visit: Visit, go: Go) -> None:
    page = visit(report.page)
    session = page.context.new_cdp_session(page)
    for address in VIEWS:
        go(page, address)
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        page.get_by_label("Search a feature").focus()
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        seen = [
            (node["role"]["value"].lower(), node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"] and node["role"]["value"].lower() in CONTROLS
        ]
        assert len(seen) > 5
        assert [role for role, name in seen if not name.strip()] == []


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2.2)."""
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_texts_stand_out_from_their_ground(made_up: ModuleType) -> None:
    """Contrast of at least 4.5 (WCAG AA), light and dark, of every text colour used on a ground."""
    style = (made_up.STATIC / "style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    for block in (light, dark):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))
        pairs = [(text, ground) for text in ("ink", "soft", "accent", "trouble")
                 for ground in ("paper", "panel", "shade")]  # fmt: skip
        pairs += [("accent", "accent-shade"), ("ink", "accent-shade"), ("soft", "accent-shade"),
                  ("warn", "warn-shade"), ("good", "good-shade"), ("paper", "ink")]  # fmt: skip
        for text, ground in pairs:
            low, high = sorted((luminance(colours[text]), luminance(colours[ground])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{text} on {ground}"


def test_focus_follows_the_view_and_back_goes_back(
    report: Any, visit: Visit, wait_shown: Callable[[Page], None]
) -> None:
    page = visit(f"{report.page}#/overview")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.get_by_role("link", name="Those in 5x5").click()
    wait_shown(page)
    expect(page.get_by_role("heading", name="Table of features")).to_be_focused()
    share = (report.all("branch") == "5x5").sum()
    expect(page.locator("#tally")).to_have_text(f"{share} of 470 features")
    page.get_by_role("link", name="On the map").click()
    wait_shown(page)
    assert page.url.endswith("#/map?is.branch=5x5")
    expect(page.get_by_role("heading", name="Map of features")).to_be_focused()
    page.go_back()
    page.go_back()
    wait_shown(page)
    expect(page.get_by_role("heading", name="Findings")).to_be_visible()


def pixels(place: Locator) -> np.ndarray:
    shot = Image.open(io.BytesIO(place.screenshot())).convert("RGB")
    return np.asarray(shot.resize((48, 48), Image.Resampling.BOX), dtype=float)


def test_patches_are_the_right_tiles_with_the_feature_s_own_values_over_them(
    report: Any, visit: Visit, go: Go
) -> None:
    feature = 70
    page = visit(f"{report.page}#/feature/mixed4c/{feature}?heat=off")
    known = details(report, "mixed4c", feature)["patches"]
    sheet = Image.open(report.folder / known["sheet"]).convert("RGB")
    tiles = page.locator("canvas.patch")
    expect(tiles).to_have_count(len(known["entries"]))
    expect(page.locator("canvas[data-drawn=plain].patch")).to_have_count(len(known["entries"]))
    plain = []
    for at in (0, 7, 13):
        left, top = known["entries"][at]["tile"] * 48, known["row"] * 48
        want = np.asarray(sheet.crop((left, top, left + 48, top + 48)), dtype=float)
        plain.append(pixels(tiles.nth(at)))
        inside = (slice(4, -4), slice(4, -4))  # corners are rounded
        assert np.abs(plain[-1] - want)[inside].mean() < 6
    page.get_by_role("button", name="Heat maps").click()
    expect(page.get_by_role("button", name="Heat maps")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Heat maps")).to_be_focused()
    expect(page.locator("canvas[data-drawn=heat]")).to_have_count(len(known["entries"]))
    for at, before in zip((0, 7, 13), plain, strict=True):
        left_over = pixels(tiles.nth(at)).sum(-1) / np.maximum(before.sum(-1), 1)
        heat = known["entries"][at]["heat"]
        x0, y0, x1, y1 = (48 * one for one in heat["box"])
        y = y0 + (np.arange(heat["rows"]) + 0.5) * (y1 - y0) / heat["rows"]
        x = x0 + (np.arange(heat["columns"]) + 0.5) * (x1 - x0) / heat["columns"]
        inside = np.ix_((y > 3) & (y < 45), (x > 3) & (x < 45))
        shares = np.array(heat["values"]).reshape(heat["rows"], heat["columns"])[inside] / 255
        there = left_over[
            np.ix_(y[(y > 3) & (y < 45)].astype(int), x[(x > 3) & (x < 45)].astype(int))
        ]
        assert shares.shape == (3, 3)
        assert np.abs(there - (0.5 + 0.5 * shares)).max() < 0.12
    first = tiles.first.get_attribute("aria-label") or ""
    assert first == (
        "Patch of n01443537/images/0.JPEG (goldfish), training picture, value 8, quantile 1, "
        "at the border, padding reaches its field"
    )
    assert page.locator(".tag.border").count() == sum(one["border"] for one in known["entries"])
    held = [one for one in known["entries"] if one["split"] == "holdout"]
    assert page.get_by_text("held out", exact=True).count() == len(held)


def test_a_feature_shows_what_is_known_of_it(
    report: Any, visit: Visit, wait_shown: Callable[[Page], None]
) -> None:
    page = visit(f"{report.page}#/feature/mixed4c/5")
    known = details(report, "mixed4c", 5)
    rows = page.locator("#part-branches tbody tr")
    for at, branch in enumerate(known["branches"]):
        row = rows.nth(at)
        expect(row.locator("th")).to_have_text(branch["name"])
        width = row.locator(".bar-fill").first.evaluate("one => parseFloat(one.style.width)")
        assert width == pytest.approx(100 * branch["energy"], abs=0.01)
        assert (row.get_by_text("not measured").count() == 1) == (branch["causal"] is None)
    assert page.locator("#part-tuning svg").count() == len(known["tuning"])
    expect(page.locator("#part-labels tbody tr")).to_have_count(2)
    expect(page.locator("#part-pictures figcaption")).to_contain_text("reached 12")
    expect(page.locator("#part-pictures figcaption")).to_contain_text("best in the data 8")
    assert (
        page.locator("#part-pictures img").evaluate("one => one.complete && one.naturalWidth") > 0
    )
    page.locator("#part-values summary").click()
    largest = page.locator("#part-values tr", has_text="largest (code)").locator("td").first
    want = float(report.columns["mixed4c"]["max"][5])
    assert float(largest.inner_text()) == pytest.approx(want, rel=0.006)
    strip = page.locator("canvas.strip").first
    strip.scroll_into_view_if_needed()
    near = known["neighbours"][0]["feature"]
    sheet = Image.open(report.folder / "sheets" / "mixed4c" / f"{near // 64}.jpg").convert("RGB")
    top = 48 * (near % 64)
    want = np.asarray(sheet.crop((0, top, 48, top + 48)), dtype=float)[8:-8, 8:-8].mean((0, 1))
    expect(strip).to_have_attribute("data-drawn", "plain")
    tile = Image.open(io.BytesIO(strip.screenshot())).convert("RGB")
    side = tile.height
    shown = np.asarray(tile.crop((0, 0, side, side)).resize((48, 48)), dtype=float)[8:-8, 8:-8]
    assert np.abs(shown.mean((0, 1)) - want).max() < 8
    match = known["matches"][0]
    expect(page.locator("#part-matches")).to_contain_text("beyond chance or not")
    page.get_by_role("link", name=f"{match['layer']} {match['feature']}", exact=True).click()
    wait_shown(page)
    expect(page.get_by_role("heading", level=1)).to_have_text(
        f"{match['layer']} {match['feature']}"
    )
    page.get_by_role("link", name="Next feature").click()
    wait_shown(page)
    assert page.url.endswith(f"#/feature/{match['layer']}/{match['feature'] + 1}")
    page.go_back()
    page.go_back()
    wait_shown(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("mixed4c 5")


def test_search_finds_numbers_and_words(
    report: Any, visit: Visit, wait_shown: Callable[[Page], None]
) -> None:
    page = visit(report.page)
    field = page.get_by_role("combobox", name="Search")
    for text, heading in (("mixed4c 123", "mixed4c 123"), ("5B/7", "mixed5b 7")):
        field.fill(text)
        field.press("Enter")
        wait_shown(page)
        expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    field.fill("9")
    expect(page.get_by_role("option")).to_have_count(3)
    expect(field).to_have_attribute("aria-expanded", "true")
    field.press("ArrowDown")
    field.press("ArrowDown")
    expect(page.get_by_role("option", selected=True)).to_have_text("mixed4c 9feature")
    field.press("Enter")
    wait_shown(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("mixed4c 9")
    field.fill("snout")
    dogs = (report.all("label") == "dog, snout").sum()
    expect(page.get_by_role("option").first).to_have_text(f"dog, snout{dogs} features")
    field.press("Escape")
    expect(page.get_by_role("option")).to_have_count(0)
    field.press("Enter")
    wait_shown(page)
    expect(page.locator("#tally")).to_have_text(f"{dogs} of 470 features")
    field.fill("7777")
    field.press("Enter")
    expect(page.locator("#status")).to_have_text("No layer of this report has a feature 7777.")
