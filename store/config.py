"""What a build is asked to do, checked before any work starts."""

from __future__ import annotations

from dataclasses import dataclass

from isae.config import check
from isae.store.codecs import named_codec
from isae.store.positions import PositionRule
from isae.store.quantise import QUANTISED

DTYPES = ("float16", "float32", "int8", "float8_e4m3")


@dataclass(frozen=True)
class BuildConfig:
    """Options of `isae-store build`; everything here that shapes the contents is in the manifest.

    `batch_size`, `workers` and `scratch` only change the speed. On another `device`, or on a
    processor whose fast bf16 is used, activations differ by rounding; the manifest says what
    computed them.
    """

    images: str
    """Image source: a folder, tar shards, torchvision:..., or synthetic:N (see isae.images)."""
    layers: tuple[str, ...]
    """Layers to store, by their names in the network's layer table."""
    out: str
    """Folder of the new store."""
    model: str = "inceptionv1"
    """Network: inceptionv1 or googlenet."""
    weights: str = "default"
    """Weights of the network: default, a path, random:SEED, inception5h."""
    positions: str = "all"
    """Places per image: all, N (uniformly), or N:norm:LAYER (by activation norm)."""
    dtype: str = "float16"
    """Type of the stored activations: float16, float32 (then the network runs in float32 too), or
    int8 or float8_e4m3 with a scale per channel."""
    codec: str = "small"
    """How chunks are compressed: small, fast, none, or a JSON list of Zarr v3 codecs."""
    size: int | None = None
    """Side in pixels of the square input; None is the weights' own."""
    holdout: float = 0.05
    """Share of the images that no training may see, in [0, 1)."""
    batch_size: int = 32
    """Images per forward pass."""
    workers: int = 2
    """Decoding processes; 0 decodes in the main process."""
    device: str = "auto"
    """Device of the forward pass."""
    seed: int = 0
    """Seed of the places, the held-out split and the shuffle."""
    limit: int | None = None
    """Use a fair sample of LIMIT images of the source, drawn by the seed."""
    max_bad: int | None = None
    """More unreadable images than this are an error; None is isae.images.default_max_bad."""
    scratch: str | None = None
    """Folder for what is done so far; None is work/ in the store, for a bucket a cache folder."""

    def __post_init__(self) -> None:
        """Check ranges; raise ConfigError with what was expected and found."""
        check(len(self.layers) > 0, "at least one layer in --layers", self.layers)
        twice = sorted({name for name in self.layers if self.layers.count(name) > 1})
        check(not twice, "each layer once in --layers", twice, "remove the repetitions")
        check(self.dtype in DTYPES, f"--dtype {' or '.join(DTYPES)}", self.dtype)
        check(self.size is None or self.size >= 16, "--size of at least 16 pixels", self.size)
        check(0 <= self.holdout < 1, "--holdout in [0, 1)", self.holdout)
        check(self.batch_size >= 1, "--batch-size of at least 1", self.batch_size)
        check(self.workers >= 0, "--workers of at least 0", self.workers)
        check(self.limit is None or self.limit >= 1, "--limit of at least 1", self.limit)
        check(self.max_bad is None or self.max_bad >= 0, "--max-bad of at least 0", self.max_bad)
        check(0 <= self.seed < 2**63, "--seed in [0, 2^63)", self.seed)
        PositionRule.parse(self.positions)
        named_codec(self.codec)

    @property
    def quantised(self) -> bool:
        """Whether numbers are stored in one byte each."""
        return self.dtype in QUANTISED
