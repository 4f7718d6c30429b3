"""Fixtures that every test folder shares.

The tests of the Triton kernels run on a GPU where there is one, else in Triton's interpreter. With
ISAE_TEST_DEVICE=cpu no test sees a GPU; `make test` sets it, since the other tests expect none.

With ISAE_SOAK_REPORT, which `make soak` sets, what the long tests counted goes into that file.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os

if os.environ.get("ISAE_TEST_DEVICE") == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isae import kernels
from isae.benchmarks.soak import SoakReport
from isae.files import write_json
from isae.kernels.cpu.int8_tile import has_int8_tile

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

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
"""This process among those of pytest-xdist: gw0, gw1."""

REPOSITORY = Path(__file__).resolve().parent.parent

LONG = (
    "store/test_kill.py", "train/test_fused.py", "kernels/test_ahead_of_time.py",
    "analysis/study/test_analyze_study.py", "analysis/visualise/test_visualise_command.py",
    "store/test_torchrun.py", "train/test_command.py", "analysis/report/test_report_data.py",
    "store/test_memory.py", "analysis/branches/test_analyze.py", "inception/test_accuracy.py",
    "store/test_bucket.py", "store/test_faults.py", "analysis/layers/test_layers.py",
    "analysis/tuning/test_tuning_command.py", "analysis/report/test_report_whole.py",
    "analysis/study/test_parallel.py", "analysis/report/test_report_inputs.py",
    "analysis/report/test_report_saes.py", "benchmarks/test_training.py",
)  # fmt: skip
"""Files of tests that take long: they come first, so that no worker is left alone with one.

Those that share what is built once (`build_once`) stand apart: else one worker waits for another.
"""


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {REPOSITORY / "tests" / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


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


@pytest.fixture(scope="session", autouse=True)
def shared_compilation(request: pytest.FixtureRequest) -> None:
    """Where pytest has several workers, none compiles what another one compiles too."""
    if WORKER is not None:
        request.getfixturevalue("compiled_loops")


def base_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base if WORKER is None else base.parent


@pytest.fixture(scope="session")
def build_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[Path], object]], Path]:
    """build_once(name, build): the folder that build(folder) filled, once for all workers.

    The first worker that asks builds; others wait for it. What fails is built anew by the next.
    """

    def once(name: str, build: Callable[[Path], object]) -> Path:
        with (base_of_all(tmp_path_factory) / f"{name}.built").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            built = file.read()
            if not built:
                folder = tmp_path_factory.mktemp(name)
                build(folder)
                built = str(folder)
                file.write(built)
        return Path(built)

    return once


@pytest.fixture(scope="session")
def compiled_loops(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile the loops of numba once, so that no single test pays for it.

    Workers of pytest-xdist share the parts out, each beginning with another one; where a part is
    already taken, they wait, and then read it from numba's cache.
    """
    if importlib.util.find_spec("numba") is None:
        return
    parts = [partial(compile_kernels, torch.float32), partial(compile_kernels, torch.float64)]
    if WORKER is not None and importlib.util.find_spec("zarr") is not None:
        parts.append(partial(compile_store_loops, tmp_path_factory.mktemp("loops") / "store"))
    first = int((WORKER or "gw0").removeprefix("gw")) % len(parts)
    for number in [*range(first, len(parts)), *range(first)]:
        with (base_of_all(tmp_path_factory) / f"loops-{number}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            parts[number]()


def compile_kernels(dtype: torch.dtype) -> None:
    """Call every kernel of the CPU on a few numbers."""
    x, W, b = (torch.ones(shape, dtype=dtype) for shape in ((2, 3), (4, 3), (4,)))
    v, w = torch.zeros(2, 2, dtype=dtype, requires_grad=True), torch.ones(2, dtype=dtype)
    values, indices = kernels.topk_encode(x, W, b, 2, kernel="cpu")
    kernels.sparse_decode(v, indices, W, kernel="cpu").sum().backward()
    kernels.decode_residual(values, indices, W, x[0].clone(), x, w, kernel="cpu")
    groups = kernels.group_by_latent(values, indices, 4, kernel="cpu")
    kernels.sparse_outer(groups, values, x, kernel="cpu")
    kernels.column_sums(x, kernel="cpu")
    kernels.adam_update(W, W.clone(), W.clone(), W.clone(), lr=0.1, step=1, kernel="cpu")
    enc, dec, bias = (kernels.Parameter(p.clone(), p.clone(), p.clone()) for p in (W, W, b))
    kernels.latent_update(
        groups, values, values.clone(), x, x.clone(), enc, dec, bias, lr=0.1, step=1, kernel="cpu"
    )
    if dtype == torch.float32 and has_int8_tile():
        many = torch.rand(128, 32), torch.rand(1024, 32), torch.rand(1024)
        kernels.topk_encode(*many, 2, kernel="cpu")


def compile_store_loops(out: Path) -> None:
    """Write a small store."""
    from isae.store import BuildConfig, build_store

    build_store(BuildConfig("synthetic:4", ("mixed5b",), str(out), size=64, workers=0, holdout=0.5))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where Triton's kernels run: a GPU, compiled, or else the CPU, interpreted."""
    if not ON_GPU and importlib.util.find_spec("triton") is not None:
        prepare_the_language_once_a_launch()
    return torch.device("cuda" if ON_GPU else "cpu")


def prepare_the_language_once_a_launch() -> None:
    """Take from Triton's interpreter what it does again at every call of a function in a kernel.

    A launch puts the interpreter's functions into `triton.language`, and a call inside it looks
    through the whole language again for nothing, which took nearly half of the tests' time.
    """
    from triton.runtime import interpreter

    put, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    done: set[int] = set()

    def put_once(function: Any) -> Any:
        # What it patches are the language's modules that the function's file names.
        file = id(function.__globals__)
        if file in done:
            return None
        done.add(file)
        return put(function)

    def fresh_launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        done.clear()
        return launch(self, *args, **kwargs)

    interpreter._patch_lang = put_once
    interpreter.GridExecutor.__call__ = fresh_launch


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
