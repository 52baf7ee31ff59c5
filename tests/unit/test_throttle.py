"""Who guesses passwords is slowed down, and nobody else; and who logs in often pushes out own logins only."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from memphis_sync.errors import AuthenticationError, ConnectError
from memphis_sync.http.gateway.login_table import LoginTable
from memphis_sync.http.gateway.throttle import ADDRESS, MAX_ENTRIES, PAIR, USER, WINDOW_S, Throttle, TooManyLogins


class Clock:
    """Stands still until it is set forward."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def fail(throttle: Throttle, address: str, user: str = "root", account: int = 1) -> float:
    """A login that fails: 0, or how long it would have to wait."""
    try:
        async with throttle.attempt(account, user, address):
            raise AuthenticationError("wrong password")
    except TooManyLogins as exc:
        return exc.wait_s if exc.status == 429 and exc.headers["retry-after"] in exc.body["message"] else -1.0
    except AuthenticationError:
        return 0.0


async def tried(throttle: Throttle, *attempts: tuple[str, str]) -> int:
    """How many of these were tried."""
    return sum([await fail(throttle, *attempt) == 0 for attempt in attempts])


def test_failures_of_a_user_from_an_address_are_limited_for_a_while() -> None:
    throttle = Throttle(clock := Clock())

    async def guess() -> None:
        assert [await fail(throttle, "10.0.0.1") for _ in range(PAIR)] == [0.0] * PAIR
        assert await fail(throttle, "10.0.0.1", "ROOT") == WINDOW_S
        assert await fail(throttle, "10.0.0.1", account=2) == 0  # another user
        assert await fail(throttle, "10.0.0.2") == 0
        clock.now += WINDOW_S - 1
        assert await fail(throttle, "10.0.0.1") == 1
        clock.now += 1
        assert await fail(throttle, "10.0.0.1") == 0

    asyncio.run(guess())


@pytest.mark.parametrize(
    ("attempts", "most"),
    [
        ([("10.0.0.1", f"user-{number}") for number in range(200)], ADDRESS),
        ([(f"10.0.{number}.1", "root") for number in range(200)], USER),
        ([(f"2001:db8::{number:x}", "root") for number in range(200)], PAIR),  # one network of IPv6 is one client
    ],
    ids=["address", "user", "network"],
)
def test_an_address_and_a_user_are_counted_by_themselves(attempts: list[tuple[str, str]], most: int) -> None:
    assert asyncio.run(tried(Throttle(Clock()), *attempts)) == most


@pytest.mark.parametrize("error", [None, ConnectError("the broker is away")])
def test_what_does_not_fail_by_its_password_does_not_count(error: Any) -> None:
    throttle = Throttle(Clock())

    async def log_in() -> None:
        for _ in range(100):
            try:
                async with throttle.attempt(1, "root", "10.0.0.1"):
                    if error is not None:
                        raise error
            except ConnectError:
                pass

    asyncio.run(log_in())


def test_many_at_once_with_the_right_password_succeed_and_many_guesses_at_once_do_not() -> None:
    throttle, at_once, most = Throttle(), 0, 0

    async def log_in(*, is_right: bool) -> bool:
        nonlocal at_once, most
        try:
            async with throttle.attempt(1, "root", "10.0.0.1"):
                at_once += 1
                most = max(most, at_once)
                await asyncio.sleep(0)
                at_once -= 1
                if not is_right:
                    raise AuthenticationError("wrong password")
        except (AuthenticationError, TooManyLogins) as exc:
            return isinstance(exc, AuthenticationError)
        return True

    async def all_at_once(*, is_right: bool) -> int:
        return sum(await asyncio.gather(*(log_in(is_right=is_right) for _ in range(64))))

    assert asyncio.run(all_at_once(is_right=True)) == 64
    assert asyncio.run(all_at_once(is_right=False)) == PAIR
    assert most == PAIR


def test_the_table_of_failures_is_bounded_and_does_not_forget_who_is_at_it() -> None:
    throttle = Throttle(Clock())

    async def guess() -> None:
        for number in range(MAX_ENTRIES):
            await fail(throttle, "10.0.0.1", f"{number}-{'x' * 1000}")
            assert len(throttle) <= MAX_ENTRIES
        assert await fail(throttle, "10.0.0.1") > 0

    asyncio.run(guess())


def test_a_user_with_many_logins_pushes_out_none_of_others() -> None:
    table = LoginTable(100)
    named = [SimpleNamespace(id=f"few-{number}", who=(1, "few"), expires=time.time() + 60) for number in range(3)]
    for each in named:
        table.add(each)  # type: ignore[arg-type]
    many = [SimpleNamespace(id=f"many-{number}", who=(1, "many"), expires=0.0) for number in range(1000)]
    for each in many:
        table.add(each)  # type: ignore[arg-type]
    assert len(table) == 100
    assert [table.get(each.id) for each in named] == named
    assert table.of_user((1, "many")) == many[-97:]
    newest = SimpleNamespace(id="newest", who=(1, "other"), expires=0.0)
    table.add(newest)  # type: ignore[arg-type]
    assert (table.get("newest"), table.get(many[-97].id)) == (newest, None)
    for session in table.expired():
        table.remove(session)
        table.remove(session)
    assert (len(table), table.of_user((1, "many"))) == (3, [])
