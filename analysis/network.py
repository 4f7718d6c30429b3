"""The network of a store."""

from __future__ import annotations

import torch

from isae.errors import StoreError
from isae.inception import Network, load_model
from isae.store import Store


def store_network(store: Store, weights: str | None, device: torch.device) -> Network:
    """The network that a store was built with, in float32; `weights`: where they are now.

    Raises StoreError for other weights than the store's.
    """
    model = store.manifest["model"]
    spec = weights or str(model["weights"])
    network = load_model(str(model["name"]), spec, device=device, dtype=torch.float32)
    if network.weights.sha256 != model["weights_sha256"]:
        raise StoreError(
            f"expected the weights that the store was built with (SHA-256 "
            f"{model['weights_sha256'][:16]}), found others in {spec} "
            f"({network.weights.sha256[:16]}); give the right ones with --weights"
        )
    return network
