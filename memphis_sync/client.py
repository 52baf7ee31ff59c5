"""
The client: one connection to a broker, for all threads of a process.

Calls do not block each other: each control request runs on the client's event loop thread, each message on the data
link. No constructor opens anything, and no destructor does IO: a client that was not closed is reported with a
ResourceWarning, and its session sends what is queued and ends its threads.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, NoReturn, Optional, Union, overload

from memphis_sync._base.hints import hint_keywords, wrong_keyword
from memphis_sync._base.in_notebook import InNotebook
from memphis_sync._base.refusals import NotAwaited, NotCopied
from memphis_sync._consuming.joining import ConsumerCache, fetch, join
from memphis_sync._control.api import Requests
from memphis_sync._inspecting import calls as inspecting
from memphis_sync._managing import life, schemas, stations
from memphis_sync._managing.observable import Observable
from memphis_sync._options import arguments as args, inspecting as looks
from memphis_sync._options.arguments import check_name
from memphis_sync._options.checks import MAX_BATCH_SIZE, check_seconds
from memphis_sync._options.rows import method_takes, takes
from memphis_sync._options.schema_source import SchemaArguments
from memphis_sync._options.table import ConnectArguments
from memphis_sync._producing.cache import Ended, ProducerArguments, ProducerCache, ToOneStation, ToStations, names_of
from memphis_sync._producing.produce_types import as_produce
from memphis_sync._producing.rebinding import named, register
from memphis_sync._producing.sender import DEFAULT_ACK_WAIT_S, OnDelivery
from memphis_sync._session import Session, SessionPerProcess
from memphis_sync.consumer import Consumer
from memphis_sync.dead_letters import DeadLetters
from memphis_sync.delivery import Deliveries, Delivery
from memphis_sync.errors import StationNotFoundError, UsageError
from memphis_sync.info import ConnectionInfo, Listing, SchemaSummary, StationInfo
from memphis_sync.messages import Messages
from memphis_sync.producer import Producer
from memphis_sync.station import Station
from memphis_sync.types import FlushResult, Payload, PubAck, PubAcks, SchemaInfo, Stats

if TYPE_CHECKING:
    from typing_extensions import Self


@hint_keywords(but={"produce"})
class Memphis(Observable, NotCopied, NotAwaited, InNotebook):
    """
    A client of a Memphis broker. Create one with memphis_sync.connect(), and share it between all threads. It is a
    context manager: leaving the block closes it.

    It may be opened before a fork: in the child, its first use connects anew (``connection_id`` is another one), and
    producers and consumers register anew at theirs. What the parent has queued, its messages, Deliveries and a running
    consume() stay with the parent.

    A call that sends a request may raise, besides its own errors: ConfigurationError when an argument is not allowed,
    before anything is sent; ServerError when the broker refused; DeadlineError or ConnectionLostError when there was no
    reply, so the request may have been executed; ClosedError when the client was closed; OwnThreadError on one of the
    client's own threads; UsageError before connect(); ConnectError and AuthenticationError at its first use in a child.
    *timeout_retries* is how often a request without a reply is repeated, 0 to 1000; each waits up to 20 s, and 5 s
    where something is destroyed.

    Attributes:
        MAX_BATCH_SIZE: The largest ``batch_size`` of a fetch.
    """

    _instead = "share it between the threads of a process, and with forked children; else open one in each process"
    _shown = ("stats",)
    MAX_BATCH_SIZE = MAX_BATCH_SIZE

    def __init__(self) -> None:
        self._sessions: Optional[SessionPerProcess] = None
        self._producers = ProducerCache()
        self._consumers = ConsumerCache()
        self._is_shared = False  # kept by one of memphis_sync.contrib, which nobody has to close

    # ---- connection -------------------------------------------------------------------------------------------------

    @method_takes(ConnectArguments)
    def connect(self, given: ConnectArguments) -> None:
        """
        Connects this client, which is possible once.

        Raises:
            UsageError: The client was connected before, or the process is ending.
            ConfigurationError, AuthenticationError, ConnectError, OwnThreadError: As memphis_sync.connect().
        """
        if self._sessions is not None:
            raise UsageError(f"{self!r} was connected before; create another one with memphis_sync.connect()")
        self._sessions = life.opened(given, self._forget_station)

    def is_connected(self) -> bool:
        """
        Whether the client's connections to the broker are up: both of them, once the first producer or fetch has opened
        the second. False during an outage, after close(), and after reconnecting was given up.
        """
        session = self._own_session()
        return session is not None and not session.is_closing and session.is_connected

    def close(self, timeout_s: float = 5.0) -> None:
        """
        Sends what is queued, waits for its confirmation, then ends connections and threads. Idempotent.

        Stations, producers and consumer groups remain on the broker. In a forked child it closes what the child has
        opened by using the client, and does nothing if it has not: the parent's connections and messages are its own.

        Args:
            timeout_s: Limit for all of this, in seconds, 0 or more.

        Raises:
            OwnThreadError: Called on one of the client's own threads.
            KeyboardInterrupt: Ctrl-C; the client is closed at once, without waiting for confirmations.

        Warns:
            UndeliveredWarning: Messages were not confirmed in time; the text and ``count`` say how many.
        """
        life.close(self, check_seconds("timeout_s", timeout_s))

    @property
    def connection_id(self) -> str:
        """The client's id at the broker; a header of each message that it produces."""
        return self._session.connection_id

    def ping(self, timeout_s: float = 1.0) -> float:
        """
        Measures one round trip to the broker on each open connection.

        Args:
            timeout_s: Limit in seconds, above 0.

        Returns:
            Seconds, of the slower connection.

        Raises:
            DeadlineError: No reply in time; the text names the connection (control or data).
            ConnectionLostError: A connection is down; the text names it.
        """
        check_seconds("timeout_s", timeout_s, allow_zero=False)
        return self._session.ping(timeout_s)

    def stats(self) -> Stats:
        """Counters of all producers since the client was opened, in this process. No IO; also after close()."""
        return Stats() if (session := self._own_session()) is None else session.stats()

    def flush(self, timeout_s: Optional[float] = None) -> FlushResult:
        """
        Waits until the broker has confirmed or refused every message that was accepted so far.

        Args:
            timeout_s: Limit in seconds; None: until the messages' own deadlines.

        Returns:
            How many of these messages are still unconfirmed at the limit; 0 when all are settled, whatever other
            threads have produced meanwhile. Its ``failed`` says how many messages of the client have failed since the
            previous flush().

        Raises:
            OwnThreadError: Called on one of the client's own threads.
        """
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        return FlushResult() if (session := self._own_session()) is None else session.flush(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:  # modules are empty then
        session = None if is_finalizing() or not hasattr(self, "_sessions") else self._own_session()
        if session is not None and not session.is_closing:
            if not self._is_shared:
                text = f"{self!r} was never closed{session.opened_at}; use it as a context manager"
                warnings.warn(text, ResourceWarning, source=self, stacklevel=2)
            session.retire(bool(self._consumers.receivers))

    def __repr__(self) -> str:
        about = "not connected" if self._sessions is None else self._sessions.description
        return f"<{type(self).__name__} {about}>"

    # ---- stations, producers, consumers, schemas --------------------------------------------------------------------

    @method_takes(args.StationArguments)
    def station(self, given: args.StationArguments) -> Station:
        """
        Creates a station. One that exists already is fine, and keeps its settings.

        Raises:
            StationNotFoundError: With *create_station* False: it does not exist.
            ServerError: The broker refused, or reported success without creating the station.

        Source: protocol reference 3.2, 4.2.
        """
        given = given.checked()
        stations.create(self, given)
        return Station(self, given.name)

    def destroy_station(self, name: str, timeout_retries: int = 5) -> None:
        """
        Destroys a station with its messages, producers and consumers, also when it has lost its streams; one that does
        not exist is fine. The same as ``destroy()`` of a Station.
        """
        stations.destroy(self, name, timeout_retries)

    def dls(self, station_name: str) -> DeadLetters:
        """The dead letters of an existing station; the same as ``dls`` of a Station. Sends no request."""
        return DeadLetters(self, check_name("station_name", "Station", station_name))

    @overload
    @method_takes(ToOneStation)
    def producer(self, given: ToOneStation) -> Producer: ...

    @overload
    @method_takes(ToStations)
    def producer(self, given: ToStations) -> Producer[Union[PubAck, PubAcks], Union[Delivery, Deliveries]]: ...

    @method_takes(ProducerArguments)
    def producer(self, given: ProducerArguments) -> Producer[Any, Any]:
        """
        Registers a producer. A station that does not exist is created, with the broker's defaults and one partition.

        Raises:
            ConnectError: The data link could not be opened.
        """
        given = named(given.checked())
        return Producer(self, register(self, given), given)

    @as_produce
    def produce(
        self,
        station_name: Union[str, list[str]],
        producer_name: str,
        message: Payload,
        generate_random_suffix: bool = False,
        ack_wait_sec: float = DEFAULT_ACK_WAIT_S,
        headers: Optional[Mapping[str, str]] = None,
        async_produce: bool = False,
        msg_id: Optional[str] = None,
        producer_partition_key: Optional[str] = None,
        producer_partition_number: int = -1,
        *,
        nonblocking: bool = False,
        idempotent: bool = True,
        on_delivery: Optional[OnDelivery] = None,
        block_on_full_s: Optional[float] = None,
        **unexpected: NoReturn,
    ) -> object:
        """
        Produces a message with a producer that is created once and kept.

        ``station_name``, ``producer_name``, ``generate_random_suffix``, ``idempotent`` and ``block_on_full_s`` are
        those of producer(); each combination has its own producer. The others are those of Producer.produce().

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
        if type(station_name) is str and type(producer_name) is str:
            stations, name = names_of(station_name, producer_name)
        else:  # what has no hash, perhaps
            stations, name = names_of.__wrapped__(station_name, producer_name)
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
                continue  # the producer is registered, or must be registered again
            except StationNotFoundError:
                self._producers.discard(kept if isinstance(kept, Producer) else self._producers.get(key))
                raise  # the next call registers again, which creates the station again

    @method_takes(args.ConsumerArguments)
    def consumer(self, given: args.ConsumerArguments) -> Consumer:
        """
        Joins a consumer group. A station that does not exist is created, with the broker's defaults and one partition,
        unless *create_station* is False.

        Raises:
            StationNotFoundError: With *create_station* False: the station does not exist.
        """
        return join(self, given.checked())

    @method_takes(args.FetchArguments)
    def fetch_messages(self, given: args.FetchArguments) -> Messages:
        """
        Fetches messages with a consumer that is created once, for each combination of its arguments, and kept.

        ``batch_size``, ``consumer_partition_key``, ``consumer_partition_number``, ``prefetch`` and ``timeout_s`` are
        those of Consumer.fetch(), the others those of consumer().

        Returns:
            As Consumer.fetch(); with *until_end* each message once.

        Raises:
            DeadlineError: Also when the consumer was not registered within ``timeout_s``, if that is given; the call
                may be repeated.
            MemphisError: Otherwise as consumer() and Consumer.fetch().
        """
        return fetch(self, given)

    @method_takes(looks.StationsArguments)
    def stations(self, given: looks.StationsArguments) -> Listing[StationInfo]:
        """
        All stations by name, as they are now: ``[each.name for each in memphis.stations() if each.messages]``.

        It costs one request for 256 partitions, and one for 500 stations on the broker of memphis-sync.

        Raises:
            ServerError: The user is not allowed to list them (``code`` 403).
        """
        return inspecting.stations(self, given)

    @method_takes(looks.ConnectionsArguments)
    def connections(self, given: looks.ConnectionsArguments) -> Listing[ConnectionInfo]:
        """
        The clients that have registered a producer or consumer, as they are now. It costs one request for 500 of these.

        Raises:
            ServerError: The broker is a Memphis broker, which tells it in its REST API only (``code`` 503).
        """
        return inspecting.connections(self, given)

    @method_takes(looks.InspectArguments)
    def schemas(self, given: looks.InspectArguments) -> Listing[SchemaSummary]:
        """All schemas by name, with the stations of each. It costs one request for 500. Raises as connections()."""
        return inspecting.schemas(self, given)

    @method_takes(looks.SchemaVersionArguments)
    def schema(self, given: looks.SchemaVersionArguments) -> SchemaInfo:
        """One version of a schema with its source. Raises as connections(), and when it does not exist."""
        return inspecting.schema(self, given)

    @method_takes(SchemaArguments)
    def create_schema(self, given: SchemaArguments) -> None:
        """
        Creates a schema, or a new version of an existing one. The first version is active; a later one needs
        activate_schema_version(). The content of the newest version again is fine, and changes nothing.

        Raises:
            ConfigurationError: Also when the file cannot be read, or the source is larger than the broker accepts.
        """
        schemas.create(self, given.checked())

    def activate_schema_version(self, schema_name: str, version: Optional[int] = None, timeout_retries: int = 5) -> int:
        """
        Makes another version of a schema the active one; connected clients of its stations use it within a second.

        Needs the broker of memphis-sync: a Memphis broker offers this in its REST API only.

        Args:
            version: Its number, from 1; None for the newest.

        Returns:
            The number of the version that is active now.

        Raises:
            ServerError: The schema or version does not exist, or the broker is a Memphis broker (``code`` 503).
        """
        return schemas.activate(self, schema_name, version, timeout_retries)

    def enforce_schema(self, name: str, station_name: str, timeout_retries: int = 5) -> None:
        """
        Makes a station accept only messages that match a schema.

        Raises:
            StationNotFoundError, ServerError: The station or schema does not exist, or the broker refused.
        """
        schemas.enforce(self, name, station_name, timeout_retries)

    def attach_schema(self, name: str, station_name: str) -> None:
        """The old name of enforce_schema()."""
        self.enforce_schema(name, station_name)

    def detach_schema(self, station_name: str, timeout_retries: int = 5) -> None:
        """Makes a station accept any message again. Raises as enforce_schema()."""
        schemas.detach(self, station_name, timeout_retries)

    # ---- for the package's own use ----------------------------------------------------------------------------------

    @property
    def _session(self) -> Session:
        """This process's session, which connects when it is needed."""
        sessions = self._sessions
        if sessions is None:
            raise UsageError("the client is not connected; call connect() first, or use memphis_sync.connect()")
        return sessions.here()

    def _own_session(self) -> Optional[Session]:
        """The session; None also in a forked child that has not used the client."""
        return None if self._sessions is None else self._sessions.used()

    @property
    def _requests(self) -> Requests:
        return self._session.checked().requests

    def _forget_station(self, internal: str) -> None:
        """Removes a destroyed station from the caches. Also runs on the event loop."""
        self._producers.discard_station(internal)
        self._consumers.discard_station(internal)


@takes(ConnectArguments)
def connect(given: ConnectArguments) -> Memphis:
    """
    Connects to a broker.

    Returns:
        A connected client. Close it, or use it as a context manager.

    Raises:
        ConfigurationError: An argument is missing, not allowed or contradicts another; or eventlet has patched the
            process, or gevent has since its first connect(). Nothing was opened.
        AuthenticationError: The broker refused the credentials. After a slow login, or any other error of the server,
            the client tries again within *timeout_ms*. (In a later outage, a client ends for good when each address has
            refused the credentials five times.)
        ConnectError: No connection could be made; the text has each address with its reason. TLS is never given up.
        OwnThreadError: Called on one of a client's own threads.
        UsageError: The process is ending.
    """
    client = Memphis()
    client.connect(**vars(given))
    return client
