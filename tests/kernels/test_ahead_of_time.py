"""Every Triton kernel, as shipped, compiles for GPUs that are not here, without spills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

OPERATIONS = {
    "topk_encode bf16",
    "topk_encode tf32",
    "topk_encode ieee",
    "topk of AuxK",
    "sparse_decode",
    "value gradients",
    "decode_residual bf16",
    "sparse_outer",
    "latent_update",
    "latent_update tied",
    "adam_update",
    "adam_update plain",
    "column_sums",
    "expand_rows",
    "expand_rows fp32",
}
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


def run_python(arguments: list[str], tmp_path: Path, **settings: str) -> Any:
    """A process of its own: where Triton was imported to interpret, it cannot compile."""
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1", **settings}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_kernels_compile_without_spills(architecture: int, tmp_path: Path) -> None:
    module = ["-m", "isae.kernels.triton.catalogue", "--architecture", str(architecture)]
    done = run_python([*module, "--workload", "W"], tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["operation"] for row in rows} >= OPERATIONS
    for row in rows:
        assert row["architecture"] == architecture
        assert row["faults"] == [], row
        assert row["spilled"] == 0
        assert 16 <= row["registers"] <= 255
        assert 0 <= row["shared"] <= SHARED[architecture]


def test_edges_compile_without_spills(tmp_path: Path) -> None:
    """What spilled once: many candidates in one selection, rows of 508 numbers, sizes of 1."""
    code = """
import json
from isae.kernels.triton.ahead_of_time import compile_variant
from isae.kernels.triton.catalogue import variants
edges = variants("edges", 90)
assert {512, 1} <= {v.sizes[3] for v in edges} and {508, 67, 1} <= {v.sizes[1] for v in edges}
found = [
    next(v for v in variants("M", 90) if v.operation == "topk of AuxK" and "HOLD" in v.constants),
    next(v for v in edges if v.operation == "topk_encode bf16" and v.sizes[1] == 508),
    next(v for v in edges if v.operation == "sparse_decode" and v.sizes[1] == 1),
]
assert found[0].constants["HOLD"] is False
assert found[1].constants["UNIT"] == 4
assert found[2].constants["k"] == found[2].constants["units_d"] == 1
print(json.dumps([compile_variant(variant, 90) for variant in found]))
"""
    done = run_python(["-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["faults"] for row in json.loads(done.stdout)] == [[], [], []]


def test_each_architecture_gets_its_own_tile(tmp_path: Path) -> None:
    code = """
import json
from isae.kernels.triton.ahead_of_time import ARCHITECTURES
from isae.kernels.triton.catalogue import variants
from isae.kernels.triton.settings import ENCODE_TILES
for architecture in ARCHITECTURES:
    first = variants("W", architecture)[0]
    tile = ENCODE_TILES[architecture, "half"]
    assert first.operation == "topk_encode bf16"
    assert first.signature["x_ptr"] == first.signature["w_ptr"] == "*bf16"
    blocks = [first.constants[name] for name in ("BLOCK_C", "BLOCK_N", "BLOCK_D")]
    assert blocks == [tile.block_c, tile.block_n, tile.block_d]
    assert first.options["num_warps"] == tile.warps
    # 832 channels are 52 units of 16.
    assert first.constants["UNIT"] == 16
    assert first.signature["units_w"] == "i32"
"""
    done = run_python(["-c", code], tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_spill_is_seen_and_fails(tmp_path: Path) -> None:
    """A tile far too large for the registers: the report must say so, or it sees nothing."""
    code = """
import dataclasses
from isae.kernels.triton import ahead_of_time, catalogue
variant = next(v for v in catalogue.variants("W", 80) if v.operation == "column_sums")
big = dict(variant.constants, STRETCH=256, BLOCK_D=128)
variant = dataclasses.replace(variant, constants=big, options={"num_warps": 1})
row = ahead_of_time.compile_variant(variant, 80)
assert row["spilled"] > 0 and any("spills" in fault for fault in row["faults"]), row
full = {"architecture": 80, "spilled": 0, "shared": 163 * 1024 + 1}
assert any("shared memory" in fault for fault in ahead_of_time.faults(full, (1,)))
assert any("programs" in fault for fault in ahead_of_time.faults({**full, "shared": 0}, (1, 65536)))
"""
    done = run_python(["-c", code], tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_interpreter_cannot_compile(tmp_path: Path) -> None:
    code = """
from isae.errors import KernelError
from isae.kernels.triton import ahead_of_time
try:
    ahead_of_time.compile_variant(None, 90)
except KernelError as error:
    print(error)
"""
    done = run_python(["-c", code], tmp_path, TRITON_INTERPRET="1")
    assert "TRITON_INTERPRET" in done.stdout, done.stderr
