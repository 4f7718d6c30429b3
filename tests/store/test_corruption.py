"""Any damage to any file of a store is found and named, and never read as data.

Every codec has a store of its own. A damage is a flipped bit, a cut at a random place, an emptied
or missing file, bytes added at the end, or two bytes that changed places.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isae.benchmarks.soak import SoakReport
from isae.errors import IsaeError
from isae.store import BuildConfig, build_store, open_store, verify_store

ZSTD = (
    '[{"name": "bytes", "configuration": {"endian": "little"}},'
    ' {"name": "zstd", "configuration": {"level": 1, "checksum": false}}]'
)
STORES = {
    "small": {"codec": "small"},
    "fast": {"codec": "fast", "dtype": "float32"},
    "none": {"codec": "none"},
    "zstd": {"codec": ZSTD},
    "int8": {"codec": "small", "dtype": "int8"},
}
KINDS = ("flip", "cut", "empty", "missing", "longer", "swap")
LAYERS = ("mixed3b", "mixed4a")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small store of every codec."""
    folder = tmp_path_factory.mktemp("stores")
    for name, options in STORES.items():
        build_store(
            BuildConfig(
                images="synthetic:14",
                layers=LAYERS,
                out=str(folder / name),
                size=48,
                holdout=0.2,
                workers=0,
                **options,
            )
        )
    return {name: folder / name for name in STORES}


def parts(path: Path) -> Iterator[tuple[str, Any]]:
    """Everything a reader can ask of a store, piece by piece; IsaeError instead where it says no.

    Pieces are asked of a store of their own, so that none hides behind another one's error.
    """

    def gathered(name: str) -> Any:
        array = open_store(path).activations(name)
        return array[np.arange(len(array) - 1, -1, -7)]

    def batches(name: str, cache: str | None) -> Any:
        found = open_store(path).batches(name, 32, seed=1, epochs=1, cache=cache)
        return np.concatenate(list(found))

    def statistics(name: str) -> Any:
        found = open_store(path).statistics(name)
        return np.stack([found.mean_C, found.var_C, found.max_C, found.nonzero_C])

    questions: dict[str, Any] = {
        "manifest": lambda name: open_store(path).manifest,
        "images": lambda name: open_store(path).images.to_pydict(),
        "rows": lambda name: open_store(path).activations(name)[:],
        "one row": lambda name: open_store(path).activations(name)[5],
        "gathered": gathered,
        "positions": lambda name: open_store(path).positions(name)[:],
        "statistics": statistics,
        "lookup": lambda name: open_store(path).rows_of_image(name, 3),
        "batches": lambda name: batches(name, None),
        "batches in RAM": lambda name: batches(name, "ram"),
    }
    for (question, ask), name in itertools.product(questions.items(), LAYERS):
        try:
            answer = ask(name)
        except IsaeError as error:
            answer = error
        yield f"{question} of {name}", answer


@pytest.fixture(scope="module")
def answers(stores: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """What the whole stores answer."""
    found = {name: dict(parts(path)) for name, path in stores.items()}
    assert not any(isinstance(one, IsaeError) for all_ in found.values() for one in all_.values())
    return found


def damaged(data: bytes, kind: str, generator: np.random.Generator) -> bytes | None:
    """`data` with a damage; None for a file to remove."""
    changed = bytearray(data)
    at = int(generator.integers(len(data)))
    if kind == "flip":
        changed[at] ^= 1 << int(generator.integers(8))
    elif kind == "swap":
        others = np.flatnonzero(np.frombuffer(data, np.uint8) != data[at])
        other = int(generator.choice(others))
        changed[at], changed[other] = changed[other], changed[at]
    elif kind == "longer":
        changed += generator.bytes(int(generator.integers(1, 100)))
    else:
        changed = changed[:at] if kind == "cut" else bytearray()
    return None if kind == "missing" else bytes(changed)


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.soak)])
def test_damage_is_found_and_named_and_never_read(
    stores: dict[str, Path],
    answers: dict[str, dict[str, Any]],
    tmp_path: Path,
    count: int,
    soak_report: SoakReport,
) -> None:
    generator = np.random.default_rng(count)
    copies = {name: shutil.copytree(path, tmp_path / name) for name, path in stores.items()}
    refused = 0
    for number in range(count):
        name = list(STORES)[number % len(STORES)]
        store = copies[name]
        kind = KINDS[number // len(STORES) % len(KINDS)]
        files = sorted(path for path in store.rglob("*") if path.is_file())
        path = files[int(generator.integers(len(files)))]
        file = path.relative_to(store).as_posix()
        data = path.read_bytes()
        changed = damaged(data, kind, generator)
        path.unlink()
        if changed is not None:
            path.write_bytes(changed)
        what = f"{kind} in {name}/{file}"
        problems = verify_store(store)
        assert problems, what
        assert any(problem.startswith(f"{file}: ") for problem in problems), (what, problems)
        refused += check_answers(parts(store), answers[name], what)
        soak_report.count(corruptions_found_and_named_and_never_read=1)
        path.write_bytes(data)
    # Most files are of data; a damaged statistics file, say, hides no row.
    assert refused > count
    for name, store in copies.items():
        assert verify_store(store) == [], name


@pytest.mark.parametrize(
    "roots", [("manifest.json",), ("COMPLETE",), ("manifest.json", "COMPLETE")]
)
def test_a_damaged_manifest_hides_no_other_damage(
    stores: dict[str, Path], tmp_path: Path, roots: tuple[str, ...]
) -> None:
    store = shutil.copytree(stores["small"], tmp_path / "copy")
    for file in roots:
        (store / file).write_bytes((store / file).read_bytes()[:-9])
    assert sorted(problem.partition(":")[0] for problem in verify_store(store)) == sorted(roots)
    more = ("stride16/mixed4a/c/0/0", "images.parquet")
    (store / more[0]).unlink()
    (store / more[1]).write_bytes(b"x")
    found = verify_store(store)
    assert sorted(problem.partition(":")[0] for problem in found) == sorted([*roots, *more])
    (store / "manifest.backup.json").unlink()
    (problem,) = verify_store(store) if len(roots) == 2 else [""]
    assert "all three are missing or differ" in problem or len(roots) == 1


def check_answers(found: Iterator[tuple[str, Any]], expected: dict[str, Any], what: str) -> int:
    """Every answer is the right one or an IsaeError; how many were errors."""
    errors = 0
    for question, answer in found:
        if isinstance(answer, IsaeError):
            assert "\n" not in str(answer)
            errors += 1
        else:
            np.testing.assert_equal(answer, expected[question], err_msg=f"{question}; {what}")
    return errors


@pytest.mark.parametrize("name", list(STORES))
def test_every_file_of_every_codec_counts(
    stores: dict[str, Path], answers: dict[str, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    """One flipped bit in each file in turn, also in the middle of what was opened before."""
    store = shutil.copytree(stores[name], tmp_path / "copy")
    generator = np.random.default_rng(7)
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        data, file = path.read_bytes(), path.relative_to(store).as_posix()
        path.write_bytes(damaged(data, "flip", generator) or b"")
        problems = verify_store(store)
        assert any(problem.startswith(f"{file}: ") for problem in problems), (file, problems)
        path.write_bytes(data)
    layer = f"stride16/{LAYERS[1]}"
    early = open_store(store)
    whole = early.activations(LAYERS[1])[:]
    shard = store / layer / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    # The first byte of the first chunk: part of every read of row 0.
    data[0] ^= 1
    shard.write_bytes(data)
    with pytest.raises(IsaeError, match=f"{layer}/c/0/0"):
        early.activations(LAYERS[1])[0]
    np.testing.assert_array_equal(whole, answers[name][f"rows of {LAYERS[1]}"])
