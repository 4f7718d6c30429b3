"""The spread of every number of summaries over seeds."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isae.analysis.stability.spread import (
    is_number,
    number_text,
    read_spreads,
    spread,
    spread_numbers,
    spread_text,
)
from isae.errors import DataError

NAMES = st.sampled_from(["mean", "n", "features", "5x5", "share.of", "q", ""])
NUMBERS = st.one_of(st.integers(-(10**9), 10**9), st.floats(-1e200, 1e200), st.booleans())
TREES: st.SearchStrategy[Any] = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.dictionaries(NAMES, inner, max_size=4), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=12,
)


def leaves(tree: Any, where: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    if isinstance(tree, dict):
        pairs = list(tree.items())
    elif isinstance(tree, list):
        pairs = list(enumerate(tree))
    else:
        return {where: tree}
    return {k: v for key, inner in pairs for k, v in leaves(inner, (*where, key)).items()}


def at(tree: Any, where: tuple[Any, ...]) -> Any:
    for key in where:
        tree = tree[key]
    return tree


@settings(max_examples=60, deadline=None)
@given(tree=TREES, data=st.data())
def test_every_number_has_the_spread_of_its_values(tree: Any, data: st.DataObject) -> None:
    seeds = data.draw(st.integers(1, 4))
    places = leaves({"x": tree})
    values = {
        where: [
            value if isinstance(value, bool) else data.draw(st.floats(-1e200, 1e200))
            for _ in range(seeds)
        ]
        for where, value in places.items()
    }

    def fill(inner: Any, where: tuple[Any, ...], seed: int) -> Any:
        if isinstance(inner, dict):
            return {key: fill(one, (*where, key), seed) for key, one in inner.items()}
        if isinstance(inner, list):
            return [fill(one, (*where, i), seed) for i, one in enumerate(inner)]
        return values[where][seed]

    found = spread([fill({"x": tree}, (), seed) for seed in range(seeds)])
    for where, drawn in values.items():
        one = at(found, where)
        assert is_number(one)
        assert (one["min"], one["max"], one["n"]) == (min(drawn), max(drawn), seeds)
        size = max(map(abs, drawn)) or 1.0
        assert one["min"] <= one["mean"] <= one["max"]
        assert math.isclose(one["mean"], math.fsum(drawn) / seeds, abs_tol=1e-12 * size)
        if seeds == 1:
            assert one["sd"] is None
        else:
            true = statistics.stdev([value / size for value in drawn])
            assert math.isclose(one["sd"] / size, true, rel_tol=1e-9, abs_tol=1e-12)
    assert len(list(spread_numbers(found))) == len(places)
    json.dumps(found, allow_nan=False)


def test_what_seeds_do_not_share() -> None:
    one = {
        "analysis": "branches", "null": "exchangeable", "run": "seed0", "found": True, "q": None,
        "branches": {"5x5": {"features": 3}, "pool": {"features": 4}}, "edges": [1, 2, "a"],
        "pairs": [{"r": 0.5}], "only": {"text": "x"}, "gap": 1.0,
    }  # fmt: skip
    two = {
        "analysis": "branches", "null": "exchangeable", "run": "seed1", "found": False, "q": 0.5,
        "branches": {"5x5": {"features": 5}}, "edges": [3, 4, "b"], "pairs": [{"r": 1}, {"r": 2}],
        "only": {"text": "y"}, "gap": float("nan"),
    }  # fmt: skip
    found = spread([one, two])
    assert (found["analysis"], found["null"]) == ("branches", "exchangeable")
    assert "run" not in found
    assert "only" not in found
    assert found["found"]["mean"] == 0.5
    assert found["q"] == {"mean": 0.5, "sd": None, "min": 0.5, "max": 0.5, "n": 1}
    assert found["gap"]["n"] == 1
    assert found["branches"]["5x5"]["features"]["mean"] == 4
    assert found["branches"]["5x5"]["features"]["sd"] == pytest.approx(math.sqrt(2))
    assert found["branches"]["pool"]["features"]["n"] == 1
    assert [one and one["mean"] for one in found["edges"]] == [2, 3, None]
    assert found["pairs"]["lengths"]["mean"] == 1.5
    with pytest.raises(DataError, match=r"one kind at 'a\.b', found number and text"):
        spread([{"a": {"b": 1}}, {"a": {"b": "1"}}])
    with pytest.raises(DataError, match="one analysis, found branches, tuning"):
        spread([one, {"analysis": "tuning"}])
    with pytest.raises(DataError, match="at least one"):
        spread([])


def test_chosen_numbers_as_text() -> None:
    seeds = [{"a": {"count": 1000 + 10 * i, "share": 0.5 + 0.001 * i}, "same": 7} for i in range(3)]
    assert spread_text(spread(seeds), ["a.count", "a.share", "same"]).splitlines() == [
        "a.count  1,010 +- 10 (n = 3)",
        "a.share  0.5010 +- 0.0010 (n = 3)",
        "same     7 +- 0 (n = 3)",
    ]
    assert number_text(spread(seeds[:1])["same"]) == "7 (n = 1)"
    with pytest.raises(DataError, match=r"found 'a', 'a\.cont'; there are 3"):
        spread_text(spread(seeds), ["a", "a.cont", "same"])


def test_analyses_of_the_runs_are_found(tmp_path: Path) -> None:
    for seed in range(3):
        for name in ("branches", "layers") if seed == 0 else ("branches", ".branches.new"):
            folder = tmp_path / f"seed{seed}" / "analysis" / name
            folder.mkdir(parents=True)
            (folder / "summary.json").write_text(json.dumps({"analysis": name, "count": seed}))
    runs = [tmp_path / f"seed{seed}" for seed in range(3)]
    found = read_spreads(runs)
    assert list(found) == ["branches"]
    assert found["branches"]["count"] == {"mean": 1, "sd": 1, "min": 0, "max": 2, "n": 3}
    (runs[1] / "analysis" / "branches" / "summary.json").write_text("{")
    with pytest.raises(DataError, match="found damage"):
        read_spreads(runs)
