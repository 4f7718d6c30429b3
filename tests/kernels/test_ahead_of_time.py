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


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the command says of one workload, for every architecture."""
    command = ["-m", "isae.kernels.triton.catalogue", "--workload", "W"]
    each = [text for number in SHARED for text in ("--architecture", str(number))]
    done = run_python([*command, *each], tmp_path_factory.mktemp("catalogue"))
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


@pytest.mark.parametrize("architecture", SHARED)
def test_kernels_compile_without_spills(architecture: int, catalogue: list[dict[str, Any]]) -> None:
    rows = [row for row in catalogue if row["architecture"] == architecture]
    assert {row["operation"] for row in rows} >= OPERATIONS
    for row in rows:
        assert row["faults"] == [], row
        assert row["spilled"] == 0
        assert 16 <= row["registers"] <= 255
        assert 0 <= row["shared"] <= SHARED[architecture]


# Programs for one process: each imports half of torch.
EDGES = """
edges = variants("edges", 90)
of_m = variants("M", 90)
chosen = [
    next(v for v in of_m if v.operation == "topk of AuxK" and "HOLD" in v.constants),
    next(v for v in edges if v.operation == "topk_encode bf16" and v.sizes[1] == 508),
    next(v for v in edges if v.operation == "sparse_decode" and v.sizes[1] == 1),
]
found["edges"] = {
    "channels": [v.sizes[1] for v in edges],
    "active": [v.sizes[3] for v in edges],
    "constants": [dict(v.constants) for v in chosen],
    "faults": [compile_variant(v, 90)["faults"] for v in chosen],
}
"""
TILES = """
found["tiles"] = {}
for architecture in ahead_of_time.ARCHITECTURES:
    first = variants("W", architecture)[0]
    tile = ENCODE_TILES[architecture, "half"]
    found["tiles"][architecture] = {
        "operation": first.operation,
        "signature": dict(first.signature),
        "constants": dict(first.constants),
        "warps": first.options["num_warps"],
        "tile": dataclasses.asdict(tile),
    }
"""
SPILL = """
variant = next(v for v in variants("W", 80) if v.operation == "column_sums")
big = dict(variant.constants, STRETCH=256, BLOCK_D=128)
variant = dataclasses.replace(variant, constants=big, options={"num_warps": 1})
full = {"architecture": 80, "spilled": 0, "shared": 163 * 1024 + 1}
found["spill"] = {
    "row": compile_variant(variant, 80),
    "too much": ahead_of_time.faults(full, (1,)),
    "too many": ahead_of_time.faults({**full, "shared": 0}, (1, 65536)),
}
"""
HEAD = """
import dataclasses, json
from isae.kernels.triton import ahead_of_time
from isae.kernels.triton.ahead_of_time import compile_variant
from isae.kernels.triton.catalogue import variants
from isae.kernels.triton.settings import ENCODE_TILES
found = {}
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the programs found."""
    code = HEAD + EDGES + TILES + SPILL + "print(json.dumps(found))"
    done = run_python(["-c", code], tmp_path_factory.mktemp("programs"))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_edges_compile_without_spills(said: dict[str, Any]) -> None:
    """What spilled once: many candidates in one selection, rows of 508 numbers, sizes of 1."""
    edges = said["edges"]
    assert {512, 1} <= set(edges["active"])
    assert {508, 67, 1} <= set(edges["channels"])
    candidates, rows, ones = edges["constants"]
    assert candidates["HOLD"] is False
    assert rows["UNIT"] == 4
    assert ones["k"] == ones["units_d"] == 1
    assert edges["faults"] == [[], [], []]


@pytest.mark.parametrize("architecture", SHARED)
def test_each_architecture_gets_its_own_tile(architecture: int, said: dict[str, Any]) -> None:
    assert said["tiles"].keys() == {str(number) for number in SHARED}
    first = said["tiles"][str(architecture)]
    tile, constants, signature = first["tile"], first["constants"], first["signature"]
    assert first["operation"] == "topk_encode bf16"
    assert signature["x_ptr"] == signature["w_ptr"] == "*bf16"
    blocks = [constants[name] for name in ("BLOCK_C", "BLOCK_N", "BLOCK_D")]
    assert blocks == [tile["block_c"], tile["block_n"], tile["block_d"]]
    assert first["warps"] == tile["warps"]
    # 832 channels are 52 units of 16.
    assert constants["UNIT"] == 16
    assert signature["units_w"] == "i32"


def test_a_spill_is_seen_and_fails(said: dict[str, Any]) -> None:
    """A tile far too large for the registers: the report must say so, or it sees nothing."""
    row = said["spill"]["row"]
    assert row["spilled"] > 0
    assert any("spills" in fault for fault in row["faults"]), row
    assert any("shared memory" in fault for fault in said["spill"]["too much"])
    assert any("programs" in fault for fault in said["spill"]["too many"])


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
