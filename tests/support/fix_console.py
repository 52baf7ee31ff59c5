"""A visitor of the console: cookies, forms and pages as a browser has them, over real sockets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from http.client import HTTPConnection
from typing import Any, Callable, Optional
from urllib.parse import urlencode

import pytest
from fix_gateway import Answer, Gateway

# Ends an attribute, an element, a script and a template, and turns the line around. What is shown of it is SHOWN.
ATTACK = "\"'><x-attack onclick=alert(1)></title></script><script>x-attack()</script>{{7*7}}\u202e\x07&amp;"
SHOWN = ATTACK.replace("\u202e", "\\u202e").replace("\x07", "\\x07")
_VOID = {"br", "hr", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """
    A page as a browser reads it.

    Attributes:
        tags: Each element's name and attributes.
        text: All characters of the document, without tags.
        title: The document's.
        by_id: The characters of each element with an id.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.status = answer.status
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = self.title = self._apart = ""
        self.by_id: dict[str, str] = {}
        self._open: list[tuple[str, Optional[str]]] = []
        self.feed(answer.body.decode())
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append((tag, given))
        self._apart += " "
        if tag not in _VOID and tag not in ("polygon", "polyline"):
            self._open.append((tag, given.get("id")))

    def handle_endtag(self, tag: str) -> None:
        self._apart += " "
        if tag not in ("polygon", "polyline"):
            opened, _ = self._open.pop()
            assert opened == tag, (opened, tag)

    def handle_data(self, data: str) -> None:
        self.text += data
        self._apart += data
        if ("title", None) in self._open:
            self.title += data
        for _, name in self._open:
            if name:
                self.by_id[name] = self.by_id.get(name, "") + data

    @property
    def words(self) -> list[str]:
        """Its words; an element's edge is the edge of a word."""
        return self._apart.split()

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """The attributes of all elements of this kind that have these."""
        return [
            given
            for name, given in self.tags
            if name == tag and all(given.get(key.replace("_", "-")) == value for key, value in attributes.items())
        ]

    def note(self, kind: str) -> str:
        """The notices of this kind, one a line."""
        assert self.all("div", **{"class": f"note {kind}"}), self.text
        return self.text

    @property
    def csrf(self) -> str:
        """The token of its forms."""
        return self.all("input", name="csrf")[0]["value"]


class Visitor:
    """
    A browser without scripts.

    Args:
        gateway: Whose console it visits.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.cookies: dict[str, str] = {}
        self.csrf = ""

    def send(
        self, method: str, path: str, body: Optional[bytes] = None, headers: Optional[Mapping[str, str]] = None
    ) -> Answer:
        """One request with the cookies; keeps those that are set."""
        connection = self.gateway.connection()
        try:
            response = self._send(connection, method, path, body, headers)
        finally:
            connection.close()
        return response

    def _send(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: Optional[bytes],
        headers: Optional[Mapping[str, str]],
    ) -> Answer:
        sent = dict(headers or {})
        if self.cookies:
            sent.setdefault("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        self.set_cookies = [value for name, value in response.getheaders() if name.lower() == "set-cookie"]
        for cookie in self.set_cookies:
            name, _, rest = cookie.partition("=")
            value = rest.partition(";")[0]
            if re.search(r"max-age=0\b", cookie, re.IGNORECASE):
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return Answer(response)

    def get(self, path: str, **query: Any) -> Page:
        """A page; *path* below the console's."""
        return Page(self.answer(path, **query))

    def answer(self, path: str, **query: Any) -> Answer:
        """The same, as it comes."""
        return self.send("GET", f"/console{path}" + (f"?{urlencode(query)}" if query else ""))

    def post(self, path: str, fields: Any, headers: Optional[Mapping[str, str]] = None, **more: str) -> Answer:
        """Sends a form with the token of the pages, as a browser does."""
        body = urlencode({"csrf": self.csrf, **fields} if isinstance(fields, dict) else [("csrf", self.csrf), *fields])
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
        return self.send("POST", f"/console{path}", body.encode(), {**kind, **(headers or {}), **more})

    def follow(self, answer: Answer) -> Page:
        """The page that an answer leads to."""
        assert answer.status == 303, (answer, answer.body.decode())
        return Page(self.send("GET", answer.headers["location"]))

    def log_in(self, username: str = "root", password: str = "memphis", account: str = "1") -> Answer:
        """Fills in the form."""
        self.csrf = self.get("/login").csrf
        answer = self.post("/login", {"username": username, "password": password, "account": account})
        if answer.status == 303:
            self.csrf = self.follow(answer).csrf
        return answer


@pytest.fixture
def visitor(gateway: Gateway) -> Visitor:
    """Somebody at the console of the session's gateway who is not logged in."""
    return Visitor(gateway)


@pytest.fixture
def root(visitor: Visitor) -> Visitor:
    """The same, logged in as root."""
    assert visitor.log_in().status == 303
    return visitor


@pytest.fixture
def visit() -> Iterator[Callable[[Gateway], Visitor]]:
    """``visit(gateway)``: somebody logged in as root at another gateway."""

    def make(gateway: Gateway) -> Visitor:
        found = Visitor(gateway)
        assert found.log_in().status == 303
        return found

    return make
