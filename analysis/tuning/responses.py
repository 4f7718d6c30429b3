"""What every feature and every neuron of a layer answers to stimuli, read at one cell.

Shape legend: S stimuli, C channels, K active per row, U units (of a chunk).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from isae.analysis.activity import Encoder
from isae.analysis.arrays import F32, F64, I64
from isae.analysis.tuning.shown import shown_rows
from isae.analysis.tuning.stimuli import StimulusSet
from isae.errors import DataError
from isae.inception import Network
from isae.progress import QUIET, Reporter
from isae.train import SAE

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Responses:
    """neurons_SC: float32, the cell's activations after the ReLU; values_SK and indices_SK: the
    codes of the SAE on those rows, in their units; n: number of features.

    Codes stay sparse: memory is S x (C + 2 K), whatever n is. sae: the encoder's weights, where
    codes are the k largest of dense pre-activations.
    """

    neurons_SC: F32
    values_SK: F32
    indices_SK: I64
    n: int
    sae: SAE | None = None

    def feature_chunks(self, width: int = 1024) -> Iterator[tuple[int, F64]]:
        """(first feature, codes float64 [S, U]) of up to `width` features a time."""
        for first in range(0, self.n, width):
            count = min(width, self.n - first)
            codes_SU = np.zeros((len(self.values_SK), count))
            inside = (self.indices_SK >= first) & (self.indices_SK < first + count)
            inside &= self.values_SK > 0
            rows, places = np.nonzero(inside)
            codes_SU[rows, self.indices_SK[rows, places] - first] = self.values_SK[rows, places]
            yield first, codes_SU

    def contested_chunks(
        self, width: int = 1024
    ) -> Iterator[tuple[int, F64] | tuple[int, F64, F64]]:
        """As `feature_chunks`, with the pre-activations float64 [S, U] of the same features.

        Pre-activations, before the k largest are chosen: (x - b_dec) W_enc^T + b_enc. Without an
        SAE's weights the codes alone.
        """
        for first, codes_SU in self.feature_chunks(width):
            if self.sae is None:
                yield first, codes_SU
                continue
            mine = slice(first, first + codes_SU.shape[1])
            sae = self.sae
            rows_SC = torch.tensor(self.neurons_SC, device=sae.W_enc_ND.device) - sae.b_dec_D
            raw_SU = torch.addmm(sae.b_enc_N[mine], rows_SC, sae.W_enc_ND[mine].T)
            yield first, codes_SU, raw_SU.double().cpu().numpy()

    def neuron_chunks(self, width: int = 1024) -> Iterator[tuple[int, F64]]:
        """(first channel, activations float64 [S, U]) of up to `width` channels a time."""
        for first in range(0, self.neurons_SC.shape[1], width):
            yield first, self.neurons_SC[:, first : first + width].astype(np.float64)


def read_responses(
    network: Network,
    sae: Encoder,
    layer: str,
    cell: int,
    stimuli: StimulusSet,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    reporter: Reporter = QUIET,
) -> Responses:
    """Show all stimuli and encode the activations of cell (cell, cell) of each.

    batch_size: pictures a time, speed and memory only. Raises DataError when a code is not finite.
    """
    rows_SC = shown_rows(
        network, layer, cell, stimuli, batch_size=batch_size, reporter=reporter
    )  # fmt: skip
    values, indices = [], []
    with torch.inference_mode():
        for first in range(0, len(rows_SC), _ROWS_AT_ONCE):
            x_BC = torch.tensor(rows_SC[first : first + _ROWS_AT_ONCE], device=device)
            values_BK, indices_BK = sae.encode(x_BC)
            values.append(values_BK.float().cpu().numpy())
            indices.append(indices_BK.cpu().numpy().astype(np.int64))
    found = Responses(
        rows_SC, np.concatenate(values), np.concatenate(indices), sae.n,
        sae if isinstance(sae, SAE) else None,
    )  # fmt: skip
    if not (np.isfinite(found.values_SK).all() and np.isfinite(found.neurons_SC).all()):
        raise DataError(
            f"expected finite activations and codes of '{layer}', found NaN or infinity; the SAE "
            "or the weights are damaged: check how the training ended"
        )
    return found
