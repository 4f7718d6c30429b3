"""Analyses of trained SAEs: features among the network's branches, across its layers, to stimuli.

`analyze_branches`, `analyze_layers` and `analyze_tuning` write tables, summary and figures; `find`
gives the statistics of any decoder as arrays; `concentration_pvalues` is the null model alone.
`make_stimuli` draws stimuli of known factors, `find_tuning` measures any units' answers to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isae.lazy import lazy_names

if TYPE_CHECKING:
    from isae.analysis.activity import Activity, read_activity
    from isae.analysis.analyze import analyze_branches
    from isae.analysis.branches import branch_scores, branch_shares
    from isae.analysis.config import BranchesConfig, LayersConfig, TuningConfig
    from isae.analysis.findings import Findings, find
    from isae.analysis.layers import analyze_layers
    from isae.analysis.multiple import benjamini_hochberg
    from isae.analysis.nulls import concentration_pvalues
    from isae.analysis.stimuli import StimulusPlan, StimulusSet, make_stimuli
    from isae.analysis.tuning_analysis import analyze_tuning
    from isae.analysis.tuning_findings import TuningFindings, find_tuning

__all__ = [
    "Activity",
    "BranchesConfig",
    "Findings",
    "LayersConfig",
    "StimulusPlan",
    "StimulusSet",
    "TuningConfig",
    "TuningFindings",
    "analyze_branches",
    "analyze_layers",
    "analyze_tuning",
    "benjamini_hochberg",
    "branch_scores",
    "branch_shares",
    "concentration_pvalues",
    "find",
    "find_tuning",
    "make_stimuli",
    "read_activity",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Activity": "activity",
        "BranchesConfig": "config",
        "Findings": "findings",
        "StimulusPlan": "stimuli",
        "StimulusSet": "stimuli",
        "TuningConfig": "config",
        "TuningFindings": "tuning_findings",
        "analyze_branches": "analyze",
        "analyze_tuning": "tuning_analysis",
        "LayersConfig": "config",
        "analyze_layers": "layers",
        "benjamini_hochberg": "multiple",
        "branch_scores": "branches",
        "branch_shares": "branches",
        "concentration_pvalues": "nulls",
        "find": "findings",
        "find_tuning": "tuning_findings",
        "make_stimuli": "stimuli",
        "read_activity": "activity",
    },
)
