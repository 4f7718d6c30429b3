"""Options of `isae-analyze prepare`: what a study is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isae.config import check
from isae.errors import unknown_name
from isae.inception import layer_table
from isae.store.config import BuildConfig
from isae.train import TrainConfig


@dataclass(frozen=True)
class StudyConfig:
    """A network, its untrained counterparts, the layers and the SAEs on them.

    Raises ConfigError and UnknownNameError for what no store or run could be made of.
    """

    images: str
    """Image source, as for isae-store build."""
    model: str = "inceptionv1"
    """Network: inceptionv1 or googlenet."""
    weights: str = "default"
    """Weights of the network that is studied."""
    layers: tuple[str, ...] = ()
    """Layers; empty: every layer with branches, in the network's order."""
    seeds: int = 3
    """SAEs a layer of the studied network, with seeds 0, 1, ..."""
    untrained: int = 1
    """Networks with the weights random:0, random:1, ..., one SAE a layer each."""
    positions: str = "all"
    """Places per image, as for isae-store build."""
    size: int | None = None
    """Side of the pictures in pixels; None: the weights' own."""
    holdout: float = 0.05
    """Share of the images that no training may see."""
    limit: int | None = None
    """Use a fair sample of LIMIT images."""
    codec: str = "small"
    """How chunks are compressed."""
    expansion: int = 16
    """Latents per channel."""
    k: int = 32
    """Active latents per row."""
    rows: int | None = None
    """Training rows an SAE sees; None: until the held-out FVU falls no more."""
    batch_size: int | None = None
    """Rows per optimiser step; None: as isae-train has it."""
    lr: float | None = None
    """Learning rate; None: as isae-train has it."""
    dead_rows: int | None = None
    """Rows without firing after which a latent counts as dead; None: as isae-train has it."""
    device: str = "auto"
    """Where the network runs and SAEs are trained."""
    seed: int = 0
    """Seed of the places, the held-out split and the shuffle of the stores."""

    def __post_init__(self) -> None:
        names = [name for name, info in layer_table(self.model).items() if info.branches]
        if not self.layers:
            object.__setattr__(self, "layers", tuple(names))
        every = list(layer_table(self.model))
        for layer in self.layers:
            if layer not in every:
                raise unknown_name(f"layer of {self.model}", layer, every)
        object.__setattr__(self, "layers", tuple(sorted(self.layers, key=every.index)))
        check(self.seeds >= 1, "--seeds of at least 1", self.seeds)
        check(self.untrained >= 0, "--untrained of at least 0", self.untrained)
        check(self.rows is None or self.rows >= 1, "--rows of at least 1", self.rows)
        self.build(self.weights, "store")
        self.training(self.layers[0], 0)

    def build(self, weights: str, out: str) -> BuildConfig:
        """The store of one network. Images, places, split and shuffle are the same for all."""
        return BuildConfig(
            images=self.images,
            layers=self.layers,
            out=out,
            model=self.model,
            weights=weights,
            positions=self.positions,
            codec=self.codec,
            size=self.size,
            holdout=self.holdout,
            device=self.device,
            seed=self.seed,
            limit=self.limit,
        )

    def training(self, layer: str, seed: int) -> TrainConfig:
        """One SAE; `rows` is settled by `steps_of`, once the store tells how many there are."""
        return TrainConfig(
            layer=layer,
            k=self.k,
            expansion=self.expansion,
            batch_size=self.batch_size,
            lr=self.lr,
            dead_rows=self.dead_rows,
            seed=seed,
            device=self.device,
        )

    def differences(self, other: StudyConfig) -> dict[str, tuple[Any, Any]]:
        """Fields that differ, but for those that only add SAEs and networks: {name: (a, b)}."""
        grows = ("seeds", "untrained", "device")
        return {
            name: (getattr(self, name), getattr(other, name))
            for name in self.__dataclass_fields__
            if name not in grows and getattr(self, name) != getattr(other, name)
        }
