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
PIECE_BYTES = 256 << 20
"""Pre-activations of dead latents that are held at once: rows are taken in pieces."""
PIECE_SHARE = 16
"""Or, where that is more, one part in so many of a float32 [B, N]: every piece reads the dead
latents' weights again and adds to their gradients, which with a million latents takes longer than
the products themselves.
"""


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
    summed = torch.promote_types(W_dec_QD.dtype, torch.float32)
    enc_QD, dec_QD = (torch.zeros_like(W_dec_QD, dtype=summed) for _ in range(2))
    b_Q = dec_QD.new_zeros(dead_Q.numel(), dtype=torch.float64)
    aux = b_Q.new_zeros(())
    held = max(PIECE_BYTES, 4 * centred_BD.shape[0] * W_dec_ND.shape[0] // PIECE_SHARE)
    rows = SHORT_SUM * max(1, held // (4 * dead_Q.numel() * SHORT_SUM))
    for start in range(0, centred_BD.shape[0], rows):
        x_BD, part_r_BD = centred_BD[start : start + rows], r_BD[start : start + rows]
        z_BQ = _codes(plan, torch.addmm(b_enc_Q, x_BD, W_enc_QD.T))
        error_BD = torch.addmm(part_r_BD, z_BQ, W_dec_QD)
        g_BD = error_BD * plan.aux_coefficient
        g_z_BQ = torch.mm(g_BD, W_dec_QD.T).mul_(z_BQ > 0)
        _add_product_over_rows(enc_QD, g_z_BQ, x_BD)
        _add_product_over_rows(dec_QD, z_BQ, g_BD)
        b_Q += column_sums(g_z_BQ, kernel=plan.kernel)[0]
        aux += column_sums(error_BD, kernel=plan.kernel)[1].sum()
    return AuxGradients(dead_Q, enc_QD, dec_QD, b_Q.to(enc_QD.dtype)), aux


def _codes(plan: Plan, pre_BQ: torch.Tensor) -> torch.Tensor:
    """The k_aux largest of each row through ReLU, the others 0; changes `pre_BQ`."""
    if pre_BQ.shape[1] <= plan.k_aux:
        return pre_BQ.relu_()
    values_BK, indices_BK = topk(pre_BQ, plan.k_aux, plan.kernel)
    return pre_BQ.zero_().scatter_(1, indices_BK, values_BK.to(pre_BQ.dtype))


def _add_product_over_rows(total_QD: torch.Tensor, a_BQ: torch.Tensor, b_BD: torch.Tensor) -> None:
    # total += a^T b. On a CPU in short pieces: a long sum would be split by the number of threads,
    # and the last bits with it. Products of 16-bit numbers are added in float32.
    if a_BQ.device.type == "cuda" and a_BQ.dtype != total_QD.dtype:
        total_QD += torch.mm(a_BQ.T, b_BD, out_dtype=total_QD.dtype)
        return
    short = SHORT_SUM if a_BQ.device.type == "cpu" else max(1, a_BQ.shape[0])
    for start in range(0, a_BQ.shape[0], short):
        a_SQ, b_SD = a_BQ[start : start + short], b_BD[start : start + short]
        total_QD.addmm_(a_SQ.T.to(total_QD.dtype), b_SD.to(total_QD.dtype))
