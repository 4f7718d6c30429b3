from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels(compiled_loops: None) -> None:
    """No single test pays for the compilation of the loops."""
