"""The table of features in a browser: its rows are what NumPy finds in the same data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from playwright.sync_api import Page, expect

Rows = Callable[[Page], list[dict[str, str]]]
Go = Callable[[Page, str], None]


def names(report: Any) -> list[tuple[str, int]]:
    """(layer, number) of every feature, in the order of the report."""
    return [(layer, at) for layer, count in report.layers.items() for at in range(count)]


def shown_names(rows: list[dict[str, str]]) -> list[tuple[str, int]]:
    return [(row["layer"], int(row["feature"])) for row in rows]


def order(values: np.ndarray, descending: bool) -> list[int]:
    """Rows by value, equal ones as they stand, those without one last."""
    there = np.array([value == value and value != "" for value in values])
    ranks = np.zeros(len(values))
    known = np.unique(values[there])
    ranks[there] = np.searchsorted(known, values[there])
    ranks = np.where(there, -ranks if descending else ranks, np.inf)
    return np.argsort(ranks, kind="stable").tolist()


def test_sorting_is_numpys(report: Any, visit: Callable[..., Page], go: Go, rows_of: Rows) -> None:
    page = visit(f"{report.page}#/features")
    for column in ("rate", "label_score", "label", "taxonomy"):
        for sign in ("", "-"):
            go(page, f"#/features?sort={sign}{column}")
            rows = rows_of(page)
            want = order(report.all(column), descending=bool(sign))
            assert shown_names(rows) == [names(report)[row] for row in want]
            first = page.locator("tbody tr[data-row]").first
            assert int(first.get_attribute("data-row") or "") == want[0]
            head = page.locator(f"th[data-name={column}]")
            assert head.get_attribute("aria-sort") == ("descending" if sign else "ascending")
            values = report.all(column)[want]
            if values.dtype == np.float32:
                given = np.array([float(row[column] or "nan") for row in rows], dtype=np.float32)
                np.testing.assert_array_equal(given, values)
            else:
                assert [row[column] for row in rows] == values.tolist()


FILTERS = {
    "is.branch=5x5": lambda t: t["branch"] == "5x5",
    "is.branch=5x5&is.branch=pool&layer=mixed4c": lambda t: (
        np.isin(t["branch"], ["5x5", "pool"]) & (t["layer"] == "mixed4c")
    ),
    "min.rate=0.001&max.rate=0.01": lambda t: (
        (t["rate"] >= np.float32(0.001)) & (t["rate"] <= np.float32(0.01))
    ),
    "min.label_score=0.5&is.taxonomy=class": lambda t: (
        (t["label_score"] >= 0.5) & (t["taxonomy"] == "class")
    ),
    "words=SNOUT+dog": lambda t: t["label"] == "dog, snout",
    "words=no+such+words": lambda t: np.zeros(len(t["label"]), dtype=bool),
}


def test_filters_are_numpys(report: Any, visit: Callable[..., Page], go: Go, rows_of: Rows) -> None:
    columns = ("branch", "rate", "label_score", "taxonomy", "label")
    table = {name: report.all(name) for name in columns}
    table["layer"] = np.repeat(list(report.layers), list(report.layers.values()))
    page = visit(f"{report.page}#/features")
    for query, chosen in FILTERS.items():
        go(page, f"#/features?{query}")
        want = np.flatnonzero(chosen(table))
        among = report.layers["mixed4c"] if "layer" in query else len(names(report))
        tally = f"{len(want)} of {among} features"
        expect(page.locator("#tally")).to_have_text(tally)
        expect(page.locator("#status")).to_contain_text(tally)
        assert shown_names(rows_of(page)) == [names(report)[row] for row in want]


def test_controls_write_the_address_and_chips_take_back(
    report: Any, visit: Callable[..., Page], rows_of: Rows
) -> None:
    page = visit(f"{report.page}#/features")
    page.get_by_label("Words in labels").fill("tabby")
    page.locator(".filters summary", has_text="largest branch").click()
    page.get_by_role("checkbox", name="3x3").check()
    page.locator(".filters summary", has_text="Numbers").click()
    page.get_by_label("rate, smallest").fill("0,002")
    page.wait_for_url("**/*min.rate=0.002*")
    assert "words=tabby" in page.url
    assert "is.branch=3x3" in page.url
    low = report.all("rate") >= np.float32(0.002)
    want = low & (report.all("branch") == "3x3") & (report.all("label") == "tabby cat")
    expect(page.locator("#tally")).to_have_text(f"{want.sum()} of {len(want)} features")
    assert len(rows_of(page)) == want.sum()
    for chip in ("largest branch: 3x3", "words: tabby"):
        page.get_by_role("button", name=chip).click()
    expect(page.locator("#tally")).to_have_text(f"{low.sum()} of {len(want)} features")
    assert page.get_by_role("checkbox", name="3x3").is_checked() is False
    page.get_by_label("rate, smallest").fill("many")
    expect(page.get_by_label("rate, smallest")).to_have_attribute("aria-invalid", "true")


def test_a_shared_link_restores_the_table_and_back_goes_back(
    report: Any, visit: Callable[..., Page], wait_shown: Callable[[Page], None]
) -> None:
    page = visit(f"{report.page}#/features")
    page.get_by_role("button", name="largest code").click()
    page.wait_for_url("**/*sort=-max")
    page.get_by_label("Layer", exact=True).select_option("mixed5b")
    page.wait_for_url("**/*layer=mixed5b*")
    wait_shown(page)
    first = page.locator("tbody tr[data-row]").first.inner_text()
    best = int(np.argmax(report.columns["mixed5b"]["max"]))
    assert first.split()[:2] == ["mixed5b", str(best)]
    other = visit(page.url)
    assert other.locator("tbody tr[data-row]").first.inner_text() == first
    assert other.get_by_label("Layer", exact=True).input_value() == "mixed5b"
    page.go_back()
    wait_shown(page)
    expect(page.locator("#tally")).to_have_text("470 features")
    expect(page.locator("th[data-name=max]")).to_have_attribute("aria-sort", "descending")
    page.go_back()
    wait_shown(page)
    expect(page.locator("th[data-name=layer]")).to_have_attribute("aria-sort", "ascending")


def test_keyboard_moves_through_all_rows_of_which_few_are_in_the_page(
    report: Any, visit: Callable[..., Page]
) -> None:
    page = visit(f"{report.page}#/features")
    grid = page.get_by_role("grid")
    grid.focus()
    assert grid.get_attribute("aria-rowcount") == "471"
    for key in ("ArrowDown", "ArrowDown", "PageDown", "ArrowUp"):
        page.keyboard.press(key)
    active = grid.get_attribute("aria-activedescendant") or ""
    inside = page.locator(f"#{active}")
    assert inside.get_attribute("aria-rowindex") == str(int(active.removeprefix("row-")) + 2)
    page.keyboard.press("End")
    assert grid.get_attribute("aria-activedescendant") == "row-469"
    expect(page.locator("#row-469")).to_be_in_viewport()
    assert page.locator("#row-469").inner_text().split()[:2] == ["mixed5b", "129"]
    assert page.locator("tbody tr").count() < 60
    page.keyboard.press("Enter")
    page.wait_for_url("**/*#/feature/mixed5b/129")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    expect(page.get_by_role("heading", level=1)).to_have_text("mixed5b 129")
    page.go_back()
    expect(page.locator("#row-469")).to_be_in_viewport()
    assert grid.get_attribute("aria-activedescendant") == "row-469"


def test_rows_after_a_long_scroll_are_the_right_ones(
    report: Any, visit: Callable[..., Page]
) -> None:
    page = visit(f"{report.page}#/features?sort=-rate")
    page.locator(".scroller").evaluate("box => { box.scrollTop = 300 * 34; }")
    row = page.locator("#row-305")
    after = names(report)[order(report.all("rate"), descending=True)[306]]
    expect(row).to_be_in_viewport()
    want = names(report)[order(report.all("rate"), descending=True)[305]]
    assert row.inner_text().split()[:2] == [want[0], str(want[1])]
    row.click()
    steps = page.get_by_role("navigation", name="In the table you come from")
    expect(steps).to_contain_text("306 of 470 in the table")
    steps.get_by_role("link", name="after:").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{after[0]} {after[1]}")


def test_columns_are_chosen_and_stay_in_the_address(
    report: Any, visit: Callable[..., Page], rows_of: Rows
) -> None:
    page = visit(f"{report.page}#/features")
    page.locator(".chooser summary").click()
    page.get_by_role("checkbox", name="taxonomy").uncheck()
    page.wait_for_url("**/*show=*")
    expect(page.locator("th[data-name=taxonomy]")).to_have_count(0)
    rows = rows_of(visit(page.url))
    assert "taxonomy" not in rows[0]
    assert "rate" in rows[0]


def test_a_filter_of_a_column_that_is_not_there_is_said(
    report: Any, visit: Callable[..., Page]
) -> None:
    page = visit(f"{report.page}#/features?min.no_such=3")
    expect(page.get_by_role("button", name="no_such ≥ 3")).to_contain_text("filters nothing here")
    expect(page.locator("#tally")).to_have_text("470 features")
    page = visit(f"{report.page}#/features?layer=mixed9z")
    expect(page.get_by_role("alert")).to_contain_text("no layer 'mixed9z'; it has mixed3a")
