"""The operations of a sparse-autoencoder training step and of its data, one file each.

Every operation has a plain torch `reference`, a compiled `cpu` path (numba; long ones in
`isae.kernels.cpu`) and a `triton` kernel
(in `isae.kernels.triton`, same name) under one public name; `kernel="auto"` takes Triton on a GPU
and the compiled path on a CPU. Shapes are written as suffixes:
B rows (samples), D channels, N latents, K active latents per row.
"""

from isae.kernels.adam_update import adam_update
from isae.kernels.column_sums import column_sums
from isae.kernels.dispatch import KERNELS, choose_kernel, interpreted
from isae.kernels.expand_rows import PackedRows, expand_rows, pack_rows
from isae.kernels.latent_update import AuxGradients, Parameter, latent_update
from isae.kernels.sparse_decode import decode_residual, sparse_decode
from isae.kernels.sparse_outer import LatentGroups, group_by_latent, sparse_outer
from isae.kernels.topk_encode import topk_encode

__all__ = [
    "KERNELS",
    "AuxGradients",
    "LatentGroups",
    "PackedRows",
    "Parameter",
    "adam_update",
    "choose_kernel",
    "column_sums",
    "decode_residual",
    "expand_rows",
    "group_by_latent",
    "interpreted",
    "latent_update",
    "pack_rows",
    "sparse_decode",
    "sparse_outer",
    "topk_encode",
]
