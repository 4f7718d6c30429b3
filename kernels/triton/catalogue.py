"""Every Triton kernel as it is launched, compiled ahead of time without a GPU.

`python -m isae.kernels.triton.catalogue --architecture 90` compiles what training on a workload
launches and prints one JSON list with registers, spills and shared memory. Beside the measured
workloads there are the "edges": rows whose length is no multiple of 16, odd sizes, sizes of 1
(which Triton takes as constants) and many active latents. Not in a process with TRITON_INTERPRET.

Shapes: B rows, D channels, N latents, K active latents, P pairs, Q latents of AuxK.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from isae.errors import unknown_name
from isae.kernels.latent_update import Parameter
from isae.kernels.triton.adam_update import adam_update_triton
from isae.kernels.triton.ahead_of_time import (
    ARCHITECTURES,
    Variant,
    compile_variant,
    launches_of,
)
from isae.kernels.triton.column_sums import column_sums_triton
from isae.kernels.triton.expand_rows import expand_triton
from isae.kernels.triton.latent_update import latent_update_triton
from isae.kernels.triton.sparse_decode import (
    decode_residual_triton,
    decode_triton,
    row_products_triton,
)
from isae.kernels.triton.sparse_outer import sparse_outer_triton
from isae.kernels.triton.topk_encode import encode_triton, topk_triton

WORKLOADS = {
    "L": [(8192, 512, 8192, 32)],
    "W": [(16384, 832, 65536, 64)],
    "M": [(8192, 832, 1 << 20, 64)],
    "edges": [
        (8192, 508, 65536, 64),
        (8192, 500, 65536, 64),
        (8192, 100, 4096, 512),
        (8191, 67, 65535, 63),
        (1, 1, 1, 1),
        (7, 1, 4099, 1),
        (8192, 512, 65536, 512),
        (8192, 832, 1 << 20, 512),
    ],
}
"""Rows, channels, latents and active latents."""


def variants(workload: str, architecture: int) -> list[Variant]:
    """All kernels of a workload, each once. Raises UnknownNameError."""
    if workload not in WORKLOADS:
        raise unknown_name("workload", workload, WORKLOADS)
    found: dict[str, Variant] = {}
    for sizes in WORKLOADS[workload]:
        for operation, call in _calls(*sizes).items():
            for variant in launches_of(operation, call, architecture):
                found.setdefault(variant.key, dataclasses.replace(variant, sizes=sizes))
    return list(found.values())


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
        "adam_update plain": lambda: adam_update_triton([_meta(1, n)] * 4, _meta(6), False, False),
        "column_sums": lambda: column_sums_triton(_meta(b, d), _meta(b)),
        "expand_rows": lambda: _expand(b, d, torch.int16),
        "expand_rows fp32": lambda: _expand(b, d, torch.int32),
    }


def _expand(b: int, d: int, dtype: torch.dtype) -> None:
    bitmap, offsets = _meta(b, -(-d // 8), dtype=torch.uint8), _meta(b, dtype=torch.int64)
    expand_triton(_meta(b * d, dtype=dtype), bitmap, offsets, offsets, d)


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
        f"{row['workload']:5} sm_{row['architecture']:<3} {name:15.15} {row['operation']:20.20} "
        f"{row['registers']:3} reg {row['spilled']:4} B spilled {shared:4} KiB"
    )
    return "\n    ".join([text, *(f"{fault} at {row['sizes']}" for fault in row["faults"])])


if __name__ == "__main__":
    main()
