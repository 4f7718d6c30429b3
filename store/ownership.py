"""Whose a work folder is, where it lies outside the store's own folder.

Two machines may share the folder of --scratch and give the same --out, each on a disk of its own:
their work folders would be one. So a build leaves a token in its place, in `work/plan.json` beside
where its work is, and the same token in its plan. A work folder whose plan bears another token is
somebody else's, and nothing in it is read, written or removed. The place itself belongs to one
build at a time (store/locks.py); what a killed one left is known again by the token. Once the plan
is there, the note states the build's name too: from then on a work folder without that plan is one
whose disk is not there, not one where nothing was done yet.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from isae.errors import StoreCorruptError, StoreError
from isae.store import manifest
from isae.store.layout import UNFINISHED, WORK
from isae.store.places import Place
from isae.store.work import BUILD, Work

TOKEN, ELSEWHERE = "place", "work"


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
    return plan.get(TOKEN) is not None and bool(plan[TOKEN] == _note(place).get(TOKEN))


def check_ours(place: Place, work: Work) -> None:
    """Raise StoreError unless the work folder is this place's, or free."""
    if not is_ours(place, work):
        raise StoreError(
            f"expected {work.folder} to be free, or of an earlier build into {place.url}, found "
            "that it is of a place of that name elsewhere, or of one that was removed; give "
            "another --scratch, or delete that folder if nobody needs it"
        )


def check_here(place: Place, work: Work) -> None:
    """Raise StoreError if the work of an unfinished build of this place is not in this folder."""
    note, apart = _note(place), is_apart(place, work)
    if ELSEWHERE not in note:
        return
    if not (apart and (work.begun or note[ELSEWHERE] == str(work.folder))):
        raise StoreError(
            f"expected the --scratch that the build in {place.url} began with, found nothing of it "
            f"in {work.folder}: its work is in {note[ELSEWHERE]}; give the same again, or begin "
            "anew with --overwrite"
        )
    found = (work.plan or {}).get(BUILD)
    if note.get(BUILD) is not None and found != note[BUILD]:
        there = "nothing" if found is None else "that of an earlier one"
        raise StoreError(
            f"expected the work of the build in {place.url} in {work.folder}, found {there} there; "
            "bring that folder back (its disk may not be mounted), or begin anew with --overwrite"
        )


def own(place: Place, work: Work, build: str | None = None) -> str:
    """The place's token, which is in it from now on, as is the name of a build that has begun."""
    token = str(_note(place).get(TOKEN) or secrets.token_hex(16))
    if is_apart(place, work):
        name = {} if build is None else {BUILD: build}
        note = {TOKEN: token, ELSEWHERE: str(work.folder), **name}
        place.write(UNFINISHED, manifest.as_json(note))
    return token


def forget(place: Place, work: Work) -> None:
    """Remove the work folder, unless it is another place's, and this place's note of it."""
    if is_ours(place, work):
        work.remove()
    if is_apart(place, work):
        place.delete(UNFINISHED)


def disown(place: Place, work: Work) -> None:
    """Remove this place's note if no build began after it was written."""
    if is_apart(place, work) and BUILD not in _note(place):
        place.delete(UNFINISHED)


def _note(place: Place) -> dict[str, Any]:
    """What the place says of the work on it."""
    try:
        found = json.loads(manifest.maybe(place, UNFINISHED) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
