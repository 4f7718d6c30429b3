"""The report of `make soak`: what the long tests counted, on which commit and machine.

It is whole only if every long test there is ran and passed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from isae.benchmarks.measure import commit, machine, versions

PACKAGES = ("torch", "numpy", "zarr", "numcodecs", "pyarrow", "obstore", "moto")
Value = int | float | str


@dataclass
class SoakReport:
    """What tests say while they run."""

    counts: dict[str, int] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    tests: dict[str, str] = field(default_factory=dict)
    """Outcome by test: passed, failed or skipped."""
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: int = 0
    """Long tests that were found and not run."""

    def count(self, **counts: int) -> None:
        """Add to counts of what was done: kills=3."""
        for name, number in counts.items():
            self.counts[name] = self.counts.get(name, 0) + number

    def note(self, **values: Value) -> None:
        """Say what was measured: read_peak_mib=512.0."""
        self.values |= values

    def outcome(self, test: str, outcome: str, seconds: float) -> None:
        """What became of a test's setup, call or end; the worst of the three stays."""
        ranks = ("passed", "skipped", "failed")
        worst = max(self.tests.get(test, "passed"), outcome, key=ranks.index)
        self.tests[test] = worst
        self.seconds[test] = self.seconds.get(test, 0.0) + seconds

    def json(self, *, all_asked: bool) -> dict[str, Any]:
        """As JSON; `all_asked` false: the run was not of every long test, or broke off."""
        outcomes = list(self.tests.values())
        passed = bool(outcomes) and all(one == "passed" for one in outcomes)
        return {
            "schema": 1,
            "whole": passed and all_asked and not self.left_out,
            "commit": commit(),
            "machine": machine(),
            "versions": versions(PACKAGES),
            "counts": dict(sorted(self.counts.items())),
            "measured": dict(sorted(self.values.items())),
            "tests": {
                name: {"outcome": outcome, "seconds": round(self.seconds[name], 1)}
                for name, outcome in self.tests.items()
            },
            "left_out": self.left_out,
        }
