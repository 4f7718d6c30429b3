"""Hostile, incomplete and damaged reports in a browser: nothing runs, everything is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Page, expect

Visit = Callable[..., Page]
Go = Callable[[Page, str], None]
HOSTILE = (
    "<img src=x onerror=window.hacked=1>", "</script><script>window.hacked=1</script>",
    "=cmd()|'/C calc'!A0", "\"><svg onload=window.hacked=1>",
)  # fmt: skip


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("#/feature/mixed4c/190", "mixed4c has 190 features, 0 to 189; '190' is none of them."),
        ("#/feature/mixed9z/1", "This report has no layer 'mixed9z'"),
        ("#/feature", "This report has no layer ''"),
        ("#/nowhere", "This report has no page 'nowhere'"),
        ("#/feature/%E0%A4%A/1", "This report has no layer '%E0%A4%A'"),
    ],
)
def test_addresses_of_nothing_are_answered(
    report: Any, visit: Visit, address: str, text: str
) -> None:
    expect(visit(report.page + address).get_by_role("alert")).to_contain_text(text)


def test_hostile_texts_are_texts(
    made_up: ModuleType, tmp_path: Path, visit: Visit, go: Go, rows_of: Callable[[Page], Any]
) -> None:
    odd = made_up.build(tmp_path / "odd # 100% ?", {"mixed3a": 70}, texts=HOSTILE, blocks=2)
    page = visit(f"{odd.page}#/feature/mixed3a/3")
    expect(page.locator(".feature-label")).to_have_text(str(odd.columns["mixed3a"]["label"][3]))
    assert page.get_by_text(HOSTILE[0]).count() > 0
    for address in ("#/features", "#/map", "#/overview"):
        go(page, address)
    field = page.get_by_role("combobox", name="Search")
    field.fill("window.hacked")
    expect(page.get_by_role("option").first).to_contain_text("window.hacked")
    field.press("Enter")
    page.wait_for_url("**/*words=window.hacked*")
    expect(page.locator("#tally")).to_contain_text("of 70 features")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    labels = {row["label"] for row in rows_of(visit(f"{odd.page}#/features"))}
    assert "'" + HOSTILE[2] in labels
    assert HOSTILE[0] in labels
    go(page, "#/feature/%3Cimg%20src=x%20onerror=window.hacked=1%3E/1")
    expect(page.get_by_role("alert")).to_contain_text("no layer '<img src=x")
    assert page.evaluate("window.hacked") is None


def test_missing_parts_are_said(made_up: ModuleType, tmp_path: Path, visit: Visit, go: Go) -> None:
    parts = (
        "patches",
        "pictures",
        "labels",
        "branches",
        "tuning",
        "matches",
        "neighbours",
        "density",
    )
    bare = made_up.build(tmp_path, {"mixed3a": 70, "mixed4c": 70}, without=parts, blocks=1)
    page = visit(bare.page)
    expect(page.locator("#missing + ul")).to_contain_text("No patches in this report.")
    expect(page.locator("#missing + ul code").first).to_have_text("isae-analyze all STUDY")
    go(page, "#/feature/mixed4c/5")
    for part in parts:
        text = page.locator(f"#part-{part} .absent").first
        expect(text).to_contain_text("Not in this report")
    expect(page.locator("#part-tuning .absent")).to_contain_text("isae-analyze tuning")


def test_missing_and_damaged_files_are_said(
    made_up: ModuleType, tmp_path: Path, visit: Visit, go: Go
) -> None:
    broken = made_up.build(tmp_path, {"mixed3a": 130, "mixed4c": 70})
    (tmp_path / "data" / "columns" / "mixed3a.js").unlink()
    (tmp_path / "data" / "details" / "mixed4c" / "0.js").write_text("isae.take('other', 1)")
    (tmp_path / "sheets" / "mixed3a" / "0.jpg").unlink()
    page = visit(f"{broken.page}#/features", complains=("ERR_FILE_NOT_FOUND",))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("data/columns/mixed3a.js is missing")
    expect(alert).to_contain_text("isae-analyze report")
    go(page, "#/features?layer=mixed4c")
    expect(page.locator("#tally")).to_have_text("70 features")
    expect(alert).to_have_count(0)
    go(page, "#/feature/mixed4c/5")
    expect(alert).to_contain_text("data/details/mixed4c/0.js is damaged")
    expect(page.get_by_role("heading", level=1)).to_have_text("mixed4c 5")
    go(page, "#/feature/mixed3a/5")
    expect(page.get_by_text("The picture sheets/mixed3a/0.jpg is missing")).to_be_visible()
    expect(page.locator("#part-branches tbody tr")).to_have_count(4)
    (tmp_path / "data" / "overview.js").unlink()
    page = visit(broken.page, complains=("ERR_FILE_NOT_FOUND",))
    expect(page.get_by_role("alert")).to_contain_text("data/overview.js is missing")
