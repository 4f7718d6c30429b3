"""Whose place it is: what may be written over, the lock, and what stays after an error."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from isae.errors import StoreError
from isae.progress import Reporter
from isae.store import manifest
from isae.store.disk import check_disk
from isae.store.layout import BUILDING, COMPLETE, UNFINISHED, WORK, may_be_ours
from isae.store.locks import PlaceLock
from isae.store.ownership import (
    TOKEN,
    check_here,
    check_ours,
    disown,
    forget,
    is_apart,
    is_ours,
    own,
)
from isae.store.plan import Job, one_text
from isae.store.ranks import Ranks
from isae.store.work import BUILD


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
    lock = PlaceLock(place, BUILDING)
    lock.take({})
    begun = False
    try:
        finished = _complete_already(job) if resume else None
        if finished is None:
            goes_on = _check_may_begin(job, overwrite, resume)
            begun = True
            if goes_on:
                _go_on(job, reporter)
            else:
                _begin(job, reporter)
        yield finished
    except BaseException as error:
        alone = ranks is None or ranks.end(error)
        if done := _tidy(job, made_folder, lock, begun, alone):
            reporter.say(
                f"kept {done} of {job.segments} segments in {job.work.folder}; go on with --resume"
            )
        raise
    lock.release()


def _check_may_write(job: Job, overwrite: bool, resume: bool) -> None:
    """Raise StoreError unless the place is empty, or holds a store that may be replaced."""
    place = job.place
    if not (resume and place.size(COMPLETE) is not None):
        check_ours(place, job.work)
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


def _check_may_begin(job: Job, overwrite: bool, resume: bool) -> bool:
    """Whether this build goes on with an earlier one; StoreError where it may not begin at all.

    Nothing is changed here.
    """
    place = job.place
    check_ours(place, job.work)
    if resume:
        check_here(place, job.work)
        if job.work.begun:
            _check_same(job, one_text(job.work.plan or {}))
            return True
    found = place.keys()
    stored = [key for key, _ in found if key not in (BUILDING, UNFINISHED)]
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
    return False


def _check_same(job: Job, begun: Mapping[str, Any]) -> None:
    identity = job.identity()
    different = sorted(key for key in identity if identity[key] != begun.get(key))
    if different:
        raise StoreError(
            f"expected the build that was begun in {job.place.url}, found another "
            f"{', '.join(different)}: {_differences(begun, identity, different)}; give the "
            "same as before, or begin anew with --overwrite"
        )


def _begin(job: Job, reporter: Reporter) -> None:
    """Empty the place for a new build."""
    estimate = check_disk(job, resumed=False)
    token, name = own(job.place, job.work), secrets.token_hex(16)
    if job.work.begun:
        check_ours(job.place, job.work)  # another build may have begun there since it was looked at
        job.work.end()
    job.work.begin({**job.identity(), TOKEN: token, BUILD: name})
    own(job.place, job.work, name)
    # The plan stands, and the mark is gone, before anything else goes: a kill on the way leaves the
    # store that was there, or an unfinished one that can be resumed.
    job.place.delete(COMPLETE)
    _empty(job)
    reporter.say(estimate)


def _go_on(job: Job, reporter: Reporter) -> None:
    """Make what an earlier build left ready."""
    job.work.go_on()
    own(job.place, job.work, job.work.build)
    job.place.sweep()
    if not job.work.units_done():
        _empty(job)  # a killed --overwrite may have left files of the store before
    reporter.say(f"resuming: {len(job.work.segments_done())} of {job.segments} segments are done")
    reporter.say(check_disk(job, resumed=True))


def _empty(job: Job) -> None:
    """Remove everything from the place but what the build that has begun needs."""
    apart = is_apart(job.place, job.work)
    stored = job.place.keys()
    for key, _ in stored:
        needed = key in (BUILDING, UNFINISHED) or (key.startswith(f"{WORK}/") and not apart)
        if not needed:
            job.place.delete(key)


def _complete_already(job: Job) -> manifest.Manifest | None:
    """The manifest of a store that is complete; StoreError if it is of something else."""
    if job.place.size(COMPLETE) is None:
        return None
    found = manifest.read(job.place)
    made, asked = one_text(found.get("identity") or {}), job.identity()
    if made != asked:
        different = sorted(key for key in asked if asked[key] != made.get(key))
        raise StoreError(
            f"expected the store in {job.place.url} to be of what this command names, found a "
            f"complete one of something else ({_differences(made, asked, different)}); choose "
            "another --out, or replace it with --overwrite"
        )
    if is_ours(job.place, job.work):
        forget(job.place, job.work)
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


def _tidy(job: Job, made_folder: bool, lock: PlaceLock, begun: bool, alone: bool) -> int:
    """After an error: keep what `resume` can use, else remove what was written; segments kept.

    Nothing is removed unless this run has `begun`, and is `alone`: another process of the build may
    still be writing.
    Never raises: the error that ended the build is what the user must see.
    """
    done = 0
    with suppress(OSError, StoreError):
        # A work folder elsewhere whose plan is gone may come back.
        known = job.work.begun or not is_apart(job.place, job.work)
        if begun and known and is_ours(job.place, job.work):
            done = len(job.work.segments_done())
            if job.place.size(COMPLETE) is None and not done and alone:
                forget(job.place, job.work)
        elif begun and not is_ours(job.place, job.work):
            disown(job.place, job.work)
    with suppress(OSError, StoreError):
        lock.release()
        if made_folder and job.place.local is not None and not job.place.keys():
            job.place.local.rmdir()
    return done
