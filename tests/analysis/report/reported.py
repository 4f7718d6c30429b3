"""A small study and the report of it, for tests of a report's data."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from isae.analysis.branches.analyze import analyze_branches
from isae.analysis.branches.config import BranchesConfig
from isae.analysis.layers.analyze import analyze_layers
from isae.analysis.layers.config import LayersConfig
from isae.analysis.report.config import ReportConfig
from isae.analysis.study.config import StudyConfig
from isae.analysis.study.layout import begin_study
from isae.store import BuildConfig, build_store

N, K, DEAD = 100, 4, 3
FIRST, SECOND = "mixed5a", "mixed5b"
CONFIG = ReportConfig(title="</script>", sample=60, epochs=20, device="cpu")
EVIL = "n01</script>\u2028\"'/x.JPEG"
_LIGHT = BranchesConfig(
    heldout_rows=0, pictures=0, reference_rows=0, samples=100, figures=False, device="cpu"
)
_PAIRS = LayersConfig(
    least_images=3, shuffles=5, resamples=100, label_draws=100, virtual_images=0, device="cpu"
)


def build_study(folder: Path, random_run: Callable[..., Path]) -> None:
    """A study of two layers with SAEs of random rows, branches and layers analysed."""
    begin_study(folder, StudyConfig("synthetic:30", layers=(SECOND, FIRST), seeds=1, untrained=1))
    trained = folder / "trained"
    build_store(
        BuildConfig(
            images="synthetic:30", layers=(FIRST, SECOND), out=str(trained / "store"), size=64,
            positions="all", workers=0, holdout=0.2, seed=2, device="cpu",
        )
    )  # fmt: skip
    (trained / "seed0").mkdir()
    runs = [trained / "seed0" / layer for layer in (FIRST, SECOND)]
    for run in runs:
        random_run(trained, run.name, N, K, DEAD).rename(run)
        analyze_branches(run, config=_LIGHT)
    analyze_layers(runs, out=trained / "seed0" / "layers", config=_PAIRS)


def column_values(column: dict[str, Any]) -> list[Any]:
    """What a column of the report says of each feature."""
    if column["kind"] == "text":
        return list(column["values"])
    if column["kind"] == "category":
        codes = np.frombuffer(base64.b64decode(column["codes"]), "<u2")
        return [column["names"][code] for code in codes]
    return np.frombuffer(base64.b64decode(column["values"]), "<f4").tolist()
