"""Contact sheets: the strongest patches of the features most concentrated in each branch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from isae.analysis.activity import TopRows
from isae.analysis.arrays import F64, I64
from isae.analysis.branches.findings import Findings
from isae.analysis.patches import Cropper, PatchGeometry
from isae.analysis.style import branch_colour, save, styled

FEATURES_PER_SHEET = 12
_CELL_INCHES = 0.72
_GAP_PART = 14
_UNREADABLE_GREY = 200


def most_concentrated(findings: Findings, branch: int, count: int = FEATURES_PER_SHEET) -> I64:
    """Alive features by falling decoder share of the branch, those above the null first."""
    shares_N = findings.shares["decoder"][:, branch]
    alive = np.flatnonzero(findings.alive_N & np.isfinite(shares_N))
    above = findings.significant["decoder"][alive, branch]
    order = np.lexsort((alive, -shares_N[alive], ~above))
    return alive[order[:count]]


def write_sheets(
    findings: Findings, top: TopRows, geometry: PatchGeometry, cropper: Cropper, folder: Path
) -> dict[str, list[int]]:
    """Write BRANCH.png for every branch (pixels: no SVG) -> the features that each shows."""
    shown: dict[str, list[int]] = {}
    for number, name in enumerate(findings.branches):
        chosen = most_concentrated(findings, number)
        shown[name] = chosen.tolist()
        if len(chosen):
            with styled():
                figure = _sheet(findings, number, chosen, top, geometry, cropper)
                save(figure, folder / name, formats=(".png",))
    return shown


def _sheet(
    findings: Findings,
    branch: int,
    chosen: I64,
    top: TopRows,
    geometry: PatchGeometry,
    cropper: Cropper,
) -> Figure:
    name, keep = list(findings.branches)[branch], top.value_nN.shape[1]
    cell = geometry.side + max(geometry.side // _GAP_PART, 1)
    canvas, marks_M2 = _mosaic(chosen, top, geometry, cropper, cell)
    figure = Figure(
        figsize=(_CELL_INCHES * keep + 0.9, _CELL_INCHES * len(chosen) + 0.65),
        layout="constrained",
    )
    axes = figure.subplots()
    axes.imshow(canvas, interpolation="nearest")
    axes.plot(*marks_M2.T, "o", markersize=4.5, markerfacecolor="none", markeredgecolor="black")
    axes.plot(*marks_M2.T, "o", markersize=3.0, markerfacecolor="none", markeredgecolor="white")
    shares_N = findings.shares["decoder"][chosen, branch]
    axes.set_yticks(
        np.arange(len(chosen)) * cell + geometry.side / 2,
        [f"{one}\n{100 * share:.0f} %" for one, share in zip(chosen, shares_N, strict=True)],
    )
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(
        f"{findings.layer}, branch {name}: features with the largest energy share",
        color=branch_colour(name, branch),
    )
    axes.set_xlabel(
        "left: feature, energy share of the branch; ring: centre of the receptive field",
        fontsize=7,
    )
    return figure


def _mosaic(
    chosen: I64, top: TopRows, geometry: PatchGeometry, cropper: Cropper, cell: int
) -> tuple[npt.NDArray[np.uint8], F64]:
    """All patches on one white picture, a row per feature, and the marks in its pixels [M, 2].

    A place without a patch is white, one whose picture cannot be read is grey.
    """
    used = top.value_nN[chosen] > 0
    row, column = np.nonzero(used)
    position = top.position_nN3[chosen][used].astype(np.int64)
    y, x = position[:, 1], position[:, 2]
    boxes = geometry.boxes(y, x)
    gap = cell - geometry.side
    shape = (len(chosen) * cell - gap, used.shape[1] * cell - gap, 3)
    canvas = np.full(shape, 255, dtype=np.uint8)
    for i, pixels in enumerate(cropper.cut(position[:, 0].tolist(), boxes)):
        tile = canvas[row[i] * cell :, column[i] * cell :][: geometry.side, : geometry.side]
        tile[:] = _UNREADABLE_GREY if pixels is None else pixels
    inside_M2 = np.stack([geometry.centre_G[x], geometry.centre_G[y]], axis=1) - boxes[:, :2]
    inside_M2 = inside_M2.clip(0.04 * geometry.side, 0.96 * geometry.side)
    return canvas, np.stack([column, row], axis=1) * cell + inside_M2 - 0.5
