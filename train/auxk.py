"""AuxK: dead latents reconstruct what the others left over (arXiv 2406.04093, A.2).

    aux = sum ||e - e_hat||^2,  e = x - x_hat (detached),
    e_hat = the k_aux dead latents with the largest pre-activations (through ReLU) times W_dec

Dense products, but over the dead latents' columns only.

Shapes: B rows, D channels, N latents, K active latents, Q dead latents.
"""

from __future__ import annotations

import torch

from isae.kernels import AuxGradients, column_sums
from isae.kernels.topk_encode import topk
from isae.train.plan import Plan

SHORT_SUM = 256


def auxk_gradients(
    plan: Plan,
    encoder: tuple[torch.Tensor, torch.Tensor],
    W_dec_ND: torch.Tensor,
    centred_BD: torch.Tensor,
    r_BD: torch.Tensor,
    dead_Q: torch.Tensor,
) -> tuple[AuxGradients, torch.Tensor]:
    """Gradients of c/2 aux for the dead latents, and aux itself (float64, a scalar tensor).

    `encoder`: W_enc [N, D], b_enc [N]. centred_BD: what the encoder sees; r_BD: x_hat - x. All of
    one dtype, in which the products are computed.
    """
    W_enc_QD, b_enc_Q = encoder[0][dead_Q], encoder[1][dead_Q].to(centred_BD.dtype)
    W_dec_QD = W_dec_ND[dead_Q]
    z_BQ = torch.addmm(b_enc_Q, centred_BD, W_enc_QD.T)
    if dead_Q.numel() > plan.k_aux:
        values_BK, indices_BK = topk(z_BQ, plan.k_aux, plan.kernel)
        z_BQ = z_BQ.zero_().scatter_(1, indices_BK, values_BK.to(z_BQ.dtype))
    else:
        z_BQ.relu_()
    error_BD = torch.addmm(r_BD, z_BQ, W_dec_QD)
    g_BD = error_BD * plan.aux_coefficient
    g_z_BQ = torch.mm(g_BD, W_dec_QD.T).mul_(z_BQ > 0)
    gradients = AuxGradients(
        dead_Q,
        _product_over_rows(g_z_BQ, centred_BD),
        _product_over_rows(z_BQ, g_BD),
        column_sums(g_z_BQ, kernel=plan.kernel)[0].float(),
    )
    return gradients, column_sums(error_BD, kernel=plan.kernel)[1].sum()


def _product_over_rows(a_BQ: torch.Tensor, b_BD: torch.Tensor) -> torch.Tensor:
    # a^T b in short pieces: on a CPU a long sum would be split by the number of threads, and the
    # last bits with it.
    if a_BQ.device.type != "cpu":
        return a_BQ.T @ b_BD
    total_QD = a_BQ.new_zeros(a_BQ.shape[1], b_BD.shape[1])
    for start in range(0, a_BQ.shape[0], SHORT_SUM):
        stop = start + SHORT_SUM
        total_QD.addmm_(a_BQ[start:stop].T, b_BD[start:stop])
    return total_QD
