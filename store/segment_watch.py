"""Whether segments can be trusted: undamaged, and of images as they were when the build began."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from isae.errors import ImageError
from isae.images import BadImage, open_source
from isae.progress import Reporter
from isae.store.plan import Plan
from isae.store.segments import SegmentFile

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
    for number in _readable_again(plan, found):
        reporter.warn(f"segment {number} is made again: pictures it lacks can be read now")
        plan.work.segment(number).unlink()
        found.remove(number)
    return found


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
            raise self._changed()

    def _look(self) -> None:
        started, config = time.monotonic(), self.plan.config
        try:
            now = open_source(config.images, seed=config.seed, limit=config.limit)
        except (ImageError, OSError):
            raise self._changed() from None
        if now.fingerprint() != self.plan.source.fingerprint():
            raise self._changed()
        self.unsure.clear()
        self.next_look = time.monotonic() + PAUSE * (time.monotonic() - started)

    def _changed(self) -> ImagesChangedError:
        return ImagesChangedError(
            f"expected {self.plan.source.spec} to stay as it was while the store was built, found "
            "that files were added, removed or changed; bring them back and go on with --resume, "
            "or build again with --overwrite"
        )


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
        if any(_is_readable(plan, bad) for bad in bad_of(SegmentFile(plan.work.segment(number))))
    ]


def _is_readable(plan: Plan, bad: BadImage) -> bool:
    try:
        plan.source.load(bad.index)
    except BadImage:
        return False
    return True
