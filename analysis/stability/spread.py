"""The spread of every number of an analysis over runs that differ in the seed.

    summaries of one analysis, one a seed  ->  the same nesting, each number replaced by
    {mean, sd, min, max, n}

sd divides by n - 1 and is None for one value: a single seed says nothing of the spread. n counts
the summaries that have the number; null and NaN do not count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isae.analysis.outputs import SUMMARY
from isae.errors import DataError

Spread = dict[str, Any]
_PARTS = ("mean", "sd", "min", "max", "n")
_MISSING = object()


def spread(summaries: Sequence[Mapping[str, Any]]) -> Spread:
    """Mean, sd, min, max and n of every number of several summaries of one analysis.

    summaries: JSON dicts, one a seed. Counts, shares and q-values are treated alike; booleans
    become the share of true. Mappings are merged: a key that some summaries lack is reported with
    its n. Lists of equal length are taken element by element (None where nothing remains), of
    lists of different lengths only {'lengths': the spread of their lengths} remains. Strings stay
    where all that are there are equal, and are dropped elsewhere, as is what becomes empty.

    Raises DataError for no summary, for summaries of different analyses, and for a key that is a
    number in one summary and something else in another.
    """
    if not summaries:
        raise DataError("expected at least one summary, found none; give one per seed")
    names = {str(one["analysis"]) for one in summaries if "analysis" in one}
    if len(names) > 1:
        raise DataError(
            f"expected summaries of one analysis, found {', '.join(sorted(names))}; spread each "
            "analysis on its own"
        )
    return _of_mappings(list(summaries), "")


def _of_mappings(mappings: list[Mapping[str, Any]], where: str) -> Spread:
    keys = dict.fromkeys(key for one in mappings for key in one)
    found = {
        str(key): _of_values([one.get(key, _MISSING) for one in mappings], f"{where}.{key}")
        for key in keys
    }
    return {key: value for key, value in found.items() if value is not None}


def _of_values(values: list[Any], where: str) -> Any:
    """The spread of what stands at one place of the summaries; None: nothing to report."""
    values = [value for value in values if not _absent(value)]
    if not values:
        return None
    kinds = {_kind(value) for value in values}
    if len(kinds) > 1:
        raise DataError(
            f"expected values of one kind at '{where[1:]}', found {' and '.join(sorted(kinds))}; "
            "give summaries that one version of the analysis wrote"
        )
    (kind,) = kinds
    if kind == "mapping":
        return _of_mappings(values, where) or None
    if kind == "list":
        return _of_lists(values, where)
    if kind == "text":
        return values[0] if len(set(values)) == 1 else None
    return number_spread(values)


def _of_lists(values: list[Any], where: str) -> Any:
    if len({len(one) for one in values}) > 1:
        return {"lengths": number_spread([len(one) for one in values])}
    found = [
        _of_values(list(column), f"{where}.{place}")
        for place, column in enumerate(zip(*values, strict=True))
    ]
    return found if any(one is not None for one in found) else None


def _absent(value: Any) -> bool:
    if value is None or value is _MISSING:
        return True
    return isinstance(value, float) and not math.isfinite(value)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "mapping"
    if isinstance(value, list | tuple):
        return "list"
    if isinstance(value, str):
        return "text"
    return "truth" if isinstance(value, bool | np.bool_) else "number"


def number_spread(values: Sequence[float]) -> Spread:
    """{mean, sd, min, max, n} of finite numbers or booleans, at least one; sd None for one."""
    plain = [float(value) for value in values]
    low, high = min(plain), max(plain)
    # Scaled, so that squares of very large and very small numbers stay in range.
    scale = max(abs(low), abs(high)) or 1.0
    scaled = np.array(plain) / scale
    mean = float(scaled.mean()) * scale
    return {
        "mean": min(max(mean, low), high),
        "sd": float(scaled.std(ddof=1)) * scale if len(plain) > 1 else None,
        "min": low,
        "max": high,
        "n": len(plain),
    }


def is_number(value: Any) -> bool:
    """Whether this part of a spread is {mean, sd, min, max, n}, not a mapping of such."""
    return isinstance(value, dict) and tuple(value) == _PARTS and isinstance(value["n"], int)


def spread_numbers(found: Spread) -> Iterator[tuple[str, Spread]]:
    """(key, {mean, ...}) of every number; nested keys and list places are joined by dots."""
    yield from _numbers(found, "")


def _numbers(value: Any, where: str) -> Iterator[tuple[str, Spread]]:
    if is_number(value):
        yield where[1:], value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _numbers(inner, f"{where}.{place}")


def spread_text(found: Spread, keys: Sequence[str]) -> str:
    """Lines 'key  mean +- sd (n = 3)' of the chosen keys, joined by dots as in `spread_numbers`.

    sd has two significant digits and the mean as many decimals. Raises DataError for a key at
    which no number stands.
    """
    numbers = dict(spread_numbers(found))
    unknown = [key for key in keys if key not in numbers]
    if unknown:
        raise DataError(
            f"expected keys at which a number stands, found {', '.join(map(repr, unknown))}; there "
            f"are {len(numbers):,}, such as {', '.join(map(repr, list(numbers)[:3]))}"
        )
    wide = max((len(key) for key in keys), default=0)
    return "\n".join(f"{key:<{wide}}  {number_text(numbers[key])}" for key in keys)


def number_text(number: Spread) -> str:
    """'mean +- sd (n = 3)'; the bare value where there is one."""
    mean, sd, n = number["mean"], number["sd"], number["n"]
    if sd is None:
        return f"{mean:,.6g} (n = {n})"
    if sd == 0:
        return f"{mean:,.6g} +- 0 (n = {n})"
    digits = min(max(1 - int(f"{sd:.1e}".partition("e")[2]), 0), 12)
    return f"{mean:,.{digits}f} +- {sd:,.{digits}f} (n = {n})"


def read_spreads(runs: Sequence[Path]) -> dict[str, Spread]:
    """The spread of every analysis that at least two of the runs have -> {name: spread}.

    Reads RUN/analysis/NAME/summary.json. An analysis of several runs (`layers`, `stability`) stands
    in the folder of one of them and has no spread here.
    """
    summaries: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for path in sorted((run / "analysis").glob(f"*/{SUMMARY}")):
            if path.parent.name.startswith("."):
                continue
            try:
                summary = json.loads(path.read_text())
            except ValueError as error:
                raise DataError(
                    f"expected JSON in {path}, found damage ({error}); make that analysis again "
                    "with --overwrite"
                ) from error
            summaries.setdefault(path.parent.name, []).append(summary)
    return {name: spread(some) for name, some in summaries.items() if len(some) > 1}
