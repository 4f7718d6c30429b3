"""`isae-store convert --from npy|safetensors`: caches made elsewhere become a store of one layer.

Rows come from one file or from all files of a folder in the order of their names. Each row has a
place (image, y, x), from an index [rows, 3] of whole numbers; without one, row r is of image r // N
at y = 0, x = r % N, N being `rows_per_image`. Images are held out by the same hash as in a build,
all rows are shuffled by their keys, and numbers are checked: NaN and infinity are refused.

A folder that `isae-store convert --to` wrote says in its meta.json what network, images and cells
the rows are of; then the store says so too and keeps the split, unless `holdout` asks for another.

Shapes: R rows of a segment, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from isae.config import check, to_json
from isae.errors import ConfigError, DataError, StoreError
from isae.images.base import digest
from isae.inception import layer_table
from isae.progress import QUIET, Reporter
from isae.store import manifest
from isae.store.assemble import Assembled
from isae.store.cuts import row_keys
from isae.store.describe import describe_units
from isae.store.extract import Grid
from isae.store.extrema import largest_sizes
from isae.store.gather import Gathering, check_apart, gather, train_rows
from isae.store.images_table import UNREADABLE
from isae.store.import_config import META, ImportConfig, array_paths, read_meta
from isae.store.import_images import ImportedImages, NumberedImages, TableImages
from isae.store.import_index import Index, open_index
from isae.store.layout import IMAGES, grid_group
from isae.store.places import open_place
from isae.store.plan import SEGMENT_BYTES
from isae.store.row_files import BFLOAT16, RowFiles, npy_rows, safetensors_rows
from isae.store.segments import GridRows, Segment, as_bytes
from isae.store.summary import UNKNOWN
from isae.store.verify import IMPORTED
from isae.store.work import Work

KINDS = ("float16", "float32", BFLOAT16)
DEFAULT_HOLDOUT = 0.05


def import_arrays(
    config: ImportConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    reporter: Reporter = QUIET,
) -> manifest.Manifest:
    """Make a store of arrays; its manifest.

    Raises ConfigError and DataError for arrays that are not rows of numbers of one layer (with the
    file and the row), and whatever `build_store` raises for a place that cannot be written.
    """
    source = Path(config.source)
    if not source.exists():
        raise StoreError(f"expected arrays in {source}, found nothing there; check the path")
    check_apart(config.out, [open_place(source)], may_lie_inside=True)
    origin = ArrayRows(config, reporter)
    if config.holdout != 0 and not origin.some_held_out():
        reporter.warn("no image is held out: those with rows are too few for --holdout")
    asked = {
        "options": {k: v for k, v in to_json(config).items() if k not in ("out", "scratch")},
        "files": origin.stamps,
        "segment bytes": SEGMENT_BYTES,
    }
    job = Gathering.begin(
        config.out, config.scratch, [origin.grid], origin.dtype, config.codec, origin, asked
    )
    return gather(job, overwrite=overwrite, resume=resume, reporter=reporter)


class ArrayRows:
    """The rows of files, segment by segment."""

    def __init__(self, config: ImportConfig, reporter: Reporter) -> None:
        self.config = config
        self.meta = read_meta(Path(config.source), config.layer)
        self.paths = array_paths(config, self.meta)
        if config.format == "npy":
            opened = [npy_rows(path) for path in self.paths]
        else:
            opened = [safetensors_rows(path, config.tensor) for path in self.paths]
        self.rows = RowFiles([one for one in opened if one.rows] or opened[:1])
        check(self.rows.kind in KINDS, f"arrays of {', '.join(KINDS)}", self.rows.kind)
        check(len(self.rows) > 0, "at least one row", 0)
        self.dtype = config.dtype or ("float16" if self.rows.kind == "float16" else "float32")
        self.index: Index = open_index(config, self.paths, self.meta, len(self.rows))
        self.paths = list(dict.fromkeys([*self.paths, *self.index.paths]))
        # Before the index is looked at: `check_unchanged` is to tell of a change from here on.
        beside = [] if self.meta is None else [META, IMAGES]
        self.watched = [*self.paths, *(Path(config.source) / name for name in beside)]
        self.stamps = [_stamp(path) for path in self.watched if path.exists()]
        with reporter.task(len(self.rows), "checking the index", "rows") as meter:
            self.span = self.index.scan(meter)
        self.layer = self._layer()
        shape = (self.layer["grid"][0], self.layer["grid"][1])
        self.grid = Grid(self.layer["stride"], shape, {config.layer: self.rows.columns})
        self.images = self._images()
        if not self.index.paths and config.rows_per_image == 1 and config.holdout != 0:
            reporter.warn(
                "no index: every row counts as an image of its own, so rows of one photo may lie "
                "on both sides of the held-out split; give index.npy or --rows-per-image"
            )
        about = {} if self.meta is None else self.meta["images"]
        if config.holdout is not None and "parts" in about and "copies" not in about:
            reporter.warn(
                "the rows are of a merged store that does not say which of its images are copies: "
                "a new split may hold out a photo and train on its copy; leave out --holdout to "
                "keep the split that it has"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row with key and place."""
        return self.grid.row_bytes(np.dtype(self.dtype).itemsize)

    @property
    def segments(self) -> int:
        """Number of segments."""
        return max(1, -(-self.raw_bytes // SEGMENT_BYTES))

    @property
    def raw_bytes(self) -> int:
        """Bytes of all rows."""
        return len(self.rows) * self.row_bytes

    def some_held_out(self) -> bool:
        """Whether any image with rows is held out."""
        return bool(self.images.held_out(np.flatnonzero(self.span.present_I)).any())

    def segment(self, number: int) -> Segment:
        """The next rows, checked, in the store's dtype."""
        total, count = len(self.rows), self.segments
        start, stop = total * number // count, total * (number + 1) // count
        values_RC = self.rows.read(start, stop)
        values_hash = blake3(as_bytes(values_RC)).hexdigest()
        place_R3 = self.index.read(start, stop)
        image, y, x = place_R3.astype(np.int64).T
        key_R = row_keys(
            self.config.seed, self.grid.stride, image, y, x, self.images.held_out(image)
        )
        values = {self.config.layer: self._stored(values_RC, start)}
        grids = {self.grid.stride: GridRows(key_R, place_R3, values)}
        segment = Segment(grids, np.empty((0, 2), dtype=np.int32))
        segment.facts = {"train_rows": train_rows(segment), "hash": values_hash}
        return segment

    def check_unchanged(self) -> None:
        """Raise StoreError if a file changed meanwhile."""
        for path, before in zip(self.watched, self.stamps, strict=True):
            if not path.exists() or _stamp(path) != before:
                raise StoreError(
                    f"expected {path} to stay as it was while it was read, found it changed; "
                    "convert again with --overwrite"
                )

    def describe(self, done: Assembled, work: Work) -> manifest.Manifest:
        """The manifest, but for files and times."""
        config, stride = self.config, self.grid.stride
        counts = {"rows": done.rows[stride], "train_rows": done.train_rows[stride]}
        facts = self.meta or {}
        return {
            "made": {"of": [str(path.absolute()) for path in self.paths[:100]]},
            "model": facts.get("model") or _unknown_model(config.model),
            "images": self._describe_images(work),
            "size": facts.get("size", config.size),
            "seed": config.seed,
            "positions": facts.get("positions", IMPORTED),
            "dtype": self.dtype,
            "codec": config.codec,
            "layers": {config.layer: {**self.layer, **counts}},
            "units": describe_units(done),
        }

    def write_images(self, path: Path, work: Work) -> None:
        """The images table."""
        self.images.write(path)

    def _stored(self, values_RC: npt.NDArray[Any], start: int) -> npt.NDArray[Any]:
        with np.errstate(over="ignore"):
            stored_RC = np.ascontiguousarray(values_RC, dtype=self.dtype)
        if np.isfinite(largest_sizes(stored_RC)).all():
            return stored_RC
        row = int(np.flatnonzero(~np.isfinite(stored_RC).all(axis=1))[0])
        bad_C = values_RC[row][~np.isfinite(stored_RC[row])]
        if np.isfinite(bad_C).all():
            raise DataError(
                f"expected numbers within float16's 65504, found {bad_C[0]:g} in "
                f"{self.rows.where(start + row)}; give --dtype float32"
            )
        raise DataError(
            f"expected finite numbers, found {bad_C[~np.isfinite(bad_C)][0]} in "
            f"{self.rows.where(start + row)}; remove that row or mend what wrote it"
        )

    def _layer(self) -> dict[str, Any]:
        """The layer's entry of the manifest, but for its rows."""
        name, channels = self.config.layer, self.rows.columns
        cells = [self.span.height, self.span.width]
        if self.meta is not None:
            model = self.config.model
            check(model is None, "no --model", model, f"the {META} beside the arrays names it")
            known = dict(self.meta["layers"][name])
            for key in ("files", "index", "dtype"):
                known.pop(key, None)
        elif self.config.model is not None:
            info = layer_table(self.config.model).get(name)
            if info is None:
                layer_names = ", ".join(layer_table(self.config.model))
                raise ConfigError(
                    f"expected a layer of {self.config.model}, found {name}; one of {layer_names}, "
                    "or leave out --model"
                )
            side = info.grid(self.config.size or 0)
            known = {
                "channels": info.channels,
                "stride": info.stride,
                "receptive_field": info.receptive_field,
                "grid": [side, side],
                "branches": {key: list(span) for key, span in info.branches.items()},
                "note": info.note,
            }
        else:
            note = "arrays made elsewhere; stride and receptive field unknown"
            known = {
                "channels": channels,
                "stride": 1,
                "receptive_field": 1,
                "grid": cells,
                "branches": {},
                "note": note,
            }
        fits = all(cell <= side for cell, side in zip(cells, known["grid"], strict=True))
        if known["channels"] != channels or not fits:
            raise ConfigError(
                f"expected {known['channels']} channels and cells of a {known['grid']} grid for "
                f"{name}, found {channels} and cells up to {cells}; check --layer, --model, --size"
            )
        return {"array": f"{grid_group(known['stride'])}/{name}", **known}

    def _images(self) -> ImportedImages:
        config = self.config
        if self.meta is not None:
            table = Path(config.source) / IMAGES
            copies = self.meta["images"].get("copies", [])
            return TableImages(table, self.span, config.seed, config.holdout, copies)
        share = DEFAULT_HOLDOUT if config.holdout is None else config.holdout
        return NumberedImages(self.span, config.seed, share)

    def _describe_images(self, work: Work) -> dict[str, Any]:
        segments = [work.open(work.segment(number)) for number in range(self.segments)]
        splits = self.images.splits
        used = {
            "used": int(self.span.present_I.sum()),
            "held_out": splits["holdout"],
            "unreadable": {"count": splits[UNREADABLE], "first": []},
        }
        if self.meta is not None:
            known = dict(self.meta["images"])
            if self.config.holdout is not None:  # the split was drawn anew
                known.pop("moved_to_holdout", None)
            return {**known, **used}
        hashes = [self.rows.columns, self.rows.kind]
        hashes += [segment.facts["hash"] for segment in segments]
        return {
            "spec": str(Path(self.config.source).absolute()),
            "kind": IMPORTED,
            "seed": self.config.seed,
            "limit": None,
            "fingerprint": digest(["arrays", SEGMENT_BYTES, *hashes]),
            "count": self.images.count,
            "resize": UNKNOWN,
            **used,
        }


def _unknown_model(name: str | None) -> dict[str, Any]:
    return {
        "name": name or UNKNOWN,
        "weights": UNKNOWN,
        "weights_sha256": UNKNOWN,
        "weights_metadata": {},
        "preprocessing": UNKNOWN,
        "device": UNKNOWN,
        "compute_dtype": UNKNOWN,
    }


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]
