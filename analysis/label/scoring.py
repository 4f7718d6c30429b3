"""Names chosen on one half of the images, tested once on the other.

Choice (choosing half): of a kind's names the one of largest T x bits, with T the images looked at
(at most as many as have the name), share the part of them that has it, chance the part that an
exchange of images would give, and

    bits(share, chance) = share log2(share / chance) + (1 - share) log2((1 - share) / (1 - chance)),

the divergence of two coins: how much the name says about where the feature fires. A best of many
names is flattered by the choice, so its share there is no evidence; but a name whose gain (below)
is too small even there is not tested, which leaves fewer tests to correct for.

Test (scoring half): that one name, on the feature's strongest images there. p: the chance that a
sum of independent coins, each with the chance of the name at the cell where the feature is
strongest, reaches the count. An exchange draws images without putting them back, which spreads
less (Hoeffding 1963, theorem 4), so p is on the safe side. gain = (share - chance) / (1 - chance).
The bits of the scoring half count one more image that agrees with chance, so that two of four
images say less than thirty of sixty.

Correction: Benjamini and Hochberg over all features and kinds together.

Legend: N features, A names, K kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from isae.analysis.arrays import F32, F64, I64, Bools
from isae.analysis.label import loops
from isae.analysis.label.images import CHOOSING, SCORING
from isae.analysis.label.names import CLASS, SUPERCLASS, Names
from isae.analysis.label.padding import Mirrored
from isae.analysis.label.strongest import Strongest
from isae.analysis.multiple import benjamini_hochberg


@dataclass(frozen=True)
class Tested:
    """One kind: each feature's chosen name and its one test. name_N: int64, -1 for none; images_N:
    images scored; choosing_N, share_N, chance_N, gain_N, bits_N, p_N: float64, NaN without a test.
    """

    name_N: I64
    images_N: I64
    choosing_N: F64
    share_N: F64
    chance_N: F64
    gain_N: F64
    bits_N: F64
    p_N: F64

    def only(self, where_N: Bools) -> Tested:
        """The same with no test for the other features."""
        kept = {}
        for field in fields(self):
            values = getattr(self, field.name)
            none = np.nan if values.dtype.kind == "f" else -1 if field.name == "name_N" else 0
            kept[field.name] = np.where(where_N, values, none)
        return Tested(**kept)


def statistics(names: Names, strongest: Strongest, cells: int) -> F32:
    """T x bits of every name on the choosing half, float32 [N, A]."""
    image_NK, cell_NK = strongest.image_HNK[CHOOSING], strongest.cell_HNK[CHOOSING]
    bits_NA = np.zeros((len(image_NK), len(names.texts)), dtype=np.float32)
    loops.all_statistics(
        names.rows(image_NK, cell_NK, cells), cell_NK, names.has_RA,
        np.ascontiguousarray(names.chance_HGA[CHOOSING]), names.limit_HA[CHOOSING], bits_NA,
    )  # fmt: skip
    return bits_NA


def best(bits_NA: F32, tested_N: Bools) -> I64:
    """The name of the largest statistic; -1 where none is above 0 or the feature is not tested."""
    return np.where(tested_N & (bits_NA.max(axis=1) > 0), bits_NA.argmax(axis=1), -1)


def score_names(names: Names, strongest: Strongest, name_N: I64, cells: int) -> Tested:
    """One test a feature of the name given, on the scoring half."""
    tested = score_in(names, strongest, name_N, cells, SCORING)
    choosing_N = _share(*_tails(names, strongest, name_N, cells, CHOOSING)[:2])
    return replace(tested, choosing_N=choosing_N).only(tested.name_N >= 0)


def score_in(names: Names, strongest: Strongest, name_N: I64, cells: int, half: int) -> Tested:
    """One test a feature of the name given, on one half; choosing_N is NaN."""
    used_N, count_N, chance_N, p_N = _tails(names, strongest, name_N, cells, half)
    none_N = np.full(len(name_N), np.nan)
    tested = _tested(name_N, used_N, count_N, chance_N, p_N, none_N)
    return tested.only((name_N >= 0) & (used_N > 0))


def share_in(names: Names, sample: Strongest, name_N: I64, cells: int) -> F64:
    """The share of the scoring half's images of a sample that have the feature's name."""
    everyone = replace(names, limit_HA=np.full_like(names.limit_HA, np.iinfo(np.int32).max))
    used_N, count_N, _, _ = _tails(everyone, sample, name_N, cells, SCORING)
    return _share(used_N, count_N)


def screen(names: Names, strongest: Strongest, name_N: I64, cells: int, min_gain: float) -> I64:
    """The names whose gain on the choosing half reaches the bound; -1 for the others."""
    used_N, count_N, chance_N, _ = _tails(names, strongest, name_N, cells, CHOOSING)
    share_N = _share(used_N, count_N)
    with np.errstate(invalid="ignore"):
        return np.where(share_N - chance_N >= min_gain * (1 - chance_N), name_N, -1)


def with_padding(edges: Tested, mirrored: Mirrored, least: int) -> Tested:
    """Edge artefacts: there by place and by padding (`isae.analysis.label.padding`).

    p: the larger of the two tests. Features that padding was not tested for have no test.
    """
    padding_p_N = mirrored.p(least)
    p_N = np.fmax(edges.p_N, padding_p_N)
    return replace(edges, p_N=p_N).only(np.isfinite(edges.p_N) & np.isfinite(padding_p_N))


def best_child(
    classes: Names | None, supers: Names, bits_NA: F32 | None, name_N: I64, tested_N: Bools
) -> I64:
    """The class below each feature's superclass that the choosing half prefers; -1 for none."""
    child_N = np.full(len(name_N), -1, dtype=np.int64)
    if classes is None or bits_NA is None:
        return child_N
    for number in np.unique(name_N[name_N >= 0]).tolist():
        below = np.array(sorted(supers.members_A[number]), dtype=np.int64)
        mine = np.flatnonzero(name_N == number)
        if len(below):
            chosen = best(bits_NA[np.ix_(mine, below)], tested_N[mine])
            child_N[mine] = np.where(chosen >= 0, below[np.maximum(chosen, 0)], -1)
    return child_N


def score_kinds(
    kinds: Mapping[str, Names],
    strongest: Strongest,
    tested_N: Bools,
    cells: int,
    min_gain: float,
) -> tuple[dict[str, Tested], Tested | None]:
    """Choose and test each kind -> (by kind, the best child classes of the superclasses)."""
    bits = {kind: statistics(names, strongest, cells) for kind, names in kinds.items()}
    found = {}
    for kind, names in kinds.items():
        name_N = screen(names, strongest, best(bits[kind], tested_N), cells, min_gain)
        found[kind] = score_names(names, strongest, name_N, cells)
    children = None
    if SUPERCLASS in kinds and CLASS in kinds:
        child_N = best_child(
            kinds[CLASS], kinds[SUPERCLASS], bits[CLASS], found[SUPERCLASS].name_N, tested_N
        )
        children = score_names(kinds[CLASS], strongest, child_N, cells)
    return found, children


def correct(found: Mapping[str, Tested]) -> dict[str, F64]:
    """The q of every kind, corrected over all features and kinds together."""
    q_KN = benjamini_hochberg(np.stack([one.p_N for one in found.values()]))
    return dict(zip(found, q_KN, strict=True))


def _tails(
    names: Names, strongest: Strongest, name_N: I64, cells: int, half: int
) -> tuple[I64, I64, F64, F64]:
    image_NK, cell_NK = strongest.image_HNK[half], strongest.cell_HNK[half]
    used_N, count_N = np.zeros(len(name_N), dtype=np.int64), np.zeros(len(name_N), dtype=np.int64)
    chance_N, p_N = np.full(len(name_N), np.nan), np.full(len(name_N), np.nan)
    loops.tail_of_one(
        names.rows(image_NK, cell_NK, cells), cell_NK, names.has_RA,
        np.ascontiguousarray(names.chance_HGA[half]), names.limit_HA[half], name_N,
        used_N, count_N, chance_N, p_N,
    )  # fmt: skip
    return used_N, count_N, chance_N, p_N


def _share(used_N: I64, count_N: I64) -> F64:
    return np.where(used_N > 0, count_N / np.maximum(used_N, 1), np.nan)


def _tested(
    name_N: I64, used_N: I64, count_N: I64, chance_N: F64, p_N: F64, choosing_N: F64
) -> Tested:
    share_N = _share(used_N, count_N)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain_N = (share_N - chance_N) / (1 - chance_N)
        shrunk_N = (count_N + chance_N) / (used_N + 1)
        bits_N = shrunk_N * np.log2(shrunk_N / chance_N)
        bits_N += (1 - shrunk_N) * np.log2((1 - shrunk_N) / (1 - chance_N))
    bits_N = np.where(share_N > chance_N, bits_N, 0.0)
    return Tested(name_N, used_N, choosing_N, share_N, chance_N, gain_N, bits_N, p_N)
