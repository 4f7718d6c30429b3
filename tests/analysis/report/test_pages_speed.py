"""How long the pages take for 90,000 features of nine layers, in a browser, from disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from isae.benchmarks.soak import SoakReport

pytestmark = pytest.mark.soak

# Milliseconds until the page shows what an address says, its pixels drawn.
CHANGE = """async ([address, place]) => {
    const before = document.querySelector(place).textContent, began = performance.now();
    location.hash = address;
    const shown = () => document.querySelector('main').dataset.shown === location.hash
        && document.querySelector(place).textContent !== before;
    while (!shown()) await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    return performance.now() - began;
}"""
# Milliseconds of script and layout for each step of scrolling, and of each frame.
SCROLL = """async () => {
    const box = document.querySelector('.scroller'), frames = [], work = [];
    const draw = isae.Grid.prototype.draw;
    isae.Grid.prototype.draw = function () {
        const began = performance.now();
        draw.call(this);
        box.offsetHeight;
        work.push(performance.now() - began);
    };
    const most = box.scrollHeight - box.clientHeight;
    let last = await new Promise(requestAnimationFrame);
    for (let step = 0; step < 120; step++) {
        box.scrollTop = step < 60 ? most * step / 60 : 2000 + 97 * step;
        const now = await new Promise(requestAnimationFrame);
        frames.push(now - last);
        last = now;
    }
    return [work, frames];
}"""
# Milliseconds of each drawing of the map while it is moved.
PAN = """async () => {
    const map = document.getElementById('map'), draw = isae.Points.prototype.draw, took = [];
    isae.Points.prototype.draw = function (...given) {
        const began = performance.now();
        draw.apply(this, given);
        took.push(performance.now() - began);
    };
    map.focus();
    for (let step = 0; step < 20; step++) {
        const key = step % 2 ? 'ArrowLeft' : 'ArrowRight';
        map.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
        await new Promise(requestAnimationFrame);
    }
    return took;
}"""


@pytest.fixture(scope="module")
def large(made_up: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """90,000 features, 38 columns."""
    folder: Path = tmp_path_factory.mktemp("large")
    report = made_up.build(folder / "report", made_up.LARGE, blocks=1, extra=30)
    assert sum(report.layers.values()) == 90_000
    assert max(report.layers.values()) == 16_384
    return report


def test_views_come_at_once(
    large: Any, visit: Callable[..., Page], soak_report: SoakReport
) -> None:
    seconds = {}
    for name, address in (
        ("overview", "#/overview"), ("table", "#/features"), ("map", "#/map?colour=rate"),
        ("one_layer", "#/features?layer=mixed5b"), ("feature", "#/feature/mixed5b/3"),
    ):  # fmt: skip
        page = visit(large.page + address)
        now = "performance.getEntriesByName('shown')[0].startTime"
        seconds[f"first_view_{name}_s"] = round(page.evaluate(now) / 1000, 3)
        if name == "map":
            seconds["map_draw_median_s"] = round(float(np.median(page.evaluate(PAN))) / 1000, 4)
    print(seconds)
    soak_report.note(**{f"report_{name}": value for name, value in seconds.items()})
    assert max(seconds.values()) < 3


def test_filters_sorts_and_scrolling_are_quick(
    large: Any, visit: Callable[..., Page], soak_report: SoakReport
) -> None:
    page = visit(f"{large.page}#/features")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy() -> float:
        """Processor seconds of the page's main thread so far, whatever else the machine does."""
        metrics = session.send("Performance.getMetrics")["metrics"]
        return {one["name"]: one["value"] for one in metrics}["TaskDuration"]

    seconds = {}
    for name, address, place in (
        ("filter_category", "is.branch=5x5", "#tally"),
        ("filter_range", "min.rate=0.001", "#tally"),
        ("filter_words", "words=snout+dog", "#tally"),
        ("filter_all_three", "words=cat&min.extra_3=0.5&is.branch=3x3", "#tally"),
        ("sort_number", "sort=-rate", "tbody tr[data-row]"),
        ("sort_text", "sort=label", "tbody tr[data-row]"),
    ):
        before = busy()
        took = page.evaluate(CHANGE, [f"#/features?{address}", place])
        seconds[f"{name}_s"] = round(took / 1000, 3)
        seconds[f"{name}_busy_s"] = round(busy() - before, 3)
    work, frames = page.evaluate(SCROLL)
    for name, values in (("scroll_step_work", work), ("scroll_frame", frames)):
        seconds[f"{name}_median_s"] = round(float(np.median(values)) / 1000, 4)
        seconds[f"{name}_p95_s"] = round(float(np.percentile(values, 95)) / 1000, 4)
    print(seconds)
    soak_report.note(**{f"report_{name}": value for name, value in seconds.items()})
    assert max(value for name, value in seconds.items() if name.startswith("filter")) < 0.3
    assert seconds["scroll_step_work_median_s"] < 0.016
