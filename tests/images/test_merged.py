"""Several sources as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isae.errors import ImageError
from isae.images import decode_batches, open_source
from isae.images.merged import merged_columns, merged_spec


def test_pictures_of_all_parts_in_order(make_photos: Callable[..., Path]) -> None:
    folder = make_photos(4)
    parts = [{"spec": str(folder)}, {"spec": "synthetic:9", "seed": 5, "limit": 3}]
    source = open_source(merged_spec(parts), seed=1)
    first, second = open_source(str(folder)), open_source("synthetic:9", seed=5, limit=3)
    assert len(source) == 7
    for number in range(7):
        part, inner = (first, number) if number < 4 else (second, number - 4)
        np.testing.assert_array_equal(source.load(number), part.load(inner))
        assert source.row(number)["name"] == part.row(inner)["name"]
    assert source.row(0)["hue"] is None
    assert set(source.columns) == set(second.columns)
    with pytest.raises(IndexError):
        source.load(7)


def test_worker_processes_read_them(make_photos: Callable[..., Path]) -> None:
    source = open_source(merged_spec([{"spec": str(make_photos(3))}, {"spec": "synthetic:2"}]))
    alone = [batch.pixels_BCHW for batch in decode_batches(source, 32, 2, 0)]
    workers = [batch.pixels_BCHW for batch in decode_batches(source, 32, 2, 2)]
    assert all(a.equal(b) for a, b in zip(alone, workers, strict=True))


def test_the_fingerprint_is_of_parts_and_order() -> None:
    specs = [
        'merge:["synthetic:3", "synthetic:4"]',
        'merge:["synthetic:4", "synthetic:3"]',
        'merge:[{"spec": "synthetic:3", "seed": 1}, "synthetic:4"]',
        'merge:["synthetic:3"]',
    ]
    assert len({open_source(spec).fingerprint() for spec in specs}) == 4
    stated = open_source('merge:[{"spec": "synthetic:3", "seed": 7}]', seed=1)
    assert stated.fingerprint() == open_source('merge:["synthetic:3"]', seed=7).fingerprint()


@pytest.mark.parametrize(
    "spec",
    [
        *("merge:", "merge:[]", "merge:5", "merge:[5]", "merge:{}", 'merge:["'),
        'merge:[{"spek": "a"}]',
        'merge:[{"spec": "synthetic:3", "seed": "1"}]',
        'merge:[{"spec": "synthetic:3", "x": 1}]',
    ],
)
def test_other_texts_are_refused(spec: str) -> None:
    with pytest.raises(ImageError, match="expected merge:"):
        open_source(spec)
    with pytest.raises(ImageError, match="one type"):
        merged_columns([{"a": "int"}, {"a": "float"}])
