"""Analyses of trained SAEs: every feature placed among the network's branches.

`analyze_branches` writes tables, summary and figures for a run; `find` gives the statistics of any
decoder as arrays; `concentration_pvalues` is the null model alone.
"""

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
