"""Products of unsigned and signed 8-bit integers on processors with AVX-512 VNNI.

    sum_d x[r, d] w[n, d],   x in 0..255, w in -127..127, exact in int32 (D <= 65,536)

One instruction (VPDPBUSD) multiplies and adds 64 pairs, four times what float32 does. A tile is 6
rows by 64 latents, whose 24 accumulators stay in registers. The weights are packed so that a tile
reads them in order: `packed[panel, d // 4, 64 latents * 4]`, a panel being 64 latents.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from isae.compiled import compiled
from isae.kernels.cpu.instructions import Emitter, Instructions
from isae.kernels.cpu.selection import BLOCK, LANES

TILE_ROWS = 6
PANEL = 64
"""Latents of a panel."""
VECTORS = PANEL // LANES
MOST_CHANNELS = 65536
"""255 * 127 * D must stay below 2**31."""
INSTRUCTION = "llvm.x86.avx512.vpdpbusd.512"


class TileFunction(Instructions[[int, int, int, int, int, int, int, int, int, int, int], None]):
    """Scores of 6 rows and 64 latents, written to LLVM when first used.

        score[r, n] = step_r scale_n sum_d x[r, d] w[n, d] + (low_r shift_n + bias_n)

    tile(x, x_stride, packed, quads, rows, rows_stride, latents, latents_stride, scores,
    scores_stride, maxima): addresses, strides in bytes; the maxima have `scores_stride` / 32.
    x: uint8 rows; packed: one panel; quads: D / 4; rows: float32 step, low of each row; latents:
    float32 scale, shift, bias of the panel; scores: float32 [6, 64], out; maxima: the largest of
    each 32 scores, float32 [6, 2], out. packed and scores: aligned to 64 bytes.
    """

    def __init__(self) -> None:
        super().__init__(_emit, "void", ["int64"] * 11)


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    x, x_stride, packed, quads, *others = arguments
    emitter = Emitter(builder)
    sums = _emit_products(emitter, x, x_stride, packed, quads)
    _emit_scores(emitter, sums, *others)
    return context.get_dummy_value()


def _emit_products(e: Emitter, x: Any, x_stride: Any, packed: Any, quads: Any) -> Any:
    builder, ir = e.builder, e.ir
    bytes_t = ir.VectorType(ir.IntType(8), 4 * LANES)
    operand_t = bytes_t if _operands_are_bytes() else e.words_t
    function_t = ir.FunctionType(e.words_t, [e.words_t, operand_t, operand_t])
    dot = builder.module.declare_intrinsic(INSTRUCTION, (), function_t)
    rows = [e.row(x, x_stride, r) for r in range(TILE_ROWS)]
    before = builder.basic_block
    loop, after = (builder.append_basic_block(name) for name in ("quads", "scores"))
    builder.branch(loop)
    builder.position_at_end(loop)
    quad = builder.phi(e.int)
    sums = [[builder.phi(e.words_t) for _ in range(VECTORS)] for _ in range(TILE_ROWS)]
    panel = builder.add(packed, builder.mul(quad, e.int(4 * PANEL)))
    weights = [
        builder.load(e.at(panel, 4 * LANES * v, operand_t), align=4 * LANES) for v in range(VECTORS)
    ]
    offset = builder.mul(quad, e.int(4))
    added = []
    for r in range(TILE_ROWS):
        four = e.spread(builder.load(e.at(rows[r], offset, e.word), align=4), e.words_t)
        four = builder.bitcast(four, operand_t)
        added.append([builder.call(dot, [sums[r][v], four, weights[v]]) for v in range(VECTORS)])
    following = builder.add(quad, e.int(1))
    quad.add_incoming(e.int(0), before)
    quad.add_incoming(following, loop)
    for r in range(TILE_ROWS):
        for v in range(VECTORS):
            sums[r][v].add_incoming(ir.Constant(e.words_t, [0] * LANES), before)
            sums[r][v].add_incoming(added[r][v], loop)
    builder.cbranch(builder.icmp_signed("<", following, quads), loop, after)
    builder.position_at_end(after)
    return added


def _emit_scores(
    e: Emitter,
    sums: Any,
    rows: Any,
    rows_stride: Any,
    latents: Any,
    latents_stride: Any,
    scores: Any,
    scores_stride: Any,
    maxima: Any,
) -> None:
    builder = e.builder
    flags = ("contract",)
    maxima_stride = builder.lshr(scores_stride, e.int(5))
    for r in range(TILE_ROWS):
        row, numbers = e.row(scores, scores_stride, r), e.row(rows, rows_stride, r)
        step, low = (
            e.spread(builder.load(e.at(numbers, place, e.real), align=4), e.reals_t)
            for place in (0, 4)
        )
        values = []
        for v in range(VECTORS):
            scale, shift, bias = (
                builder.load(
                    e.at(e.row(latents, latents_stride, i), 4 * LANES * v, e.reals_t), align=4
                )
                for i in range(3)
            )
            rest = builder.fadd(builder.fmul(low, shift, flags=flags), bias, flags=flags)
            product = builder.fmul(
                builder.fmul(step, scale), builder.sitofp(sums[r][v], e.reals_t), flags=flags
            )
            values.append(builder.fadd(product, rest, flags=flags))
            builder.store(values[v], e.at(row, 4 * LANES * v, e.reals_t), align=4 * LANES)
        for block in range(VECTORS // 2):
            top = e.largest(e.larger(values[2 * block], values[2 * block + 1]))
            builder.store(top, e.at(e.row(maxima, maxima_stride, r), 4 * block, e.real), align=4)


def _operands_are_bytes() -> bool:
    # LLVM 22 changed the operands of the intrinsic from 16 words to 64 bytes.
    import llvmlite.binding

    return int(llvmlite.binding.llvm_version_info[0]) >= 22


tile = TileFunction()


@compiled()
def score_panel(
    rounded_BD: Any,
    rows_B4: Any,
    start: int,
    packed: Any,
    numbers_5N: Any,
    panel: int,
    scores_CN: Any,
    maxima_CM: Any,
) -> None:
    """Scores of one panel for rows from `start` on, whole tiles of them, with block maxima."""
    quads, stride = packed.shape[1], rounded_BD.shape[1]
    weights = packed.ctypes.data + panel * quads * 4 * PANEL
    latents = numbers_5N.ctypes.data + panel * 4 * PANEL
    row_bytes = 4 * scores_CN.shape[1]
    for c in range(0, scores_CN.shape[0], TILE_ROWS):
        tile(
            rounded_BD.ctypes.data + (start + c) * stride,
            stride,
            weights,
            quads,
            rows_B4.ctypes.data + (start + c) * 16,
            16,
            latents,
            4 * numbers_5N.shape[1],
            scores_CN.ctypes.data + c * row_bytes + panel * 4 * PANEL,
            row_bytes,
            maxima_CM.ctypes.data + c * row_bytes // BLOCK + panel * 4 * PANEL // BLOCK,
        )


@functools.cache
def has_int8_tile() -> bool:
    """Whether this processor has the instruction and the compiler makes the right tile of it."""
    import llvmlite.binding
    import numba

    settings = numba.config
    if settings.CPU_NAME or settings.CPU_FEATURES is not None or not settings.ENABLE_AVX:
        return False  # compiled for another processor than this one: LLVM would end the process
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know this system
        return False
    if not (features.get("avx512vnni") and features.get("avx512bw")):
        return False
    return _tile_is_right()


def _tile_is_right() -> bool:
    quads = 3
    x_RD = aligned((TILE_ROWS, 4 * quads), np.uint8)
    x_RD[:] = np.arange(x_RD.size).reshape(x_RD.shape) * 37 % 256
    w_ND = (np.arange(PANEL * 4 * quads) * 29 % 255 - 127).reshape(PANEL, quads, 4)
    packed = aligned((1, quads, PANEL * 4), np.int8)
    packed[0] = w_ND.transpose(1, 0, 2).reshape(quads, PANEL * 4)
    rows_R4, numbers_5N = np.ones((TILE_ROWS, 4), np.float32), np.ones((5, PANEL), np.float32)
    scores_RN = aligned((TILE_ROWS, PANEL), np.float32)
    maxima_RM = np.empty((TILE_ROWS, PANEL // BLOCK), np.float32)
    try:
        score_panel(x_RD, rows_R4, 0, packed, numbers_5N, 0, scores_RN, maxima_RM)
    except Exception:  # a compiler without this intrinsic: the float32 path serves
        return False
    exact_RN = x_RD.astype(np.int64) @ w_ND.reshape(PANEL, -1).T + 2
    blocks_RM = exact_RN.reshape(TILE_ROWS, -1, BLOCK).max(2)
    return bool((scores_RN == exact_RN).all() and (maxima_RM == blocks_RM).all())


def aligned(shape: tuple[int, ...], dtype: Any) -> Any:
    """An empty array whose first byte lies at a multiple of 64."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
