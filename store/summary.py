"""What `isae-store build`, `info`, `merge` and `convert` say of a store."""

from __future__ import annotations

from typing import Any

from isae.store.manifest import Manifest

UNKNOWN = "unknown"
"""What stands for facts about rows that were made elsewhere."""
ITEM_BYTES = {"float16": 2, "float32": 4, "int8": 1, "float8_e4m3": 1}


def summarise(path: str, manifest: Manifest) -> dict[str, Any]:
    """The results of `build` and `info`: the manifest, with sizes instead of the list of files."""
    files = manifest["files"]
    item = ITEM_BYTES[manifest["dtype"]]
    layers = {}
    for name, layer in manifest["layers"].items():
        own = f"{layer['array']}/"
        stored = sum(one["bytes"] for file, one in files.items() if file.startswith(own))
        raw = layer["rows"] * layer["channels"] * item
        layers[name] = {**layer, "stored_bytes": stored, "raw_bytes": raw}
    return {
        "store": str(path),
        **{
            key: value for key, value in manifest.items() if key not in ("files", "layers", "units")
        },
        "layers": layers,
        "stored_bytes": sum(one["bytes"] for one in files.values()),
        "raw_bytes": sum(layer["raw_bytes"] for layer in layers.values()),
        "files": len(files),
    }


def describe(results: dict[str, Any]) -> str:
    """The same for a person, within 80 columns."""
    images, model, measured = results["images"], results["model"], results["measured"]
    bad = images["unreadable"]["count"]
    unreadable = f", {bad} unreadable" if bad else ""
    moved = len(images.get("moved_to_holdout", []))
    copies = f", {moved:,} of them copies" if moved else ""
    pixels = f"{results['size']} pixels" if results["size"] else "unknown size"
    ran = f", {model['compute_dtype']} on {model['device']}" if model["device"] != UNKNOWN else ""
    lines = [
        f"store      {results['store']}",
        f"images     {images['used']:,} of {images.get('title') or images['spec']}",
        f"           {images['held_out']:,} held out{copies}{unreadable}; {pixels}",
        f"model      {model['name']}, weights {model['weights']}{ran}",
        f"positions  {results['positions']}, {results['dtype']}, "
        f"codec {results.get('codec', 'zstd')[:24]}, seed {results['seed']}",
        f"content    {results['content_id'][:16]}",
        f"built      {results['finished']}, {measured['images_per_second']:,.1f} images/s, "
        f"{measured['extract_seconds'] + measured['write_seconds']:,.0f} s in all",
        f"on disk    {results['stored_bytes'] / 1e6:,.1f} MB, "
        f"raw {results['raw_bytes'] / 1e6:,.1f} MB",
        "",
        f"{'layer':<14}{'channels':>9}{'grid':>8}{'rows':>12}{'held out':>11}{'MB':>9}{'ratio':>8}",
    ]
    for name, layer in results["layers"].items():
        grid = "x".join(str(side) for side in layer["grid"])
        held_out = layer["rows"] - layer["train_rows"]
        ratio = layer["raw_bytes"] / max(layer["stored_bytes"], 1)
        lines.append(
            f"{name:<14}{layer['channels']:>9}{grid:>8}{layer['rows']:>12,}{held_out:>11,}"
            f"{layer['stored_bytes'] / 1e6:>9,.1f}{ratio:>8.2f}"
        )
    quantised = {n: one["quantisation"] for n, one in results["layers"].items() if _costs(one)}
    if quantised:
        lines += ["", f"{'layer':<14}{'relative error':>16}{'FVU floor':>12}  of one byte a number"]
    for name, one in quantised.items():
        lines.append(f"{name:<14}{one['relative_error']:>16.2%}{one['fvu_floor']:>12.2e}")
    return "\n".join(lines)


def _costs(layer: dict[str, Any]) -> bool:
    return "fvu_floor" in layer.get("quantisation", {})
