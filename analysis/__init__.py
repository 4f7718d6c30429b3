"""Analyses of trained SAEs: features among the network's branches, and across its layers.

`analyze_branches` and `analyze_layers` write tables, summary and figures; `find` gives the
statistics of any decoder as arrays; `concentration_pvalues` is the null model alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isae.lazy import lazy_names

if TYPE_CHECKING:
    from isae.analysis.activity import Activity, read_activity
    from isae.analysis.analyze import analyze_branches
    from isae.analysis.branches import branch_scores, branch_shares
    from isae.analysis.config import BranchesConfig, LayersConfig
    from isae.analysis.findings import Findings, find
    from isae.analysis.layers import analyze_layers
    from isae.analysis.multiple import benjamini_hochberg
    from isae.analysis.nulls import concentration_pvalues

__all__ = [
    "Activity",
    "BranchesConfig",
    "Findings",
    "LayersConfig",
    "analyze_branches",
    "analyze_layers",
    "benjamini_hochberg",
    "branch_scores",
    "branch_shares",
    "concentration_pvalues",
    "find",
    "read_activity",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Activity": "activity",
        "BranchesConfig": "config",
        "Findings": "findings",
        "LayersConfig": "config",
        "analyze_branches": "analyze",
        "analyze_layers": "layers",
        "benjamini_hochberg": "multiple",
        "branch_scores": "branches",
        "branch_shares": "branches",
        "concentration_pvalues": "nulls",
        "find": "findings",
        "read_activity": "activity",
    },
)
