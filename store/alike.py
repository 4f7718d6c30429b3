"""Whether the rows of several stores mean the same, so that they can be merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from isae.errors import ConfigError
from isae.progress import Reporter
from isae.store.quantise import QUANTISED
from isae.store.reader import Store
from isae.store.summary import UNKNOWN


def check_alike(stores: Sequence[Store], reporter: Reporter) -> None:
    """Raise ConfigError unless the rows of all stores mean the same; warn of what is not known."""
    for store in stores:
        if store.manifest["dtype"] in QUANTISED:
            raise ConfigError(
                f"expected stores of float16 or float32, found {store.manifest['dtype']} in "
                f"{store.path}; merging would round its numbers twice: build one store of all "
                "images, or merge float16 stores"
            )
    first = _what_counts(stores[0])
    for store in stores[1:]:
        other = _what_counts(store)
        for name in first:
            if first[name] != other[name]:
                raise ConfigError(
                    f"expected stores with the same {name}, found {short(first[name])} in "
                    f"{stores[0].path} and {short(other[name])} in {store.path}; build them alike"
                )
    unknown = [store.path for store in stores if first["weights"] in (UNKNOWN, None)]
    if unknown:
        reporter.warn(
            "the weights that made the rows are unknown: whether those of "
            f"{' and '.join(unknown)} are the same cannot be checked"
        )
    kinds = {store.manifest["model"].get("compute_dtype") for store in stores}
    if len(kinds) > 1:
        reporter.warn(f"the stores' networks ran in {', '.join(sorted(map(str, kinds)))}")


def joined_schema(stores: Sequence[Store]) -> pa.Schema:
    """The columns of all images tables; ConfigError where one has two types."""
    try:
        return pa.unify_schemas([store.images.schema.remove_metadata() for store in stores])
    except pa.ArrowException as error:
        raise ConfigError(
            f"expected images tables whose columns have the same types, found {error}; "
            "build the stores from sources of one kind"
        ) from error


def short(value: Any) -> str:
    """A value in a message."""
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _what_counts(store: Store) -> dict[str, Any]:
    about = store.manifest
    facts: dict[str, Any] = {
        "model": about["model"]["name"],
        "weights": about["model"].get("weights_sha256"),
        "preprocessing": about["model"].get("preprocessing"),
        "input size": about["size"],
        "resizing": about["images"].get("resize"),
        "dtype": about["dtype"],
        "positions": about["positions"],
        "layers": sorted(store.layers),
    }
    for name in sorted(store.layers):
        one = store.layers[name]
        geometry = (one.channels, one.stride, one.grid, one.receptive_field, dict(one.branches))
        facts[f"channels and cells of {name}"] = geometry
    return facts
