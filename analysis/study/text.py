"""What the commands of a study print."""

from __future__ import annotations

from typing import Any


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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"
