"""Every Triton kernel as it is launched, compiled ahead of time without a GPU.

The launchers themselves say what is shipped: they run on tensors without memory (torch's meta
device) while launches are recorded instead of made, so block shapes, warps and stages are those of
a real run. `python -m isae.kernels.triton.catalogue --architecture 90` compiles them and prints
one JSON list with registers, spills and shared memory. Not in a process with TRITON_INTERPRET set.

Shapes: B rows, D channels, N latents, K active latents, P pairs, Q latents of AuxK.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from isae.errors import KernelError, unknown_name
from isae.kernels.latent_update import Parameter
from isae.kernels.triton.adam_update import adam_update_triton
from isae.kernels.triton.column_sums import column_sums_triton
from isae.kernels.triton.latent_update import latent_update_triton
from isae.kernels.triton.sparse_decode import (
    decode_residual_triton,
    decode_triton,
    row_products_triton,
)
from isae.kernels.triton.sparse_outer import sparse_outer_triton
from isae.kernels.triton.topk_encode import encode_triton, topk_triton

ARCHITECTURES = (80, 90, 100)
SHARED_LIMIT = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
"""Bytes of shared memory that one program may have; the compiler accepts more, no launch does."""
GRID_LIMIT = (2**31 - 1, 65535, 65535)
WORKLOADS = {
    "L": (8192, 512, 8192, 32),
    "W": (16384, 832, 65536, 64),
    "M": (8192, 832, 1 << 20, 64),
}
"""Rows, channels, latents and active latents."""
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}


@dataclass(frozen=True)
class Variant:
    """One kernel as one launch of it asks for it."""

    operation: str
    """What was called, and with which operands."""
    kernel: Any
    """The JIT function."""
    grid: tuple[int, ...]
    """Programs."""
    signature: Mapping[str, str]
    """Triton type of every argument."""
    constants: Mapping[str, Any]
    """Arguments known at compile time."""
    aligned: tuple[str, ...]
    """Arguments that are multiples of 16, or addresses of such."""
    options: Mapping[str, int]
    """num_warps and num_stages."""

    @property
    def key(self) -> str:
        """Equal for launches that share one compiled kernel."""
        parts = (self.kernel.__name__, self.signature, self.constants, self.aligned, self.options)
        return repr(parts)


def variants(workload: str, architecture: int) -> list[Variant]:
    """All kernels of a workload, each once. Raises UnknownNameError."""
    if workload not in WORKLOADS:
        raise unknown_name("workload", workload, WORKLOADS)
    found: dict[str, Variant] = {}
    for operation, call in _calls(*WORKLOADS[workload]).items():
        for variant in _launches(operation, call, architecture):
            found.setdefault(variant.key, variant)
    return list(found.values())


def compile_variant(variant: Variant, architecture: int) -> dict[str, Any]:
    """Compile and measure one kernel -> registers, spilled bytes, shared bytes, faults found.

    Raises KernelError where Triton was imported for its interpreter.
    """
    if triton.knobs.runtime.interpret:
        raise KernelError(
            "compiling ahead of time expects Triton's compiler, found its interpreter; "
            "start without TRITON_INTERPRET"
        )
    names = variant.kernel.arg_names
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in variant.aligned}
    source = ASTSource(variant.kernel, dict(variant.signature), dict(variant.constants), attributes)
    started = time.perf_counter()
    built = triton.compile(
        source, target=GPUTarget("cuda", architecture, 32), options=dict(variant.options)
    )
    row = {
        "operation": variant.operation,
        "kernel": variant.kernel.__name__,
        "architecture": architecture,
        "constants": {name: value for name, value in variant.constants.items() if name.isupper()},
        **variant.options,
        **resources(built.asm["cubin"]),
        "shared": int(built.metadata.shared),
        "seconds": round(time.perf_counter() - started, 2),
    }
    return {**row, "faults": faults(row, variant.grid)}


def faults(row: Mapping[str, Any], grid: tuple[int, ...]) -> list[str]:
    """What would spoil or forbid a launch."""
    found = []
    if row["spilled"]:
        found.append(f"spills {row['spilled']} bytes a thread")
    limit = SHARED_LIMIT[row["architecture"]]
    if row["shared"] > limit:
        found.append(f"needs {row['shared']} bytes of shared memory, {limit} are there")
    if any(size > most for size, most in zip(grid, GRID_LIMIT, strict=False)):
        found.append(f"a grid of {grid} programs is too large")
    return found


def resources(cubin: bytes) -> dict[str, int]:
    """Registers a thread, and bytes a thread that did not fit into them, by Triton's cuobjdump."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"\b([A-Z]+):(\d+)", text)}
    return {"registers": found["REG"], "spilled": found["STACK"] + found["LOCAL"]}


def _launches(operation: str, call: Callable[[], object], architecture: int) -> Iterator[Variant]:
    with _recording(architecture) as launches:
        call()
    for kernel, grid, args, kwargs in launches:
        yield _variant(operation, kernel, grid, args, kwargs)


@contextlib.contextmanager
def _recording(architecture: int) -> Iterator[list[tuple[Any, ...]]]:
    """Launches are listed instead of made, and every launcher sees this architecture."""
    launches: list[tuple[Any, ...]] = []

    def record(kernel: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **kwargs: Any) -> None:
        launches.append((kernel, grid, args, kwargs))

    room = encode_triton.__module__.rpartition(".")[0]  # not of __name__, which may be __main__
    askers: list[Any] = [
        module
        for name, module in sys.modules.items()
        if name.startswith(f"{room}.") and hasattr(module, "architecture")
    ]
    run = triton.JITFunction.run
    before = [module.architecture for module in askers]
    try:
        triton.JITFunction.run = record
        for module in askers:
            module.architecture = lambda device: architecture
        yield launches
    finally:
        triton.JITFunction.run = run
        for module, function in zip(askers, before, strict=True):
            module.architecture = function


def _variant(
    operation: str, kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Variant:
    # As Triton specialises at a launch: 1 is a constant, multiples of 16 are known as such.
    given = dict(zip(kernel.arg_names, args, strict=False))
    given |= {name: value for name, value in kwargs.items() if name in kernel.arg_names}
    compile_time = {kernel.arg_names[place] for place in kernel.constexprs}
    signature, constants, aligned = {}, {}, []
    for name in kernel.arg_names:
        value = given[name]
        if name in compile_time or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            aligned.append(name)
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            aligned += [name] if value % 16 == 0 else []
    options = {name: value for name, value in kwargs.items() if name not in kernel.arg_names}
    return Variant(operation, kernel, grid, signature, constants, tuple(aligned), options)


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _calls(b: int, d: int, n: int, k: int) -> dict[str, Callable[[], object]]:
    """Every launcher by name, called as training on this workload does, and in other dtypes."""
    half = torch.bfloat16
    values, indices = _meta(b, k), _meta(b, k, dtype=torch.int64)
    x, w = _meta(b, d, dtype=half), _meta(n, d, dtype=half)
    order = (_meta(n + 1, dtype=torch.int64), _meta(b * k, dtype=torch.int64))
    q, k_aux = n // 4, d // 2
    return {
        "topk_encode bf16": lambda: encode_triton(x, w, _meta(n), k),
        "topk_encode tf32": lambda: _encode_float32("high", b, d, n, k),
        "topk_encode ieee": lambda: _encode_float32("highest", b, d, n, k),
        "topk of AuxK": lambda: topk_triton(_meta(b, q, dtype=half), min(k_aux, q)),
        "sparse_decode": lambda: decode_triton(values, indices, w, _meta(d)),
        "value gradients": lambda: row_products_triton(x, indices, w),
        "decode_residual bf16": lambda: decode_residual_triton(
            values, indices, w, _meta(d), x, _meta(b), half
        ),
        "decode_residual fp32": lambda: decode_residual_triton(
            values, indices, _meta(n, d), _meta(d), _meta(b, d), _meta(b), torch.float32
        ),
        "sparse_outer": lambda: sparse_outer_triton(*order, values, x, _meta(n, d), False),
        "latent_update": lambda: _update(b, d, n, k, half, tied=False),
        "latent_update fp32": lambda: _update(b, d, n, k, torch.float32, tied=False),
        "latent_update tied": lambda: _update(b, d, n, k, half, tied=True),
        "adam_update": lambda: adam_update_triton([_meta(n, d)] * 4, _meta(6), True, True),
        "column_sums": lambda: column_sums_triton(_meta(b, d), _meta(b)),
    }


def _encode_float32(precision: str, b: int, d: int, n: int, k: int) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        encode_triton(_meta(b, d), _meta(n, d), _meta(n), k)
    finally:
        torch.set_float32_matmul_precision(before)


def _update(b: int, d: int, n: int, k: int, dtype: torch.dtype, *, tied: bool) -> None:
    low = None if dtype == torch.float32 else _meta(n, d, dtype=dtype)
    q = n // 4
    aux = (_meta(n, dtype=torch.int32), _meta(q, d), _meta(q, d), _meta(q))
    dec = Parameter(_meta(n, d), _meta(n, d), _meta(n, d), low)
    enc = dec if tied else Parameter(_meta(n, d), _meta(n, d), _meta(n, d), low)
    latent_update_triton(
        (_meta(n + 1, dtype=torch.int64), _meta(b * k, dtype=torch.int64)),
        {
            "values": _meta(b, k),
            "g_values": _meta(b, k),
            "x": _meta(b, d, dtype=dtype),
            "r": _meta(b, d, dtype=dtype),
        },
        (enc, dec, Parameter(_meta(n), _meta(n), _meta(n))),
        None if tied else aux,
        _meta(7),
        not tied,
    )


def main() -> None:
    """Compile everything that was asked for; print JSON; exit code 1 if anything is at fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architecture", type=int, choices=ARCHITECTURES, action="append")
    parser.add_argument("--workload", choices=WORKLOADS, action="append")
    parser.add_argument("--quiet", action="store_true", help="no line per kernel on stderr")
    options = parser.parse_args()
    rows = []
    for workload in options.workload or WORKLOADS:
        for architecture in options.architecture or ARCHITECTURES:
            for variant in variants(workload, architecture):
                row = {"workload": workload, **compile_variant(variant, architecture)}
                rows.append(row)
                if not options.quiet:
                    print(line(row), file=sys.stderr, flush=True)
    print(json.dumps(rows))
    sys.exit(any(row["faults"] for row in rows))


def line(row: Mapping[str, Any]) -> str:
    """One kernel in one line of at most 80 columns, faults after it."""
    shared = math.ceil(row["shared"] / 1024)
    name = row["kernel"].strip("_").removesuffix("_kernel")
    text = (
        f"{row['workload']} sm_{row['architecture']:<3} {name:16.16} {row['operation']:20.20} "
        f"{row['registers']:4} reg {row['spilled']:5} B spilled {shared:4} KiB"
    )
    return "\n    ".join([text, *row["faults"]])


if __name__ == "__main__":
    main()
