"""Which analyses a study has, in which order, and what each of them reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from isae.analysis.branches.analyze import analyze_branches
from isae.analysis.branches.config import BranchesConfig
from isae.analysis.curves.analyze import analyze_curves
from isae.analysis.curves.config import CurvesConfig
from isae.analysis.label.analyze import analyze_label
from isae.analysis.label.config import LabelConfig
from isae.analysis.layers.analyze import analyze_layers
from isae.analysis.layers.config import LayersConfig
from isae.analysis.report.analyze import write_report
from isae.analysis.report.config import ReportConfig
from isae.analysis.stability.analyze import analyze_stability
from isae.analysis.stability.config import StabilityConfig
from isae.analysis.study.layout import Net, Study
from isae.analysis.study.stages import SUMMARY, Stage
from isae.analysis.tuning.analyze import analyze_tuning
from isae.analysis.tuning.config import TuningConfig
from isae.analysis.visualise.analyze import analyze_visualise
from isae.analysis.visualise.config import VisualiseConfig
from isae.config import to_json
from isae.errors import unknown_name
from isae.progress import Reporter

REPORT = "report"
ANALYSES = ("branches", "tuning", "curves", "label", "layers", "stability", "visualise", REPORT)
LATER = (
    "heldout_rows", "pictures", "reference_rows", "figures", "sheets", "virtual_images", "device",
)  # fmt: skip
"""Options that SAEs of further seeds may have otherwise: what they govern is not done for them."""
CURVE_LAYERS = ("mixed3a", "mixed3b", "mixed4a")
"""Where curve detectors are looked for: those of arXiv 2406.03662 end at mixed3b, one more."""


# Fewer rows, pictures and draws than the single commands take: a study is nine layers of several
# seeds. What is lost is power, not validity.


def _branches_config(**keywords: Any) -> BranchesConfig:
    return BranchesConfig(
        max_rows=150_000, heldout_rows=4096, pictures=64, spliced=16, reference_rows=512,
        sheets=False, **keywords,
    )  # fmt: skip


def _curves_config(**keywords: Any) -> CurvesConfig:
    return CurvesConfig(rows=8192, held_out_rows=10_000, **keywords)


def _layers_config(**keywords: Any) -> LayersConfig:
    return LayersConfig(max_images=300, shuffles=8, virtual_images=100, virtual_draws=5, **keywords)


@dataclass(frozen=True)
class StudyAnalyses:
    """Options of every analysis of a study, and where its inputs are now."""

    only: tuple[str, ...] = ANALYSES
    """Which analyses to do."""
    images: str | None = None
    """Where the pictures are now; None: as recorded."""
    weights: str | None = None
    """Where the studied network's weights are now; None: as recorded."""
    branches: BranchesConfig = field(default_factory=lambda: _branches_config())
    tuning: TuningConfig = field(default_factory=TuningConfig)
    curves: CurvesConfig = field(default_factory=lambda: _curves_config())
    layers: LayersConfig = field(default_factory=lambda: _layers_config())
    stability: StabilityConfig = field(default_factory=lambda: StabilityConfig(dictionaries=1))
    label: LabelConfig = field(default_factory=LabelConfig)
    visualise: VisualiseConfig = field(default_factory=VisualiseConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in ANALYSES:
                raise unknown_name("analysis", name, ANALYSES)

    def later(self) -> StudyAnalyses:
        """For SAEs of further seeds: shares, counts and matches; no interventions, no weights."""
        return replace(
            self,
            branches=replace(
                self.branches, heldout_rows=0, pictures=0, reference_rows=0, figures=False
            ),
            layers=replace(self.layers, virtual_images=0),
            label=replace(self.label, figures=False),
        )

    @staticmethod
    def uniform(
        only: tuple[str, ...], *, images: str | None, weights: str | None, device: str, seed: int
    ) -> StudyAnalyses:
        """Defaults but for the device and the seed, which are those of every analysis."""
        return StudyAnalyses(
            only, images, weights,
            _branches_config(device=device, seed=seed),
            TuningConfig(device=device, seed=seed),
            _curves_config(device=device, seed=seed),
            _layers_config(device=device, seed=seed),
            StabilityConfig(device=device, seed=seed, dictionaries=1),
            LabelConfig(device=device, seed=seed),
            VisualiseConfig(device=device, seed=seed),
            ReportConfig(device=device, seed=seed),
        )  # fmt: skip


@dataclass(frozen=True)
class Planner:
    """Makes the stages of one study."""

    study: Study
    options: StudyAnalyses
    reporter: Reporter
    overwrite: bool = False
    """Whether folders that grow begin anew; all others are replaced when their stage is done."""

    def stages(self) -> list[Stage]:
        """All stages, the untrained networks first: the trained one is compared with them."""
        return [stage for stage in self._all() if _kind(stage) in self.options.only]

    def report(self, verdicts: Path) -> list[Stage]:
        """The pages, if they are wanted: the last stage, of whatever the others left.

        verdicts: the study's table of them, which the pages show.
        """
        if REPORT not in self.options.only:
            return []
        study = self.study
        folders = [study.nets[0].run(0, layer) / "analysis" for layer in study.config.layers]
        found = [path for folder in folders for path in sorted(folder.glob(f"*/{SUMMARY}"))]
        others = [study.nets[0].layers(0) / SUMMARY, verdicts]
        others += [study.nets[0].stability(layer) / SUMMARY for layer in study.config.layers]
        found += [path for path in others if path.is_file()]
        return [
            self._stage(
                REPORT, study.path / REPORT, found, self.options.report, write_report,
                paths=[study.path],
            )
        ]  # fmt: skip

    def _all(self) -> Iterator[Stage]:
        nets, layers = self.study.nets, self.study.config.layers
        nets = sorted(nets, key=lambda net: net.trained)
        for net in nets:
            yield from self._of_seeds(net, net.seeds[:1])
        for net in nets:
            yield from self._of_seeds(net, net.seeds[1:])
            if len(net.seeds) > 1:
                yield from (self._stability(net, layer) for layer in layers)

    def _of_seeds(self, net: Net, seeds: range) -> Iterator[Stage]:
        for layer in self.study.config.layers:
            yield from (self._branches(net, seed, layer) for seed in seeds)
            if layer in CURVE_LAYERS:
                yield from (self._curves(net, seed, layer) for seed in seeds)
            if 0 in seeds:
                yield from (self._tuning(net, seed, layer) for seed in net.seeds)
            yield from (self._label(net, seed, layer) for seed in seeds)
            if net.trained and 0 in seeds:
                yield self._visualise(net, layer)
        if len(self.study.config.layers) > 1:
            yield from (self._layers(net, seed) for seed in seeds)

    def _stage(
        self,
        name: str,
        out: Path,
        inputs: list[Path],
        config: Any,
        work: Any,
        *,
        overwrite: bool = True,
        group: str | None = None,
        **keywords: Any,
    ) -> Stage:
        def do() -> Any:
            return work(
                out=out, config=config, overwrite=overwrite, reporter=self.reporter, **keywords
            )

        return Stage(name, out, inputs, to_json(config), do, group)

    def _branches(self, net: Net, seed: int, layer: str) -> Stage:
        run = net.run(seed, layer)
        other = self._untrained_run(layer) if net.trained and seed == 0 else None
        inputs = [run / SUMMARY, *([other / SUMMARY] if other else [])]
        return self._stage(
            f"{net.name}/seed{seed}/branches/{layer}", run / "analysis" / "branches", inputs,
            self._of(seed).branches, analyze_branches,
            run=run, store=net.store, against=other,
            **self._places(net),
        )  # fmt: skip

    def _tuning(self, net: Net, seed: int, layer: str) -> Stage:
        run = net.run(seed, layer)
        return self._stage(
            f"{net.name}/seed{seed}/tuning/{layer}", run / "analysis" / "tuning",
            [run / SUMMARY], self.options.tuning, analyze_tuning, run=run, store=net.store,
            # SAEs of a layer share the network's answers to stimuli, which are kept in memory.
            group=f"{net.name}/tuning/{layer}", **self._places(net),
        )  # fmt: skip

    def _curves(self, net: Net, seed: int, layer: str) -> Stage:
        run = net.run(seed, layer)
        return self._stage(
            f"{net.name}/seed{seed}/curves/{layer}", run / "analysis" / "curves",
            [run / SUMMARY], self.options.curves, analyze_curves, run=run, store=net.store,
            **self._places(net),
        )  # fmt: skip

    def _label(self, net: Net, seed: int, layer: str) -> Stage:
        run = net.run(seed, layer)
        planned = ["tuning", *(["curves"] if layer in CURVE_LAYERS else [])]
        inputs = self._joined(run, ("tuning", "curves"), planned)
        return self._stage(
            f"{net.name}/seed{seed}/label/{layer}", run / "analysis" / "label",
            [run / SUMMARY, *inputs], self._of(seed).label, analyze_label, run=run,
            store=net.store, **self._places(net),
        )  # fmt: skip

    def _visualise(self, net: Net, layer: str) -> Stage:
        run = net.run(0, layer)
        return self._stage(
            f"{net.name}/seed0/visualise/{layer}", run / "analysis" / "visualise",
            [run / SUMMARY], self.options.visualise, analyze_visualise, run=run,
            store=net.store, overwrite=self.overwrite, **self._places(net),
        )  # fmt: skip

    def _layers(self, net: Net, seed: int) -> Stage:
        runs = [net.run(seed, layer) for layer in self.study.config.layers]
        others = [one.layers(0) for one in self.study.nets if net.trained and not one.trained]
        inputs = [folder / SUMMARY for folder in (*runs, *others)]
        return self._stage(
            f"{net.name}/seed{seed}/layers", net.layers(seed), inputs,
            self._of(seed).layers, analyze_layers, runs=runs, store=net.store, against=others,
            **self._places(net),
        )  # fmt: skip

    def _stability(self, net: Net, layer: str) -> Stage:
        runs = [net.run(seed, layer) for seed in net.seeds]
        names = ("branches", "tuning", "label", "curves")
        planned = names if layer in CURVE_LAYERS else names[:-1]
        inputs = [run / SUMMARY for run in runs]
        inputs += [path for run in runs for path in self._joined(run, names, planned)]
        return self._stage(
            f"{net.name}/stability/{layer}", net.stability(layer), inputs,
            self.options.stability, analyze_stability, runs=runs, store=net.store,
        )  # fmt: skip

    def _joined(self, run: Path, names: Sequence[str], planned: Sequence[str]) -> list[Path]:
        """What a stage reads of a run's other analyses: those that come before it, those there."""
        paths = {name: run / "analysis" / name / SUMMARY for name in names}
        coming = set(planned) & set(self.options.only)
        return [path for name, path in paths.items() if name in coming or path.is_file()]

    def _of(self, seed: int) -> StudyAnalyses:
        return self.options if seed == 0 else self.options.later()

    def _untrained_run(self, layer: str) -> Path | None:
        others = [net for net in self.study.nets if not net.trained]
        return others[0].run(0, layer) if others else None

    def _places(self, net: Net) -> dict[str, Any]:
        weights = self.options.weights if net.trained else None
        return {"images": self.options.images, "weights": weights}


def _kind(stage: Stage) -> str:
    return next(part for part in stage.name.split("/") if part in ANALYSES)
