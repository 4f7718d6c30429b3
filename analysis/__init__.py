"""Analyses of trained SAEs: every feature placed among the network's branches.

`analyze_branches` writes tables, summary and figures for a run; `find` gives the statistics of any
decoder as arrays; `concentration_pvalues` is the null model alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isae.lazy import lazy_names

if TYPE_CHECKING:
    from isae.analysis.activity import Activity, read_activity
    from isae.analysis.analyze import analyze_branches
    from isae.analysis.branches import branch_scores, branch_shares
    from isae.analysis.config import BranchesConfig
    from isae.analysis.findings import Findings, find
    from isae.analysis.multiple import benjamini_hochberg
    from isae.analysis.nulls import concentration_pvalues

__all__ = [
    "Activity",
    "BranchesConfig",
    "Findings",
    "analyze_branches",
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
        "analyze_branches": "analyze",
        "benjamini_hochberg": "multiple",
        "branch_scores": "branches",
        "branch_shares": "branches",
        "concentration_pvalues": "nulls",
        "find": "findings",
        "read_activity": "activity",
    },
)
