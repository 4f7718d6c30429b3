"""isae: an activation store, a sparse-autoencoder trainer and branch analyses for InceptionV1.

The foundation package stays light on purpose: importing it must not import torch, so that
`isae.errors` and friends can be used anywhere.
"""

import os

# Products of torch whose last bits depend neither on the threads nor on the rows of a batch (Intel
# MKL's "conditional numerical reproducibility"); it is read at the library's first call, so that
# what was multiplied in this process before isae was imported decides.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__version__ = "0.1.0"
