"""Logins and tokens: who gets one, what is in it, and every way in which one is not accepted."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from fix_gateway import Gateway

import memphis_sync
from memphis_sync.http.gateway.sessions import Sessions
from memphis_sync.http.gateway.settings import GatewaySettings
from memphis_sync.http.gateway.tokens import Tokens

UNAUTHORIZED = (401, {"message": "Unauthorized"})
KEY, OLD_KEY = "k" * 32, "o" * 40
MULTIPART = "multipart/form-data; boundary=b"


@pytest.fixture(scope="module")
def keyed(broker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose keys are known here."""
    env = {"MEMPHIS_SYNC_GATEWAY_JWT_KEYS": f"{KEY} {OLD_KEY}"}
    started = Gateway(broker.url, tmp_path_factory.mktemp("keyed"), env=env)
    yield started
    started.program.close()


def produce(gateway: Gateway, station: str, token: str) -> tuple[int, Any]:
    answer = gateway.request(
        "POST", f"/stations/{station}/produce/single", b"x", {"Content-Type": "text/plain"}, token=token
    )
    return answer.status, answer.json


def part(name: str, value: str) -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def authenticate(gateway: Gateway, body: Any, content_type: str = "application/json") -> tuple[int, Any]:
    body = json.dumps(body) if isinstance(body, (dict, list)) else body
    answer = gateway.request("POST", "/auth/authenticate", body, {"Content-Type": content_type})
    return answer.status, answer.json


# ---- a login --------------------------------------------------------------------------------------------------------


def test_a_login_is_a_pair_of_tokens_without_the_password(keyed: Gateway) -> None:
    told = keyed.log_in(token_expiry_in_minutes=7, refresh_token_expiry_in_minutes=9)
    assert sorted(told) == ["expires_in", "jwt", "jwt_refresh_token", "refresh_token_expires_in"]
    assert (told["expires_in"], told["refresh_token_expires_in"]) == (7 * 60_000, 9 * 60_000)
    for name, minutes in (("jwt", 7), ("jwt_refresh_token", 9)):
        assert jwt.get_unverified_header(told[name])["alg"] == "HS256"
        claims = jwt.decode(told[name], KEY, ["HS256"])
        assert (claims["username"], claims["account_id"]) == ("root", 1)
        assert abs(claims["exp"] - time.time() - minutes * 60) < 60
        assert "memphis" not in json.dumps(claims)
    default = keyed.log_in(token_expiry_in_minutes=0)
    assert (default["expires_in"], default["refresh_token_expires_in"]) == (15 * 60_000, 300 * 60_000)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json; charset=utf-8", '{"username": "root$1", "password": "memphis"}'),
        ("application/x-www-form-urlencoded", "username=root&password=memphis&account_id=1"),
        (MULTIPART, part("username", "root") + part("password", "memphis") + b"--b--\r\n"),
        ("application/xml", "<a><username>root</username><password>memphis</password></a>"),
        ("text/xml", "<AuthSchema><Username>root</Username><Password>memphis</Password></AuthSchema>"),
    ],
)
def test_a_login_comes_in_any_of_four_forms(gateway: Gateway, content_type: str, body: Any) -> None:
    assert authenticate(gateway, body, content_type)[0] == 200


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", "{"),
        ("application/json", "[]"),
        ("application/json", '{"username": 1, "password": "memphis"}'),
        ("application/json", '{"username": "root", "password": "memphis", "account_id": "1"}'),
        ("application/json", '{"username": "root", "password": "memphis", "account_id": true}'),
        ("application/json", '{"username": "root", "password": "memphis", "account_id": -1}'),
        ("application/json", '{"username": "root", "password": "memphis", "token_expiry_in_minutes": 1e300}'),
        ("application/json", '{"username": "root", "password": "memphis", "token_expiry_in_minutes": 999999999}'),
        ("application/json", '{"username": "root\\ud800", "password": "memphis"}'),
        ("application/json", '{"username": "roo t", "password": "memphis"}'),
        ("application/json", b"\xff\xfe\xfd"),
        ("application/json", "[" * 50_000),
        ("application/json", '{"username": "root$x", "password": "memphis"}'),
        ("text/plain", '{"username": "root", "password": "memphis"}'),
        ("", '{"username": "root", "password": "memphis"}'),
        ("application/x-www-form-urlencoded", "username=root&password=memphis&account_id=x"),
        ("application/x-www-form-urlencoded", "a=1&" * 1000),
        (MULTIPART, part("username", "root")[:-4]),
        (MULTIPART, b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\nx\r\n--b--\r\n'),
        ("multipart/form-data", part("username", "root")),
        ("application/xml", "<a><username>root</username>"),
        (
            "application/xml",
            '<!DOCTYPE a [<!ENTITY e "root">]><a><username>&e;</username><password>memphis</password></a>',
        ),
        ("application/xml", "<a>" * 10_000),
    ],
)
def test_a_login_that_cannot_be_read_says_so(gateway: Gateway, content_type: str, body: Any) -> None:
    status, told = authenticate(gateway, body, content_type)
    assert status == 400
    assert told["message"].startswith("Some of your fields are not valid")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"a":[' + b"{}," * 22_000 + b"{}]}"),
        ("application/xml", b"<r>" + b"<a/>" * 16_384 + b"</r>"),
        ("application/x-www-form-urlencoded", b"a=" + b"%41" * 22_000),
        (MULTIPART, part("a", "x" * 65_536) + b"--b--\r\n"),
    ],
)
@pytest.mark.parametrize("path", ["/auth/authenticate", "/auth/refreshToken"])
def test_a_login_has_64_kib_at_most(gateway: Gateway, path: str, content_type: str, body: bytes) -> None:
    for headers, sent in (({}, body), ({"Content-Encoding": "gzip"}, gzip.compress(body))):
        answer = gateway.request("POST", path, sent, {"Content-Type": content_type, **headers})
        assert answer.status == 413, answer
        assert "65536 bytes" in answer.json["error"]


@pytest.mark.parametrize("body", ['{"username": "root", "password": "memphis"}', " {}"])
def test_json_that_is_sent_as_a_form_is_told_its_content_type(gateway: Gateway, body: str) -> None:
    status, told = authenticate(gateway, body, "application/x-www-form-urlencoded")
    assert status == 400
    assert told["message"].endswith("send Content-Type: application/json")


def test_who_is_not_accepted(gateway: Gateway) -> None:
    assert authenticate(gateway, {}) == (400, {"message": [{"field": "Username", "reason": "required"}]})
    assert authenticate(gateway, {"username": "root"}) == UNAUTHORIZED
    assert authenticate(gateway, {"username": "root", "password": "wrong"}) == UNAUTHORIZED
    assert authenticate(gateway, {"username": "nobody", "password": "memphis"}) == UNAUTHORIZED
    assert authenticate(gateway, {"username": "root", "connection_token": "memphis"}) == UNAUTHORIZED
    assert authenticate(gateway, {"username": "root", "password": "memphis", "account_id": 77}) == UNAUTHORIZED
    gateway.log_in()  # ... and those who tried have not harmed those who may


def test_a_connection_token_is_a_login(fresh_broker: Any, gateway_inside: Any, station_name: str) -> None:
    broker = fresh_broker(token="secret-token")
    gateway = gateway_inside(broker.url)
    assert authenticate(gateway, {"username": "root", "password": "memphis"}) == UNAUTHORIZED
    status, told = authenticate(gateway, {"username": "root", "connection_token": "secret-token"})
    assert status == 200
    assert produce(gateway, station_name, told["jwt"])[0] == 200


def test_a_login_while_the_broker_is_away_is_told_to_come_again(gateway_inside: Any) -> None:
    gateway = gateway_inside("memphis://127.0.0.1:1")
    answer = gateway.request("POST", "/auth/authenticate", {"username": "root", "password": "memphis"})
    assert (answer.status, answer.json, answer.headers["retry-after"]) == (503, {"message": "Server error"}, "1")


# ---- a token --------------------------------------------------------------------------------------------------------


def forged(**changes: Any) -> str:
    claims = {
        "typ": "access",
        "jti": "x" * 32,
        "exp": time.time() + 600,
        "username": "root",
        "account_id": 1,
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, KEY, "HS256", headers={"kid": kid_of(KEY)})


def kid_of(key: str) -> str:
    import hashlib

    return hashlib.sha256(key.encode()).hexdigest()[:12]


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def again(token: str, key: str, alg: str, **header: Any) -> str:
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims, key, alg, headers=header)


def test_a_token_that_was_not_made_here_is_not_accepted(keyed: Gateway, station_name: str) -> None:
    told = keyed.log_in()
    token = told["jwt"]
    head, body, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})
    kid = kid_of(KEY)
    bad = {
        "no token": "",
        "not one": "x",
        "two parts": f"{head}.{body}",
        "no signature": f"{head}.{body}.",
        "another signature": f"{head}.{body}.{signature[:-4]}AAAA",
        "alg none": again(token, "", "none", kid=kid),
        "alg NONE": f"{encoded(json.dumps({'alg': 'NONE', 'kid': kid}).encode())}.{body}.",
        "no alg": f"{encoded(json.dumps({'kid': kid}).encode())}.{body}.{signature}",
        "HS512": again(token, KEY * 2, "HS512", kid=kid),
        "HS384 with the key": again(token, KEY + "x" * 16, "HS384", kid=kid),
        "another key": again(token, "z" * 32, "HS256", kid=kid),
        "an unknown kid": again(token, KEY, "HS256", kid="../../../dev/null"),
        "no kid": again(token, KEY, "HS256"),
        "a kid that is a list": f"{encoded(json.dumps({'alg': 'HS256', 'kid': [kid]}).encode())}.{body}.{signature}",
        "a header without end": f"{encoded(b'[' * 5000)}.{body}.{signature}",
        "claims that are a list": jwt.api_jws.encode(b"[]", KEY, "HS256", headers={"kid": kid}),
        "the refresh token": told["jwt_refresh_token"],
        "expired": forged(jti=claims["jti"], exp=time.time() - 1),
        "no exp": forged(jti=claims["jti"], exp=None),
        "exp in words": forged(jti=claims["jti"], exp="never"),
        "no session": forged(jti=None),
        "an unknown session": forged(),
        "a session that is a list": forged(jti=["x"]),
        "of tomorrow": forged(jti=claims["jti"], nbf=time.time() + 86400),
    }
    assert produce(keyed, station_name, forged(jti=claims["jti"]))[0] == 200, "what the others differ from"
    for what, each in bad.items():
        assert produce(keyed, station_name, each) == UNAUTHORIZED, what
    assert produce(keyed, station_name, token)[0] == 200


def test_where_a_token_is_looked_for(gateway: Gateway, station_name: str) -> None:
    token, path = gateway.token(), f"/stations/{station_name}/produce/single"

    def status(path: str, **headers: str) -> int:
        return gateway.request("POST", path, b"x", {"Content-Type": "text/plain", **headers}).status

    assert status(path, Authorization=f"Bearer {token}") == 200
    assert status(path, Authorization=f"Foo {token}") == 200
    assert status(f"{path}?authorization={token}") == 200
    assert status(path) == 401
    assert status(path, Authorization=token) == 401
    assert status(path, Authorization=f"Bearer  {token}") == 401
    assert status(path, Authorization=f"Bearer {token} x") == 401
    assert status(f"{path}?authorization={token}", Authorization="") == 401
    assert token not in gateway.output()


def test_a_token_expires(broker: Any, gateway_inside: Any, station_name: str, until: Any) -> None:
    gateway = gateway_inside(broker.url, "--token-life-s", "2", "--refresh-life-s", "3")
    told = gateway.log_in()
    until(lambda: produce(gateway, station_name, told["jwt"]) == UNAUTHORIZED)
    until(lambda: refresh(gateway, told["jwt_refresh_token"]) == UNAUTHORIZED)


# ---- refresh and logout ---------------------------------------------------------------------------------------------


def refresh(gateway: Gateway, token: Any, **fields: Any) -> tuple[int, Any]:
    answer = gateway.request("POST", "/auth/refreshToken", {"jwt_refresh_token": token, **fields})
    return answer.status, answer.json


def test_a_refresh_token_is_good_for_one_refresh(gateway: Gateway, station_name: str) -> None:
    first = gateway.log_in()
    status, second = refresh(gateway, first["jwt_refresh_token"], token_expiry_in_minutes=3)
    assert (status, second["expires_in"], sorted(second)) == (200, 3 * 60_000, sorted(first))
    # Two threads of a program may have the same idea, and an answer may be lost: that alone ends nothing.
    assert refresh(gateway, first["jwt_refresh_token"]) == UNAUTHORIZED
    for told in (first, second):
        assert produce(gateway, station_name, told["jwt"])[0] == 200
    assert refresh(gateway, second["jwt_refresh_token"])[0] == 200


@pytest.mark.parametrize("body", ["", "{", "[]", '{"jwt_refresh_token": 7}'])
def test_a_refresh_that_cannot_be_read_says_so(gateway: Gateway, body: str) -> None:
    answer = gateway.request("POST", "/auth/refreshToken", body, {"Content-Type": "application/json"})
    assert (answer.status, answer.json["message"][:33]) == (400, "Some of your fields are not valid")


def test_only_a_refresh_token_refreshes(gateway: Gateway) -> None:
    for token in ("", None, "x", gateway.log_in()["jwt"]):
        assert refresh(gateway, token) == UNAUTHORIZED


def test_after_a_logout_no_token_of_the_session_is_accepted(gateway: Gateway, station_name: str) -> None:
    one, other = gateway.log_in(), gateway.log_in()
    assert produce(gateway, station_name, one["jwt"])[0] == 200
    answer = gateway.request("POST", "/auth/logout", token=one["jwt"])
    assert (answer.status, answer.json) == (200, {"message": "Logged out"})
    assert produce(gateway, station_name, one["jwt"]) == UNAUTHORIZED
    assert refresh(gateway, one["jwt_refresh_token"]) == UNAUTHORIZED
    assert gateway.request("POST", "/auth/logout", token=one["jwt"]).status == 401
    assert produce(gateway, station_name, other["jwt"])[0] == 200, "a session of its own"


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_keys_change_without_a_restart(
    broker: Any, fresh_gateway: Any, station_name: str, tmp_path: Path, until: Any
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# the keys\n{OLD_KEY}\n")
    gateway = fresh_gateway(broker.url, "--jwt-keys-file", file)
    old = gateway.log_in()["jwt"]
    assert jwt.get_unverified_header(old)["kid"] == kid_of(OLD_KEY)
    file.write_text(f"{KEY}\n{OLD_KEY}\n")
    new = until(
        lambda: token if jwt.get_unverified_header(token := gateway.log_in()["jwt"])["kid"] == kid_of(KEY) else ""
    )
    assert [produce(gateway, station_name, token)[0] for token in (old, new)] == [200, 200]
    file.write_text("")  # what is wrong with it changes nothing
    until(lambda: "holds no key" in gateway.output() or not gateway.log_in())
    assert [produce(gateway, station_name, token)[0] for token in (old, new)] == [200, 200]
    file.write_text(KEY)
    until(lambda: produce(gateway, station_name, old) == UNAUTHORIZED)
    assert produce(gateway, station_name, new)[0] == 200


# ---- the connections behind them ------------------------------------------------------------------------------------


def connection_ids(memphis: Any, station: str) -> list[str]:
    found = []
    for message in memphis.consumer(station, "reader").read_all():
        found.append(message.get_headers()["$memphis_connectionId"])
        message.ack()
    return found


def test_sessions_of_a_user_share_a_connection_that_is_closed_when_idle(
    broker: Any, memphis: Any, gateway_inside: Any, station_name: str, until: Any
) -> None:
    gateway = gateway_inside(broker.url, "--idle-s", "0.5")
    memphis.station(station_name)
    tokens = [gateway.log_in()["jwt"] for _ in range(3)]
    ids: list[str] = []

    def is_another_one() -> bool:
        assert produce(gateway, station_name, tokens[0])[0] == 200
        ids.extend(connection_ids(memphis, station_name))
        time.sleep(1)  # nothing comes for longer than it may be idle
        return len(set(ids)) > 1

    until(is_another_one)
    begun = len(ids)
    for token in tokens * 2:
        assert produce(gateway, station_name, token)[0] == 200
    assert len(set((ids + connection_ids(memphis, station_name))[begun:])) <= 2


def test_more_users_than_may_be_connected_take_turns(fresh_broker: Any, gateway_inside: Any, station_name: str) -> None:
    broker = fresh_broker(users={"one": "first", "two": "second"})
    gateway = gateway_inside(broker.url, "--max-clients", "1")
    tokens = [gateway.log_in("one", "first")["jwt"], gateway.log_in("two", "second")["jwt"]]
    for token in tokens * 2:
        assert produce(gateway, station_name, token)[0] == 200


def test_who_is_not_accepted_takes_nobody_s_connection(
    fresh_broker: Any, gateway_inside: Any, station_name: str
) -> None:
    broker = fresh_broker(users={"one": "first", "two": "second"})
    gateway = gateway_inside(broker.url, "--max-clients", "1")
    token = gateway.log_in("one", "first")["jwt"]
    assert produce(gateway, station_name, token)[0] == 200
    for name in ("two", "nobody"):
        assert authenticate(gateway, {"username": name, "password": "wrong"}) == UNAUTHORIZED
    assert produce(gateway, station_name, token)[0] == 200
    with memphis_sync.connect(broker.url, username="one", password="first") as memphis:
        assert len(set(connection_ids(memphis, station_name))) == 1


def test_logins_that_take_long_keep_nobody_else_waiting() -> None:
    async def run(silent: socket.socket) -> int:
        settings = GatewaySettings(url=f"memphis://127.0.0.1:{silent.getsockname()[1]}")
        sessions = Sessions(settings, Tokens(settings))
        logins = [
            asyncio.ensure_future(sessions.open(1, f"user-{number}", "password", address="")) for number in range(64)
        ]
        for _ in range(10):  # all of them go as far as they can
            await asyncio.sleep(0)
        await sessions.call(int)
        ended = sum(login.done() for login in logins)
        silent.close()  # so that the others end soon
        await sessions.close()
        await asyncio.gather(*logins, return_exceptions=True)
        return ended

    with socket.create_server(("127.0.0.1", 0)) as silent:  # a broker that says nothing
        assert asyncio.run(run(silent)) <= 16


def test_the_oldest_session_makes_room(broker: Any, gateway_inside: Any, station_name: str) -> None:
    gateway = gateway_inside(broker.url, "--max-sessions", "2")
    first, second, third = (gateway.log_in()["jwt"] for _ in range(3))
    assert produce(gateway, station_name, first) == UNAUTHORIZED
    assert [produce(gateway, station_name, token)[0] for token in (second, third)] == [200, 200]


def test_a_password_that_was_changed_ends_the_logins_with_the_old_one(
    fresh_broker: Any, gateway_inside: Any, station_name: str, until: Any
) -> None:
    first = fresh_broker(users={"app": "old-password"})
    gateway = gateway_inside(first.url)
    path = f"/stations/{station_name}/produce/single?timeout_ms=300"
    old = gateway.log_in("app", "old-password")["jwt"]

    def status(token: str) -> int:
        return gateway.request("POST", path, b"x", {"Content-Type": "text/plain"}, token=token).status

    assert status(old) == 200
    first.stop()
    fresh_broker(users={"app": "new-password"}, port=first.port)
    until(lambda: status(old) == 401, 60)
    assert authenticate(gateway, {"username": "app", "password": "old-password"}) == UNAUTHORIZED
    new = gateway.log_in("app", "new-password")["jwt"]
    until(lambda: status(new) == 200)
    assert status(old) == 401
