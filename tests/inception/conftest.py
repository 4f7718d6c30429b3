"""Networks that several tests of the folder read; loading takes seconds, so once per session."""

from __future__ import annotations

import pytest
import torch

from isae.inception import Network, load_model


@pytest.fixture(scope="session")
def network() -> Network:
    """The packaged network in fp32."""
    return load_model(dtype=torch.float32)


@pytest.fixture(scope="session")
def exact_network() -> Network:
    """The packaged network in float64."""
    return load_model(dtype=torch.float64)


@pytest.fixture(scope="session")
def untrained() -> Network:
    """An untrained InceptionV1 in fp32."""
    return load_model(weights="random:3", dtype=torch.float32)


@pytest.fixture(scope="session")
def googlenet() -> Network:
    """An untrained GoogLeNet in fp32."""
    return load_model("googlenet", "random:3", dtype=torch.float32)


@pytest.fixture(scope="session")
def networks(network: Network, googlenet: Network) -> dict[str, Network]:
    """One network of each model."""
    return {"inceptionv1": network, "googlenet": googlenet}
