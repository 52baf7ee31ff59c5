"""The console's parts that need no socket: how values are shown, logins, and live numbers."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from memphis_sync.errors import ConnectionLostError
from memphis_sync.http.console import live, logins, showing
from memphis_sync.http.console.live import EventStream, Live, Topic
from memphis_sync.http.console.logins import IDLE_S, LIFETIME_S, Logins
from memphis_sync.http.console.samples import Sample


class Clock:
    """Stands still until it is set forward."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


# ---- showing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本 😀", "plain é 日本 😀"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("\x00\x1b[31m\n", "\\x00\\x1b[31m\\n"),
        ("\ud800", "\\ud800"),
        ("<b>&amp;", "<b>&amp;"),  # the templates' part
    ],
)
def test_what_is_invisible_is_shown(text: str, shown: str) -> None:
    assert showing.visible(text) == shown


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("[]", ["[]"]),
        (' {"a" : [ ] } ', ["{", '  "a": []', "}"]),
        ('[1,{"a":null}]', ["[", "  1,", "  {", '    "a": null', "  }", "]"]),
        ('{"a":1.0,"a":1e400}', ["{", '  "a": 1.0,', '  "a": 1e400', "}"]),
        ('["\\"]{,", "\\\\"]', ["[", '  "\\"]{,",', '  "\\\\"', "]"]),
        ("12345678901234567890", ["12345678901234567890"]),
    ],
)
def test_json_is_indented_with_its_own_tokens(text: str, lines: list[str]) -> None:
    assert showing.indented_json(text) == "\n".join(lines)


@pytest.mark.parametrize("text", ["", "{", "[1,]", "NaN", "[Infinity]", "'a'", "[" * 100_000, "\ufeff{}"])
def test_what_is_not_json_is_not_indented(text: str) -> None:
    assert showing.indented_json(text) is None


def test_deep_json_does_not_become_large() -> None:
    text = "[" * 200 + ",".join("1" * 1 for _ in range(30_000)) + "]" * 200
    shown = showing.payload(text.encode())
    assert shown.view == "json"
    assert len(shown.text) < 2_000_000


@pytest.mark.parametrize(
    ("data", "wanted", "view", "views"),
    [
        (b'{"a":1}', "", "json", ("json", "text", "hex")),
        (b'{"a":1}', "hex", "hex", ("json", "text", "hex")),
        (b"hello", "json", "text", ("text", "hex")),
        (b"\xff", "text", "hex", ("hex",)),
        (b"a\x00b", "", "hex", ("hex",)),
        ("é".encode() * 100_000, "", "text", ("text", "hex")),
        (b"a" + "é".encode() * 100_000, "", "text", ("text", "hex")),  # the cut is inside of a character
        (b"", "<script>", "text", ("text", "hex")),
    ],
)
def test_a_payload_is_shown_in_the_best_way(data: bytes, wanted: str, view: str, views: tuple[str, ...]) -> None:
    shown = showing.payload(data, wanted)
    assert (shown.view, shown.views, shown.size) == (view, views, len(data))
    assert len(shown.text) <= showing.MAX_TEXT * 2


def test_numbers_sizes_and_spans_are_short() -> None:
    assert [showing.size(count) for count in (0, 1023, 1536, 3 * 2**40, 2**70)] == [
        *("0 B", "1,023 B", "1.5 KiB", "3.0 TiB"),
        "1,048,576.0 PiB",
    ]
    assert [showing.span(seconds) for seconds in (0.25, 59, 3600, 90_061)] == ["250 ms", "59 s", "1 h", "1 d 1 h"]
    assert [showing.rate(each) for each in (0, 0.25, 99.94, 1234.5)] == ["0", "0.2", "99.9", "1,234"]
    assert showing.moment(None) == showing.NOT_KNOWN


# ---- logins ---------------------------------------------------------------------------------------------------------


def session(name: str = "root") -> Any:
    return SimpleNamespace(account_id=1, username=name)


def test_a_login_ends_when_it_is_idle_or_old() -> None:
    ended: list[Any] = []
    table = Logins(ended.append, clock := Clock())
    cookie = table.add(session())
    for _ in range(int(LIFETIME_S / (IDLE_S - 1))):
        clock.now += IDLE_S - 1
        assert table.find(cookie) is not None
    clock.now += IDLE_S - 1
    assert table.find(cookie) is None
    other = table.add(session())
    clock.now += IDLE_S
    assert table.find(other) is None
    assert len(ended) == 2
    assert len(table) == 0


def test_the_table_of_logins_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "MOST", 50)
    ended: list[Any] = []
    table = Logins(ended.append, Clock())
    mine = table.add(session("me"))
    for number in range(logins.MOST * 2):
        table.add(session(f"user-{number}"))
        table.find(mine)
    assert len(table) == logins.MOST
    assert table.find(mine) is not None  # the ones that nobody uses make room
    cookies = [table.add(session("many")) for _ in range(logins.MOST_OF_USER + 5)]
    assert [table.find(cookie) is None for cookie in cookies] == [True] * 5 + [False] * logins.MOST_OF_USER


def test_a_login_shows_no_secret() -> None:
    table = Logins(lambda login: None, Clock())
    cookie = table.add(session())
    login = table.find(cookie)
    assert login is not None
    assert login.csrf not in repr(login)
    assert cookie.encode() not in b"".join(table._logins)


# ---- live numbers ---------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0)

    await asyncio.wait_for(wait(), 60)


def topic(polls: list[int], size: int = 10) -> Topic:
    async def poll() -> Sample:
        polls.append(1)
        return Sample(float(len(polls)), {})

    return Topic("", poll, lambda sample, rates: {"n": str(len(polls)), "x": "x" * size})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls as fast as the loop turns, and stops at once."""
    monkeypatch.setattr(live, "PAUSE_S", 0.0)
    monkeypatch.setattr(live, "BUSY_FACTOR", 0)
    monkeypatch.setattr(live, "LINGER_S", 0.0)


def test_a_slow_page_gets_the_newest_figures_and_holds_no_others(quick: None) -> None:
    async def look() -> None:
        polls: list[int] = []
        hub, login = Live(), SimpleNamespace(who=(1, "root"))
        reader: Any = hub.updates(login, topic(polls, 100_000), lambda: True)
        await reader.__anext__()
        tracemalloc.start()
        await until(lambda: len(polls) >= 500)  # the page takes none of them: 50 MB, if they were kept
        assert tracemalloc.get_traced_memory()[0] < 10_000_000
        tracemalloc.stop()
        behind = len(polls)
        update = json.loads((await reader.__anext__())[6:])
        assert int(update["values"]["n"]) >= behind
        await reader.aclose()
        await until(lambda: not len(hub))

    asyncio.run(look())


def test_a_browser_that_is_cut_off_for_taking_nothing_is_given_up(quick: None) -> None:
    async def look() -> None:
        hub, login = Live(), SimpleNamespace(who=(1, "root"))
        stream = EventStream(hub.updates(login, topic([]), lambda: True))  # type: ignore[arg-type]
        is_full = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await is_full.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                is_full.set()
                await asyncio.Event().wait()

        await asyncio.wait_for(stream({"type": "http"}, receive, send), 30)
        await until(lambda: not len(hub))

    asyncio.run(look())


def test_figures_are_asked_for_again_soon_after_a_failure(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BUSY_FACTOR", 10**9)

    async def look() -> None:
        polls: list[int] = []

        async def poll() -> Sample:
            polls.append(1)
            await asyncio.sleep(0.001)
            if len(polls) < 4:
                raise ConnectionLostError("the broker is away")
            return Sample(1.0, {})

        hub, login = Live(), SimpleNamespace(who=(1, "root"))
        reader: Any = hub.updates(login, Topic("", poll, lambda sample, rates: {"n": "1"}), lambda: True)
        problems = []
        while not problems or problems[-1]:
            problems.append(json.loads((await asyncio.wait_for(reader.__anext__(), 30))[6:])["problem"])
        assert problems[0] == "No newer figures: the broker is away"
        hub.close()
        await reader.aclose()
        await until(lambda: not len(hub))

    asyncio.run(look())


def test_pages_share_a_poller_and_closing_ends_them_all(quick: None) -> None:
    async def look() -> None:
        polls: list[int] = []
        hub, login = Live(), SimpleNamespace(who=(1, "root"))
        readers: list[Any] = [hub.updates(login, topic(polls), lambda: True) for _ in range(5)]
        for reader in readers:
            await reader.__anext__()
        assert len(hub) == 1
        hub.close()
        for reader in readers:
            assert [update async for update in reader if update.startswith(b"event")] == []
        await until(lambda: not len(hub))

    asyncio.run(look())
