"""Analyses of trained SAEs: features among the network's branches, across its layers, to stimuli.

`analyze_branches`, `analyze_layers`, `analyze_tuning` and `analyze_curves` write tables, summary
and figures; `find` gives the statistics of any decoder as arrays; `concentration_pvalues` is the
null model alone.
`make_stimuli` draws stimuli of known factors, `find_tuning` measures any units' answers to them.
`analyze_label` names features by what their strongest images have in common.
`analyze_visualise` cuts patches and makes pictures by optimisation.
`analyze_stability` compares runs of other seeds; `spread` gives the numbers of summaries a spread.
`write_report` writes pages of every feature that open from disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isae.lazy import lazy_names

if TYPE_CHECKING:
    from isae.analysis.activity import Activity, read_activity
    from isae.analysis.branches.analyze import analyze_branches
    from isae.analysis.branches.config import BranchesConfig
    from isae.analysis.branches.findings import Findings, find
    from isae.analysis.branches.join import join_branches
    from isae.analysis.branches.nulls import concentration_pvalues
    from isae.analysis.branches.shares import branch_scores, branch_shares
    from isae.analysis.curves.analyze import analyze_curves
    from isae.analysis.curves.config import CurvesConfig
    from isae.analysis.label.analyze import analyze_label
    from isae.analysis.label.config import LabelConfig
    from isae.analysis.layers.analyze import analyze_layers
    from isae.analysis.layers.config import LayersConfig
    from isae.analysis.multiple import benjamini_hochberg
    from isae.analysis.report.analyze import write_report
    from isae.analysis.report.config import ReportConfig
    from isae.analysis.stability.analyze import analyze_stability
    from isae.analysis.stability.config import StabilityConfig
    from isae.analysis.stability.spread import spread, spread_text
    from isae.analysis.tuning.analyze import analyze_tuning
    from isae.analysis.tuning.config import TuningConfig
    from isae.analysis.tuning.findings import TuningFindings, find_tuning
    from isae.analysis.tuning.stimuli import StimulusPlan, StimulusSet, make_stimuli
    from isae.analysis.visualise.analyze import analyze_visualise
    from isae.analysis.visualise.config import VisualiseConfig

__all__ = [
    "Activity",
    "BranchesConfig",
    "CurvesConfig",
    "Findings",
    "LabelConfig",
    "LayersConfig",
    "ReportConfig",
    "StabilityConfig",
    "StimulusPlan",
    "StimulusSet",
    "TuningConfig",
    "TuningFindings",
    "VisualiseConfig",
    "analyze_branches",
    "analyze_curves",
    "analyze_label",
    "analyze_layers",
    "analyze_stability",
    "analyze_tuning",
    "analyze_visualise",
    "benjamini_hochberg",
    "branch_scores",
    "branch_shares",
    "concentration_pvalues",
    "find",
    "find_tuning",
    "join_branches",
    "make_stimuli",
    "read_activity",
    "spread",
    "spread_text",
    "write_report",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Activity": "activity",
        "BranchesConfig": "branches.config",
        "CurvesConfig": "curves.config",
        "Findings": "branches.findings",
        "LabelConfig": "label.config",
        "LayersConfig": "layers.config",
        "ReportConfig": "report.config",
        "StabilityConfig": "stability.config",
        "StimulusPlan": "tuning.stimuli",
        "StimulusSet": "tuning.stimuli",
        "TuningConfig": "tuning.config",
        "TuningFindings": "tuning.findings",
        "VisualiseConfig": "visualise.config",
        "analyze_branches": "branches.analyze",
        "analyze_curves": "curves.analyze",
        "analyze_label": "label.analyze",
        "analyze_layers": "layers.analyze",
        "analyze_stability": "stability.analyze",
        "analyze_tuning": "tuning.analyze",
        "analyze_visualise": "visualise.analyze",
        "benjamini_hochberg": "multiple",
        "branch_scores": "branches.shares",
        "branch_shares": "branches.shares",
        "concentration_pvalues": "branches.nulls",
        "find": "branches.findings",
        "find_tuning": "tuning.findings",
        "join_branches": "branches.join",
        "make_stimuli": "tuning.stimuli",
        "read_activity": "activity",
        "spread": "stability.spread",
        "spread_text": "stability.spread",
        "write_report": "report.analyze",
    },
)
