"""A trained TopK sparse autoencoder and its files in the SAELens layout.

    z = ReLU(TopK_k((x - b_dec) W_enc^T + b_enc));  x_hat = z W_dec + b_dec

Files: `sae_weights.safetensors` (W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec) and
`cfg.json` with architecture 'topk'.

Shapes: B rows, D channels (d_in), N latents (d_sae), K active latents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from isae.errors import ConfigError, KernelError, RunError
from isae.files import save_tensors, write_json
from isae.kernels import sparse_decode, topk_encode

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
KEYS = ("W_enc", "b_enc", "W_dec", "b_dec")
MUST_BE: dict[str, object] = {
    "architecture": "topk",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "rescale_acts_by_decoder_norm": False,
}


class SAE(nn.Module):
    """A TopK sparse autoencoder in the units of the stored activations."""

    def __init__(
        self,
        W_enc_ND: torch.Tensor,
        b_enc_N: torch.Tensor,
        W_dec_ND: torch.Tensor,
        b_dec_D: torch.Tensor,
        k: int,
        *,
        metadata: Mapping[str, Any] | None = None,
        kernel: str = "auto",
    ) -> None:
        super().__init__()
        self.n, self.d = W_enc_ND.shape
        if not 1 <= k <= self.n:
            raise ConfigError(f"expected 1 <= k <= {self.n} (the number of latents), found {k}")
        self.k, self.kernel, self.metadata = k, kernel, dict(metadata or {})
        self.W_enc_ND = nn.Parameter(W_enc_ND, requires_grad=False)
        self.b_enc_N = nn.Parameter(b_enc_N, requires_grad=False)
        self.W_dec_ND = nn.Parameter(W_dec_ND, requires_grad=False)
        self.b_dec_D = nn.Parameter(b_dec_D, requires_grad=False)

    def encode(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of activations [B, D] -> (values [B, K], indices [B, K] int64), values falling.

        Any floating dtype is taken and computed in that of the weights. Raises KernelError for
        another number of channels, DataError for NaN or infinity.
        """
        if x_BD.dim() != 2 or x_BD.shape[1] != self.d:
            raise KernelError(
                f"x: expected shape [any, {self.d}], the channels of the layer that this SAE was "
                f"trained on, found {list(x_BD.shape)}"
            )
        centred_BD = x_BD.to(self.W_enc_ND.dtype) - self.b_dec_D
        return topk_encode(centred_BD, self.W_enc_ND, self.b_enc_N, self.k, kernel=self.kernel)

    def decode(self, values_BK: torch.Tensor, indices_BK: torch.Tensor) -> torch.Tensor:
        """Reconstruct activations [B, D] from codes."""
        return sparse_decode(values_BK, indices_BK, self.W_dec_ND, self.b_dec_D, kernel=self.kernel)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Reconstruction of activations [B, D] through their codes."""
        return self.decode(*self.encode(x_BD))

    def unscaled(self, scale: float) -> SAE:
        """The SAE for x, given that this one was trained on scale * x.

        Both biases are divided by `scale`, the matrices stay: pre-activations are then 1/scale of
        the trained ones, so the same latents win, and codes and reconstructions are in units of x.
        """
        return SAE(
            self.W_enc_ND.detach().clone(),
            self.b_enc_N.detach() / scale,
            self.W_dec_ND.detach().clone(),
            self.b_dec_D.detach() / scale,
            self.k,
            metadata=self.metadata,
            kernel=self.kernel,
        )

    def save(self, folder: Path | str) -> None:
        """Write the SAELens layout into `folder`, which is made."""
        folder = Path(folder)
        weights = {
            "W_enc": self.W_enc_ND.T,
            "b_enc": self.b_enc_N,
            "W_dec": self.W_dec_ND.clone(),  # tied: two names must not share their memory
            "b_dec": self.b_dec_D,
        }
        save_tensors(folder / WEIGHTS, weights)
        config = {
            **MUST_BE,
            "d_in": self.d,
            "d_sae": self.n,
            "k": self.k,
            "dtype": str(self.W_enc_ND.dtype).removeprefix("torch."),
            "device": "cpu",
            "metadata": self.metadata,
        }
        write_json(folder / CONFIG, config)

    @classmethod
    def load(
        cls, folder: Path | str, *, device: str | torch.device = "cpu", kernel: str = "auto"
    ) -> SAE:
        """Read an SAE in the SAELens layout, in float32.

        Raises RunError where files are missing or are not a TopK SAE of this kind, ConfigError
        for k > d_sae.
        """
        folder = Path(folder)
        config = _read_config(folder)
        weights = _read_weights(folder, config["d_in"], config["d_sae"])
        return cls(
            weights["W_enc"].T.contiguous().to(device),
            weights["b_enc"].to(device),
            weights["W_dec"].to(device),
            weights["b_dec"].to(device),
            config["k"],
            metadata=config.get("metadata", {}),
            kernel=kernel,
        )


def _read_config(folder: Path) -> dict[str, Any]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise RunError(
                f"expected an SAE folder with {CONFIG} and {WEIGHTS}, found no {name} in "
                f"'{folder}'; give the folder RUN/sae/LAYER of a finished run"
            )
    try:
        config = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise RunError(f"expected JSON in '{folder / CONFIG}', found: {error}") from error
    if not isinstance(config, dict):
        raise RunError(f"expected a JSON object in '{folder / CONFIG}', found other JSON")
    missing = [key for key in ("architecture", "d_in", "d_sae", "k") if key not in config]
    if missing:
        raise RunError(f"'{folder / CONFIG}' lacks {', '.join(missing)}; it is no TopK SAE's")
    for key in ("d_in", "d_sae", "k"):
        if type(config[key]) is not int or config[key] < 1:
            raise RunError(
                f"'{folder / CONFIG}': expected a whole number from 1 for {key}, found "
                f"{config[key]!r}; take the file from the run that trained this SAE"
            )
    for key, value in MUST_BE.items():
        if config.get(key, value) != value:
            raise RunError(
                f"'{folder / CONFIG}': expected {key} {value!r}, found {config[key]!r}; "
                "only plain TopK SAEs can be loaded"
            )
    return dict(config)


def _read_weights(folder: Path, d: int, n: int) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"'{path}' is not a readable safetensors file: {error}") from error
    if set(weights) != set(KEYS):
        raise RunError(f"'{path}': expected {', '.join(KEYS)}, found {', '.join(sorted(weights))}")
    shapes = {"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,)}
    for key, shape in shapes.items():
        if tuple(weights[key].shape) != shape:
            raise RunError(
                f"'{path}': expected {key} of shape {list(shape)} as cfg.json says, found "
                f"{list(weights[key].shape)}"
            )
    return {key: value.float() for key, value in weights.items()}
