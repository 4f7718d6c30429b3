"""What a build has done so far: segments of images, then units of the store, one file each.

```
work/
  plan.json                        what is built; a resumed build must agree; whose folder it is
                                   (see store/ownership.py); a name that no other build has
  times.safetensors                when the files of the images were last changed
  segment-000012.safetensors       rows of images [12 S, 13 S), each grid sorted by key
  cuts-16.npy                      where the units of grid 16 begin in every segment
  unit-16-000003.safetensors       shards of rows [3 U, 4 U) of grid 16 are written: their hashes,
                                   and partial statistics
```

A file that is there is whole and on disk: it was flushed before it got its name. So a build killed
at any moment goes on from the files it left. Each states the build's name: should two builds ever
get into one folder, neither takes the other's rows for its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from isae.errors import StoreCorruptError, StoreError
from isae.store.local_place import LocalPlace
from isae.store.segments import AGAIN, SegmentFile

PLAN = "plan.json"
BUILD = "build"
"""The build's name, in the plan and in every file."""
REMOVERS = 4


class Work:
    """The folder of an unfinished build; `again` is what to do where a file is damaged."""

    def __init__(self, folder: Path, again: str = AGAIN) -> None:
        self.folder, self.again = folder, again
        self.build: str | None = None
        """The name of the build that this process began here, or goes on with."""

    @property
    def begun(self) -> bool:
        """Whether anything is built here."""
        return (self.folder / PLAN).is_file()

    @property
    def plan(self) -> dict[str, Any] | None:
        """What is built here, if anything; StoreCorruptError if that cannot be read."""
        if not self.begun:
            return None
        try:
            found = json.loads((self.folder / PLAN).read_bytes())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise StoreCorruptError(
                f"expected {self.folder / PLAN} as a build wrote it, found it damaged; begin anew "
                "with --overwrite"
            )
        return found

    def check_there(self) -> None:
        """Raise StoreError unless the folder is still the one that was begun."""
        if self.build is None:
            return
        if not self.begun:
            raise StoreError(
                f"expected the work folder {self.folder} to stay while it is used, found no "
                f"{PLAN} in it any more; bring it back, or run again, with --resume"
            )
        if (self.plan or {}).get(BUILD) != self.build:
            raise StoreError(
                f"expected the work folder {self.folder} to be this build's alone, found that "
                "another one began in it; run again with another --scratch"
            )

    def begin(self, plan: dict[str, Any]) -> None:
        """Say what is built here, in a folder that is empty then.

        Raises StoreError where a plan is there, since another build began here meanwhile.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # Where two begin at once, one of them gets to make the plan, and only that one removes what
        # is there. A kill before that is no harm: those files state another build's name.
        if not LocalPlace(self.folder).create(PLAN, json.dumps(plan, indent=2).encode()):
            raise StoreError(
                f"expected to be alone in {self.folder}, found that another build began there at "
                "the same time; give another --scratch"
            )
        self.build = plan.get(BUILD)
        self._clear()

    def go_on(self) -> None:
        """Go on with the build that began here."""
        self.build = (self.plan or {}).get(BUILD)

    def remove(self) -> None:
        """Remove the folder, as far as that can be done; the plan goes last."""
        with suppress(OSError):
            self._clear()
            self.end()
            self.folder.rmdir()

    def _clear(self) -> None:
        """Remove everything but the plan."""
        paths = [path for path in self.folder.iterdir() if path.name != PLAN]
        with ThreadPoolExecutor(REMOVERS) as pool:  # each large file takes the system a while
            list(pool.map(_remove, paths))

    def end(self) -> None:
        """Take back what `begin` said; what is here counts no more."""
        (self.folder / PLAN).unlink(missing_ok=True)

    @property
    def times(self) -> Path:
        """File of the images' times."""
        return self.folder / "times.safetensors"

    def segment(self, number: int) -> Path:
        """File of a segment."""
        return self.folder / f"segment-{number:06d}.safetensors"

    def unit(self, stride: int, number: int) -> Path:
        """File of a unit."""
        return self.folder / f"unit-{stride}-{number:06d}.safetensors"

    def cuts(self, stride: int) -> Path:
        """File with the cuts of a grid."""
        return self.folder / f"cuts-{stride}.npy"

    def signed(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The facts of a file of this build."""
        return dict(facts) if self.build is None else {**facts, BUILD: self.build}

    def open(self, path: Path) -> SegmentFile:
        """One of the files; raises what SegmentFile raises, also for one of another build."""
        found = SegmentFile(path, self.again)
        if self.build is not None and found.facts.get(BUILD) != self.build:
            raise found.damaged("one of another build")
        return found

    def segments_done(self) -> set[int]:
        """Numbers of the segments that are whole."""
        return {int(number) for (number,) in self._found(r"segment-(\d+)\.safetensors")}

    def whole_segments(self, numbers: Iterable[int], warn: Callable[[str], None]) -> set[int]:
        """Those of `numbers` that are done and undamaged; damaged files are removed."""
        done = self.segments_done()
        return {n for n in numbers if n in done and self._keep(self.segment(n), warn)}

    def units_done(self) -> set[tuple[int, int]]:
        """(stride, number) of the units that are whole."""
        return {(int(s), int(n)) for s, n in self._found(r"unit-(\d+)-(\d+)\.safetensors")}

    def forget_units(self) -> None:
        """Remove all marks of units, and the cuts: some segments will hold other rows."""
        for stride, number in self.units_done():
            self.unit(stride, number).unlink(missing_ok=True)
        for (of_grid,) in self._found(r"cuts-(\d+)\.npy"):
            self.cuts(int(of_grid)).unlink(missing_ok=True)

    def _keep(self, path: Path, warn: Callable[[str], None]) -> bool:
        """Whether a file is whole; one that is not is removed."""
        try:
            self.open(path).check()
        except StoreCorruptError as error:
            warn(f"made again: {error}")
            path.unlink(missing_ok=True)
            return False
        return True

    def _found(self, pattern: str) -> list[tuple[str, ...]]:
        if not self.folder.is_dir():
            return []
        names = [entry.name for entry in os.scandir(self.folder)]
        return [found.groups() for name in names if (found := re.fullmatch(pattern, name))]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def open_segments(work: Work, count: int) -> list[SegmentFile]:
    """All segments of a build, by their numbers: a listing of a network's disk may be stale.

    Raises StoreError, naming them, if some are missing.
    """
    missing = [number for number in range(count) if not work.segment(number).is_file()]
    if missing:
        named = ", ".join(work.segment(number).name for number in missing[:3])
        raise StoreError(
            f"expected all {count:,} segments in {work.folder}, found {len(missing):,} missing "
            f"({named}); bring them back, or leave them out, and run again with --resume"
        )
    return [work.open(work.segment(number)) for number in range(count)]
