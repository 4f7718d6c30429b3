"""Stages side by side: order, groups, threads, failures, kills; real worker processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from isae.analysis.study.parallel import choose_jobs, run_parallel
from isae.analysis.study.stages import Outcome, Stage, run_stages
from isae.errors import ConfigError, DataError, RunError
from isae.files import write_json
from isae.progress import QUIET, Reporter
from isae.store.cache import free_memory

PATIENCE_S = 60.0
THREADS_BEFORE = os.environ.get("OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    """A spawned process finds this module, whose functions it is sent, by its parent's path."""
    monkeypatch.syspath_prepend(repository)


def await_file(path: Path) -> None:
    """Return when the file is there; fail when it never comes."""
    end = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.02)


def work(folder: Path, name: str) -> None:
    """What the stage of a name does; 'meet' stages end only beside each other."""
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "fails":
        raise DataError("expected x, found y; do z")
    if name == "defect":
        await_file(folder / "late/begun")
        raise ZeroDivisionError
    if name == "slow":
        write_json(folder / "slow.begun", os.getpid())
        time.sleep(PATIENCE_S)
    if name == "kills":
        await_file(folder / "r/good.json")
        time.sleep(0.5)  # its worker is idle by then
        os.kill(int(told(folder, "good")[0]), signal.SIGKILL)
        time.sleep(PATIENCE_S)
    out = folder / name
    out.mkdir()
    (out / "begun").touch()
    if name.startswith("meet"):
        await_file(folder / ("meet2" if name == "meet1" else "meet1") / "begun")
    if name == "late":
        time.sleep(1)  # longer than it takes to hear of the defect
    threads = f"{os.environ['OMP_NUM_THREADS']} {torch.get_num_threads()}"
    (out / "summary.json").write_text(f'"{os.getpid()} {threads} {time.monotonic()}"')


def make_stage(folder: Path, name: str, *reads: str, group: str | None = None) -> Stage:
    inputs = [folder / one / "summary.json" for one in reads]
    return Stage(name, folder / name, inputs, {}, partial(work, folder, name), group)


def all_stages(folder: Path) -> list[Stage]:
    return [
        make_stage(folder, "meet1"),
        make_stage(folder, "meet2"),
        make_stage(folder, "group1", group="g"),
        make_stage(folder, "group2", group="g"),
        make_stage(folder, "last", "meet1", "group2"),
        *(
            make_stage(folder, name)
            for name in ("good", "defect", "fails", "slow", "kills", "late")
        ),
        make_stage(folder, "never", "late"),
        make_stage(folder, "dies", "good"),
        make_stage(folder, "reader", "fails"),
    ]


def do_named(folder: Path, names: Sequence[str]) -> Outcome:
    stages = [stage for stage in all_stages(folder) if stage.name in names]
    return run_stages(stages, folder / "r", overwrite=False, reporter=QUIET)


def run(folder: Path, *names: str, reporter: Reporter = QUIET) -> Outcome:
    stages = [stage for stage in all_stages(folder) if stage.name in names]
    work = partial(do_named, folder)
    return run_parallel(stages, work, 2, folder / "r", overwrite=False, reporter=reporter)


def told(folder: Path, name: str) -> list[str]:
    return (folder / name / "summary.json").read_text().strip('"').split()


def test_side_by_side_in_order_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("meet1", "meet2", "group1", "group2", "last")
    found = run(tmp_path, *names, reporter=Reporter())
    assert list(found.done) == list(names)
    assert told(tmp_path, "group1")[0] == told(tmp_path, "group2")[0]
    assert told(tmp_path, "meet1")[0] != told(tmp_path, "meet2")[0]
    threads = str(max(1, torch.get_num_threads() // 2))
    assert told(tmp_path, "meet1")[1:3] == [threads, threads]
    ended = {name: float(told(tmp_path, name)[3]) for name in names}
    assert ended["last"] > max(ended["meet1"], ended["group2"])
    assert ended["group1"] < ended["group2"]
    said = capsys.readouterr().err
    assert "group1 and 1 more: begun" in said
    assert re.search(r"(last|meet2): done, 0 of 5 to go", said)
    assert run(tmp_path, *names).kept == list(names)
    assert os.environ.get("OMP_NUM_THREADS") == THREADS_BEFORE


def test_failures(tmp_path: Path) -> None:
    found = run(tmp_path, "fails", "reader", "good")
    assert list(found.done) == ["good"]
    assert list(found.failed) == ["fails", "reader"]
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, "defect", "late", "never")
    assert (tmp_path / "r/late.json").is_file()
    assert not (tmp_path / "never").exists()
    with pytest.raises(RunError, match=r"found one dead .* during dies.*fewer --jobs"):
        run(tmp_path / "killed", "good", "dies")
    assert (tmp_path / "killed/r/good.json").is_file()


def test_an_idle_worker_that_is_killed_ends_the_work(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(RunError, match=r"found one dead .* during kills"):
        run(tmp_path, "good", "kills")
    assert time.monotonic() - began < PATIENCE_S  # the other one was told to leave
    assert not (tmp_path / "kills/summary.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(
    tmp_path: Path, repository: Path, number: signal.Signals
) -> None:
    code = (
        "import signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.path.insert(0, {str(repository)!r})\n"
        f"from {__name__} import run\n"
        "run(Path(sys.argv[1]), 'slow')\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL
    )
    begun = tmp_path / "slow.begun"
    await_file(begun)
    time.sleep(0.1)
    worker = int(begun.read_text())
    parent.send_signal(number)
    assert parent.wait(PATIENCE_S / 2) != 0
    end = time.monotonic() + PATIENCE_S / 2
    while is_running(worker):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not (tmp_path / "r/slow.json").exists()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_how_many_at_once() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_jobs(3, gpu) == 3
    assert choose_jobs(None, gpu) == 1
    memory = free_memory()
    fit = torch.get_num_threads() if memory is None else memory // (4 * 2**30)
    assert choose_jobs(None, cpu) == max(1, min(torch.get_num_threads(), fit))
    with pytest.raises(ConfigError, match="at least one job, found 0"):
        choose_jobs(0, cpu)
