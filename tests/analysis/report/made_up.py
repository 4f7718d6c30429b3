"""Reports of made-up features, as `isae-analyze report` writes them, for tests of the pages.

Everything is drawn from a seed; what a page should show is given back beside the files.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from isae.analysis.report import scripts

STATIC = Path(scripts.__file__).parent / "static"
BRANCHES = ("1x1", "3x3", "5x5", "pool")
LABELS = ("", "tabby cat", "dog, snout", "orientation 45°", "curve", "blue", "upper edge")
TAXONOMIES = ("unexplained", "class", "superclass", "orientation", "curvature", "colour", "dead")
TILE, TILES = 48, 14
GROUPS = ("top",) * 6 + ("range",) * 4 + ("random",) * 2 + ("anywhere",) * 2
SMALL = {"mixed3a": 150, "mixed4c": 190, "mixed5b": 130}
LARGE = {
    "mixed3a": 4096, "mixed3b": 8192, "mixed4a": 8192, "mixed4b": 8192, "mixed4c": 8192,
    "mixed4d": 8448, "mixed4e": 13312, "mixed5a": 14992, "mixed5b": 16384,
}  # fmt: skip


@dataclass
class MadeUp:
    """A written report. columns: {layer: {name: values}}; page: the address of index.html."""

    folder: Path
    layers: dict[str, int]
    columns: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @property
    def page(self) -> str:
        return (self.folder / "index.html").as_uri()

    def all(self, name: str) -> np.ndarray:
        """A column of every layer, one below the other."""
        return np.concatenate([self.columns[layer][name] for layer in self.layers])


def build(
    folder: Path,
    layers: dict[str, int],
    *,
    blocks: int = 3,
    extra: int = 0,
    texts: tuple[str, ...] = LABELS,
    without: tuple[str, ...] = (),
    seed: int = 0,
) -> MadeUp:
    """Write a report with `blocks` details scripts a layer and `extra` more columns of numbers.

    texts: the labels used; without: parts that no feature has ('patches', 'tuning', ...).
    """
    rng = np.random.default_rng(seed)
    report = MadeUp(folder, layers)
    (folder / "app").mkdir(parents=True)
    for path in STATIC.iterdir():
        shutil.copyfile(path, folder / ("" if path.name == "index.html" else "app") / path.name)
    for layer, features in layers.items():
        report.columns[layer] = _draw(rng, features, texts)
        _write_columns(report, layer, extra, rng)
        for block in range(min(blocks, -(-features // 64))):
            _write_block(report, layer, block, texts, without, rng)
    _write_map(report, rng)
    scripts.write_script(folder, "overview", _overview(report, without))
    return report


def _draw(rng: np.random.Generator, features: int, texts: tuple[str, ...]) -> dict[str, np.ndarray]:
    rate = np.exp(rng.normal(-6, 1.5, features)).astype(np.float32)
    dead = rng.random(features) < 0.02
    label = np.array(texts, dtype=object)[rng.integers(0, len(texts), features)]
    label[dead] = ""
    taxonomy = np.array(TAXONOMIES[:-1], dtype=object)[rng.integers(0, 6, features)]
    taxonomy[dead] = "dead"
    score = rng.random(features).astype(np.float32)
    score[label == ""] = np.nan
    return {
        "label": label, "taxonomy": taxonomy, "label_score": score,
        "label_chance": (0.1 * rng.random(features)).astype(np.float32),
        "branch": np.array(BRANCHES, dtype=object)[rng.choice(4, features, p=[0.3, 0.4, 0.2, 0.1])],
        "concentration": rng.normal(0.2, 0.2, features).astype(np.float32),
        "rate": np.where(dead, 0, rate).astype(np.float32),
        "max": rng.gamma(3, 2, features).astype(np.float32), "dead": dead,
    }  # fmt: skip


def _write_columns(report: MadeUp, layer: str, extra: int, rng: np.random.Generator) -> None:
    drawn = report.columns[layer]
    number, category = scripts.number_column, scripts.category_column
    columns = [
        scripts.text_column("label", "label", "Name without a language model.", drawn["label"]),
        category("taxonomy", "taxonomy", "Kind of the label.", drawn["taxonomy"]),
        number("label_score", "score", "", "On unseen images.", drawn["label_score"]),
        number("label_chance", "chance", "", "By chance.", drawn["label_chance"]),
        category("branch", "largest branch", "Most energy.", drawn["branch"]),
        number("concentration", "concentration", "share", "Excess.", drawn["concentration"]),
        number("rate", "rate", "of rows", "Share of rows.", drawn["rate"]),
        number("max", "largest", "code", "Largest value.", drawn["max"]),
    ]  # fmt: skip
    for at in range(extra):
        values = rng.normal(size=report.layers[layer])
        columns.append(number(f"extra_{at}", f"extra {at}", "", "Made up.", values))
    name = f"columns/{layer}"
    body = {"features": report.layers[layer], "columns": columns}
    scripts.write_script(report.folder, name, body)


def _write_map(report: MadeUp, rng: np.random.Generator) -> None:
    """Points in clumps; dead features have no place."""
    dead = report.all("dead")
    middles = rng.random((40, 2)) * 0.8 + 0.1
    places = middles[rng.integers(0, 40, len(dead))] + rng.normal(0, 0.025, (len(dead), 2))
    places = np.clip(places, 0, 1) * 65534
    places[dead] = scripts.NO_PLACE
    report.columns["places"] = {"x": places[:, 0], "y": places[:, 1]}
    body = {
        "layers": list(report.layers), "how": "Drawn at random, in forty clumps.",
        "x": scripts.encode(places[:, 0].astype(np.uint16), "<u2"),
        "y": scripts.encode(places[:, 1].astype(np.uint16), "<u2"),
    }  # fmt: skip
    scripts.write_script(report.folder, "map", body)


def _write_block(
    report: MadeUp,
    layer: str,
    block: int,
    texts: tuple[str, ...],
    without: tuple[str, ...],
    rng: np.random.Generator,
) -> None:
    numbers = range(64 * block, min(64 * block + 64, report.layers[layer]))
    pages = [_page(report, layer, one, texts, rng) for one in numbers]
    for page in pages:
        page.update(dict.fromkeys(without))
    scripts.write_script(report.folder, scripts.details_name(layer, block), pages)
    sheet = _sheet(rng)
    path = report.folder / "sheets" / layer / f"{block}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=60)
    picture = report.folder / "pictures" / layer / "made up.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    sheet.crop((0, 0, 224, 224)).save(picture)


def _sheet(rng: np.random.Generator) -> Image.Image:
    """Smooth colours, another in every tile."""
    coarse = rng.integers(0, 256, (64 * 3, TILES * 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((TILES * TILE, 64 * TILE), Image.Resampling.BICUBIC)


def _page(
    report: MadeUp, layer: str, feature: int, texts: tuple[str, ...], rng: np.random.Generator
) -> dict[str, Any]:
    drawn = {name: values[feature] for name, values in report.columns[layer].items()}
    energy = rng.dirichlet(np.ones(4))
    angle = np.arange(0, 360, 15)
    other = next(
        name for name in [*report.layers, layer] if name != layer or len(report.layers) < 2
    )
    return {
        "feature": feature,
        "patches": {
            "tile": TILE, "tiles": TILES, "sheet": f"sheets/{layer}/{feature // 64}.jpg",
            "row": feature % 64,
            "entries": [_patch(at, group, texts, rng) for at, group in enumerate(GROUPS)],
        },
        "branches": [
            {"name": name, "energy": energy[at], "expected": 0.25, "scaled": energy[-at],
             "causal": None if at == 3 else energy[at] * 0.9, "q": rng.random() ** 4}
            for at, name in enumerate(BRANCHES)
        ],
        "tuning": [
            {"name": name, "unit": "degrees", "x": angle,
             "y": np.exp(np.cos(np.radians(angle - rng.integers(360)))) - 0.3}
            for name in ("lines", "arcs, dark on light")
        ],
        "neighbours": [
            {"feature": int(one), "cosine": 0.9 - 0.1 * at}
            for at, one in enumerate(rng.integers(0, min(64, report.layers[layer]), 5))
        ],
        "matches": [{"layer": other, "feature": int(rng.integers(64)), "score": rng.random(),
                     "measure": "largest per image", "q": 0.01}],
        "labels": [
            {"kind": "class", "name": str(drawn["label"]), "score": drawn["label_score"],
             "chance": drawn["label_chance"], "q": 0.001},
            {"kind": "colour", "name": "blue", "score": 0.2, "chance": 0.15, "q": 0.4},
        ],
        "pictures": [{"file": f"pictures/{layer}/made up.png", "kind": "feature", "branch": None,
                      "reached": 12.0, "best": 8.0}],
        "density": {"rate": drawn["rate"], "mean": 1.5, "max": drawn["max"],
                    "edges": np.linspace(0, 8, 17),
                    "counts": (2000 * 0.6 ** np.arange(16)).astype(int)},
    }  # fmt: skip


def _patch(at: int, group: str, texts: tuple[str, ...], rng: np.random.Generator) -> dict[str, Any]:
    near = np.hypot(*np.mgrid[-1:4, -2:2])
    return {
        "tile": at, "group": group, "value": 8.0 - 0.5 * at, "quantile": 1 - at / 20,
        "name": f"n01443537/images/{at}.JPEG", "label": texts[at % len(texts)] or "goldfish",
        "split": "holdout" if at % 5 == 4 else "train", "y": at, "x": 3, "border": at % 4 == 0,
        "heat": {"rows": 5, "columns": 4, "top": 0, "left": 0, "box": [-0.1, -0.1, 1.0, 1.1],
                 "values": np.uint8(255 * np.exp(-near * rng.uniform(0.4, 1.2))).ravel()},
    }  # fmt: skip


def _overview(report: MadeUp, without: tuple[str, ...]) -> dict[str, Any]:
    parts = ("patches", "pictures", "labels", "branches", "causal", "tuning", "matches")
    return {
        "title": "Made-up features",
        "made_of": {"network": "none", "seed": 0, "isae": "0.1.0"},
        "images": [{"title": "labels", "text": "400 images, half of them to choose names on"}],
        "layers": [
            {
                "name": layer, "features": features, "grid": 14, "channels": 512,
                "dead": int(report.columns[layer]["dead"].sum()),
                "branches": [{"name": name, "channels": 128} for name in BRANCHES],
                "has": {part: part not in without for part in parts},
            }
            for layer, features in report.layers.items()
        ],
        "findings": [
            {
                "title": "Features lie in branches", "text": "More than dealt at random.",
                "table": {
                    "columns": ["Layer", "Share", {"title": "Chance", "help": "of shuffled images"},
                                {"title": "q", "help": "false-discovery rate"}],
                    "rows": [[layer, 0.31, 0.052, 0.00012] for layer in report.layers],
                },
                "links": [{"title": "Those in 5x5", "address": "#/features?is.branch=5x5"}],
            },
            {"title": "Labels beyond chance", "text": "Scored on images no name is of.",
             "table": {"columns": ["Layer", "Named", "By shuffled images"],
                       "rows": [[layer, 212, 14] for layer in report.layers]}},
        ],
        "missing": [{"what": f"No {part} in this report.", "how": "isae-analyze all STUDY"}
                    for part in without],
        "notes": ["Nothing here is real."],
    }  # fmt: skip
