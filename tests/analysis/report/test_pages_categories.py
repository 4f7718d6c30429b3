"""Categories with more names over all layers than one layer may have, in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from playwright.sync_api import Page

from isae.analysis.report import scripts

EACH = 40_000


def test_names_of_all_layers_are_not_mixed_up(
    made_up: ModuleType, tmp_path: Path, visit: Callable[..., Page]
) -> None:
    report = made_up.build(tmp_path / "many", {"mixed3a": 70, "mixed3b": 70}, blocks=1)
    for layer in ("mixed3a", "mixed3b"):
        names = [f"{layer} {i}" for i in range(EACH)]
        column = scripts.category_column("many", "many", "Many names.", names)
        value = {"features": EACH, "columns": [column]}
        scripts.write_script(report.folder, f"columns/{layer}", value)
    page = visit(f"{report.page}#/overview")
    found = page.evaluate(
        """async () => {
          const column = (await isae.table(["mixed3a", "mixed3b"])).get("many");
          const said = (row) => column.names[column.codes[row]];
          return [said(0), said(25535), said(39999), said(40000), said(65535), said(79999)];
        }"""
    )
    assert found == [
        "mixed3a 0", "mixed3a 25535", "mixed3a 39999", "mixed3b 0", "mixed3b 25535",
        "mixed3b 39999",
    ]  # fmt: skip
