"""Where each setting of a connection comes from: ``--url``, a variable of the environment, or a default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional
from urllib.parse import urlsplit

from memphis_sync._base.hints import nearest
from memphis_sync._options.table import OPTIONS, ConnectOptions

URL, HOST = "MEMPHIS_URL", "MEMPHIS_HOST"
# Read beside MEMPHIS_URL, and before what the URL says.
_SECRETS = ("MEMPHIS_PASSWORD", "MEMPHIS_PASSWORD_FILE", "MEMPHIS_TOKEN", "MEMPHIS_TOKEN_FILE")
_KNOWN = {URL, *_SECRETS, *(f"MEMPHIS_{row.env}" for row in OPTIONS if row.env)}
_ALWAYS = ("account_id", "timeout_ms")  # worth a line with their defaults, too
_OWN = ("MEMPHIS_SYNC_", "_MEMPHIS_SYNC_")  # other programs' variables


class Setting(NamedTuple):
    """
    One line of doctor.

    Attributes:
        name: Of the option.
        value: As text; a secret is "set".
        source: ``--url``, a variable, ``default``, or ``terminal``.
    """

    name: str
    value: str
    source: str


def place_of(url: Optional[str], environ: Mapping[str, str]) -> str:
    """What names the broker."""
    return "--url" if url is not None else URL if environ.get(URL) else HOST


def origins(
    options: ConnectOptions, url: Optional[str], environ: Mapping[str, str], *, was_asked: bool
) -> list[Setting]:
    """
    All settings that matter, with their sources.

    Args:
        options: What they amount to.
        url: Of ``--url``.
        environ: The environment before anything was asked for.
        was_asked: Whether the password was typed on the terminal.
    """
    place = place_of(url, environ)
    text = url if url is not None else environ.get(URL, "")
    is_url = "://" in (text or "")
    parts = urlsplit(text if is_url else "")
    query = {each.partition("=")[0] for each in parts.query.split("&")}

    def source(name: str, variable: str) -> str:
        if is_url:
            return place if name in query else "default"
        return f"MEMPHIS_{variable}" if variable and environ.get(f"MEMPHIS_{variable}") else "default"

    login, is_tls = options.credentials, options.tls is not None
    rows = [
        Setting("broker", ", ".join(map(str, options.addresses)), place),
        Setting("TLS", "yes" if is_tls else "no", _source_of_tls(place, is_url=is_url, environ=environ)),
        Setting("username", login.username, place if is_url else "MEMPHIS_USERNAME"),
        Setting(
            "password" if login.password else "token",
            "set",
            "terminal" if was_asked else _source_of_secret(place, environ),
        ),
    ]
    values = {**vars(options), "account_id": login.account_id}
    rows += [
        Setting(row.name, str(values[row.name]), source(row.name, row.env))
        for row in OPTIONS
        if row.name in values
        and (row.name in _ALWAYS or (values[row.name] != row.default and row.name not in {"tls", "name"}))
    ]
    return rows


def _source_of_tls(place: str, *, is_url: bool, environ: Mapping[str, str]) -> str:
    if is_url:
        return place
    files = [name for name in ("MEMPHIS_CA_FILE", "MEMPHIS_CERT_FILE") if environ.get(name)]
    return files[0] if files else "default"


def _source_of_secret(place: str, environ: Mapping[str, str]) -> str:
    found = [name for name in _SECRETS if environ.get(name)] if place != "--url" else []
    return found[0] if found else place


def unused(url: Optional[str], environ: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that is set and read by nobody, or by nobody here."""
    place = place_of(url, environ)
    used = {"--url": (), URL: (URL, *_SECRETS), HOST: _KNOWN}[place]
    said = []
    for name in sorted(environ):
        if not name.startswith("MEMPHIS_") or name.startswith(_OWN) or not environ[name]:
            continue
        if name not in _KNOWN:
            near = nearest(name.lower(), [each.lower() for each in _KNOWN]).upper()
            said.append(f"{name} is set, but there is no such setting" + (f"; did you mean {near}?" if near else ""))
        elif name not in used:
            said.append(f"{name} is set, but not used: {place} names the broker, and the two are not mixed")
    return said
