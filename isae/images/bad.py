"""How many bad pictures a job puts up with."""

from __future__ import annotations

from collections.abc import Iterable

from isae.config import check
from isae.errors import ImageError
from isae.images.base import BadImage

NAMES_KEPT = 20


def default_max_bad(images: int) -> int:
    """The usual limit for `images` pictures: 1 %, at least 10."""
    return max(10, images // 100)


class BadImageTally:
    """Counts bad pictures and remembers the first 20; more than `max_bad` of them is an error."""

    def __init__(self, max_bad: int) -> None:
        check(max_bad >= 0, "--max-bad of at least 0", max_bad)
        self.max_bad, self.count = max_bad, 0
        self.first: list[BadImage] = []

    def add(self, bad: Iterable[BadImage]) -> None:
        """Count these; raises ImageError with the names when there are more than `max_bad`."""
        for image in bad:
            self.count += 1
            if len(self.first) < NAMES_KEPT:
                self.first.append(image)
        if self.count > self.max_bad:
            raise ImageError(
                f"expected at most {self.max_bad:,} pictures that cannot be read, found "
                f"{self.count:,}: {self.names()}; mend or remove them, or raise --max-bad"
            )

    def names(self) -> str:
        """The remembered names with their reasons, and how many more there are."""
        listed = "; ".join(f"'{image.name}' ({image.reason})" for image in self.first)
        more = self.count - len(self.first)
        return f"{listed}; and {more:,} more" if more else listed

    def summary(self) -> dict[str, object]:
        """For a manifest: the count, the limit, and the first names with their reasons."""
        first = [{"name": image.name, "reason": image.reason} for image in self.first]
        return {"count": self.count, "max_bad": self.max_bad, "first": first}
