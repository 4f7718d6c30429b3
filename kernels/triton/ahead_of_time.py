"""Launches of Triton kernels recorded instead of made, and compiled without a GPU.

The launchers themselves say what is shipped: they run on tensors without memory (torch's meta
device) while launches are recorded, so block shapes, warps and stages are those of a real run. Not
in a process with TRITON_INTERPRET set.
"""

from __future__ import annotations

import contextlib
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

from isae.errors import KernelError
from isae.kernels.triton import settings

ARCHITECTURES = (80, 90, 100)
SHARED_LIMIT = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
"""Bytes of shared memory that one program may have; the compiler accepts more, no launch does."""
GRID_LIMIT = (2**31 - 1, 65535, 65535)
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.uint8: "*u8",
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
    sizes: tuple[int, ...] = ()
    """Of the call."""

    @property
    def key(self) -> str:
        """Equal for launches that share one compiled kernel."""
        parts = (self.kernel.__name__, self.signature, self.constants, self.aligned, self.options)
        return repr(parts)


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
        "sizes": list(variant.sizes),
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


def launches_of(operation: str, call: Callable[[], object], architecture: int) -> Iterator[Variant]:
    """What a call launches, in order."""
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

    room = settings.__name__.rpartition(".")[0]
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
