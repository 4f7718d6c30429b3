"""Results as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 80


def heading(result: Mapping[str, Any]) -> list[str]:
    """Machine, workload and ceilings."""
    work, here, ceilings = result["workload"], result["machine"], result["ceilings"]
    device = here.get("gpu") or f"{here['processor']}, {here['threads']} threads"
    return [
        str(device)[:WIDTH],
        f"{work['name']}: B {work['rows']:,}, D {work['d']:,}, N {work['n']:,}, K {work['k']}; "
        f"kernel {result['settings']['kernel']}",
        f"ceilings: copy {ceilings['copy_gb_per_s']:,.1f} GB/s, "
        f"{ceilings['gemm_dtype']} product {ceilings['gemm_gflop_per_s']:,.0f} GFLOP/s",
    ]


def kernels_table(result: Mapping[str, Any]) -> str:
    """The table of `isae-bench kernels`."""
    lines = [
        *heading(result),
        f"{'operation':16} {'median ms':>10} {'p10':>9} {'p90':>9} {'GB/s':>7} {'copy':>5} "
        f"{'GFLOP/s':>10} {'GEMM':>5}",
    ]
    for row in result["operations"]:
        times = row["times_s"]
        if times is None:
            lines.append(f"{row['operation']:16} FAILED: {row['reason']}"[:WIDTH])
            continue
        spread = " ".join(f"{_ms(times[name]):>9}" for name in ("p10", "p90"))
        lines.append(
            f"{row['operation']:16} {_ms(times['median']):>10} {spread} {row['gb_per_s']:7.1f} "
            f"{row['share_of_copy']:5.0%} {row['gflop_per_s']:10,.1f} {row['share_of_gemm']:5.0%}"
        )
    memory = result.get("topk_encode_memory")
    if memory:
        lines.append(
            ("" if memory["within"] else "FAILED: ")
            + f"topk_encode took {memory['extra_bytes'] / 2**20:,.0f} MiB; 1/16 of [B, N] is "
            f"{memory['allowed_bytes'] / 2**20:,.0f} MiB"
        )
    return "\n".join(lines)


def training_table(result: Mapping[str, Any]) -> str:
    """The table of `isae-bench train`."""
    floor = result["floor_s"]
    lines = [
        *heading(result),
        f"floor {_ms(floor['total'])} ms: product {_ms(floor['gemm'])}, parameters "
        f"{_ms(floor['parameters'])}, gathers {_ms(floor['gathers'])}",
        f"{'trainer':20} {'dtype':14} {'rows/s':>11} {'ms':>9} {'floor':>6} {'FVU':>7} {'isae':>7}",
    ]
    for row in result["trainers"]:
        lines += [_trainer_line(row)] if row["times_s"] is not None else _fault_lines(row)
    lines += [f"{row['name']:20} {row['reason']}"[:WIDTH] for row in result["absent"]]
    return "\n".join(lines)


def _fault_lines(row: Mapping[str, Any]) -> list[str]:
    text = f"{row['name']:20} FAILED: {row['fault']}"
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * 21)


def _trainer_line(row: Mapping[str, Any]) -> str:
    faster = row["ours_times_faster"]
    return (
        f"{row['name']:20} {row['dtype']:14} {row['rows_per_s']:11,.0f} "
        f"{_ms(row['times_s']['median']):>9} {row['share_of_floor']:6.1%} "
        f"{row['held_out_fvu']:7.4f} " + ("-".rjust(7) if faster is None else f"{faster:6.1f}x")
    )


def compile_table(rows: list[Mapping[str, Any]]) -> str:
    """The table of `isae-bench kernels --compile-only`."""
    lines = [
        f"{'W':5} {'arch':6} {'kernel':16} {'operation':20} {'regs':>5} {'spilled':>8} "
        f"{'shared KiB':>11}"
    ]
    for row in rows:
        name = row["kernel"].strip("_").removesuffix("_kernel")
        lines.append(
            f"{row['workload']:5} sm_{row['architecture']:<3} {name:16.16} "
            f"{row['operation']:20.20} {row['registers']:5} {row['spilled']:8} "
            f"{row['shared'] / 1024:11.1f}"
        )
        lines += [f"    {fault}"[:WIDTH] for fault in row["faults"]]
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}" if seconds < 10 else f"{seconds * 1e3:.0f}"


def quality_table(result: dict[str, Any]) -> str:
    """Held-out FVU and dead latents of each trainer, then the first against the others."""
    store, settings = result["store"], result["settings"]
    lines = [
        f"{store['layer']}: {store['channels']} channels, {settings['latents']:,} latents, "
        f"{settings['steps']} steps of {settings['batch']:,} rows",
        f"{'trainer':<20}{'seed':>5}{'FVU':>9}{'dead':>8}{'s':>8}",
    ]
    lines += [
        f"{run['name']:<20}{run['seed']:>5}{run['fvu']:>9.4f}{run['dead']:>8.2%}"
        f"{run['seconds']:>8.1f}"
        for run in result["runs"]
    ]
    lines += [
        f"{result['runs'][0]['name']} against {pair['against']}: FVU "
        f"{pair['fvu_relative_mean']:+.2%}, dead {pair['dead_difference_mean']:+.2%}: "
        + ("holds" if pair["holds"] else "fails")
        for pair in result["against_first"]
    ]
    return "\n".join(lines)
