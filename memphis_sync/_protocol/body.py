"""
What goes over the wire as JSON: a class with its subject, its reply and its fields; all else follows from them.

``encode()`` is what a sender sends, ``decode()`` how a receiver reads. Senders differ in version: a field that an older
one lacks is read as "not given". Reading follows Go's JSON rules (see go_json.py); an error names the structure of the
oldest version that has the field, as brokers do.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Generic, NamedTuple, Optional, TypeVar, Union, get_args

from memphis_sync._protocol import go_json
from memphis_sync._protocol.go_json import GoJsonError, GoType
from memphis_sync.errors import RemoteProtocolError

if TYPE_CHECKING:
    from typing_extensions import Self

NOT_NOW = "timeout"  # how error texts begin that are no verdict: official clients ask again
_SHOWN_BYTES = 64  # of an unreadable reply, in the error text


class Codec(NamedTuple):
    """
    A field that is none of Go's plain types.

    Attributes:
        read: Makes the value of what JSON has, None when it is missing; raises ValueError, TypeError or a like error.
        write: Makes what JSON has of the value.
    """

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]


BASE64 = Codec(
    lambda text: None if text is None else base64.b64decode(text, validate=True),
    lambda data: None if data is None else base64.b64encode(data).decode(),
)


def key(
    kind: Union[GoType, Codec],
    default: Any = None,
    *,
    key: str = "",
    inside: str = "",
    since: int = 0,
    omit_empty: bool = False,
) -> Any:
    """
    A field of a body.

    Args:
        kind: Its type in Go, or how it is read and written.
        default: What a client sends when it does not say; the type's zero value when None. A class makes a new one.
        key: Its JSON key, if it is named otherwise.
        inside: The key of the object that it is nested in.
        since: The version of the request that had it first; it stands at the end of STRUCT.
        omit_empty: Whether an empty value is left out.
    """
    meta = {"kind": kind, "key": key, "inside": inside, "since": since, "omit_empty": omit_empty}
    if isinstance(default, type):
        return field(default_factory=default, metadata=meta)
    if default is None and not isinstance(kind, Codec):
        default = go_json.ZERO[kind]
    return field(default=default, metadata=meta)


@functools.cache
def _fields_of(body: type[Body]) -> list[tuple[str, str, str, Any, str]]:
    """Of each field attribute, key, where it is nested, kind and structure, worked out once."""
    found = []
    for item in fields(body):
        meta = item.metadata
        struct = f"{body.STRUCT[:-1]}{meta['since']}" if meta["since"] else body.STRUCT
        found.append((item.name, meta["key"] or item.name, meta["inside"], meta["kind"], struct))
    return found


@dataclass(frozen=True)
class Body:
    """A JSON object, both directions. What is published on SUBJECT without a reply is one."""

    SUBJECT: ClassVar[str] = ""
    STRUCT: ClassVar[str] = ""

    def to_json(self) -> dict[str, Any]:
        """The object, keys in the order of the official clients."""
        found: dict[str, Any] = {}
        for item in fields(self):
            meta, value = item.metadata, getattr(self, item.name)
            if value or not meta["omit_empty"]:
                target = found.setdefault(meta["inside"], {}) if meta["inside"] else found
                kind = meta["kind"]
                target[meta["key"] or item.name] = kind.write(value) if isinstance(kind, Codec) else value
        return found

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> Self:
        """
        Reads the object's members, whose keys are in lower case.

        Raises:
            GoJsonError: One has the wrong type.
        """
        values: dict[str, Any] = {}
        body: Any = cls  # mypy finds no hash on a class of these
        for attribute, name, inside, kind, struct in _fields_of(body):
            source = members
            if inside:
                source = go_json.take_object(members, inside, struct, f"server.{inside}")
                struct = f"{struct}.{inside}"  # noqa: PLW2901
            if isinstance(kind, Codec):
                try:
                    values[attribute] = kind.read(source.get(name.lower()))
                except (AttributeError, TypeError, ValueError) as exc:
                    raise GoJsonError(f"{struct}.{name}: {exc}") from exc
            else:
                values[attribute] = go_json.take(source, name, kind, struct)
        return cls(**values)

    def encode(self) -> bytes:
        """The body: one JSON object in UTF-8."""
        return dump(self.to_json())

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """
        Reads a body.

        Raises:
            GoJsonError: It is no JSON object, or a field has the wrong type.
        """
        return cls.from_json(go_json.parse_object(body, cls.STRUCT))


class Reply(Body):
    """
    What a request is answered with: JSON that has every key, also on error.

    Attributes:
        error: The broker's text; empty on success.
        NOTHING: The error that an empty body stands for; "" where it is a success that tells nothing.
    """

    STRUCT = "reply"
    NOTHING: ClassVar[str] = ""
    error: str

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """
        Reads a reply's body; one that is no JSON object is an error text.

        Raises:
            RemoteProtocolError: The object's members have other types than they must.
        """
        members: Optional[dict[str, Any]] = None
        if body.lstrip().startswith(b"{"):
            with contextlib.suppress(GoJsonError):  # then it is a text
                members = go_json.parse_object(body, cls.STRUCT)
        if members is None:
            return cls.from_text(body)
        try:
            return cls.from_json(members)
        except GoJsonError as exc:
            raise unreadable(body, str(exc)) from exc

    @classmethod
    def from_text(cls, body: bytes) -> Self:
        """Reads a body that is no JSON object."""
        return cls.from_json({"error": body.decode("utf-8", "replace").strip() or cls.NOTHING})


@dataclass(frozen=True)
class PlainReply(Reply):
    """Empty on success, else the error text; some brokers answer with a JSON object that has an ``error``."""

    error: str = key("string")

    def encode(self) -> bytes:
        """The reply's body."""
        return self.error.encode("utf-8", "replace")


@dataclass(frozen=True)
class StoredReply(Reply):
    """JetStream's answer to what the broker's queue takes; without a sequence it is not stored, now."""

    error: str = key("string")

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> Self:
        """Reads it."""
        error = members.get("error") or ("" if isinstance(members.get("seq"), int) else "its answer has no sequence")
        text = error.get("description") if isinstance(error, dict) else error
        return cls(f"{NOT_NOW}: {text}" if text else "")

    @classmethod
    def from_text(cls, body: bytes) -> Self:
        """It is not JetStream that has answered."""
        return cls(f"{NOT_NOW}: it answered {body[:_SHOWN_BYTES]!r}")


class JsonReply(Reply):
    """The reply to a request of our own broker's: JSON and nothing else, with the error alone when there is one."""

    def to_json(self) -> dict[str, Any]:
        """The reply."""
        return {"error": self.error} if self.error else super().to_json()

    @classmethod
    def from_text(cls, body: bytes) -> Self:
        """A reply that is no JSON object is none."""
        raise unreadable(body, "it is not a JSON object")


R = TypeVar("R", bound=Reply)


class Request(Body, Generic[R]):
    """
    A body that is answered: ``class StationDestroy(Request[PlainReply])``.

    Attributes:
        REPLY: The class of its reply, from the base; the error reply is ``REPLY(error=text)``.
        INSTEAD: Of a request that our own broker serves only: what a Memphis broker offers in its place.
    """

    REPLY: ClassVar[Any]
    INSTEAD: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__orig_bases__" in cls.__dict__:  # else the base is a request itself
            (cls.REPLY,) = get_args(cls.__dict__["__orig_bases__"][-1])

    @classmethod
    def queue_group(cls) -> str:
        """The queue group that the broker listens in: several copies of it share the requests."""
        return f"{cls.SUBJECT.lstrip('$')}_listeners_group"


def dump(value: Mapping[str, Any]) -> bytes:
    """A JSON object as it is sent."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def unreadable(body: bytes, why: str) -> RemoteProtocolError:
    """The error for a reply that is none."""
    return RemoteProtocolError(f"the broker's reply cannot be read: {why}: {body[:_SHOWN_BYTES]!r}")
