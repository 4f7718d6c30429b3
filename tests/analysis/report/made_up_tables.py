"""Tables of analyses that take long, as those write them, with numbers drawn from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from isae.files import write_json


def make_up_analyses(run: Path, stability: Path, features: int, evil: str) -> None:
    """Write tuning, curves, label and visualise of a run, and a comparison of seeds.

    Features 5, 7 and 66 are what tests look at; evil: text of labels and image names.
    """
    analysis, layer = run / "analysis", run.name
    rng = np.random.default_rng(0)
    feature = np.arange(features, dtype=np.int32)
    tuning: dict[str, Any] = {"feature": feature}
    for family, kinds in (("arc", ("direction", "axis")), ("line", ("axis", "cross"))):
        tuning |= {
            f"{family}_look": ["light"] * features,
            f"{family}_by": [kinds[i % 2] if i % 3 else None for i in range(features)],
            f"{family}_clear": feature % 4 > 0,
            **{
                f"{family}_{name}": rng.uniform(0, 90, features)
                for name in ("vector", "axis", "peak")
            },
            f"{family}_selectivity_1": rng.uniform(size=features),
            f"{family}_selectivity_2": rng.uniform(size=features),
        }
    curve = {"feature": [5, 5], "family": ["arc", "line"], "period": [360.0, 180.0],
             "look": ["light disc", ""], "curve": [[1.0, 2.5], [0.5, 3.0, 1 / 3]],
             "radii": [[12.5, np.inf], []], "radius_curve": [[1.0, 2.0], []]}  # fmt: skip
    units = {"units": features, "answering": 90, "tuned_to_any": 25}
    both = {"features": units, "neurons": units}
    save(analysis / "tuning", {"features": tuning, "feature_curves": curve}, both)
    curves = {"feature": feature, "curve_detector": feature == 7,
              "direction": pa.array(rng.uniform(0, 360, features), mask=feature > 9),
              "selectivity": rng.uniform(size=features)}  # fmt: skip
    kinds = {"feature": {"curve_detectors": 1, "share": 0.01}, "neuron": {"share": None}}
    save(analysis / "curves", {"features": curves}, {"units": kinds})
    live = {"run": [0, 1, 1], "feature": [4, 4, 9], "comes_back": [True, False, True],
            "least_cosine": [0.75, 0.1, 0.2], "q": [0.01, 1.0, 0.03]}  # fmt: skip
    seeds = [{"run": "elsewhere", "seed": 1}, {"run": str(run), "seed": 0}]
    one = {"tested": 2, "share": 0.5, "interval_95": [0.1, 0.9], "median_least_cosine": 0.15,
           "median_neighbour_cosine": 0.3}  # fmt: skip
    save(stability, {"features": live}, {"layer": layer, "runs": [s | one for s in seeds]})
    labels = {"feature": feature, "label": [evil if i % 2 else "" for i in range(features)],
              "taxonomy": ["class" if i % 2 else "unexplained" for i in range(features)],
              **{name: rng.uniform(size=features) for name in ("score", "chance", "q")},
              "edge_artefact_name": ["edge" if i == 3 else None for i in range(features)],
              "edge_artefact_score": rng.uniform(size=features)}  # fmt: skip
    counts = {"features": features, "class": {"features": 50, "by_chance": 1.5}}
    of = {"tested": 97, "labelled": 50, "labelled_share_of_tested": 0.5, "unexplained": 50,
          "by_chance": {"mean": 1.5}, "taxonomy": counts, "branches": {"pool": counts}}  # fmt: skip
    save(analysis / "label", {"labels": labels}, of)
    patches = {"feature": [66, 66, 2], "group": ["top", "random", "top"], "tile": [0, 3, 0],
               "value": [2.5, 1 / 3, 9.0], "quantile": [1.0, 0.25, 1.0], "name": [evil, "b", "c"],
               "label": [None, "b", "c"], "split": ["train"] * 3, "y": [0, 1, 1], "x": [1, 0, 0],
               "border": [True, False, False],
               "left": [8, 0, 0], "top": [0] * 3, "right": [40, 32, 32],
               "bottom": [32] * 3, "shown": [True] * 3, "heat": [[0, 255, None], [1], []],
               "heat_rows": [1, 1, 0], "heat_columns": [3, 1, 0], "heat_top": [0, 1, 0],
               "heat_left": [0, 0, 0]}  # fmt: skip
    pictures = {"unit": [66, 66, 66, 5], "kind": ["feature", "diversity", "neuron", "feature"],
                "branch": ["pool"] * 4, "number": [0, 1, 0, 0],
                "file": [f"pictures/{i}.png" for i in range(4)],
                "reached": [3.0, 2.0, 9.0, 1.0], "best": [2.5, 2.5, 1.0, 0.0],
                "above": [True, False, True, True], "steps": [9] * 4, "size": [64] * 4}  # fmt: skip
    folder = analysis / "visualise"
    save(folder, {"patches": patches, "pictures": pictures}, {"tile": 48, "tiles": 14})
    for path in [folder / f"sheets/{i}.jpg" for i in (0, 1)] + [
        folder / f"pictures/{i}.png" for i in range(4)
    ]:
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)


def save(folder: Path, tables: dict[str, dict[str, Any]], summary: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    write_json(folder / "summary.json", {"analysis": folder.name, **summary})
