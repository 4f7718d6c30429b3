"""Disks and permissions that fail under way: an error in one line, and nothing is lost.

A fault is brought about from within a build, after a certain step of it, so that its moment is
sure; what the fault does is real. Afterwards `resume` gives the content of an undisturbed build.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isae.errors import StoreError
from isae.store import (
    BuildConfig,
    assemble,
    build_store,
    manifest,
    open_store,
    segmenting,
    units,
)

Config = Callable[..., BuildConfig]
Arrange = Callable[..., None]
CheckResumed = Callable[[BuildConfig, str], None]
pytestmark = pytest.mark.usefixtures("small_segments")


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


STEPS = {
    "segments": (segmenting, "write_segment", {"call": 2}),
    "cuts": (assemble, "write_cuts", {"early": True}),
    "units": (units.UnitMaker, "make", {"early": True}),
    "metadata": (assemble, "_write_metadata", {"early": True}),
    "statistics": (assemble, "save_statistics", {"early": True}),
    "manifest": (manifest, "as_json", {"call": 8}),
}


@pytest.mark.parametrize("step", list(STEPS))
def test_a_full_disk_loses_nothing(
    built: Path,
    small_config: Config,
    after: Arrange,
    small_disk: Path,
    step: str,
    check_resumed: CheckResumed,
) -> None:
    """Really full: also memory mapped to files would end the process here."""
    config = small_config(out=str(small_disk / "store"))
    owner, name, options = STEPS[step]
    after(owner, name, lambda: fill(small_disk), **options)
    with pytest.raises(OSError, match="No space left") as caught:
        build_store(config)
    assert caught.value.errno == errno.ENOSPC
    kept = len(list((small_disk / "store" / "work").glob("segment-*")))
    assert kept == (2 if step == "segments" else 4)
    with pytest.raises(StoreError):
        open_store(config.out)
    # Without space it fails again, at once where much is missing, and still loses nothing.
    if step != "manifest":
        with pytest.raises((OSError, StoreError), match=r"No space left|GB of free disk"):
            build_store(config, resume=True)
    (small_disk / "filler").unlink()
    check_resumed(config, open_store(built).content_id)


CHILD = """
import os, sys
from isae.store import cli, plan, segmenting
plan.SEGMENT_BYTES = 1
step, calls, out = segmenting.write_segment, [], {out!r}
work = out + "/work"
def write_segment(*args):
    step(*args)
    calls.append(args)
    if len(calls) == 2:
        {fault}
segmenting.write_segment = write_segment
sys.argv = ["isae-store", "build", *{options!r}, "--out", out]
cli.main()
"""
FAULTS = {
    "file size": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))",
    # Root may write anywhere, so root becomes somebody else.
    "permission": "os.getuid() or os.setuid(65534); os.getuid() == 65534 or os.chmod(work, 0o500)",
    "work folder": "import shutil; shutil.rmtree(work)",
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_the_command_says_it_in_one_line(
    built: Path, tmp_path: Path, fault: str, check_resumed: CheckResumed
) -> None:
    out = tmp_path / "store"
    options = "--images synthetic:26 --layers mixed3b,mixed4a,mixed4b --size 56 --holdout 0.2"
    options += " --batch-size 8 --workers 0 --seed 3 --quiet"
    code = CHILD.format(out=str(out), fault=FAULTS[fault], options=options.split())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    work = out / "work"
    if work.exists():
        work.chmod(0o755)
        assert len(list(work.glob("segment-*"))) == 2
    config = BuildConfig(
        images="synthetic:26", layers=("mixed3b", "mixed4a", "mixed4b"), out=str(out),
        size=56, holdout=0.2, batch_size=8, workers=0, seed=3,
    )  # fmt: skip
    check_resumed(config, open_store(built).content_id)
