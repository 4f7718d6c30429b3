"""The columns of a layer in the report's table: what a researcher sorts and filters features by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.report.match_rows import best_matches
from isae.analysis.report.patch_rows import feature_pictures
from isae.analysis.report.scripts import category_column, number_column, text_column
from isae.analysis.report.tables import FeatureTable, RunTables
from isae.analysis.report.tuning_columns import tuning_columns
from isae.analysis.visualise.config import FEATURE

Column = dict[str, Any]
SHOWN = (
    "label", "taxonomy", "label_score", "label_chance", "rate", "max", "branch", "lies_in",
    "concentration", "q_branch", "tuned_to", "seed_cosine",
)  # fmt: skip
"""Columns in the table from the start: no score without its chance."""


def layer_columns(
    tables: RunTables, branches: Sequence[str], neighbour_N: F64, active_N: I64 | None
) -> list[Column]:
    """All columns for which an analysis is there, in the order in which the page shows them.

    branches: names of the layer's branches; neighbour_N: cosine with the nearest decoder row;
    active_N: images of the map that a feature is active on, None without them. group: under
    which heading the page offers a column.
    """
    nearest = number_column(
        "neighbour_cosine", "nearest in layer", "",
        "Largest cosine with the decoder row of another feature of this layer.", neighbour_N,
    )  # fmt: skip
    groups = {
        "label": _labels(tables),
        "activity": _firing(tables, active_N),
        "branches": _branches(tables, branches),
        "tuning": [*tuning_columns(tables), *_curves(tables)],
        "other seeds": _stability(tables),
        "other layers": _matches(tables),
        "its layer": [nearest],
        "pictures": _pictures(tables),
    }
    return [
        {**column, "group": group, "shown": column["name"] in SHOWN}
        for group, columns in groups.items()
        for column in columns
    ]


def _firing(tables: RunTables, active_N: I64 | None) -> list[Column]:
    columns: list[Column] = []
    table = tables.by_feature("branches", "features")
    if table is not None:
        rows = f"{tables.summaries['branches']['images']['rows_read']:,} rows"
        words = {"yes": "alive", "no": "dead"}
        state = [words.get(one or "") for one in table.flags("alive")]
        columns = [
            category_column(
                "state", "state", f"Dead: fires on none of the {rows} that were read.", state
            ),
            number_column(
                "rate", "rate", "of rows", f"Share of {rows} on which the feature fires.",
                table.numbers("firing_rate"),
            ),
            number_column(
                "mean", "mean", "code", "Mean activation over the rows on which it fires.",
                table.numbers("mean_activation"),
            ),
            number_column(
                "max", "largest", "code", f"Largest activation on {rows}.",
                np.where(table.numbers("alive") == 1, table.numbers("max_activation"), np.nan),
            ),
            category_column(
                "top_class", "class of its strongest image",
                "Class (or folder) of the image on which it is the strongest; one image, no label.",
                table.texts("top_label"),
            ),
        ]  # fmt: skip
    if active_N is not None:
        columns.append(
            number_column(
                "active_images", "images", "", "Images of the map's sample on which it is active.",
                active_N.astype(np.float64),
            )
        )  # fmt: skip
    return columns


def _branches(tables: RunTables, branches: Sequence[str]) -> list[Column]:
    table = tables.by_feature("branches", "features")
    if table is None or not branches:
        return []
    alive_N = table.numbers("alive") == 1
    columns = _lies_in(table, branches, alive_N)
    for name in branches:
        columns += _branch(table, name, alive_N)
    if "cut_ring_kept" in table:
        columns.append(
            number_column(
                "ring_kept", "kept without ring", "share",
                "Share of the code that is kept when the outer ring of the 5x5 kernels is cut.",
                table.numbers("cut_ring_kept"),
            )
        )  # fmt: skip
    return columns


def _lies_in(table: FeatureTable, branches: Sequence[str], alive_N: Bools) -> list[Column]:
    """In which branch a feature lies, by how much and how surely."""
    excess = [table.numbers(f"excess_decoder_{name}") for name in branches]
    q_both = [table.numbers(f"q_both_{name}") for name in branches]
    return [
        category_column(
            "branch", "largest branch",
            "Branch with the largest share of the decoder row's energy; large branches win by "
            "their size alone.",
            _where(alive_N, table.texts("dominant_decoder")),
        ),
        category_column(
            "lies_in", "lies in",
            "Branch it is assigned to: above the null of exchangeable channels in both bases; "
            "'none': spread over branches, or not tested.",
            table.texts("assigned"),
        ),
        category_column(
            "above", "above the null",
            "All branches above the null in both bases (q at most alpha), joined by ';'.",
            table.texts("significant_both"),
        ),
        number_column(
            "concentration", "concentration", "share",
            "Largest excess over branches: energy share in the decoder row beyond the branch's "
            "share of channels, which is what exchangeable channels would give.",
            np.where(alive_N, _largest(excess), np.nan),
        ),
        number_column(
            "q_branch", "q", "",
            "Smallest q over branches, above the null in both bases (Benjamini-Hochberg).",
            -_largest([-q_N for q_N in q_both]),
        ),
    ]  # fmt: skip


def _branch(table: FeatureTable, name: str, alive_N: Bools) -> list[Column]:
    """The numbers of one branch; those of analyses that were left out are left out."""
    known = {
        f"share_decoder_{name}": (
            "share", f"Share of the decoder row's energy in {name}.",
        ),
        f"q_both_{name}": (
            "q", f"q of {name}'s share against exchangeable channels, both bases.",
        ),
        f"causal_other_share_{name}": (
            "causal share",
            f"Share of the code lost when {name} comes from another image (held-out rows).",
        ),
        f"logit_share_{name}": (
            "share of logit", f"Share of the feature's effect on the class logit through {name}.",
        ),
    }  # fmt: skip
    columns = []
    for column, (title, help_text) in known.items():
        if column in table:
            values_N = np.where(alive_N, table.numbers(column), np.nan)
            columns.append(number_column(f"{column}", f"{name} {title}", "", help_text, values_N))
    return columns


def _curves(tables: RunTables) -> list[Column]:
    table = tables.by_feature("curves", "features")
    if table is None:
        return []
    return [
        category_column(
            "curve", "curve detector",
            "Whether it holds every part of the criterion for curve detectors.",
            table.flags("curve_detector"),
        ),
        number_column(
            "curve_direction", "curve direction", "degrees",
            "Preferred direction of arcs, counter-clockwise from the right.",
            table.numbers("direction"),
        ),
        number_column(
            "curve_selectivity", "curve selectivity", "",
            "Length of the first harmonic of its curve over directions, over the curve's sum.",
            table.numbers("selectivity"),
        ),
    ]  # fmt: skip


def _stability(tables: RunTables) -> list[Column]:
    table = tables.by_feature("stability", "features")
    if table is None or tables.stability_run < 0:
        return []
    return [
        category_column(
            "comes_back", "comes back",
            "Whether it comes back in every other seed: cosine at the threshold and q at most "
            "alpha; 'none': not tested.",
            table.flags("comes_back"),
        ),
        number_column(
            "seed_cosine", "cosine in other seeds", "",
            "Smallest over the other seeds of the largest cosine with a decoder row there.",
            table.numbers("least_cosine"),
        ),
        number_column(
            "seed_q", "q of coming back", "", "q of coming back in every other seed.",
            table.numbers("q"),
        ),
    ]  # fmt: skip


def _matches(tables: RunTables) -> list[Column]:
    best = best_matches(tables)
    columns: list[Column] = []
    for other, one in best.items():
        columns += [
            number_column(
                f"match_{other}", f"r in {other}", "",
                f"Largest correlation with a feature of {other} (any measure, on the selection "
                "images, so too large), where q is at most alpha.",
                one.r_N,
            ),
            number_column(
                f"match_q_{other}", f"q in {other}", "",
                f"Smallest q over measures of its best partner in {other}.", one.q_N,
            ),
        ]  # fmt: skip
    return columns


def _labels(tables: RunTables) -> list[Column]:
    table = tables.by_feature("label", "labels")
    if table is None:
        return []
    return [
        text_column("label", "label", "Name without a language model; empty: none was found.",
                    table.texts("label")),
        category_column("taxonomy", "taxonomy",
                        "Kind of the label; 'unexplained': no name holds; 'rare': too few images; "
                        "'position' may be padding's doing where that could not be tested.",
                        table.texts("taxonomy")),
        number_column("label_score", "score", "share",
                      "Share of its strongest images that have the name, of images that the name "
                      "was not chosen on.", table.numbers("score")),
        number_column("label_chance", "chance", "share", "The same share by chance.",
                      table.numbers("chance")),
        number_column("label_q", "q of label", "", "q of the label (Benjamini-Hochberg).",
                      table.numbers("q")),
    ]  # fmt: skip


def _pictures(tables: RunTables) -> list[Column]:
    table = feature_pictures(tables)
    if table is None:
        return []
    table = table.filter(pc.field("kind") == FEATURE)
    ratio_N = np.full(tables.features, np.nan)
    reached, best, unit = (table[name].to_numpy() for name in ("reached", "best", "feature"))
    some = best > 0
    np.fmax.at(ratio_N, unit[some], (reached[some] / best[some]).astype(np.float64))
    return [
        number_column(
            "picture", "picture / best", "",
            "Activation that the optimised picture reaches over the largest of the data (of "
            "several pictures the largest); none: no picture was made.",
            ratio_N,
        )
    ]  # fmt: skip


def _largest(values: Sequence[F64]) -> F64:
    """The largest over arrays, NaN where all are."""
    found: F64 = np.fmax.reduce(list(values))
    return found


def _where(chosen_N: Bools, values: Sequence[str | None]) -> list[str | None]:
    return [value if chosen else None for chosen, value in zip(chosen_N, values, strict=True)]
