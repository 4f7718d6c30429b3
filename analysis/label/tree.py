"""A tree over the classes of a store: WordNet's for its ids, or any table of the same form.

The table is UTF-8 text with tabs: `wnid`, `parent` (empty at the root) and `words`, one line a
node, the parents before or after their children; lines that begin with '#' are notes. Labels of a
store's images that are in the table get its words; others are their own words and have no parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isae.errors import DataError

PACKAGED = Path(__file__).parent / "wordnet.tsv"
COLUMNS = ("wnid", "parent", "words")


@dataclass(frozen=True)
class Tree:
    """parent, words: of each node; the root's parent is ''."""

    parent: dict[str, str]
    words: dict[str, str]

    def ancestors(self, node: str) -> list[str]:
        """The nodes above one, nearest first; none for a label that is not in the tree."""
        found: list[str] = []
        above = self.parent.get(node, "")
        while above:
            found.append(above)
            above = self.parent.get(above, "")
        return found

    def name(self, node: str) -> str:
        """The first word of a node; a label that is not in the tree is its own name."""
        return self.words.get(node, node).split(",")[0]


def read_tree(path: str | Path | None) -> Tree:
    """Read a table of the form above; None: the packaged one.

    Raises DataError where the file is missing or of another form, for a parent that is not in it,
    and for a node that is its own ancestor.
    """
    path = PACKAGED if path is None else Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"expected a table of classes at {path}, found none that can be read ({error}); give "
            "one with --tree FILE, or leave the option out"
        ) from error
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    if not rows or tuple(rows[0]) != COLUMNS or any(len(row) != 3 for row in rows):
        raise DataError(
            f"expected lines of '{', '.join(COLUMNS)}' with tabs between and this header in "
            f"{path}, found another form; see README, 'Labels'"
        )
    tree = Tree({row[0]: row[1] for row in rows[1:]}, {row[0]: row[2] for row in rows[1:]})
    _check(tree, path)
    return tree


def _check(tree: Tree, path: Path) -> None:
    for node, above in tree.parent.items():
        if above and above not in tree.parent:
            raise DataError(
                f"expected every parent to be a line of {path}, found '{above}' above '{node}' "
                "without one; add it, or leave the parent empty"
            )
    sound: set[str] = set()
    for node in tree.parent:
        walked: set[str] = set()
        above = node
        while above and above not in sound:
            if above in walked:
                raise DataError(
                    f"expected a tree in {path}, found '{above}' above itself; mend its parent"
                )
            walked.add(above)
            above = tree.parent[above]
        sound |= walked


def superclasses(tree: Tree, labels: Sequence[str]) -> dict[str, frozenset[str]]:
    """Nodes above at least two of the labels, and not above all -> {node: its labels}.

    Of nodes above the very same labels only the lowest is kept.
    """
    below: dict[str, set[str]] = {}
    depth: dict[str, int] = {}
    for label in dict.fromkeys(labels):
        above = tree.ancestors(label)
        for rank, node in enumerate(above):
            below.setdefault(node, set()).add(label)
            depth[node] = len(above) - rank
    every = len(set(labels))
    lowest: dict[frozenset[str], str] = {}
    for node in sorted(below, key=lambda one: (-depth[one], one)):
        members = frozenset(below[node])
        if 2 <= len(members) < every:
            lowest.setdefault(members, node)
    return {node: members for members, node in sorted(lowest.items(), key=lambda one: one[1])}
