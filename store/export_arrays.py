"""`isae-store convert --to npy|safetensors`: a folder that other programs read.

npy: `LAYER.npy` [rows, channels] and `strideN_index.npy` int32 [rows, 3] (image, y, x) of the
layers of stride N. safetensors: `LAYER-00001-of-00003.safetensors`, each at most SHARD_BYTES, with
the tensors `activations` [rows, channels] and `index` [rows, 3]. Both: `images.parquet` as in the
store, and `meta.json`, which names the files of every layer in the order of their rows. Rows
[0, train_rows) are of training images, both parts in random order. Quantised layers come out as
float16.

The folder appears when it is complete. In memory at once: one piece of PIECE_ROWS rows.

Shapes: R rows, C channels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from isae.errors import StoreError
from isae.files import fsync, swap_folder, write_bytes, write_json
from isae.interrupts import Interrupts, deferred_interrupts
from isae.progress import QUIET, Meter, Reporter
from isae.store import manifest
from isae.store.array import StoredArray
from isae.store.disk import check_space
from isae.store.gather import check_apart
from isae.store.import_config import EXPORT, META
from isae.store.layout import IMAGES, grid_group
from isae.store.places import open_place
from isae.store.reader import Store, StoredLayer
from isae.store.row_files import INDEX_TENSOR, TENSOR

PIECE_ROWS = 16384
SHARD_BYTES = 1 << 30
VERSION = 1
_CODES = {"float16": "F16", "float32": "F32", "int32": "I32"}
Array = npt.NDArray[Any]


def export_arrays(
    store: Store,
    kind: str,
    out: str,
    *,
    layers: Sequence[str] = (),
    overwrite: bool = False,
    reporter: Reporter = QUIET,
) -> dict[str, Any]:
    """Write `layers` (all if none are named) of a store as `kind`; what meta.json says.

    Raises UnknownNameError for a layer that the store does not have, StoreError if `out` holds
    something else than an earlier export or the disk is too small, StoreCorruptError if the store
    is damaged; then nothing is left behind.
    """
    chosen = [store.layer(name) for name in layers] or list(store.layers.values())
    folder = _folder(store, out, overwrite)
    total = _check_disk(store, chosen, folder)
    with deferred_interrupts() as stop, reporter.task(total, "writing", "rows") as meter:
        made = _Export(store, kind, chosen, meter, stop)
        swap_folder(folder, made.fill)
    return made.meta


class _Export:
    """Fills the folder."""

    def __init__(
        self,
        store: Store,
        kind: str,
        layers: Sequence[StoredLayer],
        meter: Meter,
        stop: Interrupts,
    ) -> None:
        self.store, self.kind, self.layers = store, kind, layers
        self.meter, self.stop = meter, stop
        about = store.manifest
        self.meta: dict[str, Any] = {
            "format": EXPORT,
            "version": VERSION,
            "to": kind,
            "store": {"content_id": store.content_id, "versions": about.get("versions", {})},
            **{key: about[key] for key in ("model", "images", "size", "seed", "positions")},
            "layers": {},
        }

    def fill(self, folder: Path) -> None:
        """Write every file."""
        write = self._npy if self.kind == "npy" else self._safetensors
        for layer in self.layers:
            facts = dict(self.store.manifest["layers"][layer.name])
            for key in ("array", "quantisation"):
                facts.pop(key, None)
            facts["dtype"] = str(self.store.activations(layer.name).dtype)
            self.meta["layers"][layer.name] = {**facts, **write(folder, layer)}
        write_bytes(folder / IMAGES, self.store.checked_file(IMAGES))
        write_json(folder / META, self.meta)

    def _npy(self, folder: Path, layer: StoredLayer) -> dict[str, Any]:
        name = f"{layer.name}.npy"
        index = f"{grid_group(layer.stride)}_index.npy"
        _write(folder / name, lambda file: self._one_npy(file, layer, layer.name))
        if not (folder / index).exists():
            _write(folder / index, lambda file: self._one_npy(file, layer, None))
        return {"files": [name], "index": index}

    def _one_npy(self, file: IO[bytes], layer: StoredLayer, values: str | None) -> None:
        """A layer's values, or (None) its grid's index."""
        array = self._array(layer, values)
        header = {
            "descr": np.lib.format.dtype_to_descr(array.dtype.newbyteorder("<")),
            "fortran_order": False,
            "shape": array.shape,
        }
        np.lib.format.write_array_header_1_0(file, header)
        for piece in self._pieces(array, 0, len(array), counted=values is not None):
            file.write(piece)

    def _safetensors(self, folder: Path, layer: StoredLayer) -> dict[str, Any]:
        values, index = self._array(layer, layer.name), self._array(layer, None)
        row = values.dtype.itemsize * layer.channels + index.dtype.itemsize * 3
        most = max(1, (SHARD_BYTES - 4096) // row)
        shards = max(1, -(-layer.rows // most))
        names = []
        for shard in range(shards):
            span = layer.rows * shard // shards, layer.rows * (shard + 1) // shards
            names.append(f"{layer.name}-{shard + 1:05d}-of-{shards:05d}.safetensors")
            write = self._shard_writer({TENSOR: values, INDEX_TENSOR: index}, span)
            _write(folder / names[-1], write)
        return {"files": names}

    def _shard_writer(
        self, arrays: dict[str, StoredArray], span: tuple[int, int]
    ) -> Callable[[IO[bytes]], None]:
        start, stop = span

        def write(file: IO[bytes]) -> None:
            header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
            offset = 0
            for name, array in arrays.items():
                shape = [stop - start, array.shape[1]]
                end = offset + shape[0] * shape[1] * array.dtype.itemsize
                code = _CODES[array.dtype.name]
                header[name] = {"dtype": code, "shape": shape, "data_offsets": [offset, end]}
                offset = end
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)
            file.write(len(text).to_bytes(8, "little") + text)
            for name, array in arrays.items():
                for piece in self._pieces(array, start, stop, counted=name == TENSOR):
                    file.write(piece)

        return write

    def _array(self, layer: StoredLayer, values: str | None) -> StoredArray:
        return (
            self.store.positions(layer.name) if values is None else self.store.activations(values)
        )

    def _pieces(
        self, array: StoredArray, start: int, stop: int, counted: bool
    ) -> Iterator[memoryview]:
        for first in range(start, stop, PIECE_ROWS):
            self.stop.check()
            rows_RC = array[first : min(first + PIECE_ROWS, stop)]
            rows_RC = rows_RC.astype(rows_RC.dtype.newbyteorder("<"), copy=False)
            yield rows_RC.reshape(-1).view(np.uint8).data
            if counted:
                self.meter.advance(len(rows_RC))


def _write(path: Path, fill: Callable[[IO[bytes]], None]) -> None:
    with path.open("wb") as file:
        fill(file)
    fsync(path)


def _folder(store: Store, out: str, overwrite: bool) -> Path:
    """Where the export goes; StoreError if something else is there."""
    place = open_place(out)
    if place.local is None:
        raise StoreError(f"expected --out on a local disk, found {place.url}; copy it there after")
    check_apart(out, [store.place])
    folder = place.local
    here = Path.cwd()
    if folder.resolve() in (here, *here.parents):
        raise StoreError(
            f"expected --out below the folder in which this command runs, found {folder}, which "
            "would be replaced; choose another --out"
        )
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return folder
    if not _is_export(folder):
        raise StoreError(
            f"expected {folder} to be absent, empty or an earlier export, found other files; "
            "choose another --out (nothing was deleted)"
        )
    if not overwrite:
        raise StoreError(
            f"expected no export in {folder}, found one; choose another --out, or --overwrite"
        )
    return folder


def _is_export(folder: Path) -> bool:
    data = manifest.maybe(open_place(folder), META) if folder.is_dir() else None
    try:
        meta = json.loads(data or b"")
    except ValueError:
        return False
    return isinstance(meta, dict) and meta.get("format") == EXPORT


def _check_disk(store: Store, layers: Sequence[StoredLayer], folder: Path) -> int:
    """The rows of all layers; StoreError if they do not fit."""
    item = {layer.name: store.activations(layer.name).dtype.itemsize for layer in layers}
    needed = sum(layer.rows * (layer.channels * item[layer.name] + 12) for layer in layers)
    remedy = "choose another disk, or fewer --layers"
    check_space([(folder, needed)], "all rows, not compressed", remedy)
    return sum(layer.rows for layer in layers)
