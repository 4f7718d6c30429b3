"""When a run ends: after its steps, or when the held-out FVU no longer falls.

A run has a flat part and, if asked for, a part with falling learning rate at its end. When
patience runs out in the flat part, the falling part begins at once, as long as the asked fraction
of the then whole run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isae.train.plan import Plan


@dataclass
class Schedule:
    """Where the run stands; goes into checkpoints.

    best_fvu, best_step: the lowest held-out FVU and its step. mark: the FVU that the next
    evaluation must undercut by the plan's `min_fall` to count as progress. idle: evaluations
    that did not.
    """

    decay_start: int
    end: int
    best_fvu: float | None = None
    best_step: int = 0
    mark: float | None = None
    idle: int = 0
    plateau_step: int | None = None

    @classmethod
    def of(cls, plan: Plan) -> Schedule:
        """The schedule of a run that is not ended early."""
        return cls(plan.steps - round(plan.decay_fraction * plan.steps), plan.steps)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Schedule:
        """Back from a checkpoint."""
        return cls(**values)

    def observe(self, plan: Plan, step: int, fvu: float) -> bool:
        """Take one held-out FVU; True if it is the best so far. May bring the end forward."""
        if self.mark is None or fvu < self.mark * (1 - plan.min_fall):
            self.mark, self.idle = fvu, 0
        else:
            self.idle += 1
        flat = step < self.decay_start and self.plateau_step is None
        if plan.patience is not None and self.idle >= plan.patience and flat:
            fraction = plan.decay_fraction
            self.plateau_step = self.decay_start = step
            self.end = min(plan.steps, step + round(step * fraction / (1 - fraction)))
        best = self.best_fvu is None or fvu < self.best_fvu
        if best:
            self.best_fvu, self.best_step = fvu, step
        return best
