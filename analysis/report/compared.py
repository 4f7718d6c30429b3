"""Whether a comparison of layers or of seeds is of the SAEs that its runs hold now.

Each states the SHA-256 of the weights of every SAE that it read ('saes', in the order of 'runs');
those that older versions made do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isae.analysis.inputs import weights_sha256
from isae.analysis.layers.against import check_fits
from isae.analysis.report.summaries import read_summary
from isae.analysis.study.layout import Net
from isae.errors import RunError

Summary = Mapping[str, Any]
SPEED = ("batch_size", "device")
"""Options of a comparison that change no number."""


@dataclass(frozen=True)
class SaeCheck:
    """The SAEs of a comparison by name: those trained anew since it was made, those not found.

    stated: whether it says at all which SAEs it is of.
    """

    anew: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    stated: bool = True

    @property
    def doubt(self) -> str:
        """Why it cannot be checked whether the comparison is of these SAEs; '' where it can."""
        if not self.stated:
            return "an older version made it, which did not record the SAEs that it is of"
        return f"no SAE of {', '.join(self.lost)} was found" if self.lost else ""


@dataclass(frozen=True)
class Control:
    """The comparison of an untrained network's layers, if it can stand beside; else None.

    note: why it cannot, or why that is not known; '' where all is well.
    """

    summary: dict[str, Any] | None = None
    note: str = ""


def check_layers(summary: Summary, net: Net | None) -> SaeCheck:
    """Of a comparison of layers. net: the network of the study whose seed 0 it is of, if any."""
    saes = summary.get("saes")
    if not isinstance(saes, dict):
        return SaeCheck(stated=False)
    return _check(
        (layer, sha, _sha_now(net, 0, layer, run))
        for (layer, sha), run in zip(saes.items(), summary["runs"], strict=True)
    )


def check_seeds(summary: Summary, net: Net | None) -> SaeCheck:
    """Of a comparison of seeds. net: the network of the study that it is of, if any."""
    saes = summary.get("saes")
    if not isinstance(saes, dict):
        return SaeCheck(stated=False)
    return _check(
        (
            one["run"] if one["seed"] is None else f"seed {one['seed']}",
            saes.get(one["run"]),
            _sha_now(net, one["seed"], summary["layer"], one["run"]),
        )
        for one in summary["runs"]
    )


def _check(saes: Iterable[tuple[str, str | None, str]]) -> SaeCheck:
    """Of (name, hash stated, hash now, '' for none) of every SAE."""
    found = list(saes)
    return SaeCheck(
        tuple(name for name, stated, now in found if now and now != stated),
        tuple(name for name, _, now in found if not now),
    )


def _sha_now(net: Net | None, seed: int | None, layer: str, recorded: str) -> str:
    """Of the study's own run, wherever the study lies now, or else of the recorded one."""
    own = [] if net is None or seed is None else [net.run(seed, layer)]
    places = [*own, Path(recorded)]
    return next((sha for place in places if (sha := weights_sha256(place, layer))), "")


def control_of(mine: Summary | None, net: Net | None) -> Control:
    """What the report can show of an untrained network beside a comparison of layers.

    Both must be of the same images by the same options, of networks and stores that
    `isae.analysis.layers.against.check_fits` lets stand side by side, and the untrained one of the
    SAEs that its runs hold now.
    """
    if mine is None or net is None:
        return Control()
    folder = net.layers(0)
    theirs = read_summary(folder)
    if theirs is None:
        return Control()
    saes = check_layers(theirs, net)
    why = _misfit(mine, theirs, folder)
    if saes.anew:
        why = f"it was made before {', '.join(saes.anew)} was trained anew; make it again"
    if why:
        return Control(None, f"{net.name}'s comparison of layers is not shown beside: {why}")
    if saes.doubt:
        return Control(
            theirs,
            f"whether {net.name}'s comparison of layers is of its SAEs cannot be checked: "
            f"{saes.doubt}",
        )
    return Control(theirs)


def _misfit(mine: Summary, theirs: Summary, folder: Path) -> str:
    """Why two comparisons of layers cannot stand side by side; '' where they can."""
    try:
        check_fits(mine, theirs, folder)
    except RunError as error:
        return str(error)
    except KeyError as error:
        return f"one of the two does not say what it is of ({error}); make both again"
    own, other = mine["options"], theirs["options"]
    names = [name for name in dict.fromkeys([*own, *other]) if name not in SPEED]
    apart = [name for name in names if own.get(name) != other.get(name)]
    if apart:
        words = ", ".join(f"{name} {own.get(name)} and {other.get(name)}" for name in apart)
        return f"the two have different options ({words}); make both with the same"
    if mine["images"].get("numbers_hash") != theirs["images"].get("numbers_hash"):
        return "the two are of different images of the stores; build both stores with one --seed"
    return ""
