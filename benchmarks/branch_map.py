"""The main job end to end on one folder of photos: build, train and analyse every layer, measured.

Runs the three command lines a user would run, skips what an earlier run of this script finished,
and writes OUT/branch_map.json (hardware, versions, every command with its wall time and result)
and OUT/branch_map.md (the tables of the README). Example:

    python benchmarks/branch_map.py --images ~/photos --out runs/photos -- --lr 2e-3

What stands after `--` goes to isae-train.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from isae.benchmarks.measure import commit, machine
from isae.files import write_bytes, write_json

LAYERS = "mixed4a,mixed4b,mixed4c,mixed4d,mixed4e"
BRANCHES = ("1x1", "3x3", "5x5", "pool")
Result = dict[str, Any]


def main() -> None:
    """Run everything that is not there yet, then write the JSON and the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--layers", default=LAYERS)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("train_options", nargs="*")
    options = parser.parse_args()
    out: Path = options.out
    store = out / "store"
    build = ["isae-store", "build", "--images", options.images, "--layers", options.layers]
    results: Result = {
        "machine": machine(),
        "commit": commit(),
        "build": once(out / "build.json", [*build, "--out", str(store), "--overwrite"]),
        "train": {},
        "branches": {},
    }
    for layer in options.layers.split(","):
        run = out / layer
        train = ["isae-train", str(store), "--layer", layer, "--out", str(run)]
        again = ["--resume"] if run.exists() else []
        results["train"][layer] = once(
            out / f"{layer}.train.json", [*train, *again, *options.train_options]
        )
        analyse = ["isae-analyze", "branches", str(run), "--overwrite"]
        results["branches"][layer] = once(out / f"{layer}.branches.json", analyse)
    write_json(out / "branch_map.json", results)
    text = tables(results)
    write_bytes(out / "branch_map.md", text.encode())
    print(text)


def once(path: Path, command: list[str]) -> Result:
    """The result of `command` from `path`, or run it with --json and keep its result there."""
    if not path.exists():
        print("$ " + " ".join(command), file=sys.stderr, flush=True)
        program = Path(sys.executable).parent / command[0]
        started = time.monotonic()
        done = subprocess.run(
            [str(program), *command[1:], "--json"], stdout=subprocess.PIPE, check=False
        )
        if done.returncode:
            raise SystemExit(done.returncode)
        result = {
            "command": " ".join(command),
            "wall_seconds": round(time.monotonic() - started, 1),
            "result": json.loads(done.stdout),
        }
        write_json(path, result)
    found: Result = json.loads(path.read_text())
    return found


def tables(results: Result) -> str:
    """The README's tables, in Markdown."""
    build = results["build"]
    store = build["result"]
    here = results["machine"]
    lines = [
        f"{here['processor']}, {here['cores']} cores, {here['memory_gib']} GiB; "
        f"commit {results['commit']}.",
        "",
        f"Build: {store['images']['used']:,} images at {store['size']} pixels, "
        f"{store['measured']['images_per_second']:.1f} images/s, {build['wall_seconds']:.0f} s in "
        f"all; {store['stored_bytes'] / 1e9:.2f} GB on disk, raw {store['raw_bytes'] / 1e9:.2f} "
        f"GB ({store['raw_bytes'] / store['stored_bytes']:.2f} times smaller).",
        "",
        "| layer | latents | epochs | rows/s | FVU training | FVU held-out | dead "
        "| silent held-out |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for layer, train in results["train"].items():
        one = train["result"]
        lines.append(
            f"| {layer} | {one['n']:,} | {one['epochs']:.1f} | {one['rows_per_s']:,.0f} | "
            f"{one['train_fvu']:.4f} | {one['holdout_fvu']:.4f} | {_percent(one['dead'])} | "
            f"{one['holdout_silent']:.1%} |"
        )
    lines += [
        "",
        "| layer | alive | branch | channels | variance | median share | above null | in both "
        "| strongest | expected | relative | median r |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for layer, analysis in results["branches"].items():
        lines += [_branch_row(layer, analysis["result"], branch) for branch in BRANCHES]
    return "\n".join(lines) + "\n"


def _percent(share: float | None) -> str:
    """A short run cannot tell dead latents: its share is null."""
    return "-" if share is None else f"{share:.1%}"


def _branch_row(layer: str, summary: Result, branch: str) -> str:
    one = summary["branches"][branch]
    first = branch == BRANCHES[0]
    head = f"| {layer if first else ''} | {format(summary['alive'], ',') if first else ''} "
    assigned = one["assigned"]
    return head + (
        f"| {branch} | {one['channel_share']:.1%} | {one['variance_share']:.1%} "
        f"| {one['decoder']['median_share']:.1%} | {one['decoder']['above_null']:,} "
        f"| {one['above_null_in_both']:,} | {assigned['features']:,} "
        f"| {assigned['expected_by_channels']:,.0f} "
        f"| {one['relative']['above_null']:,} | {one['r_score']['median']:.3f} |"
    )


if __name__ == "__main__":
    main()
