"""
The rules for brokers that break rules, each with the reply that a Memphis 1.4 broker was seen to give.

Our own broker gives none of these, so the replies are scripted.
"""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from memphis_sync._control.api import GONE, Requests
from memphis_sync._control.station_registry import StationRegistry
from memphis_sync._protocol.requests import ConsumerCreate, ConsumerReply, ProducerReply, StationCreate, StationDestroy
from memphis_sync.errors import ConnectionLostError, DeadlineError, ServerError, StationNotFoundError
from memphis_sync.types import Credentials

GOOD_PRODUCER = ProducerReply(partitions=[1, 2], schemaverse_to_dls=True, station_version=2).encode()
GOOD_CONSUMER = ConsumerReply(partitions=[1]).encode()
NO_STATION = (
    "this station does not exist, a default station can not be created automatically, please upgrade your SDK version"
)
TOO_OLD = "to produce to this station please upgrade your SDK version"
MISSING = StationNotFoundError("stream not found", code=404, err_code=10059)


class Subscription:
    """What subscribe() gives."""

    def __init__(self, subject, ended):
        self.subject = subject
        self._ended = ended

    async def unsubscribe(self):
        self._ended.append(self.subject)


class Script:
    """Answers requests from a list, in turn; an exception is raised."""

    def __init__(self, *replies, js=()):
        self.replies, self.js_replies = list(replies), list(js)
        self.asked, self.js_asked, self.ended, self.handlers = [], [], [], {}
        self.pushed_first = {}  # what comes on subscriptions before the reply to a request does
        self.is_memphis = False

    async def request(self, subject, body, timeout_s, *, may_be_starting=False):
        self.asked.append((subject, json.loads(body), timeout_s))
        for pushed, update in self.pushed_first.items():
            if pushed in self.handlers:
                self.handlers[pushed](json.dumps(update).encode())
        return self._next(self.replies)

    async def js_api(self, call, body, timeout_s):
        self.js_asked.append((call, body))
        return self._next(self.js_replies)

    async def subscribe(self, subject, handler, queue=""):
        self.handlers[subject] = handler
        return Subscription(subject, self.ended)

    @staticmethod
    def _next(replies):
        reply = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def requests_over(script):
    session = SimpleNamespace(
        control=script,
        connection_id="conn-1",
        options=SimpleNamespace(credentials=Credentials("Shop", "secret")),
        stations=StationRegistry(script, lambda _: None),
    )
    return Requests(session)


def destroyed(requests, retries):
    return requests.ask(StationDestroy("s"), about="station 's'", timeout_s=5.0, retries=retries, fine=GONE)


def run(script, call):
    return asyncio.run(call(requests_over(script)))


def test_what_a_producer_request_holds():
    script = Script(GOOD_PRODUCER)
    (view,) = run(script, lambda r: r.create_producers(["a.b"], "p", 5))
    ((subject, body, timeout_s),) = script.asked
    assert (subject, timeout_s) == ("$memphis_producer_creations", 20.0)
    assert body.pop("app_id")
    assert body == {
        "name": "p",
        "station_name": "a.b",
        "connection_id": "conn-1",
        "producer_type": "application",
        "req_version": 4,
        "username": "shop",
        "sdk_lang": "python",
    }
    assert (view.name, view.internal, view.partitions, view.live.schemaverse_to_dls) == ("a.b", "a#b", (1, 2), True)


TIMEOUT = ConsumerReply(error="timeout: the NATS server did not answer; ask again").encode()


@pytest.mark.parametrize("text", ["timeout: the NATS server did not answer; ask again", "nats: timeout", "i/o Timeout"])
def test_a_broker_that_had_no_answer_itself_is_asked_again(text):
    script = Script(ConsumerReply(error=text).encode(), DeadlineError("no reply"), GOOD_CONSUMER, js=[{}, {}])
    asked = requests_over(script).ask(ConsumerCreate("c", "s", "g"), about="consumer 'c'", timeout_s=5.0, retries=2)
    assert asyncio.run(asked).error == ""
    assert len(script.asked) == 3


@pytest.mark.parametrize("retries", [0, 2])
def test_it_is_asked_as_often_as_it_may_be(retries):
    script = Script(*[TIMEOUT] * (retries + 1))
    asked = requests_over(script).ask(ConsumerCreate("c", "s", "g"), about="consumer 'c'", timeout_s=5, retries=retries)
    with pytest.raises(ServerError, match="consumer 'c': timeout: the NATS server"):
        asyncio.run(asked)
    assert len(script.asked) == retries + 1


def test_another_refusal_is_final():
    script = Script(ConsumerReply(error="the group is full").encode())
    asked = requests_over(script).ask(ConsumerCreate("c", "s", "g"), about="consumer 'c'", timeout_s=5.0, retries=5)
    with pytest.raises(ServerError, match="full"):
        asyncio.run(asked)
    assert len(script.asked) == 1


def test_updates_are_heard_before_the_request_is_sent():
    """What is pushed between the reply and a later subscription would be lost."""
    script = Script(GOOD_PRODUCER)
    order = []
    request, subscribe = script.request, script.subscribe

    async def noted_request(*args, **options):
        order.append("request")
        return await request(*args)

    async def noted_subscribe(subject, handler, queue=""):
        order.append(subject)
        return await subscribe(subject, handler, queue)

    script.request, script.subscribe = noted_request, noted_subscribe
    run(script, lambda r: r.create_producers(["s"], "p", 5))
    assert order == ["$memphis_schema_updates_s", "$memphis_functions_updates_s", "request"]


@pytest.mark.parametrize("is_memphis", [False, True])
def test_an_update_that_overtakes_the_reply_to_a_creation_is_the_newer_word(is_memphis):
    """The broker has written its reply before the change; a Memphis broker announces a switch as it was before."""
    old = ProducerReply(partitions=[1, 2], functions={1: 3, 2: 4}, schemaverse_to_dls=True, station_version=2).encode()
    schema = {"schema_name": "new", "type": "json", "active_version": {"version_number": 2, "schema_content": "{}"}}
    switch = {"type": "schemaverse_to_dls", "station_name": "s", "update": False}
    script = Script(old, old)
    script.is_memphis = is_memphis

    async def both_ways(requests):
        stations = requests._session.stations
        await stations.start()
        (view,) = await requests.create_producers(["s"], "p", 0)
        first = dict(view.functions), view.live.schemaverse_to_dls, view.live.schema
        script.pushed_first = {
            "$memphis_functions_updates_s": {"functions": {"2": 5}},
            "$memphis_schema_updates_s": {"UpdateType": 1, "init": schema},
            "$memphis_sdk_clients_updates": switch,
        }
        (view,) = await requests.create_producers(["s"], "q", 0)
        return first, (dict(view.functions), view.live.schemaverse_to_dls, view.live.schema.name)

    assert run(script, both_ways) == (({1: 3, 2: 4}, True, None), ({2: 5}, is_memphis, "new"))


def test_a_notification_switch_that_overtakes_a_reply_is_the_newer_word():
    script = Script(ProducerReply(partitions=[1], send_notification=True).encode(), GOOD_PRODUCER)

    async def switched(requests):
        stations = requests._session.stations
        await stations.start()
        await requests.create_producers(["s"], "p", 0)
        first = stations.send_notification
        script.pushed_first = {"$memphis_sdk_clients_updates": {"type": "send_notification", "update": True}}
        await requests.create_producers(["s"], "q", 0)
        return first, stations.send_notification

    assert run(script, switched) == (True, True)


@pytest.mark.parametrize("version", [0, 2])
def test_functions_of_the_first_update_are_heard_though_it_comes_before_the_reply(version):
    script = Script(ProducerReply(partitions=[1], station_version=version).encode())
    script.pushed_first = {"$memphis_functions_updates_s": {"functions": {"1": 9}}}
    (view,) = run(script, lambda r: r.create_producers(["s"], "p", 0))
    assert view.functions == {1: 9}


@pytest.mark.parametrize("text", ["Stations already exists", "Stationa#b already exists"])
def test_a_race_for_a_new_station_is_asked_again_once(text):
    script = Script(ProducerReply(error=text).encode(), GOOD_PRODUCER)
    assert run(script, lambda r: r.create_producers(["s"], "p", 5))
    assert len(script.asked) == 2
    script = Script(text.encode(), GOOD_CONSUMER)
    assert run(script, lambda r: r.create_consumer(ConsumerCreate(name="c", station_name="s"), 5))
    script = Script(*[ProducerReply(error=text).encode()] * 2)
    with pytest.raises(ServerError, match="already exists"):
        run(script, lambda r: r.create_producers(["s"], "p", 5))
    assert set(script.ended) == set(script.handlers) != set(), "a failed creation leaves no subscription"


@pytest.mark.parametrize("error", [DeadlineError("late", timeout_s=20.0), ConnectionLostError("cut")])
def test_creations_are_repeated_once_and_the_rest_as_often_as_told(error):
    script = Script(error, GOOD_PRODUCER)
    run(script, lambda r: r.create_producers(["s"], "p", 5))
    script = Script(error, error, GOOD_PRODUCER)
    with pytest.raises(type(error)):
        run(script, lambda r: r.create_producers(["s"], "p", 5))
    assert len(script.asked) == 2, "each processed copy would register the producer again"
    script = Script(error, GOOD_PRODUCER)
    with pytest.raises(type(error)):
        run(script, lambda r: r.create_producers(["s"], "p", 0))
    script = Script(*[error] * 5, b"")
    run(script, lambda r: destroyed(r, 5))
    assert [timeout_s for *_, timeout_s in script.asked] == [5.0] * 6


def test_success_for_a_station_is_verified():
    request = StationCreate(name="s", schema_name="nope")
    script = Script(b"", js=[{"config": {}}])
    run(script, lambda r: r.create_station(request, 0))
    assert script.js_asked == [("STREAM.INFO.s$1", None)]
    for answer, causes in (
        (DeadlineError("silence"), "there is no schema 'nope', or the broker does not know the user 'shop'"),
        (ProducerReply(error=NO_STATION).encode(), "there is no schema 'nope', or the broker does not know the user"),
        (ProducerReply(error="User shop does not exist").encode(), "the broker does not know the user 'shop'"),
    ):
        script = Script(b"", answer, js=[MISSING] * 6)
        with pytest.raises(ServerError, match=f"did not create station 's': {causes}"):
            run(script, lambda r: r.create_station(request, 0))
    script = Script(b"", js=[MISSING, {"config": {}}])
    run(script, lambda r: r.create_station(request, 0))
    assert script.js_asked[1] == ("STREAM.INFO.s", None), "a station from before partitions"
    script = Script(b"Stations already exists", js=[{}])
    run(script, lambda r: r.create_station(request, 0))


def test_a_station_that_lost_its_stream_is_named_as_that_with_what_to_do():
    """As a Memphis broker answers for a station in memory after its restart."""
    script = Script(b"", ProducerReply(error=TOO_OLD).encode(), js=[MISSING] * 6)
    with pytest.raises(
        ServerError, match=r"station 's' has lost its stream.* client\.destroy_station\('s'\)"
    ) as caught:
        run(script, lambda r: r.create_station(StationCreate(name="s", storage_type="memory"), 0))
    assert "user" not in str(caught.value)
    subject, probe, _ = script.asked[1]
    assert (subject, probe["req_version"]) == ("$memphis_producer_creations", 1), "a version that registers nothing"


def test_a_station_that_cannot_be_verified_is_believed():
    """Users with roles may be forbidden to ask."""
    run(Script(b"", js=[DeadlineError("silence")]), lambda r: r.create_station(StationCreate(name="s"), 0))


def test_destroying_what_is_not_there_is_fine():
    text = b"Station  does not exist"
    run(Script(text), lambda r: destroyed(r, 0))
    with pytest.raises(ServerError, match="not allowed") as caught:
        run(Script(b"user shop is not allowed"), lambda r: destroyed(r, 0))
    assert caught.value.description == "user shop is not allowed"


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b"user does not exist", "user does not exist"),
        (b'{"error":"json: cannot unmarshal number"}', "cannot unmarshal"),
        (b"start sequence can not be updated (10012)", "10012"),
    ],
)
def test_errors_of_a_consumer_in_either_shape(reply, text):
    with pytest.raises(ServerError, match=text):
        run(Script(reply), lambda r: r.create_consumer(ConsumerCreate(name="c", station_name="s"), 0))


def test_a_missing_durable_for_last_messages_is_made():
    """Memphis 1.4 reports success without one, on stations of one partition."""
    request = ConsumerCreate(name="c", station_name="s", last_messages=4, max_ack_time_ms=7000, max_msg_deliveries=3)
    script = Script(GOOD_CONSUMER, js=[{}, MISSING, {"state": {"last_seq": 10}}, {}])
    run(script, lambda r: r.create_consumer(request, 0))
    call, body = script.js_asked[-1]
    assert call == "CONSUMER.DURABLE.CREATE.s$1.c"
    config = body["config"]
    assert (config["deliver_policy"], config["opt_start_seq"]) == ("by_start_sequence", 7)
    assert (config["ack_wait"], config["max_deliver"], config["filter_subject"]) == (7_000_000_000, 3, "s$1.final")
    script = Script(GOOD_CONSUMER, js=[{}, {}])
    run(script, lambda r: r.create_consumer(request, 0))
    assert [call for call, _ in script.js_asked] == ["STREAM.INFO.s$1", "CONSUMER.INFO.s$1.c"]


@pytest.mark.parametrize(
    ("last_sequence", "durable", "start"),
    [(10, MISSING, 7), (2, MISSING, 1), (90, {"config": {"opt_start_seq": 7}}, 7), (90, {"config": {}}, 1)],
)
def test_last_messages_of_a_station_without_partitions(last_sequence, durable, start):
    """Memphis 1.4 begins at the start there; and it refuses another start for a group that exists."""
    request = ConsumerCreate(name="c", station_name="s", last_messages=4)
    script = Script(ConsumerReply().encode(), js=[MISSING, {"state": {"last_seq": last_sequence}}, durable])
    run(script, lambda r: r.create_consumer(request, 0))
    assert [call for call, _ in script.js_asked] == ["STREAM.INFO.s$1", "STREAM.INFO.s", "CONSUMER.INFO.s.c"]
    (sent,) = [body for subject, body, _ in script.asked if subject.endswith("consumer_creations")]
    assert (sent["start_consume_from_sequence"], sent["last_messages"]) == (start, -1)


def test_what_was_registered_is_taken_back_when_another_station_fails():
    async def by_station(subject, body, timeout_s, *, may_be_starting=False):
        station = json.loads(body)["station_name"]
        script.asked.append((subject, station))
        if subject.endswith("creations") and station == "bad":
            return ProducerReply(error="user shop is not allowed to access station bad").encode()
        return GOOD_PRODUCER if subject.endswith("creations") else b""

    script = Script()
    script.request = by_station
    with pytest.raises(ServerError, match="not allowed"):
        run(script, lambda r: r.create_producers(["one", "bad", "two"], "p", 5))
    destroyed = {station for subject, station in script.asked if subject == "$memphis_producer_destructions"}
    assert destroyed == {"one", "two"}
    assert {s for s in script.ended if "schema" in s} == {f"$memphis_schema_updates_{n}" for n in ("one", "bad", "two")}
