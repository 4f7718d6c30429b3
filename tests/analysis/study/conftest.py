"""One small study, prepared once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isae.analysis.study.config import StudyConfig
from isae.analysis.study.prepare import prepare_study

OPTIONS: dict[str, Any] = {
    "images": "synthetic:40", "layers": ("mixed5b", "mixed5a"), "size": 64, "holdout": 0.2,
    "expansion": 1, "k": 4, "rows": 200, "batch_size": 64, "device": "cpu", "seeds": 1,
}  # fmt: skip


@pytest.fixture(scope="session")
def options() -> dict[str, Any]:
    """Options of the small study."""
    return OPTIONS


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(its folder, what `prepare_study` said)."""
    folder = tmp_path_factory.mktemp("study") / "study"
    return folder, prepare_study(folder, StudyConfig(**OPTIONS))
