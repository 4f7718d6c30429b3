"""Training sparse autoencoders on an activation store: recipes, loop, checkpoints, export."""

from isae.train.config import TrainConfig
from isae.train.loop import train
from isae.train.sae import SAE

__all__ = ["SAE", "TrainConfig", "train"]
