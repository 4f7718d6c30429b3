"""All that is measured beside the energy shares, stage by stage; why a stage was skipped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isae.analysis.activity import read_activity, rows_to_read
from isae.analysis.arrays import F64, U8
from isae.analysis.branches.causal import Causal, causal_shares
from isae.analysis.branches.config import BranchesConfig
from isae.analysis.branches.dictionaries import reference_dictionaries
from isae.analysis.branches.effects import Effects, effect_sizes
from isae.analysis.branches.findings import Findings
from isae.analysis.branches.heldout import read_heldout
from isae.analysis.branches.logits import LogitEffects, logit_effects
from isae.analysis.branches.references import Reference, difference, of_findings, put_to_test
from isae.analysis.branches.rings import Rings, ring_effects, why_not
from isae.analysis.inputs import RunInputs, open_run
from isae.analysis.network import store_network
from isae.analysis.patches import draw_pictures
from isae.errors import IsaeError, RunError
from isae.images import ImageSource
from isae.inception import Network
from isae.inception.model import InceptionV1
from isae.progress import Reporter

AGAINST_ROWS = 40_000
COVARIANCE_ROWS = 16_384
NOT_WANTED = "not asked for"
NO_HELD_OUT = "the store has no held-out images"


@dataclass
class Stages:
    """Seconds by stage, and why a stage was skipped."""

    reporter: Reporter
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time of a block as that of stage `name`."""
        started = time.monotonic()
        yield
        took = time.monotonic() - started
        self.seconds[name] = round(self.seconds.get(name, 0.0) + took, 2)

    def skip(self, name: str, reason: str) -> None:
        """Remember why a stage was skipped, and warn where that was not asked for."""
        self.skipped[name] = reason
        if reason != NOT_WANTED:
            self.reporter.warn(f"{name} skipped: {reason}")

    def line(self) -> str:
        """Where the time went, in one line."""
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())


@dataclass
class Measures:
    """What was measured; None or empty where it was skipped (see Stages.skipped)."""

    effects: Effects
    causal: Causal | None = None
    logits: LogitEffects | None = None
    rings: Rings | None = None
    pictures: list[int] = field(default_factory=list)
    references: dict[str, Reference] = field(default_factory=dict)
    against: dict[str, Any] | None = None


def measure(
    inputs: RunInputs,
    findings: Findings,
    config: BranchesConfig,
    *,
    source: ImageSource | None,
    weights: str | None,
    against: str | Path | None,
    device: torch.device,
    stages: Stages,
) -> Measures:
    """Effect sizes, causal shares, logits, cut kernels and references of one run.

    source: the store's pictures, if they were found; against: a run to compare with.
    """
    W_dec_NC = inputs.sae.W_dec_ND.detach().cpu().double().numpy()
    with stages.timed("effect sizes"):
        effects = effect_sizes(
            findings, W_dec_NC,
            least=config.alike, resamples=config.resamples, seed=config.seed,
        )  # fmt: skip
    found = Measures(effects)
    with stages.timed("causal shares"):
        found.causal = _causal(inputs, config, device, stages)
    _with_pictures(found, inputs, config, source, weights, device, stages)
    with stages.timed("references"):
        found.references = _references(inputs, findings, config, W_dec_NC, stages)
        if against is not None:
            found.against = _against(inputs, findings, config, against, found, W_dec_NC, device)
    return found


def _causal(
    inputs: RunInputs, config: BranchesConfig, device: torch.device, stages: Stages
) -> Causal | None:
    if not config.heldout_rows:
        stages.skip("causal", NOT_WANTED)
        return None
    rows = read_heldout(inputs, config.heldout_rows, config.batch_size, device)
    if rows is None:
        stages.skip("causal", NO_HELD_OUT)
        return None
    return causal_shares(
        inputs.sae, rows, inputs.stored.branches,
        inputs.store.statistics(inputs.layer).mean_C.astype(np.float64),
        cap=config.pairs, draws=config.draws, resamples=config.resamples, seed=config.seed,
        batch_size=config.batch_size, device=device, reporter=stages.reporter,
    )  # fmt: skip


def _with_pictures(
    found: Measures,
    inputs: RunInputs,
    config: BranchesConfig,
    source: ImageSource | None,
    weights: str | None,
    device: torch.device,
    stages: Stages,
) -> None:
    """Logits and cut kernels, which need the network and held-out pictures."""
    with stages.timed("pictures"):
        ready = _network_and_pictures(inputs, config, source, weights, device)
    if isinstance(ready, str):
        stages.skip("logits", ready)
        stages.skip("kernel_size", ready)
        return
    network, pixels, found.pictures = ready
    with stages.timed("logits"):
        found.logits = logit_effects(
            network, inputs.sae, inputs.layer, pixels, inputs.stored.branches,
            spliced=config.spliced, resamples=config.resamples, seed=config.seed,
            reporter=stages.reporter,
        )  # fmt: skip
    reason = why_not(network.name, inputs.info)
    if reason or not isinstance(network, InceptionV1):
        stages.skip("kernel_size", reason or f"not applicable to {network.name}")
        return
    with stages.timed("kernel size"):
        found.rings = ring_effects(
            network, inputs.sae, inputs.layer, pixels,
            cap=config.pairs, resamples=config.resamples, seed=config.seed,
            batch_size=config.batch_size, device=device, reporter=stages.reporter,
        )  # fmt: skip


def _network_and_pictures(
    inputs: RunInputs,
    config: BranchesConfig,
    source: ImageSource | None,
    weights: str | None,
    device: torch.device,
) -> tuple[Network, U8, list[int]] | str:
    """(network, pixels, their numbers), or why there are none."""
    if not config.pictures:
        return NOT_WANTED
    if source is None:
        return "the store's pictures were not found; give their place with --images SRC"
    size = int(inputs.store.manifest["size"])
    pixels, used = draw_pictures(
        inputs.store, source, "holdout", config.pictures, size, config.seed
    )
    if not used:
        return NO_HELD_OUT
    try:
        return store_network(inputs.store, weights, device), pixels, used
    except IsaeError as error:
        if weights is not None:
            raise
        return f"the network's weights could not be had ({error})"


def _references(
    inputs: RunInputs,
    findings: Findings,
    config: BranchesConfig,
    W_dec_NC: F64,
    stages: Stages,
) -> dict[str, Reference]:
    alive_NC = W_dec_NC[findings.alive_N]
    if not config.reference_rows or len(alive_NC) < 2:
        stages.skip("references", NOT_WANTED if not config.reference_rows else "no living features")
        return {}
    rows = min(inputs.stored.train_rows or inputs.stored.rows, COVARIANCE_ROWS)
    sample_RC = np.asarray(inputs.store.activations(inputs.layer)[0:rows], dtype=np.float32)
    std_C = np.sqrt(inputs.store.statistics(inputs.layer).var_C)
    dictionaries = reference_dictionaries(
        alive_NC, sample_RC, findings.branches, count=config.reference_rows, seed=config.seed
    )
    return {"sae": of_findings(findings)} | {
        name: put_to_test(
            rows_NC, std_C, findings.branches,
            alpha=config.alpha, seed=config.seed, samples=config.samples, stream=name,
        )
        for name, rows_NC in dictionaries.items()
    }  # fmt: skip


def _against(
    inputs: RunInputs,
    findings: Findings,
    config: BranchesConfig,
    against: str | Path,
    found: Measures,
    W_dec_NC: F64,
    device: torch.device,
) -> dict[str, Any]:
    other = open_run(against, device=device)
    if other.layer != inputs.layer or other.stored.branches != inputs.stored.branches:
        raise RunError(
            f"expected --against a run on '{inputs.layer}', found one on '{other.layer}' in "
            f"{against}; train an SAE on the same layer of the untrained network's store"
        )
    spans = rows_to_read(other.stored.rows, other.stored.train_rows, AGAINST_ROWS)
    activity = read_activity(
        other.sae, other.store, other.layer, spans,
        keep=1, batch_size=config.batch_size, device=device,
    )  # fmt: skip
    rows_NC = other.sae.W_dec_ND.detach().cpu().double().numpy()[activity.alive_n]
    std_C = np.sqrt(other.store.statistics(other.layer).var_C)
    reference = put_to_test(
        rows_NC, std_C, findings.branches,
        alpha=config.alpha, seed=config.seed, samples=config.samples, stream="against",
    )  # fmt: skip
    found.references.setdefault("sae", of_findings(findings))
    found.references["against"] = reference
    return {
        "run": str(other.run),
        "model": {key: other.store.manifest["model"][key] for key in ("name", "weights")},
        "rows_read_for_living_features": activity.rows,
        "features": reference.rows,
        "sae_minus_against": difference(
            findings, reference, W_dec_NC, rows_NC, config.alike, config.resamples
        ),
    }
