"""What a picture drives: a linear function of one cell's activations.

    value = w . x + b        of a row x [C] of the layer's map

    neuron      w = one channel, b = 0
    feature     w = W_enc[i], b = b_enc[i] - w . b_dec: the pre-activation of the real encoder,
                which is the code wherever TopK keeps it
    branch      w = W_enc[i] on the channels of one branch, 0 elsewhere, b = -w . b_dec: that
                branch's part of the pre-activation, without b_enc, so that parts add up to it
    diversity   as feature, for every picture of a set

Legend: P objectives, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from isae.analysis.branches.shares import branch_shares, dominant
from isae.analysis.inputs import RunInputs
from isae.analysis.visualise.config import BRANCH, DIVERSITY, EVERY, MAIN, NEURON, VisualiseConfig
from isae.errors import ConfigError, unknown_name


@dataclass(frozen=True, order=True)
class Objective:
    """What is driven: unit is a neuron of the kind neuron, else a feature; branch: of that kind."""

    kind: str
    unit: int
    branch: str = ""


@dataclass(frozen=True, order=True)
class Picture:
    """One picture: its objective, and its number within a diversity set (else 0)."""

    objective: Objective
    number: int = 0

    @property
    def stem(self) -> str:
        """The name of its file, without suffix."""
        one = self.objective
        parts = [one.kind, f"{one.unit:05d}", *([one.branch] if one.branch else [])]
        return "_".join([*parts, *([str(self.number)] if one.kind == DIVERSITY else [])])

    @property
    def key(self) -> tuple[int | str, ...]:
        """What its random numbers depend on beside the seed."""
        return (self.objective.kind, self.objective.unit, self.objective.branch, self.number)


@dataclass(frozen=True)
class Drives:
    """The linear functions of objectives: weight_PC, bias_P, on the SAE's device."""

    objectives: tuple[Objective, ...]
    weight_PC: torch.Tensor
    bias_P: torch.Tensor

    def values(self, x_BC: torch.Tensor) -> torch.Tensor:
        """Every objective's value on every row -> [B, P]."""
        return torch.addmm(self.bias_P, x_BC, self.weight_PC.T)


def drives_of(inputs: RunInputs, objectives: Sequence[Objective]) -> Drives:
    """The linear functions of objectives."""
    sae, weights, biases = inputs.sae, [], []
    for one in objectives:
        if one.kind == NEURON:
            weight = torch.zeros_like(sae.b_dec_D)
            weight[one.unit] = 1.0
            bias = sae.b_dec_D.new_zeros(())
        else:
            weight, bias = sae.W_enc_ND[one.unit].detach(), sae.b_enc_N[one.unit].detach()
            if one.kind == BRANCH:
                start, stop = inputs.stored.branches[one.branch]
                inside = torch.zeros_like(weight)
                inside[start:stop] = 1.0
                weight, bias = weight * inside, torch.zeros_like(bias)
            bias = bias - weight @ sae.b_dec_D
        weights.append(weight)
        biases.append(bias)
    return Drives(tuple(objectives), torch.stack(weights), torch.stack(biases))


def check_units(inputs: RunInputs, config: VisualiseConfig) -> None:
    """Raise ConfigError or UnknownNameError for units and branches that the run does not have."""
    branches = inputs.stored.branches
    for kind in config.kind:
        count, what = (
            (inputs.stored.channels, "channels") if kind == NEURON else (inputs.sae.n, "features")
        )
        wrong = [one for one in config.features if one >= count]
        if wrong:
            raise ConfigError(
                f"expected --features below {count:,} (the {what} of '{inputs.layer}'), found "
                f"{wrong[0]}; leave it out"
            )
    if BRANCH in config.kind:
        if not branches:
            raise ConfigError(
                f"expected a layer with branches for --kind branch, found '{inputs.layer}'; "
                "choose other kinds"
            )
        if config.branch not in (MAIN, EVERY, *branches):
            raise unknown_name(f"branch of {inputs.layer}", config.branch, [MAIN, EVERY, *branches])


def pictures_of_units(
    inputs: RunInputs, kind: str, units: Sequence[int], config: VisualiseConfig
) -> list[Picture]:
    """The pictures of one kind for units, sets together."""
    pictures: list[Picture] = []
    for unit in units:
        if kind == DIVERSITY:
            one = Objective(kind, unit)
            pictures += [Picture(one, number) for number in range(config.set_size)]
        elif kind == BRANCH:
            names = _branches_of(inputs, unit, config.branch)
            pictures += [Picture(Objective(kind, unit, name)) for name in names]
        else:
            pictures.append(Picture(Objective(kind, unit)))
    return pictures


def main_branches(inputs: RunInputs, units: Sequence[int]) -> list[str]:
    """The branch with most of each feature's decoder energy; '' where the layer has none."""
    branches = inputs.stored.branches
    if not branches or not len(units):
        return [""] * len(units)
    rows_NC = inputs.sae.W_dec_ND[torch.as_tensor(units)].detach().double().cpu().numpy()
    names = list(branches)
    return [names[max(one, 0)] for one in dominant(branch_shares(rows_NC**2, branches)).tolist()]


def branch_of_channel(inputs: RunInputs, channel: int) -> str:
    """The branch that a channel is of; '' where the layer has none."""
    for name, (start, stop) in inputs.stored.branches.items():
        if start <= channel < stop:
            return name
    return ""


def _branches_of(inputs: RunInputs, unit: int, wanted: str) -> list[str]:
    if wanted == EVERY:
        return list(inputs.stored.branches)
    return main_branches(inputs, [unit]) if wanted == MAIN else [wanted]
