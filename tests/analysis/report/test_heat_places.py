"""Heat maps lie over the picture where the network's cells are centred."""

from __future__ import annotations

import numpy as np
import pytest

from isae.analysis.patches import patch_geometry
from isae.analysis.report.patch_rows import CellPlaces
from isae.inception import layer_table


@pytest.mark.parametrize("layer", ["mixed3a", "mixed4c", "mixed5b"])
@pytest.mark.parametrize("size", [112, 224])
def test_the_middle_of_each_cell_is_its_field_s_centre(layer: str, size: int) -> None:
    """Against the geometry that cut the patches, for cells whose fields are not clipped to it."""
    info = layer_table("inceptionv1")[layer]
    geometry, places = patch_geometry(info, size), CellPlaces.of(info, size)
    cells = info.grid(size)
    for cell, centre in enumerate(geometry.centre_G):
        start, stop = int(geometry.start_G[cell]), int(geometry.start_G[cell]) + geometry.side
        low, high = places.span(cell, 1, start, stop)
        middle = start + (low + high) / 2 * geometry.side
        assert np.clip(middle, 0, size) == pytest.approx(centre, abs=0.01)
        assert (high - low) * geometry.side == pytest.approx(info.stride, abs=0.01)
        wide = places.span(0, cells, start, stop)
        assert wide[0] <= low
        assert high <= wide[1]
