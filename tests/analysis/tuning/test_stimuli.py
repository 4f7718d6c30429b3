"""Stimuli against geometry written out in float64, and where they are shown and read."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from isae.analysis.tuning.effective_field import (
    ReadCell,
    default_size,
    effective_field,
    measure_energy,
    noise_pictures,
    padding_free,
    read_cell,
    smallest_free_size,
)
from isae.analysis.tuning.mirrored import mirror_cell
from isae.analysis.tuning.stimuli import (
    FAMILIES,
    PERIODS,
    Stimulus,
    StimulusPlan,
    StimulusSet,
    figure_colour,
    make_stimuli,
)
from isae.errors import ConfigError, DataError
from isae.inception import Network, WeightsInfo, layer_table, load_model
from isae.inception.layers import Op

SIZE, CENTRE, FIELD = 64, (33.25, 30.5), 44.0
SMALL = StimulusPlan(
    directions=8, radii=(0.3, 0.8), widths=(0.08, 0.16), colours=("grey", "red"), cycles=(2.0, 4.0),
    phases=2, openings=(90.0,), diameters=(0.3,), hues=3, lightnesses=(0.5,),
)  # fmt: skip


def coverage(one: Stimulus, size: int = SIZE, centre: tuple = CENTRE) -> np.ndarray:
    """The share of each pixel that a grey figure covers, by its brightness."""
    pixels = StimulusSet((one,), size, centre, FIELD).draw(0).astype(np.float64)
    assert (pixels == pixels[..., :1]).all()
    ground = 230 if one.polarity < 0 else 26
    return (pixels[..., 0] - ground) / (256 - 2 * ground)


def moments(share: np.ndarray, centre: tuple) -> tuple[float, float, float, float]:
    """Area, centroid (right, up of the centre) and direction of the long axis in degrees."""
    at = np.arange(len(share)) + 0.5
    u, v = np.meshgrid(at - centre[0], centre[1] - at)
    area = share.sum()
    x, y = (share * u).sum() / area, (share * v).sum() / area
    xx, yy = (share * (u - x) ** 2).sum(), (share * (v - y) ** 2).sum()
    xy = (share * (u - x) * (v - y)).sum()
    return area, x, y, np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)) % 180


def apart(a: float, b: float, period: float) -> float:
    return abs((a - b + period / 2) % period - period / 2)


@pytest.mark.parametrize("polarity", [-1, 1])
@pytest.mark.parametrize(("radius", "width"), [(8.0, 3.0), (20.0, 5.0), (66.0, 1.5)])
@pytest.mark.parametrize("angle", [0.0, 37.0, 90.0, 225.0])
def test_arcs_have_the_area_centroid_and_axis_of_their_formula(
    angle: float, radius: float, width: float, polarity: int
) -> None:
    length = min(30.0, 1.2 * radius)
    look = {"polarity": polarity, **figure_colour("grey", polarity)}
    share = coverage(Stimulus("arc", angle, radius, width, length, "stroke", **look))
    area, x, y, axis = moments(share, CENTRE)
    outer, inner, half = radius + width / 2, radius - width / 2, length / 2 / radius
    assert area == pytest.approx(half * (outer**2 - inner**2), rel=0.03)
    middle = 2 / 3 * (outer**3 - inner**3) / (outer**2 - inner**2) * np.sin(half) / half
    expected = (middle - radius) * np.exp(1j * np.deg2rad(angle))
    assert abs(complex(x, y) - expected) < 0.1
    assert apart(axis, angle + 90, 180) < 1.5
    # Antialiased: the area is not made of whole pixels.
    assert ((share > 0.2) & (share < 0.8)).sum() > 0.2 * length


def test_lines_corners_discs_and_dots_have_their_geometry() -> None:
    look = {"polarity": 1, **figure_colour("grey", 1)}
    for angle in (0.0, 15.0, 45.0, 120.0):
        line = Stimulus("line", angle, np.inf, 4.0, 36.0, "stroke", **look)
        area, x, y, axis = moments(coverage(line), CENTRE)
        assert area == pytest.approx(144, rel=0.02)
        assert abs(complex(x, y)) < 0.05
        assert apart(axis, angle, 180) < 0.3
    for angle, opening in ((30.0, 90.0), (200.0, 60.0)):
        corner = Stimulus(
            "corner", angle, width=2.0, length=18.0, fill="stroke", opening=opening, **look
        )
        _, x, y, _ = moments(coverage(corner), CENTRE)
        assert apart(np.degrees(np.angle(complex(x, y))), angle, 360) < 1
        assert abs(complex(x, y)) == pytest.approx(9 * np.cos(np.deg2rad(opening / 2)), rel=0.06)
    disc = Stimulus("arc", 45.0, 10.0, fill="disc", **look)
    area, x, y, _ = moments(coverage(disc), CENTRE)
    assert area == pytest.approx(np.pi * 100, rel=0.01)
    assert abs(complex(x, y) + 10 * np.exp(0.25j * np.pi)) < 0.05
    dot = Stimulus("dots", width=6.0, fill="disc", **look)
    assert coverage(dot).sum() == pytest.approx(np.pi * 9, rel=0.02)
    wide = Stimulus("arc", 270.0, 60.0, fill="disc", **look)
    share = coverage(wide)
    assert share[0].min() == 1  # a bowl's disc lies above, and fills the upper edge
    assert share[-1].max() == 0


def test_gratings_and_gabors_follow_their_formula() -> None:
    at = np.arange(SIZE * 8) / 8 + 1 / 16
    u, v = np.meshgrid(at - CENTRE[0], CENTRE[1] - at)
    for family, angle, phase in (("grating", 30.0, 90.0), ("gabor", 110.0, 0.0)):
        one = Stimulus(family, angle, length=40.0, frequency=0.1, phase=phase)
        found = StimulusSet((one,), SIZE, CENTRE, FIELD).draw(0)[..., 0].astype(np.float64)
        turn = np.deg2rad(angle)
        wave = np.cos(0.2 * np.pi * (v * np.cos(turn) - u * np.sin(turn)) + np.deg2rad(phase))
        radius = np.hypot(u, v)
        wave *= radius <= 20 if family == "grating" else np.exp(-(radius**2) / 2 / (40 / 6) ** 2)
        expected = (128 + 102 * wave).reshape(SIZE, 8, SIZE, 8).mean(axis=(1, 3))
        rim = np.abs(radius[4::8, 4::8] - 20) < 1.5 if family == "grating" else False
        assert np.abs(np.where(rim, 0, found - expected)).max() < 4
        assert np.abs(found - expected).mean() < 1


def test_a_set_is_complete_deterministic_and_says_its_factors() -> None:
    stimuli = make_stimuli(SMALL, SIZE, CENTRE, FIELD)
    family = stimuli.column("family")
    counts = {name: int((family == name).sum()) for name in FAMILIES}
    assert counts == {
        "arc": 8 * 2 * 3 * 4, "corner": 8 * 4, "edge": 8 * 4, "line": 4 * 2 * 4,
        "grating": 4 * 2 * 2 * 2, "gabor": 4 * 2 * 2 * 2, "patch": 4, "dots": 4 * 3, "blank": 3,
    }  # fmt: skip
    assert len(set(stimuli.stimuli)) == len(stimuli)
    for name, period in PERIODS.items():
        step = np.unique(stimuli.column("orientation")[family == name])
        np.testing.assert_allclose(step, np.arange(len(step)) * period / len(step))
    table = stimuli.table()
    assert table.num_rows == len(stimuli)
    assert table.column("radius").null_count == (~np.isin(family, ["arc", "line", "edge"])).sum()
    digests = []
    for count in (7, 50):
        again = make_stimuli(SMALL, SIZE, CENTRE, FIELD)
        pixels = np.concatenate(list(again.batches(count)))
        assert pixels.shape == (len(stimuli), SIZE, SIZE, 3)
        assert pixels.dtype == np.uint8
        digests.append(hashlib.sha256(pixels.tobytes()).hexdigest())
    assert digests[0] == digests[1]
    strokes = (stimuli.column("fill") == "stroke") | np.isin(family, ["grating", "gabor", "patch"])
    changed = (pixels != pixels[:, :1, :1]).any(axis=3)
    rows, columns = np.nonzero(changed[strokes].any(axis=0))
    reach = FIELD / 2 + 2
    assert abs(rows + 0.5 - CENTRE[1]).max() <= reach
    assert abs(columns + 0.5 - CENTRE[0]).max() <= reach
    empty = ~changed.any(axis=(1, 2))
    assert empty.sum() == 4  # the blank ones, and a grey patch on grey
    assert empty[family == "blank"].all()
    edges = pixels[family == "edge"]
    assert ((edges == edges[:, :1, :1]).all(axis=3).mean(axis=(1, 2)) < 0.7).all()


@pytest.mark.parametrize("field", [4.0, 7.0, 12.0, 20.0, 33.0])
def test_strokes_have_the_same_ink_at_every_angle(field: float) -> None:
    """Of the thinnest lines and smallest arcs, too, on and off the pixel lattice."""
    at = 24.5 if field in (7.0, 20.0) else 24.0
    stimuli = make_stimuli(StimulusPlan(colours=("grey",)), 48, (at, at), field)
    ink: dict[tuple, list[float]] = {}
    for number, one in enumerate(stimuli.stimuli):
        whole = one.family in ("line", "corner") or one.fill == "stroke" or one.radius < field / 3
        if one.polarity > 0 and whole and one.family in ("line", "corner", "arc"):
            pixels = stimuli.draw(number)[..., 0].astype(np.float64)
            key = one.family, one.fill, one.radius, one.width, repr(one.opening)
            ink.setdefault(key, []).append(((pixels - 26) / 204).sum())
            if one.family == "line":
                assert ink[key][-1] == pytest.approx(one.width * one.length, rel=0.01)
                assert one.width >= 1.5
    assert len(ink) >= 5
    for key, parts in ink.items():
        assert np.ptp(parts) < 0.01 * np.mean(parts), key


@pytest.mark.parametrize(
    "plan",
    [{"directions": 10}, {"radii": ()}, {"widths": (0.2, 0.1)}, {"colours": ("pink",)}],
)
def test_plans_that_cannot_be_drawn_are_refused(plan: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        StimulusPlan(**plan)


def test_fields_and_points_outside_the_picture_are_refused() -> None:
    with pytest.raises(ConfigError, match="field"):
        make_stimuli(SMALL, 40, (20.0, 20.0), 41.0)
    with pytest.raises(ConfigError, match="point"):
        make_stimuli(SMALL, 40, (41.0, 20.0), 20.0)


class OneConvolution(Network):
    """A network whose 'conv2d0' is one linear convolution with a given kernel, stride 1."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(
            "inceptionv1", WeightsInfo("planted", None, ""), input_size=32, preprocessing="none",
            classes=None, class_count=1,
        )  # fmt: skip
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def _preprocess(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        return pixels_BCHW - 128

    def _ops(self) -> list[Op]:
        return [Op("conv2d0", "conv")]

    def _apply_op(self, op: Op, x_BCHW: torch.Tensor) -> torch.Tensor:
        padding = self.weight.shape[-1] // 2
        return torch.nn.functional.conv2d(x_BCHW, self.weight, padding=padding)

    def _head(self, x_BC: torch.Tensor) -> torch.Tensor:
        return x_BC


@pytest.mark.parametrize(("channels", "pictures", "error"), [(1, 3, 1e-6), (3, 128, 0.05)])
def test_the_effective_field_is_the_kernels_energy(
    channels: int, pictures: int, error: float
) -> None:
    """Exact for one channel; with more, probes leave an error of sqrt(2 / pictures)."""
    rng = np.random.default_rng(0)
    distance = np.abs(np.arange(-7, 8))
    decay = np.exp(-np.add.outer(distance, distance) / 4)
    weight = rng.normal(size=(channels, 3, 15, 15)) * decay
    network = OneConvolution(torch.from_numpy(weight.astype(np.float32)))
    at = ReadCell(32, 32, 16, (16,), (9, 24))
    noise = noise_pictures(pictures, 32, 0)
    found = effective_field(network, "conv2d0", at, noise, seed=1)
    assert found.energy_HW.sum() == pytest.approx(1)
    expected = (weight**2).sum(axis=(0, 1))
    expected /= expected.sum()
    np.testing.assert_allclose(found.energy_HW[9:24, 9:24], expected, atol=error)
    assert found.energy_HW[:9].max() == found.energy_HW[24:].max() == 0
    square = np.maximum.outer(distance, distance)
    sides = [2 * d + 1 for d in range(8) if expected[square <= d].sum() >= 0.95]
    assert abs(found.side - sides[0]) <= (0 if channels == 1 else 2)
    assert 1 <= found.side_half <= found.side
    assert not found.clipped
    assert len(found.sides_of_halves) == 2
    assert max(abs(side - found.side) for side in found.sides_of_halves) <= 4


def test_layers_without_gradient_and_wrong_pictures_are_refused() -> None:
    at = ReadCell(32, 32, 16, (16,), (9, 24))
    network = OneConvolution(torch.zeros(1, 3, 3, 3))
    with pytest.raises(DataError, match="gradient"):
        effective_field(network, "conv2d0", at, noise_pictures(1, 32, 0))
    with pytest.raises(ConfigError, match="size"):
        effective_field(network, "conv2d0", at, noise_pictures(1, 30, 0))


def test_squares_hold_just_the_energy() -> None:
    energy = np.zeros((21, 21))
    energy[10, 10] = 0.6
    energy[10, 14] = 0.39
    energy[0, 0] = 0.01
    found = measure_energy(energy, 10.5, 1)
    assert (found.side, found.side_half, found.clipped) == (9, 1, False)
    assert found.centroid == pytest.approx((10.5 * 0.6 + 14.5 * 0.39 + 0.005, 10.5 * 0.99 + 0.005))
    assert measure_energy(energy, 19.5, 1).clipped


def test_cells_free_of_padding_are_those_that_surroundings_do_not_change() -> None:
    """A picture in the middle of a larger one: free cells keep their values, others do not."""
    network = load_model(dtype=torch.float32)
    layer, size, border = "mixed3a", 96, 32
    inside = noise_pictures(1, size, 0)
    canvas = noise_pictures(1, size + 2 * border, 1)
    canvas[:, border : border + size, border : border + size] = inside
    maps = [
        network.activations(torch.from_numpy(one).permute(0, 3, 1, 2), [layer])[layer][0].numpy()
        for one in (inside, canvas)
    ]
    info = network.layers[layer]
    cells, shift = info.grid(size), border // info.stride
    large = maps[1][:, shift : shift + cells, shift : shift + cells]
    change = np.abs(maps[0] - large).max(axis=0) / np.abs(large).max()
    free = padding_free(info, size)
    assert 3 <= len(free) < cells
    others = np.setdiff1d(np.arange(cells), free)
    assert change[np.ix_(free, free)].max() < 1e-5
    assert (change[others][:, free].max(axis=1) > 1e-5).mean() > 0.7
    at = read_cell(info, size)
    assert not at.padded
    assert abs(at.centre - size / 2) <= info.stride
    pictures = noise_pictures(2, size, 3)
    found = effective_field(network, layer, at, pictures)
    start, stop = at.window
    outside = np.ones(size, dtype=bool)
    outside[start:stop] = False
    assert found.energy_HW[outside].max() == found.energy_HW[:, outside].max() == 0
    assert found.side < info.receptive_field
    assert np.hypot(*(np.array(found.centroid) - at.centre)) < info.stride


def test_deep_layers_say_that_no_cell_is_free() -> None:
    for name, info in layer_table("inceptionv1").items():
        at = read_cell(info, 112)
        windows = [info.window(cell, 112) for cell in range(at.cells)]
        spared = any(start >= 0 and stop <= 112 for start, stop in windows)
        assert at.padded == (not spared), name
        assert at.cell < at.cells
        smallest = smallest_free_size(info)
        assert len(padding_free(info, smallest))
        assert not len(padding_free(info, smallest - 1))
        chosen = default_size(info, 112, 192)
        assert chosen == (112 if spared or smallest > 192 else smallest)
    info = layer_table("inceptionv1")["mixed4c"]
    deep = read_cell(info, 112)
    assert deep.padded
    assert deep.free == ()
    mirror = mirror_cell(info, deep)
    assert mirror is not None
    assert abs(deep.centre + mirror.centre - 112) <= info.stride / 2
    assert mirror.window == info.window(mirror.cell, 112)
