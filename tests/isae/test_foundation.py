"""Config round trips, atomic files, keyed randomness, devices, name errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isae import config, device, files
from isae.errors import ConfigError, IsaeError, UnknownNameError, unknown_name
from isae.randomness import hash64, keyed_rng, keyed_seed


@dataclass(frozen=True)
class Example:
    """A config for these tests."""

    name: str
    sizes: tuple[int, ...] = ()
    rate: float = 0.5
    limit: int | None = None

    def __post_init__(self) -> None:
        config.check(self.rate > 0, "a rate above 0", self.rate, "raise it")


@given(
    st.builds(
        Example,
        name=st.text(),
        sizes=st.lists(st.integers()).map(tuple),
        rate=st.floats(1e-300, 1e300),
        limit=st.none() | st.integers(),
    )
)
def test_configs_survive_json(example: Example) -> None:
    text = json.dumps(config.to_json(example))
    assert config.from_json(Example, json.loads(text)) == example


def test_configs_of_other_versions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown keys \['old'\] and missing keys \['name'\]"):
        config.from_json(Example, {"old": 1})


def test_checks_say_expected_found_and_remedy() -> None:
    with pytest.raises(ConfigError, match=r"^expected a rate above 0, found -1; raise it$"):
        Example("x", rate=-1)


def test_unknown_names_come_with_the_nearest() -> None:
    error = unknown_name("layer", "mixed4C", ["conv2d0", "mixed4c", "mixed4d"])
    assert str(error).startswith("unknown layer 'mixed4C': nearest: mixed4c")
    assert isinstance(error, UnknownNameError)
    assert isinstance(error, IsaeError)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(path, {"x": float("nan")})
    with pytest.raises(RuntimeError):
        write_half(path)
    assert json.loads(path.read_text()) == {"x": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def write_half(path: Path) -> None:
    with files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    code = (
        "import pathlib, sys, time\nfrom isae import files\n"
        f"with files.atomic_path(pathlib.Path({str(path)!r})) as t:\n"
        "    t.write_bytes(b'new' * 1000)\n    print('half', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.read_bytes() == b"old"


def test_folders_are_swapped_whole(tmp_path: Path) -> None:
    target = tmp_path / "results"
    files.swap_folder(target, lambda folder: (folder / "a").write_text("1") and None)
    with pytest.raises(RuntimeError):
        files.swap_folder(target, fail_half_way)
    assert [entry.name for entry in target.iterdir()] == ["a"]
    files.swap_folder(target, lambda folder: (folder / "b").write_text("2") and None)
    assert [entry.name for entry in target.iterdir()] == ["b"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["results"]
    target.rename(tmp_path / ".results.old")  # as a kill between the two renames leaves it
    with pytest.raises(RuntimeError):
        files.swap_folder(target, fail_half_way)
    assert [entry.name for entry in target.iterdir()] == ["b"]


def test_a_folder_that_was_half_removed_never_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "results"
    files.swap_folder(target, lambda folder: [(folder / name).write_text("") for name in "ab"])

    def killed(path: Path, **options: object) -> None:
        if (path / "a").exists():
            (path / "a").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            files.swap_folder(target, lambda folder: (folder / "c").write_text("") and None)
    assert [entry.name for entry in target.iterdir()] == ["c"]
    target.rename(tmp_path / "taken away")
    with pytest.raises(RuntimeError):
        files.swap_folder(target, fail_half_way)
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken away"]


def fail_half_way(folder: Path) -> None:
    (folder / "half").write_text("x")
    raise RuntimeError


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    # The test vector of FIPS 180-4.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(path) == expected


def test_hash64_is_splitmix64() -> None:
    """Against the published algorithm written with Python's integers."""

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    values = [0, 1, 2, 12345, 2**31 - 1, 2**63 - 1]
    state = mix(99)
    expected = [mix((state + value + 0x9E3779B97F4A7C15) % 2**64) for value in values]
    assert hash64(99, np.array(values)).tolist() == expected


def test_keyed_generators_are_reproducible_and_apart() -> None:
    again = [keyed_rng(1, "a", 2).random() for _ in range(2)]
    assert again[0] == again[1]
    keys = [(1, "a"), (1, "b"), (2, "a"), ("1", "a"), (1, "a", 0), (1, "a\x1fint:0")]
    assert len({keyed_seed(*key) for key in keys}) == len(keys)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "meta", ""])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="--device auto, cpu, cuda or cuda:N"):
        device.resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_a_missing_gpu_is_said() -> None:
    assert device.resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="found none that torch can use"):
        device.resolve_device("cuda")


def test_fast_bf16_is_what_the_processor_says() -> None:
    flags = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""  # noqa: PTH110
    expected = "avx512_bf16" in flags or "amx_bf16" in flags
    assert device.has_fast_bf16(torch.device("cpu")) == expected
