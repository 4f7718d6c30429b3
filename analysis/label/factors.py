"""Names from the factors of procedural pictures (`isae.images.synthetic`).

Texts are names themselves ('kind arc', 'ground plain'). Numbers become names by sectors and by
thirds of those that have them: hues; lightness, frequency, curvature, size; directions of arcs and
of gratings. All are true of a whole image.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from isae.analysis.arrays import F64, I64, Bools
from isae.analysis.label.names import FACTOR, SECTORS, Names, apart, hue_name, image_names

TEXTS = ("kind", "ground", "palette")
THIRDS = {
    "lightness": ("dark thing", "light thing"),
    "frequency": ("coarse texture", "fine texture"),
    "curvature": ("wide arc", "tight arc"),
    "size": ("small thing", "large thing"),
}


def has_factors(table: pa.Table) -> bool:
    """Whether a store's images table has the factors of procedural pictures."""
    return {*TEXTS, "hue", "orientation", *THIRDS} <= set(table.column_names)


def factor_names(
    table: pa.Table, half_I: I64, cells: int, least: int, cut_I: Bools | None = None
) -> Names | None:
    """Names of the factors of those images; None where too few images have any.

    cut_I: the images whose thirds numbers are cut at (default: all).
    """
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    has: dict[str, Bools] = {}
    for name in TEXTS:
        value_I = np.array(columns[name], dtype=object)
        for value in sorted({one for one in columns[name] if one}):
            has[f"{name} {value}"] = value_I == value
    hue_I = _numbers(columns["hue"])
    sector_I = np.where(np.isfinite(hue_I), hue_name(np.nan_to_num(hue_I)), -1)
    for number, name in enumerate(SECTORS):
        has[f"{name} thing"] = sector_I == number
    for name, (low, high) in THIRDS.items():
        value_I = _numbers(columns[name])
        known_I = np.isfinite(value_I)
        used_I = known_I if cut_I is None else known_I & cut_I
        if used_I.any():
            first, second = np.quantile(value_I[used_I], [1 / 3, 2 / 3])
            has[low] = known_I & (np.nan_to_num(value_I) <= first)
            has[high] = known_I & (np.nan_to_num(value_I) >= second)
    kind_I = np.array(columns["kind"], dtype=object)
    angle_I = np.nan_to_num(_numbers(columns["orientation"]))
    for angle in np.arange(0, 360, 45):
        has[f"arc, outside at {angle}°"] = (kind_I == "arc") & (apart(angle_I, angle, 360) <= 33.75)
    for turn in np.arange(0, 180, 22.5):
        near_I = apart(angle_I, turn, 180) <= 22.5
        has[f"grating along {turn:g}°"] = (kind_I == "grating") & near_I
    known_I = np.ones(len(kind_I), dtype=np.bool_)
    return image_names(FACTOR, has, known_I, half_I, cells, least)


def _numbers(values: list[float | None]) -> F64:
    return np.array([np.nan if one is None else one for one in values], dtype=np.float64)
