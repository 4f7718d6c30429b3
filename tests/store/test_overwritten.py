"""Readers of a store that is built again meanwhile get the rows they opened, or an error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isae.errors import StoreError
from isae.store import BuildConfig, build_store, open_store

Config = Callable[..., BuildConfig]
LAYER = "mixed4a"


@pytest.fixture
def raw(small_config: Config) -> Path:
    """A store whose files have the same sizes whatever the rows: only the mark tells them apart."""
    config = small_config(codec="none")
    build_store(config)
    return Path(config.out)


def build_again(path: Path, small_config: Config) -> None:
    """Other rows in files of the same names and sizes."""
    build_store(small_config(out=str(path), codec="none", seed=4), overwrite=True)


def test_rows_of_two_stores_are_never_mixed(raw: Path, small_config: Config) -> None:
    untouched, begun = open_store(raw), open_store(raw)
    before = begun.activations(LAYER)[:]
    batches = begun.batches(LAYER, 16, seed=0, threads=1)
    next(batches)
    build_again(raw, small_config)
    after = open_store(raw).activations(LAYER)[:]
    assert after.shape == before.shape
    assert not np.array_equal(after, before)
    questions: list[Callable[[], object]] = [
        lambda: begun.activations(LAYER)[3],
        lambda: begun.activations("mixed3b")[:],
        lambda: begun.positions(LAYER)[:],
        lambda: begun.images,
        lambda: begun.statistics(LAYER),
        lambda: untouched.activations(LAYER)[:],
        lambda: untouched.rows_of_image(LAYER, 0),
        lambda: [next(batches) for _ in range(1000)],
    ]
    for ask in questions:
        with pytest.raises(StoreError, match="built again; open it again"):
            ask()


def test_readers_at_work_end_with_an_error(raw: Path, small_config: Config) -> None:
    expected = open_store(raw).activations(LAYER)[:]
    ends: list[BaseException] = []
    begun = threading.Barrier(3)

    def read() -> None:
        array = open_store(raw).activations(LAYER)
        begun.wait()
        try:
            while True:
                np.testing.assert_array_equal(array[:], expected)
        except BaseException as error:
            ends.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    begun.wait()
    build_again(raw, small_config)
    for reader in readers:
        reader.join(30)
        assert not reader.is_alive()
    assert len(ends) == 2
    assert all(isinstance(error, StoreError) for error in ends), ends
