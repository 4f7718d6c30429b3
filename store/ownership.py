"""Whose a work folder is, where it lies outside the store's own folder.

Two machines may share the folder of --scratch and give the same --out, each on a disk of its own:
their work folders would be one. So a build leaves a token in its place, in `work/plan.json` beside
where its work is, and the same token in its plan. A work folder whose plan bears another token is
somebody else's, and nothing in it is read, written or removed. The place itself belongs to one
build at a time (store/locks.py); what a killed one left is known again by the token.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from isae.errors import StoreCorruptError, StoreError
from isae.store import manifest
from isae.store.layout import UNFINISHED, WORK
from isae.store.places import Place
from isae.store.work import Work

TOKEN, ELSEWHERE = "place", "work"
REMOVERS = 4


def is_apart(place: Place, work: Work) -> bool:
    """Whether the work folder lies outside the store's own folder."""
    return place.local is None or work.folder != place.local / WORK


def is_ours(place: Place, work: Work) -> bool:
    """Whether nothing in the work folder can be another place's."""
    if not is_apart(place, work) or not work.begun:
        return True
    try:
        plan = work.plan or {}
    except StoreCorruptError:
        return False
    return bool(plan.get(TOKEN) == _note(place).get(TOKEN))


def check_ours(place: Place, work: Work) -> None:
    """Raise StoreError unless the work folder is this place's, or free."""
    if not is_ours(place, work):
        raise StoreError(
            f"expected {work.folder} to be free, or of an earlier build into {place.url}, found "
            "that it is of a place of that name elsewhere, or of one that was removed; give "
            "another --scratch, or delete that folder if nobody needs it"
        )


def check_here(place: Place, work: Work) -> None:
    """Raise StoreError if an unfinished build of this place has its work in another folder."""
    elsewhere = _note(place).get(ELSEWHERE)
    found = is_apart(place, work) and (work.begun or elsewhere == str(work.folder))
    if elsewhere is not None and not found:
        raise StoreError(
            f"expected the --scratch that the build in {place.url} began with, found nothing of it "
            f"in {work.folder}: its work is in {elsewhere}; give the same again, or begin anew "
            "with --overwrite"
        )


def own(place: Place, work: Work) -> str:
    """The place's token, which is in it from now on."""
    note = _note(place)
    token = str(note.get(TOKEN) or secrets.token_hex(16))
    if is_apart(place, work):
        place.write(UNFINISHED, manifest.as_json({TOKEN: token, ELSEWHERE: str(work.folder)}))
    return token


def forget(place: Place, work: Work) -> None:
    """Remove the work folder, and the place's note of it."""
    # Each of many large files takes the system a while; the plan goes last, with the folder.
    with ThreadPoolExecutor(REMOVERS) as pool, contextlib.suppress(OSError):
        files = [path for path in work.folder.iterdir() if path.suffix == ".safetensors"]
        list(pool.map(lambda path: path.unlink(missing_ok=True), files))
    shutil.rmtree(work.folder, ignore_errors=True)
    place.delete(UNFINISHED)


def _note(place: Place) -> dict[str, Any]:
    """What the place says of the work on it."""
    try:
        found = json.loads(manifest.maybe(place, UNFINISHED) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
