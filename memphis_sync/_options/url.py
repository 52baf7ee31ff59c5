"""
Broker URLs: ``memphis://user:password@host:6666,host2/?option=value``.

An own parser, because the standard one knows a single host and shows the start of a password in its errors. Rules:
a secret is only ever in one place (before the ``@``); nothing of that place is in an error text; each part is
percent-decoded exactly once, after the split.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Optional
from urllib.parse import unquote

from memphis_sync._base.hints import nearest
from memphis_sync.errors import ConfigurationError

MEMORY = "memory"  # no broker: what is produced is recorded
SCHEMES = ("memphis", "memphis+tls", "tls", MEMORY)  # the second and third are the same
HTTP_SCHEMES = ("http", "https")  # a gateway's
_FORM = "memphis://user:password@host:port/?option=value"
_SECRET_IN_QUERY = frozenset({"password", "connection_token", "token", "username", "user"})


@dataclass(frozen=True)
class ParsedUrl:
    """
    The parts of a URL, decoded.

    Attributes:
        tls: Whether the scheme asks for TLS.
        hosts: Host and port of each broker; None where the URL names no port.
        username: None when absent.
        secret: Password, or token with ``?auth=token``; None when absent. Not in the repr.
        is_token: Whether `secret` is a connection token.
        options: The query as text, without ``auth``.
        is_memory: Whether there is no broker; then there are no hosts and no secret either.
    """

    tls: bool
    hosts: tuple[tuple[str, Optional[int]], ...]
    username: Optional[str]
    secret: Optional[str] = field(repr=False)
    is_token: bool
    options: dict[str, str]
    is_memory: bool = False


def looks_like_url(host: str) -> bool:
    """Whether *host* is a URL; a bare name behind the ``http://`` that the official SDKs cut off is none."""
    scheme, sep, rest = host.partition("://")
    if not sep or scheme.lower() not in HTTP_SCHEMES:
        return bool(sep)
    name = rest.rstrip("/")
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1].replace(":", "")
    return any(char in name for char in ":@/?#")


def is_loopback(host: str) -> bool:
    """
    Whether only this machine can be meant: an address of the loopback, or the name localhost.

    Nothing is resolved: what a name leads to is its owner's choice, and may change.
    """
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if name.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (inner or address).is_loopback


def parse_url(url: str, known_options: frozenset[str]) -> ParsedUrl:
    """
    Takes a broker URL apart.

    Args:
        url: See the top of the module.
        known_options: Names allowed in the query, besides ``auth``.

    Raises:
        ConfigurationError: The URL cannot be understood; the text names the part, never what stands in it.
    """
    _check_characters(url)
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in SCHEMES:
        shown = scheme if scheme.isascii() and scheme.replace("+", "").isalnum() and len(scheme) <= 20 else "unknown"
        gateway = "; a gateway's URL is for memphis_sync.http.connect()" if scheme.lower() in HTTP_SCHEMES else ""
        raise ConfigurationError(
            f"the URL's scheme {shown!r} is not one of {', '.join(SCHEMES)}; the form is {_FORM}{gateway}"
        )
    # RFC 3986: the authority ends at the first of / ? #. Whatever is behind it and holds an @ was cut out of an
    # unescaped password.
    end = min((i for i in (rest.find(c) for c in "/?#") if i >= 0), default=len(rest))
    authority, tail = rest[:end], rest[end:]
    if "#" in tail or "@" in tail or authority.count("@") > 1:
        raise ConfigurationError(
            "the URL cannot be split: percent-encode the characters # / ? [ @ : in the user name and the password "
            "('#' is %23, '/' is %2F, '?' is %3F, '[' is %5B, '@' is %40, ':' is %3A)"
        )
    path, _, query = tail.partition("?")
    if path not in ("", "/"):
        raise ConfigurationError(
            f"the URL has a path after its host, which means nothing to a broker; the form is {_FORM}"
        )
    if scheme.lower() == MEMORY:
        if authority:
            raise ConfigurationError(
                "the URL names a host or a user, and memory:// has none; write memory:// or memory://?name=web"
            )
        found = _parse_query(query, known_options, is_shown=True)
        if "auth" in found:
            raise ConfigurationError("auth is in the URL, and memory:// has no login; leave it out")
        return ParsedUrl(False, (), None, None, is_token=False, options=found, is_memory=True)
    userinfo, at, hosts = authority.rpartition("@")
    places = tuple(_parse_host(part) for part in hosts.split(","))
    # Without an '@' the query may be what a '?' cut off a password, so nothing of it is shown.
    options = _parse_query(query, known_options, is_shown=bool(at))
    auth = options.pop("auth", "password")
    if auth not in ("password", "token"):
        raise ConfigurationError(f"auth in the URL is {auth!r}; it must be 'password' or 'token'")
    username, secret = _parse_userinfo(userinfo) if at else (None, None)
    if auth == "token" and secret is None:
        raise ConfigurationError("auth in the URL is 'token', but there is no token in the place of the password")
    return ParsedUrl(
        tls=scheme.lower() != SCHEMES[0],
        hosts=places,
        username=username,
        secret=secret,
        is_token=auth == "token",
        options=options,
    )


def _check_characters(url: str) -> None:
    for char in url:
        if ord(char) <= 32 or ord(char) == 127:
            raise ConfigurationError(f"the URL holds the character {char!r}; percent-encode it")


def _parse_userinfo(userinfo: str) -> tuple[Optional[str], Optional[str]]:
    if "[" in userinfo or "]" in userinfo:
        raise ConfigurationError("the URL's user name or password holds '[' or ']'; percent-encode them as %5B and %5D")
    user, colon, secret = userinfo.partition(":")
    if ":" in secret:
        raise ConfigurationError("the URL has more than one ':' before its '@'; percent-encode the others as %3A")
    return _decode(user, "user name") or None, _decode(secret, "password") if colon else None


def _parse_host(part: str) -> tuple[str, Optional[int]]:
    if part.startswith("["):
        host, bracket, after = part[1:].partition("]")
        if not bracket or (after and not after.startswith(":")) or ":" not in host:
            raise ConfigurationError("the URL's host: an IPv6 address must be written as [::1] or [::1]:6666")
        host = host.replace("%25", "%", 1)  # before an interface, as RFC 6874 has it
        port = after[1:]
        has_port = bool(after)
    else:
        host, colon, port = part.partition(":")
        has_port = bool(colon)
        if ":" in port:
            raise ConfigurationError(
                "the URL's host holds more than one ':'; write an IPv6 address in brackets, and if that was a user "
                "name and password, end them with '@'"
            )
        host = _decode(host, "host")
    if not host:
        raise ConfigurationError(f"the URL has an empty host; the form is {_FORM}")
    if not has_port:
        return host, None
    # The text is not shown: behind a forgotten '@' this is the password.
    if not (port.isascii() and port.isdigit()) or not 1 <= int(port[:6]) <= 65535:
        raise ConfigurationError("the URL's port is not a number from 1 to 65535")
    return host, int(port)


def _parse_query(query: str, known: frozenset[str], *, is_shown: bool) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in query.split("&") if query else ():
        raw_name, equals, raw_value = part.partition("=")
        name = _decode(raw_name, "query")
        if name in _SECRET_IN_QUERY:
            raise ConfigurationError(
                f"{name} is in the URL's query; write it before the '@' (with ?auth=token for a connection token)"
            )
        if name != "auth" and name not in known:
            near = nearest(name, known | {"auth"})
            hint = f"; did you mean {near!r}?" if near else f"; the known ones are {', '.join(sorted(known))}"
            shown = f" {name!r}" if is_shown else ""
            raise ConfigurationError(f"unknown option{shown} in the URL{hint}")
        if not equals:
            raise ConfigurationError(f"the URL's option {name!r} has no value; write {name}=...")
        if name in options:
            raise ConfigurationError(f"the URL's option {name!r} is given twice")
        options[name] = _decode(raw_value, f"option {name!r}")
    return options


def _decode(text: str, part: str) -> str:
    """Percent-decodes once; a ``+`` stays a plus, as RFC 3986 has it outside of HTML forms."""
    index = text.find("%")
    while index >= 0:
        if len(text) < index + 3 or any(c not in "0123456789abcdefABCDEF" for c in text[index + 1 : index + 3]):
            raise ConfigurationError(
                f"the URL's {part} holds a '%' without two hexadecimal digits; write '%' itself as %25"
            )
        index = text.find("%", index + 3)
    decoded = unquote(text, errors="replace")
    # The decode error of the standard library carries the bytes, so it is not made in the first place.
    if "\ufffd" in decoded and "\ufffd" not in text and "%EF%BF%BD" not in text.upper():
        raise ConfigurationError(f"the URL's {part} is not UTF-8 after percent-decoding")
    return decoded
