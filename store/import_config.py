"""What an import is asked to do, and the files that it reads."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isae.config import check
from isae.errors import DataError, StoreError
from isae.store.codecs import named_codec
from isae.store.row_files import in_order

INDEX_FILE = "index.npy"
FORMATS = ("npy", "safetensors")
EXPORT, META = "isae-export", "meta.json"
_TAKEN = re.compile(
    r"\.+|index|stride\d+_index|zarr\.json|sizes|\d+\.(key|place)|.*\.crc|__metadata__"
)
"""Not for layers: files of these names lie beside a layer's in a store or an export, and tensors
of these names in segments."""


@dataclass(frozen=True)
class ImportConfig:
    """Options of `isae-store convert --from`."""

    source: str
    """A file, or a folder of files."""
    format: str
    """npy or safetensors."""
    layer: str
    """Name of the layer."""
    out: str
    """Folder or address of the new store."""
    index: str | None = None
    """An .npy file of whole numbers [rows, 3]; None: index.npy in the folder, if it is there."""
    tensor: str | None = None
    """Tensor of the safetensors files; None: 'activations', or the only one with two axes."""
    rows_per_image: int = 1
    """Rows of an image where there is no index."""
    dtype: str | None = None
    """float16 or float32; None: float16 if the arrays are, else float32."""
    holdout: float | None = None
    """Share of the images that no training may see; None: as the export says, else 0.05."""
    model: str | None = None
    """The network whose layer this is, if isae knows it; gives stride and branches."""
    size: int | None = None
    """Side in pixels of that network's input."""
    seed: int = 0
    """Seed of the split and the shuffle."""
    codec: str = "small"
    """As for a build."""
    scratch: str | None = None
    """Folder for what is done so far; as for a build."""

    def __post_init__(self) -> None:
        """Check ranges; raise ConfigError."""
        check(self.format in FORMATS, f"--from {' or '.join(FORMATS)}", self.format)
        named = bool(self.layer) and all(c.isalnum() or c in "._-" for c in self.layer)
        taken = _TAKEN.fullmatch(self.layer) is not None
        check(named and not taken, "--layer with a name", self.layer, "choose another name")
        check(self.rows_per_image >= 1, "--rows-per-image of at least 1", self.rows_per_image)
        check(self.dtype in (None, "float16", "float32"), "--dtype float16 or float32", self.dtype)
        check(0 <= (self.holdout or 0) < 1, "--holdout in [0, 1)", self.holdout)
        check((self.model is None) == (self.size is None), "--model and --size together", self.size)
        check(self.size is None or self.size >= 16, "--size of at least 16 pixels", self.size)
        check(0 <= self.seed < 2**63, "--seed in [0, 2^63)", self.seed)
        named_codec(self.codec)


def read_meta(source: Path, layer: str) -> dict[str, Any] | None:
    """What an export of isae says, None for other folders."""
    path = source / META
    if not path.is_file():
        return None
    try:
        meta: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"expected JSON in {path}, found {error}; remove or mend it") from error
    if not isinstance(meta, dict) or meta.get("format") != EXPORT:
        return None
    if not isinstance(meta.get("layers"), dict):
        raise DataError(f"expected the layers of an export in {path}, found none; export again")
    check(layer in meta["layers"], f"--layer of {', '.join(meta['layers'])}", layer)
    return meta


def array_paths(config: ImportConfig, meta: dict[str, Any] | None) -> list[Path]:
    """The files of the rows, in their order; StoreError if there is none."""
    source = Path(config.source)
    if source.is_file():
        return [source]
    if meta is not None:
        return [source / name for name in meta["layers"][config.layer]["files"]]
    others = (source / INDEX_FILE, Path(config.index or ""))
    listed = source.glob(f"*.{config.format}")
    found = [one for one in listed if not one.name.startswith(".") and one not in others]
    if not found:
        raise StoreError(
            f"expected .{config.format} files in {source}, found none; check the path and --from"
        )
    return in_order(found)
