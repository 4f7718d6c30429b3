"""The command line on a real store, in processes of its own, killed at random moments."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isae.store import open_store
from isae.train import SAE
from isae.train.cli import main

OPTIONS = [
    "--layer",
    "mixed3a",
    "--expansion",
    "1",
    "--k",
    "8",
    "--batch-size",
    "128",
    "--seed",
    "4",
]
WEIGHTS = "sae/mixed3a/sae_weights.safetensors"


def command(store: Path, run: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "isae.train.cli", str(store), "--out", str(run), *OPTIONS),
        *(
            "--steps",
            "120",
            "--eval-every",
            "40",
            "--checkpoint-every",
            "10",
            "--threads",
            "1",
            *more,
        ),
    ]


def complete(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def whole(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A run that nothing disturbed, and what it printed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    result = complete(*command(small_store, run, "--json"))
    assert result.returncode == 0, result.stderr
    return run, json.loads(result.stdout)


def test_one_json_object_and_a_loadable_sae(small_store: Path, whole: tuple[Path, dict]) -> None:
    run, printed = whole
    assert printed == json.loads((run / "summary.json").read_text())
    store = open_store(small_store)
    layer = store.layers["mixed3a"]
    assert printed["holdout_rows"] == layer.rows - layer.train_rows
    assert printed["store_content_id"] == store.manifest["content_id"]
    assert 0 < printed["holdout_fvu"] < 1
    sae = SAE.load(run / "sae" / "mixed3a")
    assert (sae.d, sae.n, sae.k) == (256, 256, 8)


def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(
    small_store: Path, whole: tuple[Path, dict], tmp_path: Path
) -> None:
    run, moments = tmp_path / "run", random.Random(0)
    metrics, killed = run / "metrics.jsonl", 0
    for goal in sorted(moments.sample(range(2, 11), 2)):
        process = subprocess.Popen(
            command(small_store, run, "--resume", "--quiet"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.read_text().count("\n") >= goal:
                time.sleep(moments.uniform(0, 0.05))
                break
            time.sleep(0.002)
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL or not errors, errors
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 1
    result = complete(*command(small_store, run, "--resume", "--quiet"))
    assert result.returncode == 0, result.stderr
    assert (run / WEIGHTS).read_bytes() == (whole[0] / WEIGHTS).read_bytes()


def test_a_full_disk_ends_in_one_line(
    small_store: Path, whole: tuple[Path, dict], tmp_path: Path
) -> None:
    # The state of a run takes 2 MB; kernels are compiled already, by the run before.
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)); "
        "from isae.train.cli import main; main()"
    )
    arguments = command(small_store, tmp_path / "run", "--quiet")[3:]
    result = complete(sys.executable, "-c", limited, *arguments)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert "File too large" in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--k", "300"], "expected k <= 256"),
        (["--layer", "mixed3x"], "unknown layer 'mixed3x': nearest: mixed3a"),
        (["--kernel", "cuda"], "unknown kernel 'cuda'"),
        (["--device", "tpu"], "expected --device auto, cpu, cuda"),
        (["--epochs", "3"], "steps or epochs"),
        (["--clip", "-0.5"], "expected clip >= 0 and finite, found -0.5"),
        (["--resume", "--overwrite"], "--resume or --overwrite"),
    ],
)
def test_mistakes_end_in_one_line(
    more: list[str],
    message: str,
    small_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", command(small_store, tmp_path / "run", *more)[2:])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "run").exists()
