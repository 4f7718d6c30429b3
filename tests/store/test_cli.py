"""The command line: JSON, exit codes, one line for every mistake."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from uuid import uuid4

import pytest

from isae.store import BuildConfig, build_store, cli


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in this process: starting a new one takes seconds."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["isae-store", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        sys.argv = before
    code = end.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


def run_limited(file_limit: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process whose files may not grow beyond a limit."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    return subprocess.run(
        [sys.executable, "-m", "isae.store.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


def test_info_is_one_json_object(built: Path) -> None:
    done = run("info", built, "--json", "--seed", "1", "--quiet")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["layers"]["mixed4a"]["rows"] == 26 * 16
    assert found["raw_bytes"] > found["stored_bytes"] > 0
    assert found["model"]["compute_dtype"] in ("float32", "bfloat16")


def test_info_fits_80_columns(built: Path) -> None:
    lines = run("info", built).stdout.splitlines()
    assert max(len(line) for line in lines if str(built) not in line) <= 80


def test_verify_says_what_is_damaged_and_exits_with_1(built: Path, copied: Path) -> None:
    fine = run("verify", built, "--json")
    assert fine.returncode == 0
    assert json.loads(fine.stdout)["problems"] == []
    (copied / "images.parquet").write_bytes(b"x")
    done = run("verify", copied, "--json", "--quiet")
    assert done.returncode == 1
    assert "images.parquet" in json.loads(done.stdout)["problems"][0]
    assert done.stderr == ""
    (copied / "COMPLETE").write_bytes(b"x")
    again = run("verify", copied, "--json", "--quiet")
    assert again.returncode == 1
    assert len(json.loads(again.stdout)["problems"]) == 2


def test_addresses_stay_addresses(small_config: Callable[..., BuildConfig], tmp_path: Path) -> None:
    url = f"memory://{uuid4().hex}/store"
    build_store(
        small_config(out=url, images="synthetic:2", layers=("mixed4a",), scratch=str(tmp_path))
    )
    for command in ("verify", "info", "repair"):
        assert json.loads(run(command, url, "--json", "--quiet").stdout)["store"] == url


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "nowhere"), "found nothing there"),
        (("verify", "nowhere"), "found nothing there"),
        (("build", "--images", "nowhere", "--layers", "mixed4a", "--out", "x"), "nothing of that"),
        (("build", "--images", "synthetic:4", "--layers", "mixed4z", "--out", "x"), "nearest"),
        (("build", "--images", "synthetic:99999999999999", "--layers", "a", "--out", "x"), "a"),
        (("build", "--images", "synthetic:4", "--layers", "mixed4a"), "Missing option '--out'"),
        (
            ("build", "--images", "synthetic:4", "--layers", "mixed4a", "--out", "/dev/null/x"),
            "Not a directory",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("file_limit", [20_000, 400_000])
def test_a_write_that_fails_is_one_line_and_leaves_nothing(tmp_path: Path, file_limit: int) -> None:
    """A limit on file sizes stands for a full disk: both end in an errno from write()."""
    out = tmp_path / "store"
    done = run_limited(
        file_limit, "build", "--images", "synthetic:24", "--layers", "mixed3a", "--size", "64",
        "--out", out, "--workers", "0", "--quiet",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert not out.exists()
