"""How a chunk of rows is coded: codecs by name or as Zarr v3 metadata, each ending in crc32c.

`fast`: bitmap of non-zeros, values as they are. `small`: planes of the values compressed too.
`none`: bytes as they are. Otherwise JSON: a list of Zarr v3 codecs, or one. The formats are those
of Zarr: what is written here is read by Zarr's pipeline and the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from isae.config import check
from isae.errors import ConfigError
from isae.store.bitmap_zarr import NAME, BitmapCodec
from isae.store.row_codecs import BitmapRows, Metadata, RawRows, RowCodec, ZstdRows
from isae.store.zarr_rows import ZarrRows, parse_codecs

__all__ = ["NAMED", "CodecChoice", "RowCodec", "codec_from_metadata", "named_codec"]

BYTES: Metadata = {"name": "bytes", "configuration": {"endian": "little"}}
CRC: Metadata = {"name": "crc32c"}
NAMED: dict[str, tuple[Metadata, ...]] = {
    "fast": (BitmapCodec(level=1, planes=False).to_dict(), CRC),
    "small": (BitmapCodec(level=1, planes=True).to_dict(), CRC),
    "none": (BYTES, CRC),
}


@dataclass(frozen=True)
class CodecChoice:
    """A chain of codecs, before it is known what array it is for."""

    name: str
    """fast, small, none, or the JSON."""
    zarr_codecs: tuple[Metadata, ...]

    def for_array(self, dtype: npt.DTypeLike, columns: int) -> RowCodec:
        """The codec of an array; ConfigError if the chain cannot code such elements."""
        return codec_from_metadata(self.zarr_codecs, dtype, columns)


def named_codec(text: str) -> CodecChoice:
    """fast, small, none, or JSON of Zarr v3 codecs (crc32c is added); ConfigError otherwise."""
    if text in NAMED:
        return CodecChoice(text, NAMED[text])
    what = f"a codec of {', '.join(NAMED)}, or a JSON list of Zarr v3 codecs"
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"expected {what}, found {text!r}") from error
    codecs = found if isinstance(found, list) else [found]
    named = all(isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in codecs)
    check(len(codecs) > 0 and named, f"{what}, each with a name", text)
    if codecs[-1]["name"] != "crc32c":
        codecs = [*codecs, CRC]
    parse_codecs(codecs)
    return CodecChoice(text, tuple(codecs))


def codec_from_metadata(codecs: Sequence[Metadata], dtype: npt.DTypeLike, columns: int) -> RowCodec:
    """The codec of an array whose metadata name these codecs; crc32c must be the last."""
    kind = np.dtype(dtype)
    check(columns >= 1, "at least one column", columns)
    names = [str(one.get("name")) for one in codecs]
    check(names[-1:] == ["crc32c"], "codecs that end in crc32c", names)
    check("sharding_indexed" not in names, "codecs of chunks inside a shard", names)
    inner = codecs[:-1]
    if names[:-1] == [NAME]:
        return BitmapRows(kind, columns, codecs, codec=BitmapCodec.from_dict(inner[0]))
    if _is_plain(inner[:1], kind) and names[1:-1] == []:
        return RawRows(kind, columns, codecs)
    if _is_plain(inner[:1], kind) and names[1:-1] == ["zstd"]:
        zstd = _zstd(inner[1])
        if zstd is not None:
            return ZstdRows(kind, columns, codecs, zstd=zstd)
    return ZarrRows(kind, columns, codecs)


def _is_plain(codecs: Sequence[Metadata], kind: np.dtype[Any]) -> bool:
    """Whether the first codec leaves the bytes of a little-endian machine as they are."""
    if not codecs or codecs[0].get("name") != "bytes":
        return False
    plain = (BYTES, {"name": "bytes"}) if kind.itemsize == 1 else (BYTES,)
    return codecs[0] in plain and kind.isnative and kind.newbyteorder("<").isnative


def _zstd(codec: Metadata) -> Zstd | None:
    values = codec.get("configuration", {})
    if not isinstance(values, Mapping) or set(values) - {"level", "checksum"}:
        return None
    level, checksum = values.get("level", 0), values.get("checksum", False)
    if type(level) is not int or level > 22 or not isinstance(checksum, bool):
        return None
    return Zstd(level=level, checksum=checksum)
