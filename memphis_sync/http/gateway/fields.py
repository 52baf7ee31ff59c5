"""The fields of a request whose body is a small form: JSON, a form of a page, multipart, or XML."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Optional
from urllib.parse import parse_qsl
from xml.parsers import expat

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from .bodies import content_type, read
from .json_array import beside
from .settings import GatewaySettings

# Anybody may send a login, and reading a form holds up the event loop: with 4 MiB, for seconds.
MOST_BYTES = 64 * 1024
MOST_FIELDS = 64
MOST_DEPTH = 4  # of XML


class FieldsError(ValueError):
    """The body is not such a form; the text says why."""


class Fields:
    """
    Fields by name, from a body of any of the kinds.

    Args:
        found: Their values: those of JSON have its types, all others are text.
        is_typed: Whether they come from JSON, where a number must be one.
    """

    def __init__(self, found: dict[str, Any], *, is_typed: bool) -> None:
        self._found, self._is_typed = found, is_typed

    def text(self, name: str) -> str:
        """A text; "" when it is absent or null."""
        value = self._found.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise FieldsError(f"{name} must be a string")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise FieldsError(f"{name} is not valid Unicode") from None
        return value

    def texts(self, name: str) -> list[str]:
        """Some texts: a list of them in JSON, or one; none when it is absent or null."""
        value = self._found.get(name)
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return list(value)
        if isinstance(value, list):
            raise FieldsError(f"{name} must be a list of strings")
        return [self.text(name)] if value is not None else []

    def number(self, name: str) -> Optional[int]:
        """A whole number; None when it is absent or null."""
        value = self._found.get(name)
        if value is None or (value == "" and not self._is_typed):
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, str) and not self._is_typed:
            digits = value.removeprefix("-")
            if digits.isascii() and digits.isdecimal() and len(digits) <= 18:
                return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise FieldsError(f"{name} must be a whole number")
        return value


async def read_fields(request: Request, settings: GatewaySettings, most_json: int = MOST_BYTES) -> Fields:
    """
    Reads a body as fields.

    Args:
        request: The request.
        settings: The gateway's.
        most_json: Largest body of JSON, in bytes; of the other kinds it is MOST_BYTES.

    Raises:
        FieldsError: Its content type is not one of the four, or it is not what that says.
        Problem: As read().
    """
    kind = content_type(request)
    is_json = kind == "application/json" or kind.endswith("+json")
    body = await read(request, settings, most_json if is_json else MOST_BYTES)
    if is_json:
        return Fields(await beside(len(body), _from_json, body), is_typed=True)
    if kind == "application/x-www-form-urlencoded":
        return Fields(_from_form(body), is_typed=False)
    if kind == "multipart/form-data":
        return Fields(await _from_multipart(request, body), is_typed=False)
    if kind in ("application/xml", "text/xml"):
        return Fields(_from_xml(body), is_typed=False)
    raise FieldsError("the content type must be JSON, a form, multipart or XML")


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise FieldsError("it is not valid JSON") from exc
    if not isinstance(found, dict):
        raise FieldsError("it must be a JSON object")
    return found


def _from_form(body: bytes) -> dict[str, Any]:
    if body.lstrip()[:1] == b"{":  # no field is called so; curl -d says that whatever it sends is a form
        raise FieldsError("it looks like JSON, and its content type says a form; send Content-Type: application/json")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError as exc:
        raise FieldsError("it is not a valid form") from exc
    return dict(reversed(pairs))  # the first value of a name counts


async def _from_multipart(request: Request, body: bytes) -> dict[str, Any]:
    if not body.rstrip().endswith(b"--"):
        raise FieldsError("it is not valid multipart: its end is missing")

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, whole(), max_files=0, max_fields=MOST_FIELDS).parse()
    except (MultiPartException, KeyError, ValueError) as exc:
        raise FieldsError("it is not valid multipart") from exc
    found: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            raise FieldsError("it must not contain files")
        found.setdefault(name, value)
    return found


def _from_xml(body: bytes) -> dict[str, Any]:
    """``<request><username>root</username></request>``: the elements below the first one."""
    path: list[str] = []
    texts: dict[str, list[str]] = {}

    def refuse(*_: object) -> None:
        raise FieldsError("it must not have a document type")

    def start(name: str, _: object) -> None:
        path.append(_plain(name))
        if len(path) > MOST_DEPTH or len(texts) > MOST_FIELDS:
            raise FieldsError("it is too deep or has too many elements")

    def text(data: str) -> None:
        if len(path) == 2:
            texts.setdefault(path[1], []).append(data)

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: path.pop()
    parser.CharacterDataHandler = text
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, LookupError, ValueError) as exc:
        raise exc if isinstance(exc, FieldsError) else FieldsError("it is not valid XML") from exc
    return {name: "".join(parts).strip() for name, parts in texts.items()}


def _plain(name: str) -> str:
    """``ConnectionToken``, as Memphis' gateway calls it in XML, is ``connection_token``."""
    if "_" in name or name.islower():
        return name
    return "".join(f"_{char.lower()}" if char.isupper() and index else char.lower() for index, char in enumerate(name))
