"""Random numbers that depend on a seed and on names alone, never on order, workers or threads.

`keyed_rng` gives an independent NumPy generator for a tuple such as (seed, "image", 17).
`hash64` maps integers to 64-bit keys: a shuffle is then "sort by key", the same whoever computes
the keys and in whatever order. The mixing function is SplitMix64's finaliser (Steele, Lea and
Flood 2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def keyed_seed(*key: int | str) -> int:
    """A 128-bit seed from a tuple of integers and names, the same on every machine."""
    text = json.dumps(key)  # keeps types and boundaries apart: (1, "a") is not ("1", "a")
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def keyed_rng(*key: int | str) -> np.random.Generator:
    """A NumPy generator (PCG64) for a tuple of integers and names."""
    return np.random.Generator(np.random.PCG64(keyed_seed(*key)))


def hash64(stream: int, *columns: npt.ArrayLike) -> U64:
    """64-bit keys of integer columns of one length [R], for one stream -> uint64 [R].

    key = mix(... mix(mix(stream) + column_1) ... + column_n), with SplitMix64's bijective mix, so
    equal keys need equal columns or a 64-bit collision (break those by the columns themselves).
    """
    with np.errstate(over="ignore"):
        state = np.atleast_1d(_mix(np.asarray([stream & (2**64 - 1)], dtype=np.uint64)))
        for column in columns:
            state = _mix(state + np.asarray(column).astype(np.uint64) + _GOLDEN)
    return state


def _mix(x: U64) -> U64:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))
