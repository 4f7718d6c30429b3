"""`isae-store repair`: make anew just those files of a store that are missing or damaged.

Every file's hash is in the manifest, of which there are two copies, and the completion mark is
the manifest's own SHA-256: any two of these three that agree are taken for right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from isae.errors import StoreError
from isae.interrupts import deferred_interrupts
from isae.progress import QUIET, Reporter
from isae.store import manifest
from isae.store.layout import BUILDING
from isae.store.locks import PlaceLock
from isae.store.mending import Mending, Repaired
from isae.store.places import Place, open_place


def repair_store(
    path: str | Path,
    *,
    images: str | None = None,
    weights: str | None = None,
    scratch: str | None = None,
    remove_strangers: bool = False,
    dry_run: bool = False,
    reporter: Reporter = QUIET,
) -> Repaired:
    """Mend the store at `path`; `images` and `weights` say where they are now, if elsewhere.

    Raises StoreError if there is no store, if a build or another repair is at work in it, if
    manifest and mark are beyond repair, if the images are not the same any more, or if what was
    made anew has another hash (other versions or another processor): such a file is not written.
    Files that were mended before the error stay mended. With `dry_run` nothing is written.
    """
    place = open_place(path)
    manifest.check_is_store(place)
    with deferred_interrupts() as stop, _held(place, dry_run) as left_over:
        known = Mending(place, reporter, stop, scratch)
        known.sources = (images, weights)
        done = known.done
        done.dry_run = dry_run
        done.strangers = [*left_over, *known.strangers()]
        known.look()
        if dry_run:
            with known.told():
                known.rehearse()
            return done
        known.mend()
        done.removed = list(left_over)
        if remove_strangers:
            for key in known.strangers():
                place.delete(key)
                done.removed.append(key)
        return done


@contextmanager
def _held(place: Place, dry_run: bool) -> Iterator[list[str]]:
    """Hold the place's lock; yields the name of the lock's file if a dead process left it."""
    left_over = [BUILDING] if place.size(BUILDING) is not None else []
    if dry_run:
        yield left_over
        return
    lock = PlaceLock(place, BUILDING)
    lock.take({"command": "repair"})
    try:
        place.sweep()
        yield left_over
    finally:
        with suppress(OSError, StoreError):
            lock.release()
