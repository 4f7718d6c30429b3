"""Whether segments can be trusted: undamaged, and of images as they were when the build began."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from isae.errors import ImageError, StoreError
from isae.images import BadImage, ImageSource, open_source
from isae.images.base import I64
from isae.progress import Reporter
from isae.store.plan import Plan
from isae.store.segments import SegmentFile, write_tensors

FIRST_LOOK = 10.0
"""Seconds until the list of images is looked at for the first time."""
PAUSE = 200
"""Between two looks pass at least so many times what a look takes."""


def bad_of(segment: SegmentFile) -> list[BadImage]:
    """The unreadable images of a segment."""
    return [BadImage(*one) for one in segment.facts["bad"]]


def usable_segments(plan: Plan, numbers: Iterable[int], reporter: Reporter) -> set[int]:
    """Those of `numbers` that an earlier run left and that need not be made again."""
    found = plan.work.whole_segments(numbers, reporter.warn)
    again = _readable_again(plan, found)
    if again:
        plan.work.forget_units()
    for number in again:
        reporter.warn(f"segment {number} is made again: pictures it lacks can be read now")
        plan.work.segment(number).unlink()
        found.remove(number)
    return found


def check_times(plan: Plan, reporter: Reporter, same_photos: bool = False) -> None:
    """See that no file of the images was changed since the build began, and note it at its begin.

    The sizes of the files are part of what the images are, the times of their last change are not:
    a copy is the same source. Raises ImagesChangedError, which names a file, unless the user says
    that they are the `same_photos`: then the times are noted anew.
    """
    now_F = plan.source.file_times()
    if not len(now_F):
        return
    try:
        before_F = plan.work.open(plan.work.times).whole("times")
    except StoreError:  # at the begin, or damaged
        if plan.work.segments_done():
            reporter.warn("all segments are made again: it is not known any more of what photos")
        plan.work.forget_units()
        for number in plan.work.segments_done():
            plan.work.segment(number).unlink()
        write_tensors(plan.work.times, {"times": now_F}, plan.work.signed({}))
        return
    try:
        _check_same(plan.source, before_F)
    except ImagesChangedError as error:
        if not same_photos or len(now_F) != len(before_F):
            raise _with_flag(error) from None
        reporter.warn(f"{int((now_F != before_F).sum()):,} photos have other times than before")
        write_tensors(plan.work.times, {"times": now_F}, plan.work.signed({}))


def _with_flag(error: ImagesChangedError) -> ImagesChangedError:
    return ImagesChangedError(
        f"{error}; where only their times changed, as in a copy, go on with --resume --same-photos"
    )


def _check_same(source: ImageSource, before_F: I64) -> None:
    now_F = source.file_times()
    if len(now_F) != len(before_F):
        raise _changed(source, "files were added or removed")
    changed = np.flatnonzero(now_F != before_F)
    if len(changed):
        more = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
        name = source.file_name(int(changed[0]))
        raise _changed(source, f"'{name}'{more} changed (time of last change)")


def _changed(source: ImageSource, found: str) -> ImagesChangedError:
    return ImagesChangedError(
        f"expected {source.spec} to stay as it was when the build began, found that {found}; bring "
        "the same files back, with their times, and go on with --resume, or build again with "
        "--overwrite"
    )


@dataclass
class Watch:
    """Looks now and then whether the images are still those that the build began with."""

    plan: Plan
    unsure: list[int] = field(default_factory=list)
    """Segments whose images were decoded since the last look."""
    next_look: float = field(default_factory=lambda: time.monotonic() + FIRST_LOOK)

    def decoded(self, number: int) -> None:
        """The images of a segment were all read; may raise ImageError."""
        self.unsure.append(number)
        if time.monotonic() >= self.next_look:
            self._look()

    def finish(self, numbers: Iterable[int]) -> None:
        """All images were read, and the segments `numbers` are written; may raise ImageError."""
        if self.unsure:
            self._look()
        self.unsure = _readable_again(self.plan, numbers)
        if self.unsure:
            raise self._other_files()

    def _look(self) -> None:
        started, config = time.monotonic(), self.plan.config
        try:
            now = open_source(config.images, seed=config.seed, limit=config.limit)
        except (ImageError, OSError):
            raise self._other_files() from None
        if now.fingerprint() != self.plan.source.fingerprint():
            raise self._other_files()
        _check_same(now, self.plan.source.file_times())
        self.unsure.clear()
        self.next_look = time.monotonic() + PAUSE * (time.monotonic() - started)

    def _other_files(self) -> ImagesChangedError:
        return _changed(self.plan.source, "files were added, removed or changed")


class ImagesChangedError(ImageError):
    """Images are not those that the build began with."""


@contextmanager
def watched(plan: Plan) -> Iterator[Watch]:
    """A watch; where images changed, segments that may be of changed ones are removed at the end.

    Their files must be written, or given up, by then.
    """
    watch = Watch(plan)
    try:
        yield watch
    except ImageError:
        # Also where too many could not be read: the disk they are on may have gone.
        for number in watch.unsure:
            with suppress(OSError):
                plan.work.segment(number).unlink()
        raise


def _readable_again(plan: Plan, numbers: Iterable[int]) -> list[int]:
    """Segments that lack a picture which can be read now: it was gone for a while."""
    return [
        number
        for number in numbers
        if any(_is_readable(plan, bad) for bad in bad_of(plan.work.open(plan.work.segment(number))))
    ]


def _is_readable(plan: Plan, bad: BadImage) -> bool:
    try:
        plan.source.load(bad.index)
    except BadImage:
        return False
    return True
