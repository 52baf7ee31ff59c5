"""The console's logins: whose they are, what their cookies are worth, and when they end."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from fix_console import ATTACK, SHOWN, Page, Visitor

if TYPE_CHECKING:
    from fix_gateway import Gateway
    from fix_tls import Authority

    from memphis_sync.broker import BrokerProcess


def test_the_first_page_leads_to_the_login(gateway: Gateway, visitor: Visitor) -> None:
    first = gateway.request("GET", "/")
    assert (first.status, first.headers["location"]) == (303, "/console/")
    page = visitor.follow(visitor.answer("/"))
    assert page.title == "Log in · Memphis console"
    assert page.all("input", name="password", type="password")


def test_a_login_is_for_every_page_and_has_the_user_on_it(root: Visitor) -> None:
    page = root.get("/")
    assert (page.status, page.title) == (200, "Overview · Memphis console")
    assert "Logged in as root" in page.text
    again = root.answer("/login")
    assert (again.status, again.headers["location"]) == (303, "/console/")


def test_cookies_are_for_this_site_and_no_script(visitor: Visitor) -> None:
    visitor.get("/login")
    (form,) = visitor.set_cookies
    assert visitor.log_in().status == 303
    answer = visitor.post("/logout", {})
    (ended,) = visitor.set_cookies
    assert answer.headers["location"] == "/console/login"
    for cookie in (form, ended):
        assert "; HttpOnly" in cookie
        assert "; samesite=strict" in cookie.lower()
        assert "; path=/" in cookie.lower()
        assert "domain" not in cookie.lower()


def test_the_login_cookie_is_new_each_time_and_says_nothing(gateway: Gateway) -> None:
    found = set()
    for _ in range(3):
        visitor = Visitor(gateway)
        visitor.cookies["memphis-console"] = "chosen-by-somebody-else"
        assert visitor.log_in().status == 303
        found.add(visitor.cookies["memphis-console"])
    assert len(found) == 3
    for cookie in found:
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", cookie)


def test_a_second_login_ends_the_first(root: Visitor) -> None:
    first = dict(root.cookies)
    root.csrf = Page(Visitor(root.gateway).answer("/login")).csrf
    root.cookies["memphis-console-form"] = root.csrf
    assert root.post("/login", {"username": "root", "password": "memphis"}).status == 303
    assert root.get("/").status == 200
    root.cookies = first
    assert root.answer("/").status == 303


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"username": "root", "password": "wrong"}, 401, "The broker does not accept this user and password."),
        ({"username": "nobody", "password": "memphis"}, 401, "The broker does not accept this user and password."),
        ({"username": "", "password": "memphis"}, 400, "Both are needed"),
        ({"username": "root", "password": ""}, 400, "Both are needed"),
        ({"username": "r" * 1000, "password": "x"}, 400, "The name has 1000 characters"),
        ({"username": "root", "password": "x" * 60_000}, 400, "password takes 60000 bytes"),
        ({"username": "root", "password": "memphis", "account": "x"}, 400, "The account is a number"),
        ({"username": "root", "password": "memphis", "account": "0"}, 400, "The account is a number"),
        ({"username": "root", "password": "memphis", "account": "9" * 30}, 400, "The account is a number"),
    ],
)
def test_a_login_that_is_refused_says_why(fresh_login: Visitor, fields: dict[str, str], status: int, text: str) -> None:
    answer = fresh_login.post("/login", fields)
    page = Page(answer)
    assert (answer.status, text in page.note("failed")) == (status, True)
    assert "memphis-console" not in fresh_login.cookies
    assert not fields["password"] or fields["password"] not in page.text
    assert fresh_login.answer("/").status == 303


@pytest.fixture
def fresh_login(visitor: Visitor) -> Visitor:
    """Somebody at the form."""
    visitor.csrf = visitor.get("/login").csrf
    return visitor


def test_what_was_typed_is_shown_again_as_text(fresh_login: Visitor) -> None:
    page = Page(fresh_login.post("/login", {"username": ATTACK, "password": ATTACK, "account": ATTACK[:20]}))
    assert page.status == 400
    assert page.all("input", name="username")[0]["value"] == SHOWN
    assert not page.all("x-attack")
    assert all(each["value"] == "" for each in page.all("input", name="password") if "value" in each)


def test_a_login_form_of_another_page_is_refused(fresh_login: Visitor, gateway: Gateway) -> None:
    """Nobody logs a browser in as somebody of their choice."""
    login = {"username": "root", "password": "memphis"}
    other = Page(Visitor(gateway).answer("/login")).csrf
    for token in (other, "", "x"):
        assert fresh_login.post("/login", {**login, "csrf": token}).status == 403
    fresh_login.cookies.clear()
    assert fresh_login.post("/login", login).status == 403
    assert fresh_login.post("/login", {**login, "csrf": ""}).status == 403
    assert "memphis-console" not in fresh_login.cookies


def test_after_logging_out_the_cookie_is_worth_nothing(root: Visitor) -> None:
    replayed = dict(root.cookies)
    assert root.post("/logout", {}).status == 303
    assert root.cookies == {}
    for path in ("/", "/stations", "/live", "/connections"):
        root.cookies = dict(replayed)
        answer = root.answer(path)
        assert (answer.status, answer.headers["location"]) == (303, "/console/login")
    root.cookies = dict(replayed)
    assert root.post("/stations/x/schema", {"action": "detach"}).headers["location"] == "/console/login"


@pytest.mark.parametrize("cookie", ["", "x", "A" * 43, "é", '"', "a" * 3000, "../../x"])
def test_a_made_up_cookie_is_nobody(visitor: Visitor, cookie: str) -> None:
    answer = visitor.send("GET", "/console/", headers={"Cookie": f"memphis-console={cookie}".encode("latin-1")})
    assert (answer.status, answer.headers["location"]) == (303, "/console/login")


def test_logging_out_leaves_other_logins_of_the_user(root: Visitor, gateway: Gateway) -> None:
    other = Visitor(gateway)
    assert other.log_in().status == 303
    root.post("/logout", {})
    assert other.get("/").status == 200


def test_whoever_guesses_has_to_wait(broker: BrokerProcess, gateway_inside: Callable[..., Gateway]) -> None:
    gateway = gateway_inside(broker.url)
    visitor = Visitor(gateway)
    assert [visitor.log_in(password=f"guess-{number}").status for number in range(5)] == [401] * 5
    answer = visitor.log_in()
    assert answer.status == 429
    assert 0 < int(answer.headers["retry-after"]) <= 300
    assert "Too many logins have failed." in Page(answer).note("failed")
    assert Visitor(gateway).log_in("ROOT").status == 429  # the same user to the broker, from the same address
    answer = gateway.request("POST", "/auth/authenticate", {"username": "root", "password": "memphis"})
    assert answer.status == 429  # every door counts for all
    assert 0 < int(answer.headers["retry-after"]) <= 300
    assert answer.json["message"].startswith("Too many logins have failed")
    assert Visitor(gateway).log_in("somebody", "x").status == 401


def test_a_broker_that_is_away_is_not_a_wrong_password(
    fresh_broker: Callable[..., BrokerProcess], gateway_inside: Callable[..., Gateway]
) -> None:
    broker = fresh_broker()
    gateway = gateway_inside(broker.url)
    broker.stop()
    visitor = Visitor(gateway)
    for _ in range(7):
        answer = visitor.log_in()
        assert (answer.status, "The broker cannot be asked" in Page(answer).text) == (503, True)


def test_under_tls_cookies_are_secure_and_of_this_host_alone(
    broker: BrokerProcess, gateway_inside: Callable[..., Gateway], authority: Authority
) -> None:
    own = authority.issue("127.0.0.1")
    gateway = gateway_inside(broker.url, "--tls-cert", own.cert, "--tls-key", own.key)
    gateway.context = ssl.create_default_context(cafile=authority.file)
    visitor = Visitor(gateway)
    assert visitor.log_in().status == 303
    assert list(visitor.cookies) == ["__Host-memphis-console"]
    assert visitor.get("/").status == 200
    visitor.post("/logout", {})
    assert all("; secure" in cookie.lower() for cookie in visitor.set_cookies)
    visitor.cookies["memphis-console"] = "x"
    assert visitor.answer("/").status == 303


def test_behind_a_proxy_that_speaks_tls_cookies_are_secure(visitor: Visitor) -> None:
    answer = visitor.send("GET", "/console/login", headers={"X-Forwarded-Proto": "https"})
    assert answer.status == 200
    assert all(cookie.startswith("__Host-") and "; secure" in cookie.lower() for cookie in visitor.set_cookies)


def test_an_api_token_is_no_login_of_the_console_and_a_login_is_no_token(gateway: Gateway, root: Visitor) -> None:
    answer = gateway.request("GET", "/console/", token=gateway.token())
    assert answer.headers["location"] == "/console/login"
    cookie: Any = f"memphis-console={root.cookies['memphis-console']}"
    sent = {"Cookie": cookie, "Content-Type": "text/plain"}
    answer = gateway.request("POST", "/stations/x/produce/single", b"x", sent)
    assert answer.status == 401
