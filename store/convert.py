"""`isae-store convert`: stores to files that other programs read, and their files to stores.

How a store is read without isae:

- `convert STORE --to npy|safetensors --out FOLDER` (store/export_arrays.py), or
- `convert STORE --to zarr --out NEW` (store/export_zarr.py) and any Zarr v3 reader, or
- as it is: a store is a Zarr v3 hierarchy of arrays STRIDE/LAYER [rows, channels], sharded
  (`sharding_indexed`, index at the end), whose inner chunks are [isae.bitmap, crc32c] under the
  codecs `small` and `fast`. A reader needs that one codec: a chunk is four bytes of CRC-32C behind
  a header, a bitmap of the elements that are not zero, and the bytes of these elements plane by
  plane, each part raw or one zstd frame. store/bitmap.py states the format, and
  `isae.store.BitmapCodec` is the codec for zarr-python. With `--codec none`, or a JSON list of
  codecs of Zarr v3, the layers of a store need no codec of isae's; the index arrays do.

Caches made elsewhere come in by `convert FOLDER --from npy|safetensors` (store/import_arrays.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isae.config import check
from isae.progress import QUIET, Reporter
from isae.store.export_arrays import export_arrays
from isae.store.export_zarr import PLAIN, export_zarr
from isae.store.reader import open_store

TARGETS = ("npy", "safetensors", "zarr")


def export(
    source: str,
    to: str,
    out: str,
    layers: Sequence[str] = (),
    codec: str | None = None,
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Write layers of the store `source` as `to`, one of TARGETS; what was written."""
    check(to in TARGETS, f"--to {', '.join(TARGETS[:-1])} or {TARGETS[-1]}", to)
    twice = sorted({name for name in layers if layers.count(name) > 1})
    check(not twice, "each layer once in --layers", twice, "remove the repetitions")
    store = open_store(source)
    if to == "zarr":
        made = export_zarr(
            store,
            out,
            layers=layers,
            codec=codec or PLAIN,
            overwrite=overwrite,
            reporter=reporter,
        )
    else:
        made = export_arrays(store, to, out, layers=layers, overwrite=overwrite, reporter=reporter)
    written = {
        name: {
            "rows": layer["rows"],
            "channels": layer["channels"],
            "files": layer.get("files", [layer.get("array")]),
        }
        for name, layer in made["layers"].items()
    }
    return {"store": source, "to": to, "out": out, "layers": written}


def describe_export(results: dict[str, Any]) -> str:
    """For a person."""
    lines = [f"{results['to']} of {results['store']} in {results['out']}"]
    for name, one in results["layers"].items():
        files = one["files"]
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        lines.append(f"{name:<14}{one['rows']:>12,} x {one['channels']:<6}{files[0]}{more}")
    return "\n".join(lines)
