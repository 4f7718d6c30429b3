"""How figures look: one palette, one type size, both file formats, no global matplotlib state.

Colours: Okabe and Ito 2008, distinguishable with any common colour blindness. Branches keep theirs
in every figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from isae.files import atomic_path

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NULL_COLOUR = "#767676"
_BRANCH_COLOURS = dict(zip(("1x1", "3x3", "5x5", "pool"), PALETTE, strict=False))
_SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "isae",
    "font.family": "DejaVu Sans",
}


def branch_colour(name: str, number: int) -> str:
    """The colour of a branch: fixed for Inception's, by number for others."""
    return _BRANCH_COLOURS.get(name, PALETTE[number % len(PALETTE)])


@contextmanager
def styled() -> Iterator[None]:
    """Make figures inside this block look alike; the caller's settings come back after it."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def save(figure: Figure, stem: Path, formats: tuple[str, ...] = (".png", ".svg")) -> None:
    """Write STEM.png and STEM.svg, each atomically and without a date in it."""
    # Laid out once: each format would lay the figure out twice more, most of a figure's time.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for suffix in formats:
        metadata = {"Software": None} if suffix == ".png" else {"Date": None}
        with atomic_path(stem.with_name(stem.name + suffix)) as temporary:
            figure.savefig(temporary, metadata=metadata)
