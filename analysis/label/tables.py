"""The tables of labels: one row a feature, and one row a name that was tried."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isae.analysis.arrays import F64
from isae.analysis.label.branches import Grouping
from isae.analysis.label.images import CHOOSING, SCORING
from isae.analysis.label.joined import Joined
from isae.analysis.label.names import SUPERCLASS
from isae.analysis.label.padding import Mirrored
from isae.analysis.label.taxonomy import KINDS, TAXONOMY, Labels, name_text
from isae.analysis.label.unseen import Unseen
from isae.analysis.label.unseen_summary import unseen_columns
from isae.analysis.outputs import write_table

Words = Mapping[str, Mapping[str, str]]


def write_label_tables(
    labels: Labels,
    sampled: Mapping[str, F64],
    mirrored: Mirrored,
    images_HN: Any,
    grouping: Grouping,
    joined: Joined,
    words: Words,
    folder: Path,
    unseen: Unseen | None = None,
) -> None:
    """Write labels and names into `folder`. sampled: by kind, see `labels_table`."""
    table = labels_table(labels, sampled, mirrored, images_HN, grouping, joined, words)
    for name, column in unseen_columns(unseen, labels).items():
        table = table.append_column(name, column)
    write_table(table, folder / "labels")
    write_table(names_table(labels, words), folder / "names")


def labels_table(
    labels: Labels,
    sampled: Mapping[str, F64],
    mirrored: Mirrored,
    images_HN: Any,
    grouping: Grouping,
    joined: Joined,
    words: Words,
) -> pa.Table:
    """One row per feature; null where not defined.

    feature, label ('' where none), taxonomy, score (share of the strongest scoring images that have
    the name), chance (what an exchange of images gives), gain, bits, q, sampled (the share among
    images drawn from all on which it is active), branch, cluster, images_choosing and
    images_scoring (on which it is active). Of each kind K: K_name (the one tested), K_choosing (its
    share on the choosing half, flattered by the choice), K_images, K_score, K_chance, K_gain,
    K_bits, K_p, K_q, K_sampled. superclass_child, superclass_child_bits: the best class below;
    edge_kept, edge_pictures: what of its activity at the border stays without padding. tuned_to,
    tuned_axis, curve_detector, curve_direction: of the other analyses, where they are there. With
    --unseen the columns of `isae.analysis.label.unseen_summary.unseen_columns` behind them.
    """
    columns = _label_columns(labels, sampled, words)
    columns["branch"] = pa.array([grouping.branches[i] for i in grouping.branch_N], pa.string())
    columns["cluster"] = grouping.cluster_N
    columns["images_choosing"] = images_HN[CHOOSING]
    columns["images_scoring"] = images_HN[SCORING]
    for kind in KINDS:
        if kind in labels.kinds:
            columns |= _kind_columns(labels, kind, sampled, words)
    if labels.children is not None:
        texts = labels.names["class"].texts
        columns["superclass_child"] = pa.array(
            [_word(words, "class", texts[i]) if i >= 0 else None for i in labels.children.name_N],
            pa.string(),
        )
        columns["superclass_child_bits"] = _floats(labels.children.bits_N)
    columns["edge_kept"] = _floats(mirrored.kept_N)
    columns["edge_pictures"] = mirrored.images_N
    return pa.table(columns | joined.columns())


def _label_columns(labels: Labels, sampled: Mapping[str, F64], words: Words) -> dict[str, Any]:
    count = len(labels.kind_N)
    own: dict[str, F64] = {}
    parts = ("share_N", "chance_N", "gain_N", "bits_N")
    for name, part in zip(("score", "chance", "gain", "bits"), parts, strict=True):
        own[name] = _of_label(
            labels, {kind: getattr(labels.kinds[kind], part) for kind in labels.kinds}
        )
    own["q"] = _of_label(labels, labels.q)
    own["sampled"] = _of_label(labels, sampled)
    texts = [
        name_text(labels, KINDS[number], i, words) if number < len(KINDS) else ""
        for i, number in enumerate(labels.kind_N.tolist())
    ]
    return {
        "feature": np.arange(count, dtype=np.int32),
        "label": pa.array(texts, pa.string()),
        "taxonomy": pa.array([TAXONOMY[i] for i in labels.kind_N], pa.string()),
        **{name: _floats(values) for name, values in own.items()},
    }


def _of_label(labels: Labels, by_kind: Mapping[str, F64]) -> F64:
    """The value of each feature's own kind; NaN where it has no label."""
    found_N = np.full(len(labels.kind_N), np.nan)
    for kind, values_N in by_kind.items():
        mine_N = labels.kind_N == TAXONOMY.index(kind)
        found_N[mine_N] = values_N[mine_N]
    return found_N


def _kind_columns(
    labels: Labels, kind: str, sampled: Mapping[str, F64], words: Words
) -> dict[str, Any]:
    one, stem = labels.kinds[kind], kind.replace(" ", "_")
    texts = [name_text(labels, kind, i, words) or None for i in range(len(one.name_N))]
    values = {
        "choosing": one.choosing_N, "score": one.share_N, "chance": one.chance_N,
        "gain": one.gain_N, "bits": one.bits_N, "p": one.p_N, "q": labels.q[kind],
    }  # fmt: skip
    columns: dict[str, Any] = {f"{stem}_name": pa.array(texts, pa.string())}
    columns[f"{stem}_images"] = one.images_N
    columns |= {f"{stem}_{name}": _floats(value) for name, value in values.items()}
    if kind in sampled:
        columns[f"{stem}_sampled"] = _floats(sampled[kind])
    return columns


def names_table(labels: Labels, words: Words) -> pa.Table:
    """One row per name that was tried.

    kind, name, key (an id, where the name has one), chance_choosing and chance_scoring (mean over
    cells), chosen (features of which it is the kind's best), labelled (those of which it is the
    label), classes below a superclass.
    """
    rows = []
    for kind, names in labels.names.items():
        chosen_N = labels.kinds[kind].name_N
        mine_N = labels.kind_N == TAXONOMY.index(kind)
        for number, text in enumerate(names.texts):
            rows.append(
                {
                    "kind": kind,
                    "name": _word(words, kind, text),
                    "key": text,
                    "chance_choosing": float(names.chance_HGA[CHOOSING, :, number].mean()),
                    "chance_scoring": float(names.chance_HGA[SCORING, :, number].mean()),
                    "chosen": int((chosen_N == number).sum()),
                    "labelled": int((mine_N & (chosen_N == number)).sum()),
                    "classes": len(names.members_A[number]) if kind == SUPERCLASS else None,
                }
            )
    schema = pa.schema(
        [("kind", pa.string()), ("name", pa.string()), ("key", pa.string()),
         ("chance_choosing", pa.float64()), ("chance_scoring", pa.float64()),
         ("chosen", pa.int64()), ("labelled", pa.int64()), ("classes", pa.int64())]
    )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema)


def _word(words: Words, kind: str, text: str) -> str:
    return words.get(kind, {}).get(text, text)


def _floats(values_N: F64) -> pa.Array:
    return pa.array(values_N, pa.float64(), from_pandas=True)
