"""The dead letters of a station: list, look, resend, drop. Dropping cannot be undone, so it asks once more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from starlette.exceptions import HTTPException
from starlette.responses import Response

from . import showing
from .pages import Visit, link, whole_number
from .protection import Form

if TYPE_CHECKING:
    from memphis_sync import DeadLetter, DeadLetters

PAGE = 50


def _list(letters: DeadLetters, kind: str, after: int) -> list[DeadLetter]:
    return letters.list(kind, after_id=after, limit=PAGE + 1, with_data=False)


def _one(letters: DeadLetters, number: int) -> Optional[DeadLetter]:
    return next(iter(letters.list(ids=number)), None)


async def dead_letters(visit: Visit) -> Response:
    """A page of them, ascending by id."""
    name = visit.request.path_params["name"].lower()
    kind, after = visit.request.query_params.get("type", ""), visit.number("after", 0)
    found = await visit.call(_list, visit.client.dls(name), kind, after)
    shown = found[:PAGE]
    return visit.show(
        "dead_letters.html",
        name=name,
        kind=kind,
        after=after,
        letters=shown,
        next=shown[-1].id if len(found) > PAGE else None,
    )


async def dead_letter(visit: Visit) -> Response:
    """One dead letter with its payload."""
    name = visit.request.path_params["name"].lower()
    number = whole_number("id", visit.request.path_params["id"], 0)
    letter = await visit.call(_one, visit.client.dls(name), number) if number else None
    if letter is None:
        raise HTTPException(404, f"{name} has no dead letter {number} any more.")

    def view_link(view: str) -> str:
        return link(visit.base, "stations", name, "dead-letters", str(number), view=view)

    payload = showing.payload(letter.data, visit.request.query_params.get("view", ""))
    return visit.show("dead_letter.html", name=name, letter=letter, payload=payload, view_link=view_link)


async def change(visit: Visit, form: Form) -> Response:
    """Resends or drops chosen ones, or all."""
    name = visit.request.path_params["name"].lower()
    action, kind = form.one("action"), form.one("type")
    verb, _, every = action.partition("-")
    if verb not in ("resend", "drop") or every not in ("", "all"):
        raise HTTPException(400, "The form does not say what to do.")
    ids = None if every else [whole_number("id", text, 0) for text in form.all("id")]
    if ids is not None and not ids:
        visit.login.notify("No dead letter was chosen: mark some in the first column.", "failed")
        return visit.go("stations", name, "dead-letters", type=kind)
    letters = visit.client.dls(name)
    if verb == "resend":
        count = await visit.call(letters.resend, ids)
        visit.login.notify(_resent(count, ids))
    elif form.one("sure") != "yes":
        what = _what(kind, ids)
        return visit.show("drop.html", name=name, kind=kind, ids=ids or [], what=what, action=action)
    else:
        count = await visit.call(letters.drop, ids, type="" if ids else kind)
        visit.login.notify(f"{showing.number(count)} dropped.")
    return visit.go("stations", name, "dead-letters", type=kind)


def _resent(count: int, ids: Optional[list[int]]) -> str:
    text = f"{showing.number(count)} sent again."
    if ids is not None and count < len(ids):
        text += " The others are schema failures, which have no group, or are not there any more."
    return text


def _what(kind: str, ids: Optional[list[int]]) -> str:
    if ids is not None:
        return f"dead letter {ids[0]}" if len(ids) == 1 else f"{len(ids)} dead letters"
    return {"poison": "all that were not acknowledged", "schema": "all schema failures"}.get(kind, "all dead letters")
