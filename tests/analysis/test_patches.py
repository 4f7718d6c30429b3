"""Patch boxes: inside the picture, about the receptive field's centre."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from isae.analysis.activity import TopRows
from isae.analysis.patches import Cropper, find_pictures, patch_geometry, patch_table
from isae.images import open_source, resize_crop
from isae.inception import layer_table
from isae.progress import Reporter


@pytest.mark.parametrize("model", ["inceptionv1", "googlenet"])
@pytest.mark.parametrize("size", [64, 97, 112, 224])
def test_boxes_lie_in_the_picture_and_hold_the_centre(model: str, size: int) -> None:
    for info in layer_table(model).values():
        geometry = patch_geometry(info, size)
        cells = np.arange(info.grid(size))
        boxes = geometry.boxes(cells, cells)
        assert geometry.side == min(info.receptive_field, size // 2)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= size).all()
        assert (boxes[:, 2] - boxes[:, 0] == geometry.side).all()
        assert (np.diff(geometry.start_G) >= 0).all()
        assert (geometry.centre_G >= boxes[:, 0]).all()
        assert (geometry.centre_G <= boxes[:, 2]).all()


def test_centres_follow_the_paddings() -> None:
    # SAME padding of an even side puts the odd pixel last: four halvings, 16 y + 15.5.
    mixed4a = patch_geometry(layer_table("inceptionv1")["mixed4a"], 112)
    np.testing.assert_allclose(mixed4a.centre_G, 16 * np.arange(7) + 15.5)
    assert mixed4a.start_G.tolist() == [0, 4, 20, 36, 52, 56, 56]
    conv2d0 = patch_geometry(layer_table("inceptionv1")["conv2d0"], 112)
    np.testing.assert_allclose(conv2d0.centre_G, 2 * np.arange(56) + 1.5)
    assert conv2d0.side == 7
    # Its window covers pixels 2 y - 2 to 2 y + 4.
    assert conv2d0.boxes(10, 12).tolist() == [22, 18, 29, 25]


def test_the_table_lists_used_places_only() -> None:
    top = TopRows(
        np.array([[3.0, 1.0], [0.0, 0.0], [2.0, 0.0]], dtype=np.float32),
        np.array([[[1, 0, 6], [0, 3, 3]], [[-1] * 3] * 2, [[1, 6, 0], [-1] * 3]], dtype=np.int32),
    )
    images = pa.table(
        {"name": ["a.jpg", "b.jpg"], "label": ["x", ""], "split": ["train", "holdout"]}
    )
    table = patch_table(top, images, patch_geometry(layer_table("inceptionv1")["mixed4a"], 112))
    assert table.column("feature").to_pylist() == [0, 0, 2]
    assert table.column("rank").to_pylist() == [0, 1, 0]
    assert table.column("name").to_pylist() == ["b.jpg", "a.jpg", "b.jpg"]
    assert table.column("split").to_pylist() == ["holdout", "train", "holdout"]
    first = table.slice(0, 1).to_pylist()[0]
    assert (first["left"], first["top"], first["right"], first["bottom"]) == (56, 0, 112, 56)
    assert (first["centre_x"], first["centre_y"]) == (111.5, 15.5)


def test_patches_are_cut_from_the_resized_picture() -> None:
    source = open_source("synthetic:3", seed=5)
    geometry = patch_geometry(layer_table("inceptionv1")["mixed4a"], 96)
    boxes = geometry.boxes([1, 5, 2], [4, 0, 2])
    patches = Cropper(source, 96).cut([2, 0, 2], boxes)
    for image, box, patch in zip([2, 0, 2], boxes, patches, strict=True):
        left, top, right, bottom = box
        expected = resize_crop(source.load(image), 96)[top:bottom, left:right]
        np.testing.assert_array_equal(patch, expected)


def test_pictures_that_are_gone_or_changed_are_a_warning(capsys: pytest.CaptureFixture) -> None:
    source = open_source("synthetic:3", seed=5)
    recorded = {"spec": "synthetic:3", "limit": None, "fingerprint": source.fingerprint()}
    assert find_pictures(recorded, 5, None, Reporter(quiet=True)) is not None
    assert find_pictures(recorded, 6, None, Reporter(quiet=True)) is None
    assert "does not hold the pictures" in capsys.readouterr().err
    gone = {**recorded, "spec": "/nowhere/photos"}
    assert find_pictures(gone, 5, None, Reporter(quiet=True)) is None
    assert "--images" in capsys.readouterr().err
    assert find_pictures(gone, 5, "synthetic:3", Reporter(quiet=True)) is not None
