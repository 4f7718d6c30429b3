from __future__ import annotations

import errno
import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from isae.errors import ConfigError, DataError, KernelError, RunError
from isae.train import SAE


def make(dtype: torch.dtype = torch.float32, k: int = 5) -> SAE:
    generator = torch.Generator().manual_seed(0)
    shapes = ((37, 11), (37,), (37, 11), (11,))
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    return SAE(*tensors, k, metadata={"layer": "mixed4c"})


def test_forward_is_the_documented_equation() -> None:
    sae = make(torch.float64)
    x = torch.randn(23, 11, dtype=torch.float64)
    pre = (x - sae.b_dec_D) @ sae.W_enc_ND.T + sae.b_enc_N
    top = pre.topk(5, dim=1)
    z = torch.zeros(23, 37, dtype=torch.float64).scatter(1, top.indices, top.values.relu())
    assert torch.allclose(sae(x), z @ sae.W_dec_ND + sae.b_dec_D, rtol=1e-12, atol=1e-12)
    values, indices = sae.encode(x)
    assert torch.equal(sae.decode(values, indices), sae.forward(x))
    assert indices.dtype == torch.int64


def test_saelens_layout(tmp_path: Path) -> None:
    sae = make()
    sae.save(tmp_path / "sae")
    weights = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    assert {key: value.shape for key, value in weights.items()} == {
        "W_enc": (11, 37),
        "b_enc": (37,),
        "W_dec": (37, 11),
        "b_dec": (11,),
    }
    assert np.array_equal(weights["W_enc"], sae.W_enc_ND.numpy().T)
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config == {
        "architecture": "topk",
        "d_in": 11,
        "d_sae": 37,
        "k": 5,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"layer": "mixed4c"},
    }


def test_load_gives_back_what_was_saved(tmp_path: Path) -> None:
    sae = make()
    sae.save(tmp_path)
    loaded = SAE.load(tmp_path)
    x = torch.randn(9, 11)
    assert torch.equal(loaded(x), sae(x))
    assert (loaded.k, loaded.n, loaded.d) == (5, 37, 11)
    assert loaded.metadata == {"layer": "mixed4c"}
    assert torch.equal(loaded(x.half()), sae(x.half().float()))


@pytest.mark.parametrize("scale", [0.25, 0.037, 19.0])
def test_unscaled_folds_the_scalar_exactly(scale: float) -> None:
    sae = make(torch.float64)
    raw = sae.unscaled(scale)
    x = torch.randn(50, 11, dtype=torch.float64) / scale
    values, indices = sae.encode(x * scale)
    raw_values, raw_indices = raw.encode(x)
    assert torch.equal(indices, raw_indices)
    assert torch.allclose(raw_values, values / scale, rtol=1e-12, atol=1e-12 / scale)
    assert torch.allclose(raw(x), sae(x * scale) / scale, rtol=1e-12, atol=1e-12 / scale)
    assert torch.equal(raw.W_enc_ND, sae.W_enc_ND)
    assert torch.equal(raw.W_dec_ND, sae.W_dec_ND)


def test_bad_folders_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected an SAE folder"):
        SAE.load(tmp_path)
    make().save(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())

    def load_with(**changes: object) -> None:
        (tmp_path / "cfg.json").write_text(json.dumps({**config, **changes}))
        SAE.load(tmp_path)

    with pytest.raises(ConfigError, match="expected 1 <= k <= 37"):
        load_with(k=38)
    with pytest.raises(RunError, match="expected architecture 'topk', found 'jumprelu'"):
        load_with(architecture="jumprelu")
    with pytest.raises(RunError, match="expected apply_b_dec_to_input True"):
        load_with(apply_b_dec_to_input=False)
    with pytest.raises(RunError, match=r"expected W_enc of shape \[12, 37\]"):
        load_with(d_in=12)
    for key, value in (("d_in", "11"), ("d_sae", 37.5), ("k", None), ("k", True), ("k", 0)):
        with pytest.raises(RunError, match=f"expected a whole number from 1 for {key}, found"):
            load_with(**{key: value})
    (tmp_path / "cfg.json").write_text("[]")
    with pytest.raises(RunError, match="expected a JSON object"):
        SAE.load(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(RunError, match="expected JSON"):
        SAE.load(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({**weights, "threshold": weights["b_enc"]}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(RunError, match=r"expected W_enc, b_enc, W_dec, b_dec, found .*threshold"):
        SAE.load(tmp_path)
    (tmp_path / "sae_weights.safetensors").write_bytes(b"no")
    with pytest.raises(RunError, match="not a readable safetensors file"):
        SAE.load(tmp_path)


def test_a_file_that_cannot_be_written_is_an_operating_system_error(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"sae_weights\.safetensors") as raised:
            make().save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_bad_inputs_raise() -> None:
    with pytest.raises(KernelError):
        make()(torch.ones(3, 10))
    with pytest.raises(DataError):
        make()(torch.full((3, 11), float("nan")))
