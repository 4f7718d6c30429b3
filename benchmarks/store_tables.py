"""Results of `isae-bench store` as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 80
COLUMNS = (
    f"{'reader, MB/s':14} {'write':>6} {'read':>6} {'p10':>6} {'p90':>6} {'isae':>6} {'ratio':>5} "
    f"{'1st ms':>6} {'z':>5} {'max':>4} {'MiB':>5}"
)


def store_table(result: Mapping[str, Any]) -> str:
    """All that was measured."""
    here = result["machine"]
    lines = [f"{here.get('gpu') or here['processor']}, {here['threads']} threads"[:WIDTH]]
    for part in result["build"]:
        lines += build_lines(part)
    for part in result["read"]:
        lines += read_lines(part)
    for part in result["training"]:
        lines += training_lines(part)
    lines += memory_lines(result["memory"])
    lines += bar_lines(result["bars"])
    return "\n".join(lines)


def read_lines(part: Mapping[str, Any]) -> list[str]:
    """A table of readers: 'isae' is how many times faster the first one is, 'z' and 'max' the mean
    and the largest z of their shuffles.
    """
    store = part["store"]
    lines = [
        f"{store['layer']}, codec {store['codec']}: {part['rows']:,} rows of {part['channels']} "
        f"{part['dtype']}, batches of {part['batch']:,}"[:WIDTH],
        f"page cache {part['page_cache']}"[:WIDTH],
        COLUMNS,
    ]
    for row in part["readers"]:
        lines += (
            [_reader_line(row)]
            if row["fault"] is None
            else _failed(f"{row['name']:14}", row["fault"], 15)
        )
    lines += [f"{row['name']:14} {row['reason']}"[:WIDTH] for row in part["absent"]]
    lines.append(f"{'codec, 1 thread':15} {'ratio':>6} {'encode MB/s':>12} {'decode MB/s':>12}")
    return lines + [_codec_line(row) for row in part["codecs"]]


def _codec_line(row: Mapping[str, Any]) -> str:
    if row["fault"] is not None:
        return f"{row['codec']:15} FAILED: {row['fault']}"[:WIDTH]
    speeds = (row[f"{way}_mb_per_s"]["median"] for way in ("encode", "decode"))
    return f"{row['codec']:15} {row['compression']:6.2f} " + " ".join(f"{s:12.0f}" for s in speeds)


def _reader_line(row: Mapping[str, Any]) -> str:
    speed, times, shuffle = row["read_mb_per_s"], row["first_times_faster"], row["shuffle"]
    memory = row["memory"].get("growth_bytes")
    ratio = "-".rjust(6) if times is None else f"{times['median']:5.2f}x"
    return (
        f"{row['name']:14} {_or_dash(row['write_mb_per_s'], 6, '.0f')} {speed['median']:6.0f} "
        f"{speed['p10']:6.0f} {speed['p90']:6.0f} {ratio} {row['compression']:5.2f} "
        f"{1e3 * row['first_batch_s']['median']:6.1f} {_or_dash(shuffle['mean_z'], 5, '+.1f')} "
        f"{_or_dash(shuffle['largest_z'], 4, '.1f')} "
        f"{_or_dash(None if memory is None else memory / 2**20, 5, '.0f')}"
    )


def build_lines(part: Mapping[str, Any]) -> list[str]:
    """Core-milliseconds of an image by stage, and how near the build is to their sum."""
    if part["fault"] is not None:
        name = f"build, {part['size']} pixels, codec {part['codec']}"
        return _failed(name, part["fault"], 2)
    cost = part["core_ms_per_image"]
    stages = ", ".join(f"{name} {cost[name]:.2f}" for name in ("decode", "forward", "codec"))
    return [
        f"build, {part['size']} pixels, codec {part['codec']}, {part['images']:,} images: "
        f"{part['wall_s']['median']:.1f} s (start {part['start_s']['median']:.1f})"[:WIDTH],
        f"  core-ms an image: {stages}; store's own {cost['own']:.2f}"[:WIDTH],
        f"  {part['share']['median']:.0%} of {part['cores']} cores doing that alone "
        f"(p10 {part['share']['p10']:.0%}, p90 {part['share']['p90']:.0%}); "
        f"all at once: {part['share_every_core']['median']:.0%}",
    ]


def training_lines(part: Mapping[str, Any]) -> list[str]:
    """Rows per second from a store, beside those from memory."""
    if part["fault"] is not None:
        return _failed(f"training ({part['kernel']})", part["fault"], 2)
    speed, share = part["rows_per_s"], part["store_against_memory"]
    return [
        f"training ({part['kernel']}), {part['steps']} steps each: rows/s from the store "
        f"{speed['store']['median']:,.0f},"[:WIDTH],
        f"  from memory {speed['memory']['median']:,.0f}: {share['median']:.1%} "
        f"(p10 {share['p10']:.1%}, p90 {share['p90']:.1%})",
    ]


def memory_lines(parts: list[Mapping[str, Any]]) -> list[str]:
    """Peak memory by rows."""
    if not parts:
        return []
    lines = [f"{'peak memory':>14} {'build MiB':>10} {'growth':>7} {'read MiB':>10} {'growth':>7}"]
    lines += [
        f"{part['rows']:9,} rows {part['build_bytes'] / 2**20:10,.0f} {part['build_growth']:+7.1%} "
        f"{part['read_bytes'] / 2**20:10,.0f} {part['read_growth']:+7.1%}"
        for part in parts
    ]
    return lines


def bar_lines(bars: list[Mapping[str, Any]]) -> list[str]:
    """What a store has to reach, and what was found."""
    if not bars:
        return []
    lines = [f"{'bar':51} {'wanted':>9} {'found':>9} met"]
    for bar in bars:
        sign = "<=" if bar["at_most"] else ">="
        wanted = f"{sign} {bar['wanted']:.6g}"
        found = _or_dash(bar["found"], 9, ".4g" if bar["wanted"] < 100 else ".0f")
        lines.append(f"{bar['name'][:51]:51} {wanted:>9} {found} {'yes' if bar['met'] else 'NO'}")
    return lines


def _failed(name: str, fault: str, indent: int) -> list[str]:
    return textwrap.wrap(f"{name} FAILED: {fault}", WIDTH, subsequent_indent=" " * indent)


def _or_dash(value: float | None, width: int, form: str) -> str:
    return "-".rjust(width) if value is None else format(value, form).rjust(width)
