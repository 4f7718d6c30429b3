"""Training sparse autoencoders on an activation store: recipes, loop, checkpoints, export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isae.lazy import lazy_names

if TYPE_CHECKING:
    from isae.train.config import TrainConfig
    from isae.train.loop import train
    from isae.train.sae import SAE

__all__ = ["SAE", "TrainConfig", "train"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "SAE": "sae",
        "TrainConfig": "config",
        "train": "loop",
    },
)
