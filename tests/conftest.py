"""Fixtures that every test folder shares.

The tests of the Triton kernels run on a GPU where there is one, else in Triton's interpreter. With
ISAE_TEST_DEVICE=cpu no test sees a GPU; `make test` sets it, since the other tests expect none.

With ISAE_SOAK_REPORT, which `make soak` sets, what the long tests counted goes into that file.
"""

from __future__ import annotations

import os

if os.environ.get("ISAE_TEST_DEVICE") == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from isae.benchmarks.soak import SoakReport
from isae.files import write_json

# Triton settles at its import, which is later, whether kernels are compiled or interpreted.
ON_GPU = torch.cuda.is_available()
if ON_GPU:
    os.environ.pop("TRITON_INTERPRET", None)
    # Triton 3.9 warns where this is unset, and warnings are errors here; 1 is what it was before.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    # Without it cuBLAS refuses to multiply where deterministic algorithms are asked for.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
else:
    os.environ["TRITON_INTERPRET"] = "1"

REPOSITORY = Path(__file__).resolve().parent.parent


class SoakPlugin:
    """Gathers what the long tests say, and writes it at the end."""

    def __init__(self, out: str | None) -> None:
        self.out, self.report = out, SoakReport()

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.report.left_out += sum(item.get_closest_marker("soak") is not None for item in items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "soak" in report.keywords:
            self.report.outcome(report.nodeid, report.outcome, report.duration)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.out is not None:
            whole = session.config.args_source == pytest.Config.ArgsSource.TESTPATHS
            found = self.report.json(all_asked=whole and exitstatus == 0)
            write_json(Path(self.out), found)

    @pytest.fixture
    def soak_report(self, request: pytest.FixtureRequest) -> SoakReport:
        """Where a long test adds what it counted and measured; what others add is forgotten."""
        return self.report if request.node.get_closest_marker("soak") else SoakReport()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SoakPlugin(os.environ.get("ISAE_SOAK_REPORT")), "soak-report")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout under test."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with photos and weights beside the checkout; the test skips where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the photos in ../shared/data, which are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where Triton's kernels run: a GPU, compiled, or else the CPU, interpreted."""
    return torch.device("cuda" if ON_GPU else "cpu")


@pytest.fixture
def exact_float32() -> Iterator[None]:
    """Products of float32 numbers are not rounded to tf32, in kernels and in torch."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def nan_filled_allocations() -> Iterator[None]:
    """torch.empty gives NaN (integers: their maximum), so that an unwritten output is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def make_photos(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder tree of small colour pictures in the classes a and b; the folder."""

    from PIL import Image

    def make(count: int = 6, seed: int = 0) -> Path:
        folder = tmp_path / "photos"
        generator = np.random.default_rng(seed)
        for number in range(count):
            target = folder / "ab"[number % 2]
            target.mkdir(parents=True, exist_ok=True)
            height, width = generator.integers(40, 90, 2)
            coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((int(width), int(height)))
            picture.save(target / f"photo{number:03d}.jpg")
        return folder

    return make
