"""Whose place it is: what may be written over, the lock, and what stays after an error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from isae.errors import StoreError
from isae.progress import Reporter
from isae.store import manifest
from isae.store.layout import BUILDING, COMPLETE, WORK, is_data, may_be_ours
from isae.store.locks import PlaceLock
from isae.store.plan import Job, check_disk
from isae.store.ranks import Ranks


@contextmanager
def claimed(
    job: Job, overwrite: bool, resume: bool, reporter: Reporter, ranks: Ranks | None = None
) -> Iterator[manifest.Manifest | None]:
    """Hold the place for this build, also for the other processes of `ranks`.

    Yields the manifest if there is nothing left to do.
    """
    place = job.place
    made_folder = place.local is not None and not place.local.exists()
    _check_may_write(job, overwrite, resume)
    if not resume:
        check_disk(job, _reusable(job) if overwrite else 0)
    lock = PlaceLock(place, BUILDING)
    lock.take({})
    try:
        yield _begin(job, overwrite, resume, reporter)
    except BaseException as error:
        alone = ranks is None or ranks.end(error)
        if done := _tidy(job, made_folder, lock, alone):
            reporter.say(
                f"kept {done} of {job.segments} segments in {job.work.folder}; go on with --resume"
            )
        raise
    lock.release()


def _check_may_write(job: Job, overwrite: bool, resume: bool) -> None:
    """Raise StoreError unless the place is empty, or holds a store that may be replaced."""
    place = job.place
    if place.local is not None and not place.local.exists():
        return
    is_store = manifest.is_store(place) or job.work.begun
    stored = place.keys()
    strange = [key for key, _ in stored if not (is_store and may_be_ours(key))]
    if strange:
        raise StoreError(
            f"expected {place.url} to be absent, empty or a store, found other files there "
            f"({', '.join(strange[:3])}); choose another --out, or take them away (isae deletes "
            "nothing that it did not write)"
        )
    if is_store and not (overwrite or resume):
        whole = place.size(COMPLETE) is not None
        kind = "a store" if whole else "an unfinished store"
        advice = "replace it with --overwrite"
        if not whole:
            advice = "go on with it with --resume, or replace it with --overwrite"
        raise StoreError(
            f"expected no store in {place.url}, found {kind}; choose another --out, or {advice}"
        )


def _begin(job: Job, overwrite: bool, resume: bool, reporter: Reporter) -> manifest.Manifest | None:
    """Make the place ready for segments and units; the manifest of a store that is complete."""
    place, identity = job.place, job.identity()
    if resume and place.size(COMPLETE) is not None:
        return _complete_already(job)
    begun = job.work.plan if resume else None
    if begun is not None:
        different = sorted(key for key in identity if identity[key] != begun.get(key))
        if different:
            raise StoreError(
                f"expected the build that was begun in {place.url}, found another "
                f"{', '.join(different)}: {_differences(begun, identity, different)}; give the "
                "same as before, or begin anew with --overwrite"
            )
        place.sweep()
        count = len(job.work.segments_done())
        reporter.say(f"resuming: {count} of {job.segments} segments are done")
        return None
    found = place.keys()
    stored = [key for key, _ in found if key != BUILDING]
    if stored and not (overwrite or resume):
        raise StoreError(
            f"expected {place.url} to stay empty until its lock was taken, found that another "
            "build wrote there meanwhile; choose another --out, or replace it with --overwrite"
        )
    if resume and stored:
        raise StoreError(
            f"expected what a build did so far in {job.work.folder}, found nothing there but files "
            f"of a store in {place.url}; give the --scratch that it began with, mend a store that "
            "lost its mark with isae-store repair, or begin anew with --overwrite"
        )
    # A store loses its mark before anything else, and the plan stands before the rest goes: a kill
    # on the way leaves an unfinished store that can be resumed.
    place.delete(COMPLETE)
    shutil.rmtree(job.work.folder, ignore_errors=True)
    job.work.folder.mkdir(parents=True)
    job.work.begin(identity)
    for key in stored:
        if not key.startswith(f"{WORK}/"):
            place.delete(key)
    reporter.say(check_disk(job, 0))
    return None


def _complete_already(job: Job) -> manifest.Manifest:
    found = manifest.read(job.place)
    if found.get("identity") != job.identity():
        raise StoreError(
            f"expected the store in {job.place.url} to be of what this command names, found a "
            "complete one of something else; choose another --out, or replace it with --overwrite"
        )
    shutil.rmtree(job.work.folder, ignore_errors=True)
    return found


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], names: Sequence[str]) -> str:
    parts = []
    for name in names:
        before, now = old.get(name), new[name]
        if isinstance(before, dict) and isinstance(now, dict):
            parts += [
                f"{key} {now[key]!r} instead of {before.get(key)!r}"
                for key in now
                if now[key] != before.get(key)
            ]
        else:
            parts.append(f"{name} {str(now)[:40]} instead of {str(before)[:40]}")
    return "; ".join(parts)


def _reusable(job: Job) -> int:
    stored = job.place.keys()
    return sum(size for key, size in stored if is_data(key))


def _tidy(job: Job, made_folder: bool, lock: PlaceLock, alone: bool) -> int:
    """After an error: keep what `resume` can use, else remove what was written; segments kept.

    Nothing is removed unless `alone`: another process of the build may still be writing.
    Never raises: the error that ended the build is what the user must see.
    """
    done = 0
    with suppress(OSError, StoreError):
        done = len(job.work.segments_done())
        if job.place.size(COMPLETE) is None and not done and alone:
            shutil.rmtree(job.work.folder, ignore_errors=True)
    with suppress(OSError, StoreError):
        lock.release()
        if made_folder and job.place.local is not None and not job.place.keys():
            job.place.local.rmdir()
    return done
