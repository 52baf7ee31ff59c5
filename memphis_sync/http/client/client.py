"""
The client over HTTP.

It is a class of its own, because half of a Memphis would be a lie here: a gateway has no stations to create, no acks,
and no news of its broker. What is there has the names and the parameters of a Memphis where they mean the same.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Callable, Literal, Optional, Union

from memphis_sync._base.hints import hint_keywords
from memphis_sync._base.in_notebook import InNotebook
from memphis_sync._base.refusals import NotAwaited, NotCopied
from memphis_sync._options.arguments import MAX_DELIVERIES, MAX_PARTITIONS, check_name
from memphis_sync._options.checks import MAX_BATCH_SIZE, check_bool, check_int, check_seconds
from memphis_sync._options.rows import takes
from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync.bulk import Item, check_iterable
from memphis_sync.errors import ClosedError, ConfigurationError
from memphis_sync.http.client.calling import Caller
from memphis_sync.http.client.fetching import DEFAULT_WAIT_MS, LEAST_WAIT_MS, Fetch, FirstUse, fetch
from memphis_sync.http.client.message import HttpMessages
from memphis_sync.http.client.producing import outgoing, produce
from memphis_sync.http.client.results import GatewayAnswer, HttpBulkResult
from memphis_sync.http.client.sending import ACK_WAIT_S, Sending
from memphis_sync.http.client.settings import HttpArguments, HttpSettings, http_settings
from memphis_sync.types import Payload

if TYPE_CHECKING:
    from typing_extensions import Self

LOG_OUT_S = 2.0
ACK_MS, DELIVERIES = 30_000, 2  # as consumer()
MAX_WAIT_MS, MAX_ACK_MS = 60_000, 43_200_000  # of the gateway
MAX_CONCURRENCY = 256


@hint_keywords()
class HttpClient(NotCopied, NotAwaited, InNotebook):
    """
    A client of a gateway. Returned by ``memphis_sync.http.connect()``.

    Any number of threads may use it. A forked child that uses it gets connections and a login of its own. A login that
    expires is renewed. It must not be used by a signal handler that has interrupted one of its calls: UsageError.
    """

    _instead = "share it between threads and with forked children; in another process, open one there"
    _shown = ("url", "username", "confirms_storage")

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._writer = JsonWriter(settings.json_default)
        self._is_closed = False
        self._callers: dict[int, Caller] = {}  # by process: a child uses nothing of its parent's
        self._first_uses: dict[tuple[str, str], FirstUse] = {}  # of consumers

    @property
    def url(self) -> str:
        """The gateway's URL, without a login."""
        return self._settings.base

    @property
    def username(self) -> str:
        """The broker's user."""
        return self._settings.credentials.username

    @property
    def confirms_storage(self) -> bool:
        """
        Whether produce() returns when the broker has stored the message, and repeats one that got no answer, under the
        same message id. False at Memphis' own gateway: there it returns when the gateway has accepted the message.
        """
        return self._caller().tokens.gateway.keeps_ids

    def produce(
        self,
        station_name: str,
        message: Payload,
        *,
        ack_wait_sec: float = ACK_WAIT_S,
        headers: Optional[Mapping[str, str]] = None,
        msg_id: Optional[str] = None,
        producer_partition_key: Optional[str] = None,
        producer_partition_number: int = -1,
    ) -> GatewayAnswer:
        """
        Produces a message. A station that does not exist is created, with the broker's defaults.

        Every message has the id *msg_id* or one that is made here. A request that got no answer is sent again with it
        until *ack_wait_sec* is over, so the message is stored once. Memphis' own gateway drops ids: there only what it
        certainly has not received is sent again.

        Args:
            station_name: The station.
            message: bytes, bytearray, memoryview, str, dict or list (as JSON), a protobuf message or a GraphQL
                document.
            ack_wait_sec: How long it may take, all attempts together, in seconds, above 0.
            headers: Text to text. The gateway writes names as HTTP does (``X-My-Header``), and adds Content-Type.
                Memphis' own gateway adds *all* headers of the request, the token included, and so the password.
            msg_id: The broker stores a message with this id once within the station's idempotency window. Not at
                Memphis' own gateway.
            producer_partition_key: Messages with the same key go to the same partition. Not at Memphis' own gateway.
            producer_partition_number: The partition, from 1; -1: by key or in turn. Not at Memphis' own gateway.

        Returns:
            What the gateway has answered; its ``is_stored`` says whether the broker has stored the message.

        Raises:
            ConfigurationError, HeaderError: A bad argument, or one that this gateway has nothing for; nothing was sent.
            SchemaError: The message does not match the station's schema; it is not stored.
            PayloadTooLargeError: Larger than gateway or broker accept; it is not stored.
            RejectedError: The gateway or the broker refused it; it is not stored. A StationGoneError when the station
                was destroyed.
            AckTimeoutError: Not confirmed in time; ``outcome`` says whether it may be stored.
            ProduceError: The answer was lost at Memphis' own gateway, or it says nothing certain; ``outcome`` is
                ``unknown``: the message may be stored.
            AuthenticationError: The credentials are not accepted any more; nothing was sent.
            ConnectError: What answers is not a gateway; nothing was sent.
            ClosedError: The client was closed.
        """
        station = check_name("station_name", "Station", station_name)
        sent = outgoing(
            station, message, self._writer, headers, msg_id, producer_partition_key, producer_partition_number
        )
        return produce(self._caller(), sent, ack_wait_sec)

    def produce_many(
        self,
        station_name: str,
        iterable: Iterable[Union[Payload, Item]],
        *,
        timeout_s: Optional[float] = None,
        on_error: Literal["raise", "collect"] = "raise",
        concurrency: int = 8,
    ) -> HttpBulkResult:
        """
        Produces everything that an iterable yields, and waits for the answers.

        Args:
            station_name: The station.
            iterable: Payloads as for produce(), or Items, which add key, partition, headers or message id.
            timeout_s: Limit for all together, in seconds, above 0; None: each message has the default of produce().
            on_error: ``raise``: stop reading at the first failure, wait for the rest and raise. ``collect``: continue,
                and list the failures in the result.
            concurrency: How many requests are under way at once, 1 to 256. With 1 the messages are stored in their
                order.

        Returns:
            Counts, failures and the time it took. Messages that Memphis' own gateway has accepted are in ``accepted``,
            not in ``delivered``.

        Raises:
            BulkError: With ``raise``: a message failed, see Producer.produce_many(); ``result`` says what became of the
                others.
            DeadlineError: Not finished within *timeout_s*.
            ConfigurationError: A bad argument; nothing was sent.
            AuthenticationError, ConnectError, ClosedError: As produce(), with ``result``.
            Exception: Whatever *iterable* raises, after the messages before it are settled; it has their ``result``.
        """
        station = check_name("station_name", "Station", station_name)
        if on_error not in ("raise", "collect"):
            raise ConfigurationError(f"on_error is {on_error!r}; it must be 'raise' or 'collect'")
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s, allow_zero=False)
        check_int("concurrency", concurrency, 1, MAX_CONCURRENCY)
        check_iterable(iterable)
        sending = Sending(
            self._caller(), station, self._writer, timeout_s, concurrency, stops_at_failure=on_error == "raise"
        )
        return sending.run(iterable)

    def fetch_messages(
        self,
        station_name: str,
        consumer_name: str,
        consumer_group: str = "",
        batch_size: int = 10,
        batch_max_time_to_wait_ms: int = DEFAULT_WAIT_MS,
        max_ack_time_ms: int = ACK_MS,
        max_msg_deliveries: int = DELIVERIES,
        *,
        auto_ack: bool = False,
        partitions_number: int = 1,
        timeout_s: Optional[float] = None,
    ) -> HttpMessages:
        """
        Fetches messages. Acknowledge each with ack() within *max_ack_time_ms*, or it is delivered again.

        Memphis' own gateway cannot do that: it acknowledges messages before they arrive here, so a program that dies,
        or an answer that is lost, takes them along. With *auto_ack* the program says that this is all right.

        Args:
            station_name: The station; one that does not exist is created, with the broker's defaults.
            consumer_name: The consumer. Memphis' own gateway keeps group and wait of its first use, and mixes up
                requests for one consumer that come at once: there use one from one thread at a time.
            consumer_group: The members of a group share its messages; by default the consumer's name. With *auto_ack*
                it is called ``<group>-rest-gateway`` at the broker.
            batch_size: How many messages at most, 1 to 5000.
            batch_max_time_to_wait_ms: How long the gateway waits for a first message, 100 to 60000; with *auto_ack* for
                a full batch.
            max_ack_time_ms: How long a message may be unacknowledged before it is delivered again, 100 to 43200000. Not
                with *auto_ack*.
            max_msg_deliveries: How often a message is delivered before it is a dead letter, 1 to 10. Not with
                *auto_ack*.
            auto_ack: True: the gateway acknowledges, at most once. Needed at Memphis' own gateway.
            partitions_number: How many partitions the station has. Memphis' own gateway asks one in each request, so
                there up to as many requests are sent, with a part of the wait each, until one is not empty.
            timeout_s: Limit for the whole call, in seconds, longer than the wait; None: the wait and 15 s.

        Returns:
            The messages; an empty list when there were none in time. Its ack() acknowledges all in one request.

        Raises:
            ConfigurationError: A bad argument, or one that this gateway has nothing for; nothing was sent.
            UsageError: Memphis' own gateway, and the consumer was used with another group before.
            DeadlineError, ConnectionLostError: There was no answer; what it held is delivered again, or with *auto_ack*
                lost; the text says so.
            StationNotFoundError, ServerError: The gateway or the broker refused.
            RemoteProtocolError: The answer is not one of a gateway.
            AuthenticationError, ConnectError, ClosedError: As produce().
        """
        station = check_name("station_name", "Station", station_name)
        consumer = check_name("consumer_name", "Consumer", consumer_name)
        group = check_name("consumer_group", "Consumer", consumer_group) if consumer_group != "" else consumer
        wait_ms = check_int("batch_max_time_to_wait_ms", batch_max_time_to_wait_ms, 0, MAX_WAIT_MS)
        ack_ms = check_int("max_ack_time_ms", max_ack_time_ms, 100, MAX_ACK_MS)
        deliveries = check_int("max_msg_deliveries", max_msg_deliveries, 1, MAX_DELIVERIES)
        if check_bool("auto_ack", auto_ack) and (ack_ms, deliveries) != (ACK_MS, DELIVERIES):
            raise ConfigurationError(
                "max_ack_time_ms and max_msg_deliveries mean nothing with auto_ack=True; leave them out"
            )
        partitions = check_int("partitions_number", partitions_number, 1, MAX_PARTITIONS)
        longest_ms = partitions * max(wait_ms // partitions, LEAST_WAIT_MS)
        if timeout_s is not None and check_seconds("timeout_s", timeout_s, allow_zero=False) * 1000 <= longest_ms:
            raise ConfigurationError(
                f"timeout_s is {timeout_s:g}, which is not longer than the {longest_ms} ms that the gateway may wait "
                "for messages: it would hand them out to nobody; give a longer one, or a shorter wait"
            )
        given = Fetch(
            station,
            consumer,
            group,
            check_int("batch_size", batch_size, 1, MAX_BATCH_SIZE),
            max(wait_ms, LEAST_WAIT_MS),
            ack_ms,
            deliveries,
            auto_ack,
            partitions,
            timeout_s,
        )
        return fetch(self._caller, self._first_uses, given)

    def close(self) -> None:
        """
        Ends the login, where the gateway knows that, and all connections. Calls under way on other threads fail, at the
        latest when their answers come. A closed client may be closed again. In a forked child it closes what the child
        has opened, and nothing else.
        """
        self._is_closed = True
        caller = self._callers.get(os.getpid())
        if caller is not None:
            caller.close(time.monotonic() + LOG_OUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:  # modules are empty then
        if is_finalizing() or self.__dict__.get("_is_closed", True) or os.getpid() not in self._callers:
            return
        warnings.warn(
            f"{self!r} was never closed; use it as a context manager", ResourceWarning, source=self, stacklevel=2
        )

    def __repr__(self) -> str:
        state = " closed" if self._is_closed else ""
        return f"<HttpClient {self.url} as {self.username!r}{state}>"

    def _caller(self) -> Caller:
        """This process's connections and login."""
        if self._is_closed:
            raise ClosedError("the client was closed")
        pid = os.getpid()
        caller = self._callers.get(pid)
        if caller is None:
            caller = self._callers.setdefault(pid, Caller(self._settings))
        if not caller.tokens.size:
            caller.log_in(time.monotonic() + self._settings.timeout_s)
        return caller


@takes(HttpArguments)
def connect(given: HttpArguments) -> HttpClient:
    """
    Logs in at a gateway: that of memphis-sync, or Memphis' own.

    Proxies come from the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY). A redirection is not followed.

    Returns:
        A client. Close it, or use it as a context manager.

    Raises:
        ConfigurationError: An argument is missing, not allowed or contradicts another, or httpx is not installed;
            nothing was opened.
        AuthenticationError: The broker refused the credentials.
        ConnectError: The gateway cannot be reached, its broker is away, or what answers is not a gateway.
    """
    client = HttpClient(http_settings(given))
    try:
        client._caller()
    except BaseException:
        client.close()
        raise
    return client
