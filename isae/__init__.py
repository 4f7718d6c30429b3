"""isae: an activation store, a sparse-autoencoder trainer and branch analyses for InceptionV1.

The foundation package stays light on purpose: importing it must not import torch, so that
`isae.errors` and friends can be used anywhere.
"""

__version__ = "0.1.0"
