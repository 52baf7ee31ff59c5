"""
The client: one connection to a broker, for all threads of a process.

Nothing here blocks on another call: each control request runs on the client's own loop thread, each message on the data
link. Names are lowered and checked here, before any IO, by the broker's own rules. Nothing is opened by a constructor,
and no destructor does IO: a client that is forgotten is reported as ResourceWarning, and its session sends what is
queued and ends its threads by itself.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
import weakref
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, NoReturn, Optional, TypeVar, Union

from memphis_sync._base import primitives
from memphis_sync._base.hints import hint_keywords, wrong_keyword
from memphis_sync._base.refusals import NotAwaited, NotCopied
from memphis_sync._consuming.joining import each_once, join
from memphis_sync._control.requests import CREATE_S, DESTROY_S, JS_S, Requests, longest_s
from memphis_sync._options import checks as opt
from memphis_sync._options.arguments import (
    check_name,
    check_retries,
    check_station_names,
    consumer_request,
    station_request,
    with_suffix,
)
from memphis_sync._options.connect import connect_options
from memphis_sync._options.rows import method_takes, takes
from memphis_sync._options.schema_source import schema_source
from memphis_sync._options.table import ConnectArguments, ConnectOptions
from memphis_sync._producing.cache import Ended, ProducerCache
from memphis_sync._producing.sender import DEFAULT_ACK_WAIT_S
from memphis_sync._protocol.names import internal_name
from memphis_sync._schema import KINDS
from memphis_sync._session import Session, fork, shutdown, waiting
from memphis_sync._session.single_flight import SingleFlight
from memphis_sync.consumer import READ_ALL_S, Consumer
from memphis_sync.dead_letters import DeadLetters
from memphis_sync.delivery import Delivery
from memphis_sync.errors import ConfigurationError, StationNotFoundError, UsageError
from memphis_sync.headers import Headers
from memphis_sync.message import Messages
from memphis_sync.producer import Producer
from memphis_sync.station import Station
from memphis_sync.types import FlushResult, Retention, Stats, Storage

if TYPE_CHECKING:
    from typing_extensions import Self

    from memphis_sync._data import DataLink

DEFAULT_CLOSE_S = 5.0
T = TypeVar("T")


@hint_keywords(but={"produce"})
class Memphis(NotCopied, NotAwaited):
    """
    A client of a Memphis broker. Make one a process with memphis_sync.connect(), and share it between all threads.

    It is a context manager: leaving the block closes it.

    Attributes:
        MAX_BATCH_SIZE: The most messages that one fetch may ask for.
    """

    _instead = "share it between the threads of a process, and open one in each process (memphis_sync.connect)"

    MAX_BATCH_SIZE = opt.MAX_BATCH_SIZE

    def __init__(self) -> None:
        self._session_or_none: Optional[Session] = None
        self._requests_or_none: Optional[Requests] = None
        self._opened_at = ""
        self._producers = ProducerCache()
        self._consumers: SingleFlight[Consumer] = SingleFlight("the registration of a consumer")

    # ---- connection -------------------------------------------------------------------------------------------------

    @method_takes(ConnectArguments)
    def connect(self, given: ConnectArguments) -> None:
        """Connects this client; errors are those of memphis_sync.connect(). A client connects once."""
        if self._session_or_none is not None:
            raise UsageError(f"{self!r} has been connected before; make another one with memphis_sync.connect()")
        primitives.check_threading()
        options = connect_options(given)
        waiting.forbid_on_own_thread("connect()")
        self._open(options)

    def _open(self, options: ConnectOptions) -> None:
        # The session must not keep its client alive.
        me = weakref.ref(self)

        def on_station_removed(internal: str) -> None:
            client = me()
            if client is not None:
                client._forget_station(internal)

        session = Session(options, on_station_removed)
        session.open()
        self._session_or_none = session
        self._requests_or_none = Requests(session)
        if sys.flags.dev_mode:
            self._opened_at = _caller()

    def is_connected(self) -> bool:
        """
        Whether the client's connections to the broker are up at this moment: both of them, once the first producer or
        fetch has opened the second. False during an outage, after close(), and once reconnecting was given up.
        """
        session = self._session_or_none
        if session is None or fork.fork_generation() != session.generation:
            return False
        return not session.is_closing and session.is_connected

    def close(self, timeout_s: float = DEFAULT_CLOSE_S) -> None:
        """
        Sends what is queued, waits for its confirmation, then ends connections and threads. Idempotent.

        Stations, producers and consumer groups stay on the broker. In a forked child it does nothing: the messages are
        the parent's.

        Args:
            timeout_s: For everything together, in seconds.

        Raises:
            OwnThreadError: Called on the client's own loop thread.
            KeyboardInterrupt: Ctrl-C; the client is closed at once, without waiting for confirmations.

        Warns:
            UndeliveredWarning: Messages were not confirmed in time; the text and ``count`` say how many.
        """
        opt.check_seconds("timeout_s", timeout_s)
        session = self._session_or_none
        if session is None or session.is_closed or fork.fork_generation() != session.generation:
            return
        try:
            session.close(timeout_s)
        finally:
            self._forget_all()
            if session.left:
                shutdown.warn_undelivered(session.left, f"when {session.label!r} was closed", stacklevel=3)

    @property
    def connection_id(self) -> str:
        """What the broker knows this client by; a header of each message that it produces."""
        return self._session.connection_id

    def ping(self, timeout_s: float = 1.0) -> float:
        """
        One round trip to the broker on each connection that is there already.

        Args:
            timeout_s: Limit in seconds.

        Returns:
            Seconds; of the slower connection.

        Raises:
            DeadlineError: No answer in time; the text names the connection (control or data).
            ConnectionLostError: A connection is down at the moment; the text names it.
            ClosedError, ForkedError: The client was closed, or belongs to the parent process.
        """
        opt.check_seconds("timeout_s", timeout_s, allow_zero=False)
        return self._session.ping(timeout_s)

    def stats(self) -> Stats:
        """Counters of all producers since the client was opened. No IO; also after close()."""
        return self._session.stats()

    def flush(self, timeout_s: Optional[float] = None) -> FlushResult:
        """
        Waits until the broker has confirmed or refused every message that was accepted so far.

        Args:
            timeout_s: Limit in seconds; None waits as long as it takes.

        Returns:
            How many of these messages are still unconfirmed at the limit; 0 when all are settled, whatever other
            threads have produced meanwhile. Its ``failed`` says how many messages of the client have failed since the
            flush() before: confluent's flush() leaves that to delivery reports, and nats.go's
            ``PublishAsyncComplete()`` to its futures.

        Raises:
            OwnThreadError: Called on one of the client's own threads.
            ForkedError: The client belongs to the parent process.
        """
        if timeout_s is not None:
            opt.check_seconds("timeout_s", timeout_s)
        self._session.check_generation()
        return self._session.flush(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def __del__(self) -> None:
        session = getattr(self, "_session_or_none", None)
        if session is None or session.is_closing or fork.fork_generation() != session.generation:
            return
        where = f" (opened at {self._opened_at})" if self._opened_at else ""
        warnings.warn(
            f"{self!r} was forgotten without close(){where}; use it as a context manager",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )
        session.retire()

    def __repr__(self) -> str:
        session = self._session_or_none
        if session is None:
            return f"<{type(self).__name__} not connected>"
        options = session.options
        if fork.fork_generation() != session.generation:
            return f"<{type(self).__name__} {options.name!r} of the parent process>"
        stats = session.stats()
        return (
            f"<{type(self).__name__} {options.name!r} {session.state} {session.control.address} "
            f"user={options.credentials.username} queued={stats.queued} in_flight={stats.in_flight}>"
        )

    # ---- stations ---------------------------------------------------------------------------------------------------

    def station(
        self,
        name: str,
        retention_type: Retention = Retention.MAX_MESSAGE_AGE_SECONDS,
        retention_value: int = 3600,
        storage_type: Storage = Storage.DISK,
        replicas: int = 1,
        idempotency_window_ms: int = 120000,
        schema_name: str = "",
        send_poison_msg_to_dls: bool = True,
        send_schema_failed_msg_to_dls: bool = True,
        tiered_storage_enabled: bool = False,
        partitions_number: int = 1,
        dls_station: str = "",
        timeout_retries: int = 5,
    ) -> Station:
        """
        Creates a station. One that exists already is fine, and keeps the settings it has.

        Args:
            name: Up to 128 letters, digits, ``_ - .``; lower-cased.
            retention_type: What bounds each partition: age, number of messages, bytes, or acknowledgement by all
                groups.
            retention_value: Seconds, messages or bytes, from 1; without meaning for ``ACK_BASED``.
            storage_type: On disk or in memory.
            replicas: Copies in a cluster: 1, 3 or 5 (the broker rounds others).
            idempotency_window_ms: How long the broker remembers message ids, 100 to 86400000 ms. An age retention below
                it
                lowers it, because brokers refuse the combination.
            schema_name: Must exist already; "" for none.
            send_poison_msg_to_dls: Keep messages that were delivered too often.
            send_schema_failed_msg_to_dls: Keep messages that did not match the schema.
            tiered_storage_enabled: Off-load to the broker's second tier, where it has one.
            partitions_number: 1 to 10000; 0 means 1, as in memphis.py.
            dls_station: A station that gets a copy of each dead letter; "" for none.
            timeout_retries: How often a request without an answer is repeated; each waits up to 20 s.

        Raises:
            ConfigurationError: An argument is out of its bounds; nothing was sent.
            ServerError: The broker refused, or reported success without creating the station.
            DeadlineError, ConnectionLostError: No answer; the station may exist.
            ClosedError, ForkedError: The client was closed, or belongs to the parent process.

        Source: protocol reference 3.2, 4.2.
        """
        request = station_request(
            name=name,
            retention_type=retention_type,
            retention_value=retention_value,
            storage_type=storage_type,
            replicas=replicas,
            idempotency_window_ms=idempotency_window_ms,
            schema_name=schema_name,
            send_poison_msg_to_dls=send_poison_msg_to_dls,
            send_schema_failed_msg_to_dls=send_schema_failed_msg_to_dls,
            tiered_storage_enabled=tiered_storage_enabled,
            partitions_number=partitions_number,
            dls_station=dls_station,
        )
        retries = check_retries(timeout_retries)
        self._call(self._requests.create_station(request, retries), CREATE_S, retries, "station()")
        return Station(self, request.name)

    def destroy_station(self, name: str, timeout_retries: int = 5) -> None:
        """
        Destroys a station with its messages, producers and consumers, without looking whether it is whole; one that is
        not there is fine. The same as ``destroy()`` of a Station.

        Args:
            name: The station; lower-cased.
            timeout_retries: How often a request without an answer is repeated; each waits up to 5 s.

        Raises:
            ConfigurationError: The name breaks the rules; nothing was sent.
            ServerError: The broker refused.
            DeadlineError, ConnectionLostError: No answer; the station may be destroyed.
            ClosedError, ForkedError: The client was closed, or belongs to the parent process.
        """
        name, retries = check_name("name", "Station", name), check_retries(timeout_retries)
        self._call(self._requests.destroy_station(name, retries), DESTROY_S, retries, "destroy()")
        self._forget_station(internal_name(name))

    def dls(self, station_name: str) -> DeadLetters:
        """
        The dead letters of a station that exists already; the same as ``dls`` of a Station. Asks nothing.

        Raises:
            ConfigurationError: The name breaks the rules.
        """
        return DeadLetters(self, check_name("station_name", "Station", station_name))

    # ---- producers --------------------------------------------------------------------------------------------------

    def producer(
        self,
        station_name: Union[str, list[str]],
        producer_name: str,
        generate_random_suffix: bool = False,
        timeout_retries: int = 5,
        *,
        idempotent: bool = True,
        block_on_full_s: Optional[float] = None,
        ack_timeout_s: float = DEFAULT_ACK_WAIT_S,
        on_delivery: Optional[Callable[[Delivery], object]] = None,
    ) -> Producer:
        """
        Registers a producer. A station that does not exist is created, with the broker's defaults and one partition.

        Args:
            station_name: One station, or several: each message then goes to all of them.
            producer_name: Up to 128 letters, digits, ``_ - .``; lower-cased.
            generate_random_suffix: Adds ``_`` and 8 hexadecimal digits to the name.
            timeout_retries: How often a request without an answer is repeated (once at most: each repetition may
                register
                the producer again); each waits up to 20 s.
            idempotent: Give each message an id, so that it is stored once even if the connection breaks while it is on
                its way. False saves a fifth of the rate and means at least once.
            block_on_full_s: How long a non-blocking produce waits for room when the outbox is full, in seconds, from 0,
                before it raises BufferFullError; None: it raises at once.
            ack_timeout_s: How long the broker may take to confirm a message, in seconds, above 0, where produce() is
                not told otherwise.
            on_delivery: For non-blocking messages, those of produce_many() included, where produce() is not given one.

        Raises:
            ConfigurationError: An argument is out of its bounds; nothing was sent.
            ServerError: The broker refused.
            ConnectError: The data link could not be opened.
            DeadlineError, ConnectionLostError: No answer.
            ClosedError, ForkedError: The client was closed, or belongs to the parent process.
        """
        stations = check_station_names(station_name)
        name = check_name("producer_name", "Producer", producer_name)
        opt.check_bool("idempotent", idempotent)
        if block_on_full_s is not None:
            opt.check_seconds("block_on_full_s", block_on_full_s)
        opt.check_seconds("ack_timeout_s", ack_timeout_s, allow_zero=False)
        opt.check_optional_callable("on_delivery", on_delivery)
        if opt.check_bool("generate_random_suffix", generate_random_suffix):
            name = with_suffix("producer_name", "Producer", name)
        retries = check_retries(timeout_retries)
        self._data_link()
        views = self._call(
            self._requests.create_producers(stations, name, retries), CREATE_S, min(retries, 1), "producer()"
        )
        return Producer(
            self,
            name,
            tuple(views),
            idempotent=idempotent,
            block_on_full_s=block_on_full_s,
            ack_timeout_s=ack_timeout_s,
            on_delivery=on_delivery,
        )

    def produce(
        self,
        station_name: Union[str, list[str]],
        producer_name: str,
        message: Any,
        generate_random_suffix: bool = False,
        ack_wait_sec: float = DEFAULT_ACK_WAIT_S,
        headers: Union[Headers, Mapping[str, str], None] = None,
        async_produce: bool = False,
        msg_id: Optional[str] = None,
        producer_partition_key: Optional[str] = None,
        producer_partition_number: int = -1,
        *,
        nonblocking: bool = False,
        idempotent: bool = True,
        on_delivery: Optional[Callable[..., object]] = None,
        block_on_full_s: Optional[float] = None,
        **unexpected: NoReturn,
    ) -> Any:
        """
        Produces a message with a producer that is made once and kept.

        ``station_name``, ``producer_name``, ``generate_random_suffix``, ``idempotent`` and ``block_on_full_s`` are
        those of producer(); each set of them has a producer of its own. The others are those of Producer.produce().

        Returns:
            As Producer.produce().

        Raises:
            MemphisError: As producer() and Producer.produce().
        """
        if unexpected:
            raise wrong_keyword(Memphis.produce, unexpected, "Memphis.")
        if async_produce:
            warnings.warn("async_produce is deprecated; use nonblocking", DeprecationWarning, stacklevel=2)
        nonblocking = nonblocking or async_produce
        stations = tuple(check_station_names(station_name))
        name = check_name("producer_name", "Producer", producer_name)
        key = (stations, name, generate_random_suffix, idempotent, block_on_full_s)
        while True:
            kept = self._producers.get(key)
            if kept is None:
                kept = self._producers.register(self, key)
            try:
                return kept.produce(
                    message,
                    ack_wait_sec,
                    headers,
                    None,
                    nonblocking,
                    msg_id,
                    producer_partition_key=producer_partition_key,
                    producer_partition_number=producer_partition_number,
                    on_delivery=on_delivery,
                )
            except Ended:
                continue  # the producer is there, or the next registration is due
            except StationNotFoundError:
                self._producers.discard(kept if isinstance(kept, Producer) else self._producers.get(key))
                raise  # the next call registers anew, which creates the station again

    # ---- consumers --------------------------------------------------------------------------------------------------

    def consumer(
        self,
        station_name: str,
        consumer_name: str,
        consumer_group: str = "",
        pull_interval_ms: int = 1000,
        batch_size: int = 10,
        batch_max_time_to_wait_ms: int = 100,
        max_ack_time_ms: int = 30000,
        max_msg_deliveries: int = 2,
        generate_random_suffix: bool = False,
        start_consume_from_sequence: int = 1,
        last_messages: int = -1,
        timeout_retries: int = 5,
        *,
        create_station: bool = True,
    ) -> Consumer:
        """
        Joins a consumer group. A station that does not exist is created, with the broker's defaults and one partition,
        unless *create_station* is False.

        Args:
            station_name: The station; lower-cased.
            consumer_name: Up to 128 letters, digits, ``_ - .``; lower-cased.
            consumer_group: Members of a group share its messages; the consumer's name when empty.
            pull_interval_ms: Pause of consume() after a pull that found less than a full batch, from 0.
            batch_size: How many messages consume() and iteration take at once, 1 to 5000.
            batch_max_time_to_wait_ms: How long fetch() waits for a first message; 100 at least.
            max_ack_time_ms: Until a message without an answer is delivered again, from 1.
            max_msg_deliveries: 1 to 10; then the message is a dead letter. -1 means the broker's 10.
            generate_random_suffix: Adds ``_`` and 8 hexadecimal digits to the name.
            start_consume_from_sequence: First message of each partition for a new group, from 1.
            last_messages: Start a new group with so many newest messages of each partition; -1 for all, 0 for none.
            timeout_retries: As producer().
            create_station: False: a station that does not exist is an error, so that a misspelt name makes none.

        Raises:
            ConfigurationError: An argument is out of its bounds; nothing was sent.
            StationNotFoundError: With *create_station* False: there is no such station.
            ServerError: The broker refused.
            DeadlineError, ConnectionLostError: No answer.
            ClosedError, ForkedError: The client was closed, or belongs to the parent process.
        """
        request = consumer_request(
            station_name=station_name,
            consumer_name=consumer_name,
            consumer_group=consumer_group,
            max_ack_time_ms=max_ack_time_ms,
            max_msg_deliveries=max_msg_deliveries,
            generate_random_suffix=generate_random_suffix,
            start_consume_from_sequence=start_consume_from_sequence,
            last_messages=last_messages,
        )
        settings = {
            "pull_interval_ms": opt.check_int("pull_interval_ms", pull_interval_ms, 0, opt.MAX_TIME_MS),
            "batch_size": opt.check_int("batch_size", batch_size, 1, opt.MAX_BATCH_SIZE),
            "batch_max_time_to_wait_ms": _check_wait(batch_max_time_to_wait_ms),
            "retries": check_retries(timeout_retries),
        }
        if not opt.check_bool("create_station", create_station):
            self._call(self._requests.require_station(request.station_name), JS_S, 0, "consumer()")
        return join(self, request, **settings)

    def fetch_messages(
        self,
        station_name: str,
        consumer_name: str,
        consumer_group: str = "",
        batch_size: int = 10,
        batch_max_time_to_wait_ms: int = 100,
        max_ack_time_ms: int = 30000,
        max_msg_deliveries: int = 2,
        generate_random_suffix: bool = False,
        start_consume_from_sequence: int = 1,
        last_messages: int = -1,
        consumer_partition_key: Optional[str] = None,
        consumer_partition_number: int = -1,
        prefetch: bool = False,
        *,
        timeout_s: Optional[float] = None,
        until_end: bool = False,
    ) -> Messages:
        """
        Fetches messages with a consumer that is made once, for each set of arguments that make one, and kept.

        ``batch_size``, ``consumer_partition_key``, ``consumer_partition_number``, ``prefetch`` and ``timeout_s`` are
        those of Consumer.fetch(), the others those of consumer().

        Args:
            until_end: Fetch all that the station holds for the group, as Consumer.read_all() does, instead of one
                batch; ``batch_size`` and ``prefetch`` have no meaning then, and ``timeout_s`` is that of read_all().
                It all stands in memory, and its ack time runs: read_all() hands out one message after the other.

        Returns:
            As Consumer.fetch(); with *until_end* each message once.

        Raises:
            DeadlineError: Also when the consumer was not registered within ``timeout_s``, where that is given; the call
                may be repeated.
            MemphisError: Else as consumer() and Consumer.fetch().
        """
        station = check_name("station_name", "Station", station_name)
        name = check_name("consumer_name", "Consumer", consumer_name)
        deadline = None if timeout_s is None else time.monotonic() + opt.check_seconds("timeout_s", timeout_s)
        made_of = (
            consumer_group,
            batch_max_time_to_wait_ms,
            max_ack_time_ms,
            max_msg_deliveries,
            generate_random_suffix,
            start_consume_from_sequence,
            last_messages,
        )
        consumer = self._consumers.get(
            (station, name, *made_of),
            lambda: join(
                self,
                consumer_request(
                    station_name=station,
                    consumer_name=name,
                    consumer_group=consumer_group,
                    max_ack_time_ms=max_ack_time_ms,
                    max_msg_deliveries=max_msg_deliveries,
                    generate_random_suffix=generate_random_suffix,
                    start_consume_from_sequence=start_consume_from_sequence,
                    last_messages=last_messages,
                ),
                batch_max_time_to_wait_ms=_check_wait(batch_max_time_to_wait_ms),
                deadline=deadline,
            ),
        )
        try:
            if opt.check_bool("until_end", until_end):
                limit_s = READ_ALL_S if timeout_s is None else timeout_s
                found = consumer.read_all(consumer_partition_key, consumer_partition_number, timeout_s=limit_s)
                return each_once(found)
            if deadline is not None:
                timeout_s = max(deadline - time.monotonic(), 0.0)
            return consumer.fetch(
                batch_size, consumer_partition_key, consumer_partition_number, prefetch, timeout_s=timeout_s
            )
        except StationNotFoundError:
            self._consumers.discard(consumer)
            raise

    # ---- schemas ----------------------------------------------------------------------------------------------------

    def create_schema(
        self,
        schema_name: str,
        schema_type: str,
        schema_path: Union[str, os.PathLike[str], None] = None,
        timeout_retries: int = 5,
        *,
        schema_content: Optional[str] = None,
        message_name: Optional[str] = None,
    ) -> None:
        """
        Creates a schema, or a new version of one that exists. The first version is active; a later one waits for
        activate_schema_version(). The newest version's own content again is fine, and changes nothing.

        Args:
            schema_name: Up to 128 letters, digits, ``_ - .``; lower-cased.
            schema_type: ``json``, ``graphql``, ``protobuf`` or ``avro``.
            schema_path: A UTF-8 file with the schema's source; a byte order mark in front is left out.
            timeout_retries: How often a request without an answer is repeated; each waits up to 20 s.
            schema_content: The source itself, in place of the file.
            message_name: For protobuf: the message in the source that counts, as ``Order`` or ``shop.Order``. None: the
                first one. A Memphis broker always takes the first; there another name is refused.

        Raises:
            ConfigurationError: An argument is out of its bounds, the file cannot be read, or the source is larger than
                the broker takes; nothing was sent.
            ServerError: The broker refused, with its own text.
            DeadlineError, ConnectionLostError, ClosedError, ForkedError: As station().
        """
        name = check_name("schema_name", "Schema", schema_name)
        if schema_type not in list(KINDS):  # a list: what was given may have no hash
            raise ConfigurationError(f"schema_type is {opt.show(schema_type)}; it must be one of {', '.join(KINDS)}")
        content = schema_source(schema_path, schema_content)
        message = "" if message_name is None else opt.check_str("message_name", message_name, empty_ok=False)
        if message and schema_type != "protobuf":
            raise ConfigurationError(
                f"message_name is {opt.show(message)}, and schema_type {schema_type}; only protobuf has message names"
            )
        retries = check_retries(timeout_retries)
        self._call(
            self._requests.create_schema(name, schema_type, content, message, retries),
            CREATE_S,
            retries,
            "create_schema()",
        )

    def activate_schema_version(self, schema_name: str, version: Optional[int] = None, timeout_retries: int = 5) -> int:
        """
        Makes another version of a schema the active one; clients of the stations that use it follow within a second.

        Needs the broker of memphis-sync: a Memphis broker does this through its REST interface only.

        Args:
            schema_name: The schema.
            version: Its number, from 1; None for the newest.
            timeout_retries: How often a request without an answer is repeated; each waits up to 20 s.

        Returns:
            The number of the version that is active now.

        Raises:
            ConfigurationError: An argument is out of its bounds; nothing was sent.
            ServerError: There is no such schema or version, or the broker is a Memphis one (``code`` 503).
            DeadlineError, ConnectionLostError, ClosedError, ForkedError: As station().
        """
        name = check_name("schema_name", "Schema", schema_name)
        number = 0 if version is None else opt.check_int("version", version, 1, 2**31 - 1)
        retries = check_retries(timeout_retries)
        return self._call(
            self._requests.activate_schema_version(name, number, retries),
            CREATE_S,
            retries,
            "activate_schema_version()",
        )

    def enforce_schema(self, name: str, station_name: str, timeout_retries: int = 5) -> None:
        """
        Makes a station take only messages that match a schema.

        Raises:
            ConfigurationError: A name breaks the rules; nothing was sent.
            StationNotFoundError, ServerError: There is no such station or schema, or the broker refused.
            DeadlineError, ConnectionLostError, ClosedError, ForkedError: As station().
        """
        schema = check_name("name", "Schema", name)
        station = check_name("station_name", "Station", station_name)
        retries = check_retries(timeout_retries)
        self._call(self._requests.attach_schema(schema, station, retries), CREATE_S, retries, "enforce_schema()")

    def attach_schema(self, name: str, station_name: str) -> None:
        """The old name of enforce_schema()."""
        self.enforce_schema(name, station_name)

    def detach_schema(self, station_name: str, timeout_retries: int = 5) -> None:
        """Makes a station take any message again. Raises as enforce_schema()."""
        station = check_name("station_name", "Station", station_name)
        retries = check_retries(timeout_retries)
        self._call(self._requests.detach_schema(station, retries), CREATE_S, retries, "detach_schema()")

    # ---- for the package's own use ----------------------------------------------------------------------------------

    @property
    def _session(self) -> Session:
        session = self._session_or_none
        if session is None:
            raise UsageError("the client is not connected; call connect() first, or use memphis_sync.connect()")
        return session

    @property
    def _requests(self) -> Requests:
        self._session.check()
        assert self._requests_or_none is not None
        return self._requests_or_none

    @property
    def _options(self) -> ConnectOptions:
        return self._session.options

    def _data_link(self) -> DataLink:
        """The data link, opened by the first call."""
        return self._session.data_link()

    def _call(self, work: Coroutine[Any, Any, T], per_try_s: float, retries: int, what: str) -> T:
        """Runs a control request with its retries."""
        return self._session.call(work, longest_s(per_try_s, retries), what)

    def _forget_station(self, internal: str) -> None:
        """A station was destroyed: drops what is cached for exactly this one. Runs on the loop, too."""
        self._producers.discard_station(internal)
        for consumer in self._consumers.values():
            if consumer._view.internal == internal:
                self._consumers.discard(consumer)

    def _forget_all(self) -> None:
        """The client is closed: drops what refers back to it."""
        self._producers.clear()
        self._consumers.clear()


def _check_wait(batch_max_time_to_wait_ms: int) -> int:
    return max(100, opt.check_int("batch_max_time_to_wait_ms", batch_max_time_to_wait_ms, 0, opt.MAX_TIME_MS))


def _caller() -> str:
    """File and line that opened the client: the first frame outside of this package."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == __package__:
        if frame.f_back is None:
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


@takes(ConnectArguments)
def connect(given: ConnectArguments) -> Memphis:
    """
    Connects to a broker.

    Returns:
        A connected client. Close it, or use it as a context manager.

    Raises:
        ConfigurationError: An argument is missing, out of its bounds or contradicts another, or gevent or eventlet has
            patched threads or sockets; nothing was opened.
        AuthenticationError: The broker refused the credentials. A login that only took too long, or any other word of
            the server's that is not a verdict on the credentials, is tried again within *timeout_ms*. (In a later
            outage, a client ends for good when each address has refused the credentials five times.)
        ConnectError: No address gave a connection; the text has each with its reason. Never does a connection that was
            to have TLS go on without it.
        UsageError: The process is ending.
    """
    client = Memphis()
    client.connect(**vars(given))
    return client
