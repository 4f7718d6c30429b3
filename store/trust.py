"""Which copy of a store's manifest is right, and whether the store can be repaired at all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from isae.errors import StoreCorruptError, StoreError, StoreIncompleteError
from isae.store import manifest
from isae.store.layout import BACKUP, COMPLETE, MANIFEST, REPAIRABLE
from isae.store.places import Place
from isae.store.plan import work_folder
from isae.store.work import Work


def trusted_manifest(place: Place) -> tuple[bytes, dict[str, str]]:
    """The manifest's bytes, and what is wrong with its two copies and the mark.

    Raises StoreError unless two of the three agree, and for copies that were changed alike.
    """
    copies = {key: manifest.maybe(place, key) for key in (MANIFEST, BACKUP)}
    mark = manifest.maybe(place, COMPLETE)
    there = [data for data in copies.values() if data is not None and _is_manifest(data)]
    right = [data for data in there if manifest.mark_of(data) == mark]
    if not right and len(there) == 2 and there[0] == there[1]:
        if _is_of_another(mark, manifest.mark_of(there[0])):
            raise StoreCorruptError(
                f"expected {COMPLETE} in {place.url} to hold the SHA-256 of {MANIFEST}, found that "
                "of another one, so both copies of the manifest were changed; restore one of them "
                "from a copy, or build the store again with --overwrite"
            )
        right = there
    if not right:
        if mark is None and Work(work_folder(place, None)).begun:
            raise _unfinished(place)
        raise StoreCorruptError(
            f"expected two of {MANIFEST}, {BACKUP} and {COMPLETE} in {place.url} to agree, found "
            "that all three are missing or differ; restore one of them from a copy, or build the "
            "store again with --overwrite"
        )
    wrong = {key: _state(data) for key, data in copies.items() if data != right[0]}
    if mark != manifest.mark_of(right[0]):
        wrong[COMPLETE] = _state(mark)
    return right[0], wrong


def sound_manifest(place: Place) -> tuple[bytes, dict[str, str]]:
    """As `trusted_manifest`, but where no two agree, a copy whose list of files fits its id.

    Good enough to look at the files of a store that is damaged anyway, not to write them.
    """
    try:
        return trusted_manifest(place)
    except StoreIncompleteError:
        raise
    except StoreCorruptError:
        copies = {key: manifest.maybe(place, key) for key in (BACKUP, MANIFEST)}
        whole = [data for data in copies.values() if data is not None and _is_manifest(data)]
        if not whole or (len(whole) == 2 and whole[0] == whole[1]):
            raise
    wrong = {key: _state(data) for key, data in copies.items() if data != whole[0]}
    return whole[0], {**wrong, COMPLETE: _state(manifest.maybe(place, COMPLETE))}


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Which versions differ, in words."""
    found = [f"{key} {now[key]} instead of {before.get(key)}" for key in now]
    changed = [one for key, one in zip(now, found, strict=True) if now[key] != before.get(key)]
    if changed:
        return f"versions differ: {', '.join(changed)}"
    return "all versions are the same, so the images or the processor must be others"


def check_can_repair(place: Place, found: manifest.Manifest, roots: Mapping[str, str]) -> None:
    """Raise StoreError for a store of another format, or one that is still to be built.

    `roots` is what `trusted_manifest` found wrong.
    """
    if found.get("format_version") not in REPAIRABLE:
        raise StoreError(
            f"expected a store of format {' or '.join(map(str, REPAIRABLE))} in {place.url}, found "
            f"{found.get('format_version')}, which cannot be repaired; build it again"
        )
    check_finished(place, found, roots)


def check_finished(place: Place, found: manifest.Manifest, roots: Mapping[str, str]) -> None:
    """Raise StoreIncompleteError for a store without a mark that is still to be built."""
    scratch = found.get("config", {}).get("scratch")
    if roots.get(COMPLETE) == "missing" and Work(work_folder(place, scratch)).begun:
        raise _unfinished(place)


def _unfinished(place: Place) -> StoreIncompleteError:
    return StoreIncompleteError(
        f"expected a complete store in {place.url}, found one whose build did not finish; go on "
        "with isae-store build ... --resume"
    )


def _is_manifest(data: bytes) -> bool:
    try:
        found = json.loads(data)
        return bool(manifest.content_id(found["files"]) == found["content_id"])
    except (ValueError, TypeError, KeyError):
        return False


def _is_of_another(mark: bytes | None, right: bytes) -> bool:
    """Whether a mark is whole but another manifest's: a damaged one is no hash, or nearly `right`.

    Two hashes share one character in 16.
    """
    if mark is None or not re.fullmatch(rb"[0-9a-f]{64}\n", mark):
        return False
    return sum(a == b for a, b in zip(mark, right, strict=True)) < len(right) // 2


def _state(data: bytes | None) -> str:
    return "missing" if data is None else "contents changed"
