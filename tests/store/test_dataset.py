"""The torch data set: the batches of the store, with any number of workers, from any state."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from isae.errors import ConfigError, StoreError
from isae.store import BuildConfig, Store, build_store, open_store
from isae.store.dataset import StoreDataset

# torch warns of more workers than cores; here they are about the order, not about speed.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
LAYER = "mixed4a"
BATCH = 37


@pytest.fixture
def store(built: Path) -> Store:
    return open_store(built)


def loader(data: IterableDataset[Any], workers: int = 0) -> DataLoader[Any]:
    # Spawned workers get everything pickled; forked ones are torch's default here.
    return DataLoader(data, batch_size=None, num_workers=workers)


def same(found: list[torch.Tensor], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float16
        np.testing.assert_array_equal(one.numpy(), other)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("cache", [None, "ram"])
def test_the_order_does_not_depend_on_workers(
    store: Store, workers: int, cache: str | None
) -> None:
    options = {"seed": 5, "rank": 1, "ranks": 2}
    expected = list(islice(store.batches(LAYER, BATCH, **options), 9))
    found = loader(store.dataset(LAYER, BATCH, cache=cache, **options), workers)
    same(list(islice(found, 9)), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_end(store: Store, workers: int) -> None:
    found = list(loader(store.dataset(LAYER, BATCH, seed=1, epochs=2), workers))
    same(found, list(store.batches(LAYER, BATCH, seed=1, epochs=2)))
    rows = store.layers[LAYER].train_rows
    assert sum(map(len, found)) == 2 * rows
    whole = list(loader(store.dataset(LAYER, BATCH, seed=1, epochs=2, drop_last=True), workers))
    assert [len(one) for one in whole] == [BATCH] * (2 * rows // BATCH)


def test_held_out_rows(store: Store) -> None:
    layer = store.layers[LAYER]
    found = torch.cat(list(loader(store.dataset(LAYER, 8, seed=0, epochs=1, holdout=True))))
    expected = store.activations(LAYER)[layer.train_rows :]
    assert len(expected) > 8
    order = np.lexsort(expected.T)
    np.testing.assert_array_equal(found.numpy()[np.lexsort(found.numpy().T)], expected[order])


def test_each_iteration_begins_at_the_same_batch(store: Store) -> None:
    data = store.dataset(LAYER, BATCH, seed=2)
    first = [one.numpy() for one in islice(data, 3)]
    same(list(islice(data, 3)), first)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("taken", [0, 1, 7])
def test_going_on_from_a_state(store: Store, taken: int, workers: int) -> None:
    """Taken without workers, carried as text by a checkpoint, gone on with any number of them."""
    data = store.dataset(LAYER, BATCH, seed=4)
    iterator = iter(loader(data))
    for _ in range(taken):
        next(iterator)
    state = pickle.loads(pickle.dumps(data.state_dict()))
    rest = [one.numpy() for one in islice(iterator, 5)]
    again = open_store(store.path).dataset(LAYER, BATCH, seed=4, threads=5, cache="ram")
    again.load_state_dict(state)
    assert again.state_dict() == state
    same(list(islice(loader(again, workers), 5)), rest)


class WithStates(IterableDataset[Any]):
    """Gives each batch with the state behind it, as loaders do that ask for it in the worker."""

    def __init__(self, data: StoreDataset, states: list[dict[str, Any]] | None = None) -> None:
        self.data, self.states = data, states

    def __iter__(self) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        worker = torch.utils.data.get_worker_info()
        if self.states is not None:
            assert worker is not None
            self.data.load_state_dict(self.states[worker.id])
        for batch in self.data:
            yield batch, self.data.state_dict()


def test_going_on_from_the_states_of_workers(store: Store) -> None:
    expected = [one.copy() for one in islice(store.batches(LAYER, BATCH, seed=6), 12)]
    first = list(islice(loader(WithStates(store.dataset(LAYER, BATCH, seed=6)), 2), 6))
    same([batch for batch, _ in first], expected[:6])
    states = [state for _, state in first[4:]]
    assert [state["share"] for state in states] == [[0, 2], [1, 2]]
    rest = islice(loader(WithStates(store.dataset(LAYER, BATCH, seed=6), states), 2), 6)
    same([batch for batch, _ in rest], expected[6:])
    data = store.dataset(LAYER, BATCH, seed=6)
    data.load_state_dict(states[1])
    with pytest.raises(ConfigError, match="the worker"):
        next(iter(data))


def test_a_state_of_something_else_is_refused(store: Store) -> None:
    state = store.dataset(LAYER, BATCH, seed=0).state_dict()
    for options, text in [
        ({"seed": 1}, "seed 1"),
        ({"seed": 0, "rank": 1, "ranks": 2}, "rank 1, ranks 2"),
        ({"seed": 0, "epochs": 3}, "epochs 3"),
    ]:
        with pytest.raises(ConfigError, match=f"a state with {text}, found"):
            store.dataset(LAYER, BATCH, **options).load_state_dict(state)
    with pytest.raises(ConfigError, match="a state with layer 'mixed4b'"):
        store.dataset("mixed4b", BATCH, seed=0).load_state_dict(state)
    other = {**state, "of": {**state["of"], "content_id": "of another store"}}
    with pytest.raises(ConfigError, match="a state with content_id"):
        store.dataset(LAYER, BATCH, seed=0).load_state_dict(other)


def test_what_cannot_be_read_is_refused_at_once(store: Store, tmp_path: Path) -> None:
    for options in ({"rank": 2, "ranks": 2}, {"epochs": 0}, {"cache": "disk"}):
        with pytest.raises(ConfigError):
            store.dataset(LAYER, BATCH, seed=0, **options)
    with pytest.raises(ConfigError, match="batch size of at least 1"):
        store.dataset(LAYER, 0, seed=0)
    packed = store.dataset(LAYER, BATCH, seed=0, cache="device", device="cpu")
    same(list(islice(loader(packed), 3)), list(islice(store.batches(LAYER, BATCH, seed=0), 3)))
    with pytest.raises(ConfigError, match="no workers with cache='device'"):
        next(iter(loader(packed, 1)))


def test_an_error_in_a_worker_reaches_the_caller(copied: Path) -> None:
    from isae.store.layout import shard_key

    store = open_store(copied)
    data = store.dataset(LAYER, BATCH, seed=0)
    path = copied / shard_key(f"stride16/{LAYER}", 0)
    path.write_bytes(path.read_bytes()[:-1])
    for workers in (0, 1):
        with pytest.raises(StoreError, match="mixed4a"):
            next(iter(loader(data, workers)))


def test_pickled_stores_are_opened_anew(store: Store) -> None:
    next(store.batches(LAYER, BATCH, seed=0, cache="ram"))
    copy = pickle.loads(pickle.dumps(store.dataset(LAYER, BATCH, seed=0)))
    assert copy.store.caches == {}
    assert copy.store.content_id == store.content_id
    same(list(islice(copy, 2)), list(islice(store.batches(LAYER, BATCH, seed=0), 2)))


def test_another_process_never_reads_another_store(
    copied: Path, small_config: Callable[..., BuildConfig]
) -> None:
    """The store was built anew with other rows since the data set was made."""
    data = open_store(copied).dataset("mixed3b", BATCH, seed=0)
    pickled = pickle.dumps(data)
    build_store(
        small_config(out=str(copied), images="synthetic:4", layers=("mixed3b",)), overwrite=True
    )
    with pytest.raises(StoreError, match="found another one"):
        pickle.loads(pickled)
    with pytest.raises(StoreError, match="found another one"):
        next(iter(loader(data, 1)))
