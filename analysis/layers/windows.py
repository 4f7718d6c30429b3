"""Which cells of a finer grid a cell of a coarser one looks at, through the network's real strides.

Between layers of different grids stand max pools. Cell o of the coarser grid holds the finer cells
of their windows, with the real paddings: with TensorFlow's SAME padding at 112 pixels mixed4a's
cell o (7 a side) holds mixed3b's cells 2 o to 2 o + 2, and mixed5a's cell (4 a side) mixed4e's 2 o
- 1 to 2 o + 1. Windows of a pool of size 3 and stride 2 overlap. Convolutions of stride 1 between
the layers widen what a cell sees on both sides alike; they are left out, so that a window is
centred on what its cell is centred on.
"""

from __future__ import annotations

import numpy as np

from isae.analysis.arrays import I64
from isae.errors import DataError
from isae.inception import LayerInfo


def pool_windows(finer: LayerInfo, coarser: LayerInfo, size: int) -> I64:
    """The finer cells of each coarser one along an axis, [first, behind the last) -> int64 [G, 2].

    finer, coarser: layers of one network, the finer one earlier; size: side of the picture. Windows
    may reach over the map's ends. Raises DataError where the layers are not in this order.
    """
    known = len(finer.steps)
    if coarser.steps[:known] != finer.steps:
        raise DataError(
            f"expected '{finer.name}' to come before '{coarser.name}' in one network, found "
            "others; give the finer layer first"
        )
    cells = [finer.grid(size)]
    for step in coarser.steps[known:]:
        cells.append(step.cells(cells[-1]))
    first_G = np.arange(cells[-1], dtype=np.int64)
    last_G = first_G.copy()
    for step, n in zip(reversed(coarser.steps[known:]), reversed(cells[:-1]), strict=True):
        if step.stride > 1:
            before = step.pads(n)[0]
            first_G = first_G * step.stride - before
            last_G = last_G * step.stride - before + step.kernel - 1
    return np.stack([first_G, last_G + 1], axis=1)
