"""Command lines: one JSON object, one error line and exit code 2, progress on stderr."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import rich

from isae.progress import Reporter

SCRIPT = """
import errno, sys
from isae import cli
from isae.errors import ConfigError
app = cli.new_app("An example.")

@app.command()
def fine(as_json: cli.JsonOption = False) -> None:
    import numpy
    value = {"a": float("nan"), "b": [1, 2.5, None], "c": numpy.float64(3), "d": numpy.int64(4)}
    cli.finish(value, as_json=as_json, lines="a person's text")

@app.command()
def mistake() -> None:
    raise ConfigError("expected this,\\nfound that; do so")

@app.command()
def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/some/file")

@app.command()
def defect() -> None:
    raise RuntimeError("a defect")

cli.main(app)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


def test_results_are_one_json_object() -> None:
    done = run("fine", "--json")
    assert json.loads(done.stdout) == {"a": None, "b": [1, 2.5, None], "c": 3.0, "d": 4}
    assert done.stdout.count("\n") == 1
    assert run("fine").stdout == "a person's text\n"


def test_user_errors_are_one_line_and_exit_code_2() -> None:
    done = run("mistake")
    assert done.returncode == 2
    assert done.stderr == "error: expected this, found that; do so\n"
    assert done.stdout == ""


def test_a_full_disk_is_one_line() -> None:
    done = run("full")
    assert done.returncode == 2
    assert done.stderr.startswith("error: '/some/file': No space left on device: the disk is full")
    assert done.stderr.count("\n") == 1


def test_a_defect_keeps_its_traceback() -> None:
    done = run("defect")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("arguments", [("fine", "--nonsense"), ("fin",), ("fine", "too", "much")])
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "--help" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_arguments_is_help() -> None:
    done = run()
    assert done.returncode == 2
    assert "Usage" in done.stdout + done.stderr


@pytest.mark.parametrize("program", ["isae-store", "isae-train", "isae-analyze"])
def test_programs_are_installed_and_know_their_version(program: str) -> None:
    path = Path(sys.executable).parent / program
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()[0].isdigit()
    assert "Usage" in subprocess.run([path, "--help"], capture_output=True, text=True).stdout


@pytest.mark.parametrize("package", ["store", "train", "analysis", "benchmarks"])
def test_help_does_not_wait_for_torch(package: str) -> None:
    code = f"import sys, isae.{package}.cli; print(sorted({{'torch', 'zarr'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_progress_counts_and_says_the_eta() -> None:
    stream = io.StringIO()
    with Reporter(stream=stream).task(10, "working", "things") as meter:
        meter.skip_to(4)
        meter.advance(6)
        meter.note("loss 0.5")
    line = stream.getvalue()
    assert line.startswith("working: 10/10 things")
    assert "ETA 0:00:00" in line
    assert "loss 0.5" in line


def test_quiet_is_quiet_but_for_warnings() -> None:
    stream = io.StringIO()
    reporter = Reporter(quiet=True, stream=stream)
    reporter.say("hello")
    with reporter.task(3, "working", "things") as meter:
        meter.advance(3)
    assert stream.getvalue() == ""
    reporter.warn("careful [bold]")
    assert stream.getvalue() == "warning: careful [bold]\n"


def test_a_terminal_gets_a_bar() -> None:
    reporter = Reporter(stream=io.StringIO())
    reporter.console = rich.console.Console(file=reporter.stream, force_terminal=True, width=80)
    with reporter.task(3, "working", "things") as meter:
        meter.advance(3)
    assert isinstance(reporter.stream, io.StringIO)
    assert "100%" in reporter.stream.getvalue()
