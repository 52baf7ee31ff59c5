"""
A client's connection: opening, closing, waiting, counting. The public class on top of it is client.Memphis.

Nothing is opened by a constructor, and no destructor does IO: a client that is forgotten is reported as
ResourceWarning, and its session sends what is queued and ends its threads by itself.
"""

from __future__ import annotations

import os
import ssl
import sys
import warnings
import weakref
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union

from memphis_sync._base import primitives
from memphis_sync._base.hints import hint_keywords
from memphis_sync._control.requests import Requests, longest_s
from memphis_sync._options import checks as opt
from memphis_sync._session import Session, fork, shutdown, waiting
from memphis_sync.errors import UsageError
from memphis_sync.types import ConnectOptions, FlushResult, LinkEvent, RetryPolicy, Stats

if TYPE_CHECKING:
    from typing_extensions import Self

    from memphis_sync._data import DataLink

DEFAULT_CLOSE_S = 5.0
T = TypeVar("T")


@hint_keywords()
class Connection:
    """What a client has apart from stations, producers and consumers."""

    def __init__(self) -> None:
        self._session_or_none: Optional[Session] = None
        self._requests_or_none: Optional[Requests] = None
        self._opened_at = ""

    # ---- connection -------------------------------------------------------------------------------------------------

    def connect(
        self,
        host: Optional[str] = None,
        username: Optional[str] = None,
        account_id: int = 1,
        connection_token: str = "",
        password: str = "",
        port: int = opt.DEFAULT_PORT,
        reconnect: bool = True,
        max_reconnect: int = -1,
        reconnect_interval_ms: int = opt.DEFAULT_RECONNECT_INTERVAL_MS,
        timeout_ms: int = opt.DEFAULT_TIMEOUT_MS,
        cert_file: Union[str, os.PathLike[str]] = "",
        key_file: Union[str, os.PathLike[str]] = "",
        ca_file: Union[str, os.PathLike[str]] = "",
        *,
        tls: Optional[ssl.SSLContext] = None,
        name: str = opt.DEFAULT_NAME,
        outbox_max_bytes: int = opt.DEFAULT_OUTBOX_MAX_BYTES,
        outbox_max_messages: int = opt.DEFAULT_OUTBOX_MAX_MESSAGES,
        max_in_flight: int = opt.DEFAULT_MAX_IN_FLIGHT,
        exit_timeout_s: float = opt.DEFAULT_EXIT_TIMEOUT_S,
        ping_interval_s: float = opt.DEFAULT_PING_INTERVAL_S,
        no_responders_retry: Optional[RetryPolicy] = opt.DEFAULT_NO_RESPONDERS_RETRY,
        wait_s: float = opt.DEFAULT_WAIT_S,
        on_disconnect: Optional[Callable[[LinkEvent], object]] = None,
        on_reconnect: Optional[Callable[[LinkEvent], object]] = None,
        on_error: Optional[Callable[[LinkEvent], object]] = None,
        json_default: Optional[Callable[[Any], Any]] = None,
    ) -> None:
        """Connects this client; arguments and errors are those of memphis_sync.connect(). A client connects once."""
        if self._session_or_none is not None:
            raise UsageError(f"{self!r} has been connected before; make another one with memphis_sync.connect()")
        primitives.check_threading()
        options = opt.build_connect_options(
            host=host,
            username=username,
            account_id=account_id,
            connection_token=connection_token,
            password=password,
            port=port,
            reconnect=reconnect,
            max_reconnect=max_reconnect,
            reconnect_interval_ms=reconnect_interval_ms,
            timeout_ms=timeout_ms,
            cert_file=cert_file,
            key_file=key_file,
            ca_file=ca_file,
            tls=tls,
            name=name,
            outbox_max_bytes=outbox_max_bytes,
            outbox_max_messages=outbox_max_messages,
            max_in_flight=max_in_flight,
            exit_timeout_s=exit_timeout_s,
            ping_interval_s=ping_interval_s,
            no_responders_retry=no_responders_retry,
            wait_s=wait_s,
            on_disconnect=on_disconnect,
            on_reconnect=on_reconnect,
            on_error=on_error,
            json_default=json_default,
        )
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
        """A station is gone: drops what is cached for it. Runs on the loop."""
        raise NotImplementedError

    def _forget_all(self) -> None:
        """The client is closed: drops what refers back to it."""
        raise NotImplementedError


def _caller() -> str:
    """File and line that opened the client: the first frame outside of this package."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == __package__:
        if frame.f_back is None:
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
