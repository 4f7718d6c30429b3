from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def unwritten_outputs_are_seen(nan_filled_allocations: None) -> None:
    """Every test of this folder allocates NaN."""
