"""Where a password comes from: the environment, a file, or the terminal; never from an option."""

from __future__ import annotations

import getpass
import os
import sys
from typing import Optional
from urllib.parse import urlsplit

from ._streams import tell

_OF_ENVIRONMENT = ("MEMPHIS_PASSWORD", "MEMPHIS_PASSWORD_FILE", "MEMPHIS_TOKEN", "MEMPHIS_TOKEN_FILE")


def warn_of_password(url: Optional[str], *, is_quiet: bool) -> None:
    """Says so when --url holds a password, which the process list shows."""
    if not is_quiet and _login_of(url)[1]:
        tell("warning: every user of this machine can read the password in --url; set MEMPHIS_URL instead")


def ask_for_password(url: Optional[str]) -> str:
    """
    Asks on the terminal for the password of a user who is named without one.

    Args:
        url: Of ``--url``; None: the environment names the broker.

    Returns:
        The password for connect(); "" when there is nothing to ask, or nobody: connect() then says what is missing. One
        for the environment's broker is put into this process's environment, since connect() does not mix the two.
    """
    user, has_password = _login_of(url or os.environ.get("MEMPHIS_URL"))
    if url is None and not os.environ.get("MEMPHIS_URL") and os.environ.get("MEMPHIS_HOST"):
        user = os.environ.get("MEMPHIS_USERNAME")
    if url is None:
        has_password = has_password or any(map(os.environ.get, _OF_ENVIRONMENT))
    if not user or has_password or not _is_on_terminal():
        return ""
    try:
        # Not click's: that shows the prompt first, and then forgets, and shows, what was typed too early.
        password = getpass.getpass(f"Password of {user}: ")
    except EOFError:
        return ""
    if url is not None:
        return password
    os.environ["MEMPHIS_PASSWORD"] = password
    return ""


def _login_of(url: Optional[str]) -> tuple[Optional[str], bool]:
    """The user that a URL names, and whether it holds a password."""
    try:
        parts = urlsplit(url or "")
        return parts.username, bool(parts.password)
    except ValueError:  # not a URL: connect() raises the error
        return None, True


def _is_on_terminal() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
