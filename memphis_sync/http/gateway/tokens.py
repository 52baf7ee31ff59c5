"""
The tokens: signed, and with nothing secret inside.

A token names a session of this process by an opaque id; user and password stay here. HS256 and nothing else is
accepted, and never with an empty key. The first key signs and all verify, so a new key is put in front, and the old one
is taken away once its last token has expired; a file is read again when it has changed.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from typing import Any, Callable, Literal, NamedTuple, Optional

import jwt

from memphis_sync.errors import ConfigurationError

from .settings import GatewaySettings, keys_of

log = logging.getLogger("memphis_sync.gateway")

Kind = Literal["access", "refresh"]
ALGORITHM = "HS256"
SIGNATURE_BYTES = 16
_LOOK_S = 1.0  # how often the file of keys is looked at
_KEPT = 10_000  # tokens whose signature is not computed again


def _signature(key: bytes, purpose: bytes, data: bytes) -> bytes:
    own_key = hmac.digest(key, b"memphis-sync " + purpose, "sha256")  # no JWT is signed with it
    return hmac.digest(own_key, data, "sha256")[:SIGNATURE_BYTES]


class Claims(NamedTuple):
    """
    What a valid token says.

    Attributes:
        session: The opaque id of the session.
        kind: What it may be used for.
        expires: When it ends, in seconds since 1970.
        turn: Of a refresh token: how many there were before it in its session.
    """

    session: str
    kind: Kind
    expires: float
    turn: int = 0


class Tokens:
    """Makes and checks tokens; belongs to the event loop."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._file = settings.jwt_keys_file
        self._stamp: Optional[tuple[int, int, int]] = None
        self._looked_at = 0.0
        self._keys: dict[str, bytes] = {}
        self._kept: dict[str, Claims] = {}
        self._set(settings.jwt_keys or (secrets.token_hex(32),))
        self._read_again()

    def issue(self, kind: Kind, session: str, life_s: float, *, turn: int = 0, **shown: Any) -> str:
        """
        A new token.

        Args:
            kind: What it may be used for.
            session: The session's id.
            life_s: How long it is valid, in seconds.
            turn: Of a refresh token: its number in the session.
            shown: More claims, which anybody can read.
        """
        self._read_again()
        now = time.time()
        name, key = next(iter(self._keys.items()))
        claims = {**shown, "typ": kind, "jti": session, "iat": int(now), "exp": int(now + life_s), "turn": turn}
        return jwt.encode(claims, key, ALGORITHM, headers={"kid": name})

    def verify(self, token: str, kind: Kind) -> Optional[Claims]:
        """What a token says; None unless it is ours, of this kind, and has not expired."""
        self._read_again()
        claims = self._kept.get(token)
        if claims is None:
            claims = self._decode(token)
            if claims is None:
                return None
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[token] = claims
        return claims if claims.kind == kind and claims.expires > time.time() else None

    def signer(self, purpose: bytes) -> Callable[[bytes], bytes]:
        """Signs data that is not a JWT, with 16 bytes; for another purpose they are others. For any thread."""
        self._read_again()
        key = next(iter(self._keys.values()))
        return lambda data: _signature(key, purpose, data)

    def signed(self, purpose: bytes, data: bytes) -> Optional[bytes]:
        """What is behind its signature; None when that does not fit."""
        self._read_again()
        mark, rest = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
        fits = any(hmac.compare_digest(mark, _signature(key, purpose, rest)) for key in self._keys.values())
        return rest if fits else None

    def _decode(self, token: str) -> Optional[Claims]:
        try:
            key = self._keys.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                return None
            found = jwt.decode(token, key, [ALGORITHM], options={"require": ["exp", "jti", "typ"]})
            return Claims(found["jti"], found["typ"], float(found["exp"]), int(found.get("turn", 0)))
        except (jwt.InvalidTokenError, TypeError, ValueError, RecursionError):
            return None

    def _set(self, keys: tuple[str, ...]) -> None:
        self._keys = {hashlib.sha256(key.encode()).hexdigest()[:12]: key.encode() for key in keys}
        self._kept.clear()

    def _read_again(self) -> None:
        """Takes the file's keys when it has changed; what is wrong with it is logged, and the keys stay."""
        now = time.monotonic()
        if self._file is None or (self._stamp is not None and now - self._looked_at < _LOOK_S):
            return
        self._looked_at, earlier = now, self._stamp
        try:
            stat = self._file.stat()
            self._stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if self._stamp != earlier:
                self._set(keys_of(self._file))
        except (OSError, ConfigurationError) as exc:
            if earlier is None:
                raise
            log.error("the keys stay as they are: %s", exc)  # noqa: TRY400  the text says it all
