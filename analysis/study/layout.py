"""Where a study keeps its stores, runs and analyses.

- STUDY/study.json                             the options
- STUDY/trained/store                          activations of the studied network
- STUDY/trained/seed0/mixed3a, ...             runs of isae-train, their analyses in analysis/
- STUDY/trained/seed0/layers                   features of its layers compared
- STUDY/trained/stability/mixed3a              the seeds compared
- STUDY/untrained0/store, seed0/...            the same of the network with weights random:0
- STUDY/findings                              what the trained network has beyond the untrained
- STUDY/report                                the pages of seed 0 of the studied network
- STUDY/stages/*.json                          which analyses are done, of which inputs
- STUDY/working.json                           the process that prepares or analyses it just now
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from isae.analysis.study.config import StudyConfig
from isae.config import from_json, to_json
from isae.errors import ConfigError, RunError
from isae.files import write_json
from isae.store.locks import PlaceLock
from isae.store.places import open_place

TRAINED = "trained"
FINDINGS = "findings"
LOCK = "working.json"


@dataclass(frozen=True)
class Net:
    """One network of a study: its name, its folder, its weights, the seeds of its SAEs."""

    name: str
    folder: Path
    weights: str
    seeds: range

    @property
    def trained(self) -> bool:
        """Whether this is the studied network, not an untrained one."""
        return self.name == TRAINED

    @property
    def store(self) -> Path:
        """Its activations."""
        return self.folder / "store"

    def run(self, seed: int, layer: str) -> Path:
        """The training run of one SAE."""
        return self.folder / f"seed{seed}" / layer

    def layers(self, seed: int) -> Path:
        """The comparison of the layers of one seed's SAEs."""
        return self.folder / f"seed{seed}" / "layers"

    def stability(self, layer: str) -> Path:
        """The comparison of the seeds of one layer."""
        return self.folder / "stability" / layer


@dataclass(frozen=True)
class Study:
    """A study's folder and options."""

    path: Path
    config: StudyConfig

    @property
    def nets(self) -> list[Net]:
        """The studied network, then the untrained ones."""
        trained = Net(TRAINED, self.path / TRAINED, self.config.weights, range(self.config.seeds))
        return [
            trained,
            *(
                Net(f"untrained{i}", self.path / f"untrained{i}", f"random:{i}", range(1))
                for i in range(self.config.untrained)
            ),
        ]

    def runs(self) -> Iterator[tuple[Net, int, str]]:
        """Every SAE: (network, seed, layer), seed by seed, so that an early end leaves whole sets.

        The first seed of all networks comes first.
        """
        for seed in range(max(1, self.config.seeds)):
            for net in self.nets:
                if seed in net.seeds:
                    for layer in self.config.layers:
                        yield net, seed, layer


def begin_study(path: str | Path, config: StudyConfig | None) -> Study:
    """The study in a folder, as `find_study`; its options are recorded where they are new."""
    study = find_study(path, config)
    if config is not None and config != _recorded(study.path):
        study.path.mkdir(parents=True, exist_ok=True)
        write_json(study.path / "study.json", to_json(config))
    return study


def find_study(path: str | Path, config: StudyConfig | None) -> Study:
    """The study in a folder: a new one of `config`, or the one that is there; nothing is written.

    Without a config the recorded options count; with one, they must be the recorded ones, but for
    more seeds and more untrained networks. Raises RunError for a folder of something else, for a
    study of other options, and where neither is there.
    """
    path = Path(path)
    recorded = _recorded(path)
    if recorded is None:
        if config is None:
            raise RunError(
                f"expected a study in '{path}', found none; begin one with isae-analyze prepare "
                f"'{path}' --images FOLDER"
            )
        if path.exists() and (not path.is_dir() or _others(path)):
            raise RunError(
                f"expected a free folder or a study, found other files in '{path}'; choose "
                "another folder"
            )
        return Study(path, config)
    if config is None:
        return Study(path, recorded)
    if recorded.differences(config):
        words = "; ".join(
            f"{name}: study {a!r}, now {b!r}"
            for name, (a, b) in recorded.differences(config).items()
        )
        raise RunError(
            f"expected the options of the study in '{path}', found differences: {words}; leave "
            "them out to go on, or choose another folder"
        )
    return Study(path, config)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the right to write in a study; StoreError names the process that has it, if one does.

    It ends with the process, however that ends.
    """
    lock = PlaceLock(open_place(path), LOCK, "isae-analyze prepare or all")
    lock.take({})
    try:
        yield
    finally:
        lock.release()


def _others(path: Path) -> list[Path]:
    """What a folder holds but the lock."""
    return [one for one in path.iterdir() if one.name != LOCK]


def _recorded(path: Path) -> StudyConfig | None:
    file = path / "study.json"
    if not file.is_file():
        return None
    try:
        return from_json(StudyConfig, json.loads(file.read_text()))
    except (ValueError, ConfigError) as error:
        raise RunError(
            f"expected the options of a study in '{file}', found damage ({error}); restore it, or "
            "begin another study"
        ) from error
