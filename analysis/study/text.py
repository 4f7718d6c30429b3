"""What the commands of a study print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from isae.analysis.study.headlines import Key
from isae.analysis.study.verdicts import Verdict


def prepared_text(result: dict[str, Any]) -> str:
    """The SAEs of a study as a table of 80 columns."""
    lines = [
        f"{'network':<11} {'seed':>4}  {'layer':<8} {'latents':>7}  {'FVU':>6}  "
        f"{'held-out':>8}  {'silent':>6}",
        *(
            f"{one['net']:<11} {one['seed']:>4}  {one['layer']:<8} {one['n']:>7,}  "
            f"{_number(one['train_fvu']):>6}  {_number(one['holdout_fvu']):>8}  "
            f"{_percent(one['holdout_silent']):>6}"
            for one in result["saes"]
        ),
    ]
    lines += [
        "",
        f"study   {result['study']}",
        f"next    isae-analyze all {result['study']}",
    ]
    return "\n".join(lines)


def findings_text(summary: dict[str, Any], out: str) -> str:
    """What the command prints: how many numbers are told apart, the stages, where the files are."""
    stages = summary["stages"]
    counts = ", ".join(f"{count:,} {word}" for word, count in summary["verdicts"].items())
    return "\n".join(
        [
            f"{summary['tests']:,} headline numbers, trained against untrained: {counts}",
            f"stages  {len(stages['done'])} done now, {len(stages['kept'])} were done before",
            f"tables  {out}/verdicts.csv, spread.json",
            f"text    {out}/findings.md, {len(summary.get('figures', []))} figures",
        ]
    )


def findings_markdown(summary: dict[str, Any], verdicts: Sequence[tuple[Key, Verdict]]) -> str:
    """The verdicts as Markdown tables, one a headline number."""
    lines = ["# Trained against untrained", "", f"Null: {summary['null']}.", "",
             f"Correction: {summary['correction']}.", ""]  # fmt: skip
    for analysis, number in dict.fromkeys((key.analysis, key.number) for key, _ in verdicts):
        lines += [
            f"## {analysis}: {number}", "",
            "| where | of | trained (sd, n) | untrained (sd, n) | difference (95 %) | verdict |",
            "|---|---|---|---|---|---|",
        ]  # fmt: skip
        for key, one in verdicts:
            if (key.analysis, key.number) == (analysis, number):
                row = one.row()
                lines.append(
                    f"| {key.where} | {key.part} | {_group(row, 'trained')} | "
                    f"{_group(row, 'untrained')} | {_digits(one.difference)} "
                    f"({_digits(one.low)} to {_digits(one.high)}) | {one.verdict} |"
                )
        lines.append("")
    return "\n".join(lines)


def _group(row: dict[str, Any], name: str) -> str:
    return f"{_digits(row[name])} ({_digits(row[name + '_sd'])}, {row[name + '_n']})"


def _digits(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"
