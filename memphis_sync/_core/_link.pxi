# The data link's C core as Python sees it: Link, Route, Ticket, ReceiveBuffer, RawMessage. Checks types, calls, wraps.
#
# Lifetime: Route, Ticket, ReceiveBuffer and RawMessage hold their Link, which owns the C outbox and link. A Link is freed
# when the last of them is gone, and only after its loops have returned (they hold a reference while they run).
# Fork: the C locks may be held by a thread that does not exist in the child, so nothing of a Link from before a fork is
# touched there: calls raise ForkedError, destructors do nothing.
cimport cython
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.unicode cimport PyUnicode_CheckExact
from libc.string cimport memset

from memphis_sync._core._translate import frames_of
from memphis_sync.errors import (
    BufferFullError,
    ClosedError,
    ConfigurationError,
    ConnectionLostError,
    ForkedError,
    LocalProtocolError,
    PayloadTooLargeError,
)


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyObject_IS_GC(object)
    void PyObject_GC_UnTrack(void *)

RECEIVE_BUFFER_BYTES = MCORE_RECEIVE_BUFFER_BYTES


cdef object new_off_list(type kind):
    """
    An instance of *kind* that the garbage collector does not look at. Every class that is written in Python puts its
    instances on the collector's list, those of a parent without one too; with 100,000 of them in a backlog, walking the
    list costs more than sending. So nothing that such an instance refers to may lead back to it.
    """
    made = kind.__new__(kind)
    if PyObject_IS_GC(made):
        PyObject_GC_UnTrack(<void *>made)
    return made


@cython.final
cdef class Link:
    """
    The outbox and the two loops of one data link.

    Args:
        token: Unique name of the link, 1 or more of ``[A-Za-z0-9]``; its replies go to ``_INBOX.<token>.<slot>``.
        max_bytes: Bound of the outbox in bytes of encoded frames.
        max_messages: Bound of the outbox in messages.
        window: How many messages may be written and not yet confirmed.
        max_payload: Largest payload that either side takes, in bytes, headers included.
        ping_interval_ns: A server that is silent for so long is asked, and given up after twice as long; 0: never.
        retry_attempts: How often a message that nobody listens to is sent again, 0 to 255.
        retry_pause_ns: How long it waits for that.
        sans_io: The bytes are not for the socket as they are (TLS): ``next`` and ``feed`` instead of the two loops.

    Raises:
        MemoryError: The system gave no memory for the outbox.
    """

    cdef mcore_outbox *_outbox
    cdef mcore_link *_link
    cdef uint64_t _generation
    cdef public size_t max_payload
    cdef readonly bytes token
    cdef dict _watched
    cdef list _late

    def __cinit__(self, bytes token not None, uint64_t max_bytes, uint64_t max_messages, uint64_t window,
                  size_t max_payload, int64_t ping_interval_ns=0, unsigned int retry_attempts=0,
                  int64_t retry_pause_ns=0, bint sans_io=False):
        self._generation = mcore_fork_generation()
        self.token = token
        self.max_payload = max_payload
        self._watched = {}
        self._late = []
        self._outbox = mcore_outbox_new(<const uint8_t *>PyBytes_AS_STRING(token), len(token), max_bytes, max_messages,
                                        window)
        if self._outbox == NULL:
            raise MemoryError(f"no memory for an outbox of {max_bytes} bytes and {max_messages} messages")
        mcore_outbox_set_retry(self._outbox, retry_attempts, retry_pause_ns)
        # What the server sends may be larger than what it takes from us: ack headers, stored messages of other limits.
        self._link = mcore_link_new(self._outbox, max(max_payload, <size_t>64 * 1024 * 1024), ping_interval_ns,
                                    sans_io)
        if self._link == NULL:
            raise MemoryError("no memory for a data link")

    def __dealloc__(self):
        if mcore_fork_generation() == self._generation:
            mcore_link_free(self._link)
            mcore_outbox_free(self._outbox)

    cdef int _check(self) except -1:
        if mcore_fork_generation() != self._generation:
            raise ForkedError("this client was opened before a fork; open one in the child process")
        return 0

    cdef int _raise_for(self, int result) except -1:
        if result == MCORE_E_CLOSED:
            raise ConnectionLostError("the data link has no connection at the moment")
        if result == MCORE_E_MEMORY:
            raise MemoryError("no memory for control frames")
        if result != 0:
            raise LocalProtocolError(f"the C core refused a control frame ({result})")
        return 0

    # ---- connection --------------------------------------------------------------------------------------------

    def attach(self, int fd, bytes first not None, bytes rest not None):
        """Takes a connected socket; *first* is written first, *rest* was read too far. False once stopped."""
        self._check()
        return mcore_link_attach(self._link, fd, <const uint8_t *>PyBytes_AS_STRING(first), len(first),
                                 <const uint8_t *>PyBytes_AS_STRING(rest), len(rest)) == 0

    def detach(self):
        """Lets the socket go and queues what was in flight again; returns how many messages that were."""
        self._check()
        cdef uint64_t count
        with nogil:
            count = mcore_link_detach(self._link)
        return count

    def read_loop(self):
        """Reads until the connection ends; returns ``(end, errno, text)``. For the reader thread."""
        self._check()
        cdef int end
        with nogil:
            end = mcore_link_read_loop(self._link)
        return end, mcore_link_errno(self._link), self.text()

    def send_loop(self):
        """Writes and expires until the link is stopped (False) or failures wait to be logged (True). For the sender."""
        self._check()
        cdef int unseen
        with nogil:
            unseen = mcore_link_send_loop(self._link)
        return unseen != 0

    def next(self, int64_t timeout_ns):
        """
        The send loop's step, for one thread: waits for bytes to write.

        Returns:
            ``(2, bytes)`` to write, valid until ``written()``, which must follow; they are empty after ``wake()``.
            ``(0, empty)`` once stopped, ``(1, empty)`` when failures wait to be logged, ``(3, empty)`` after
            *timeout_ns*.
        """
        self._check()
        cdef const uint8_t *data
        cdef size_t size
        cdef int kind
        with nogil:
            kind = mcore_link_next(self._link, timeout_ns, &data, &size)
        if size == 0:
            return kind, memoryview(b"")
        return kind, PyMemoryView_FromMemory(<char *>data, <Py_ssize_t>size, PyBUF_READ)

    def written(self, size_t count, int errno=0):
        """The first *count* bytes are out; or the socket's *errno*, which ends the connection."""
        self._check()
        mcore_link_written(self._link, count, errno)

    def run_timers(self):
        """Expires deadlines and asks a silent server while the socket is full; returns ns until it is needed again."""
        self._check()
        return mcore_link_run_timers(self._link)

    def wake(self):
        """Makes ``next`` return, if there is a connection."""
        self._check()
        mcore_link_wake(self._link)

    def feed(self, data):
        """
        The read loop's step: bytes that the server sent; none at all first, for what ``attach`` was given.

        Returns:
            None while the connection goes on, else as ``read_loop``.
        """
        self._check()
        cdef Py_buffer view
        cdef int end
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                end = mcore_link_feed(self._link, <const uint8_t *>view.buf, <size_t>view.len)
        finally:
            PyBuffer_Release(&view)
        if end == MCORE_LINK_GOES_ON:
            return None
        return end, mcore_link_errno(self._link), self.text()

    def ended(self, int errno):
        """The socket gives no more: its *errno*, 0 when the server closed. Returns what ``read_loop`` would."""
        self._check()
        cdef int end = mcore_link_ended(self._link, errno)
        return end, mcore_link_errno(self._link), self.text()

    def stop(self):
        """Makes both loops return; nothing is written any more."""
        if mcore_fork_generation() == self._generation:
            with nogil:
                mcore_link_stop(self._link)

    def is_up(self):
        """Whether a socket is attached and not known to be broken."""
        self._check()
        return mcore_link_is_up(self._link) != 0

    def text(self):
        """The server's last error text, or the bytes that broke the protocol."""
        cdef char text[512]
        mcore_link_text(self._link, text, sizeof(text))
        return (<bytes>text).decode("utf-8", "replace")

    def control(self, bytes frames not None):
        """Queues whole control frames before all produced messages. ConnectionLostError without a connection."""
        self._check()
        self._raise_for(mcore_link_control(self._link, <const uint8_t *>PyBytes_AS_STRING(frames), len(frames)))

    def write(self, bytes frames not None):
        """As control(), and writes at once as push() does."""
        self._check()
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(frames)
        cdef size_t size = <size_t>PyBytes_GET_SIZE(frames)
        cdef int result
        with nogil:
            result = mcore_link_write(self._link, data, size)
        self._raise_for(result)

    def push(self):
        """Writes what is queued now if nobody else is writing; with sans_io it wakes the sender."""
        self._check()
        with nogil:
            mcore_link_push(self._link)

    def ping(self):
        """Queues a PING and returns its number on this connection. ConnectionLostError without a connection."""
        self._check()
        cdef int64_t number = mcore_link_ping(self._link)
        if number < 0:
            self._raise_for(<int>number)
        return number

    def wait_pong(self, int64_t number, int64_t timeout_ns):
        """Whether the PONG of that PING has come within *timeout_ns*. ConnectionLostError when it never will."""
        self._check()
        cdef int result
        with nogil:
            result = mcore_link_wait_pong(self._link, number, timeout_ns)
        if result == MCORE_E_TIMEOUT:
            return False
        self._raise_for(result)
        return True

    # ---- outbox ------------------------------------------------------------------------------------------------

    def owner_new(self):
        """A number under which one producer's backlog is counted."""
        self._check()
        cdef long owner = mcore_outbox_owner_new(self._outbox)
        if owner < 0:
            raise MemoryError("no memory for another producer")
        return owner

    def stats(self):
        """All counters at one instant, as a dict."""
        self._check()
        cdef mcore_stats stats
        mcore_outbox_stats(self._outbox, &stats)
        return stats

    def outstanding(self, long owner=-1):
        """Messages of *owner* (-1: of all) that are neither delivered nor failed."""
        self._check()
        return mcore_outbox_outstanding(self._outbox, owner)

    def wait_drained(self, long owner, int64_t timeout_ns, uint64_t down_to=0):
        """Waits until no more than *down_to* of *owner* are outstanding (-1: nothing of anybody); returns what is."""
        self._check()
        cdef uint64_t count
        with nogil:
            mcore_link_push(self._link)
            count = mcore_outbox_wait_drained(self._outbox, owner, down_to, timeout_ns)
        return count

    def marks(self):
        """How far messages were accepted until now, for ``wait_marks``."""
        self._check()
        cdef uint64_t marks[2]
        mcore_outbox_marks(self._outbox, marks)
        return marks[0], marks[1]

    def wait_marks(self, long owner, marks not None, int64_t timeout_ns):
        """Waits until what *owner* (-1: anybody) had accepted at the marks is settled; returns how many are not."""
        self._check()
        cdef uint64_t both[2]
        cdef uint64_t count
        both[0], both[1] = marks
        with nogil:
            mcore_link_push(self._link)
            count = mcore_outbox_wait_marks(self._outbox, owner, both, timeout_ns)
        return count

    def take_failed(self, long owner=-1):
        """How many messages of *owner* (-1: of all) failed or were abandoned since the last call for it."""
        self._check()
        return mcore_outbox_take_failed(self._outbox, owner)

    def wait_room(self, size_t size, int64_t timeout_ns):
        """Waits until a frame of *size* bytes fits, with some air. False when it does not in time."""
        self._check()
        cdef int result
        with nogil:
            result = mcore_outbox_wait_room(self._outbox, size, timeout_ns)
        if result == MCORE_E_CLOSED:
            raise ClosedError("the client is closed")
        return result == 0

    def close(self):
        """No append from now on."""
        if mcore_fork_generation() == self._generation:
            mcore_outbox_close(self._outbox)

    def abandon(self):
        """Ends all that is outstanding as abandoned; returns how many."""
        self._check()
        return mcore_outbox_abandon(self._outbox)

    def release(self):
        """Gives the memory back, once it is closed, all is settled and both loops have returned; False: not yet."""
        self._check()
        if not mcore_outbox_release(self._outbox):
            return False
        mcore_link_release(self._link)
        return True

    def take_unseen(self):
        """``(count, text)`` of failures since the last call that nobody asked about."""
        self._check()
        cdef char text[256]
        cdef uint64_t count = mcore_outbox_take_unseen(self._outbox, text, sizeof(text))
        return count, (<bytes>text).decode("utf-8", "replace")

    def take_disbelieved(self):
        """``(count, text)`` of answers since the last call that were ignored, and why the last one was."""
        self._check()
        cdef char text[256]
        cdef uint64_t count = mcore_outbox_take_disbelieved(self._outbox, text, sizeof(text))
        return count, (<bytes>text).decode("utf-8", "replace")

    def send_all(self, list routes not None, payload, bytes headers not None, bytes msg_id not None,
                 int64_t timeout_ns, type kind not None, bint urgent=False):
        """
        Appends one message for each route (at most 64), all or none; the tickets in the order of the routes. A list as
        payload holds one bytes object for each route.
        """
        cdef const mcore_route *parts[64]
        cdef size_t sizes[64]
        cdef mcore_ticket *slots[64]
        cdef Route route
        cdef Ticket ticket
        cdef size_t count = len(routes)
        cdef size_t i
        if not 1 <= count <= 64:
            raise ConfigurationError(f"a producer takes 1 to 64 stations at once, not {count}")
        tickets = []
        for i in range(count):
            route = routes[i]
            ticket = <Ticket>new_off_list(kind)
            ticket._route = route
            ticket._msg_id = msg_id
            parts[i] = &route._route
            slots[i] = &ticket._ticket
            tickets.append(ticket)
        route = routes[0]
        if type(payload) is list:
            if len(payload) != count:
                raise ConfigurationError(f"{len(payload)} payloads for {count} stations")
            for i in range(count):
                sizes[i] = len(payload[i])
            route._append(parts, count, b"".join(payload), headers, msg_id, timeout_ns, False, urgent, slots, sizes)
        else:
            route._append(parts, count, payload, headers, msg_id, timeout_ns, False, urgent, slots)
        return tickets

    # ---- held messages -----------------------------------------------------------------------------------------

    def hold(self, list routes not None, size_t size, bytes msg_id not None, int64_t timeout_ns, type kind not None):
        """
        Takes one message for each route (at most 64), all or none, of which nothing is known yet but its size.

        Args:
            routes: Of one owner of their own; for the reader of a ticket, until unhold() gives it another.
            size: Bytes that one of them counts with.
            msg_id, timeout_ns, kind: As of Route.send().

        Returns:
            The tickets in the order of the routes; None once end_holding() has ended it.

        Raises:
            BufferFullError, PayloadTooLargeError, ClosedError, ForkedError: As Route.send().
        """
        cdef mcore_ticket *slots[64]
        cdef mcore_message message
        cdef Route route
        cdef Ticket ticket
        cdef size_t i
        cdef size_t count = len(routes)
        if not 1 <= count <= 64:
            raise ConfigurationError(f"a producer takes 1 to 64 stations at once, not {count}")
        self._check()
        tickets = []
        for i in range(count):
            ticket = <Ticket>new_off_list(kind)
            ticket._route = routes[i]
            ticket._msg_id = msg_id
            slots[i] = &ticket._ticket
            tickets.append(ticket)
        route = routes[0]
        cdef int error = mcore_outbox_hold(self._outbox, route._route.owner, count, size, timeout_ns, slots)
        if error == MCORE_E_ENDED:
            return None
        if error < 0:
            memset(&message, 0, sizeof(message))
            message.payload_len = size
            route._raise_full(error, count, &message)
        return tickets

    def unhold(self, list routes not None, payload, bytes headers not None, bytes msg_id not None,
               list tickets not None):
        """
        Appends held messages, as send_all() does, with the tickets and the deadline that they have.

        Returns:
            False: they were settled meanwhile.

        Raises:
            BufferFullError, PayloadTooLargeError, ForkedError: As send_all(); they are still held.
        """
        cdef const mcore_route *parts[64]
        cdef size_t sizes[64]
        cdef mcore_ticket *slots[64]
        cdef Route route
        cdef Ticket ticket
        cdef size_t count = len(routes)
        cdef size_t i
        cdef int64_t slot
        if not 1 <= count <= 64 or len(tickets) != count:
            raise ConfigurationError(f"{len(tickets)} held messages for {count} routes")
        before = [(<Ticket>held)._route for held in tickets]
        for i in range(count):
            route = routes[i]
            ticket = tickets[i]
            ticket._route = route  # before it can be settled: its reader asks the route where it went
            parts[i] = &route._route
            slots[i] = &ticket._ticket
        route = routes[0]
        try:
            if type(payload) is list:
                if len(payload) != count:
                    raise ConfigurationError(f"{len(payload)} payloads for {count} stations")
                for i in range(count):
                    sizes[i] = len(payload[i])
                slot = route._append(parts, count, b"".join(payload), headers, msg_id, 0, False, False, slots, sizes,
                                     True)
            else:
                slot = route._append(parts, count, payload, headers, msg_id, 0, False, False, slots, NULL, True)
        except BaseException:
            for i in range(count):
                ticket = tickets[i]
                ticket._route = before[i]
            raise
        return slot >= 0

    def fail_held(self, Ticket ticket not None, Route route not None, str text not None):
        """Ends a held message as unsent, with a route whose target says why. False: it was settled before."""
        self._check()
        cdef bytes encoded = text.encode("utf-8", "replace")
        if mcore_ticket_outcome(&ticket._ticket) != 0:
            return False
        ticket._route = route
        return mcore_outbox_settle_held(self._outbox, &ticket._ticket, MCORE_UNSENT, PyBytes_AS_STRING(encoded),
                                        <size_t>len(encoded)) != 0

    def held_mark(self):
        """How many messages were held until now, for ``wait_held``."""
        self._check()
        return mcore_outbox_held_mark(self._outbox)

    def wait_held(self, uint64_t mark, int64_t timeout_ns):
        """Waits until none of what was held at the mark is held; returns how many are."""
        self._check()
        cdef uint64_t count
        with nogil:
            count = mcore_outbox_wait_held(self._outbox, mark, timeout_ns)
        return count

    def end_holding(self, uint32_t owner):
        """Ends the holding for an owner, if nothing is held. Whether it has ended."""
        self._check()
        return mcore_outbox_end_holding(self._outbox, owner) != 0

    def expire_held(self):
        """Fails held messages whose time is over."""
        self._check()
        mcore_outbox_expire_held(self._outbox, mcore_now_ns())

    # ---- reports -----------------------------------------------------------------------------------------------

    def watch(self, Ticket ticket not None, callback):
        """Has ``wait_reports`` hand out *ticket* with *callback* once it is settled. False: it is settled already."""
        self._check()
        cdef uint64_t slot = mcore_ticket_number(&ticket._ticket)
        entry = (ticket, callback)
        self._watched.setdefault(slot, []).append(entry)
        if mcore_outbox_report(self._outbox, &ticket._ticket):
            return True
        # Settled meanwhile. Either an earlier watcher's report takes this entry along, or it is taken back here.
        entries = self._watched.get(slot, [])
        for i in range(len(entries)):
            if entries[i] is entry:
                del entries[i]
                if not entries:
                    self._watched.pop(slot, None)
                return False
        return True

    def wait_reports(self, int64_t timeout_ns):
        """Waits for settled tickets that are watched; a list of ``(ticket, callback)``, empty after *timeout_ns*."""
        self._check()
        cdef uint64_t slots[256]
        cdef long count
        cdef long i
        if self._late:
            timeout_ns = 1000000  # its sender is between append and registration
        with nogil:
            count = mcore_outbox_wait_reports(self._outbox, slots, 256, timeout_ns)
        numbers = self._late + [slots[i] for i in range(count)]
        self._late = []
        found = []
        for number in numbers:
            entries = self._watched.pop(number, None)
            if entries is None:
                self._late.append(number)
            else:
                found.extend(entries)
        return found

    def wake_reports(self):
        """Makes ``wait_reports`` return."""
        if mcore_fork_generation() == self._generation:
            mcore_outbox_wake_reports(self._outbox)


@cython.final
cdef class Route:
    """
    The constant part of the frames of one producer to one partition.

    Args:
        link: The link that sends them.
        subject: Where they go, ``<station>$<partition>.final``.
        id_name: Header of the message id, ``Nats-Msg-Id`` or ``msg-id``.
        fixed: Header lines of each message, line ends included.
        owner: The producer's number, of ``Link.owner_new()``.
        auto_id: Whether a message without an id of its own gets one.
        target: Anything; for the reader of a ticket.
    """

    cdef mcore_route _route
    cdef readonly Link link
    cdef readonly bytes subject
    cdef readonly bytes id_name
    cdef readonly bytes fixed
    cdef readonly object target

    def __cinit__(self, Link link not None, bytes subject not None, bytes id_name not None, bytes fixed not None,
                  uint32_t owner, bint auto_id, target):
        self.link = link
        self.subject = subject
        self.id_name = id_name
        self.fixed = fixed
        self.target = target
        self._route.subject = <const uint8_t *>PyBytes_AS_STRING(subject)
        self._route.subject_len = len(subject)
        self._route.id_name = <const uint8_t *>PyBytes_AS_STRING(id_name)
        self._route.id_name_len = len(id_name)
        self._route.fixed = <const uint8_t *>PyBytes_AS_STRING(fixed)
        self._route.fixed_len = len(fixed)
        self._route.owner = owner
        self._route.auto_id = auto_id

    cdef int64_t _append(self, const mcore_route *const *routes, size_t count, payload, bytes headers, bytes msg_id,
                         int64_t timeout_ns, bint report, bint urgent, mcore_ticket *const *tickets,
                         const size_t *parts=NULL, bint held=False) except -1:
        cdef mcore_message message
        cdef Py_buffer view
        cdef Py_ssize_t size = 0
        cdef int64_t slot
        self.link._check()
        message.headers = <const uint8_t *>PyBytes_AS_STRING(headers)
        message.headers_len = <size_t>PyBytes_GET_SIZE(headers)
        message.msg_id = <const uint8_t *>PyBytes_AS_STRING(msg_id)
        message.msg_id_len = <size_t>PyBytes_GET_SIZE(msg_id)
        message.timeout_ns = timeout_ns
        message.report = report
        message.urgent = urgent
        message.parts = parts
        if PyBytes_CheckExact(payload):
            message.payload = <const uint8_t *>PyBytes_AS_STRING(payload)
            message.payload_len = <size_t>PyBytes_GET_SIZE(payload)
            return self._append_message(routes, count, &message, tickets, held)
        if PyUnicode_CheckExact(payload):
            message.payload = <const uint8_t *>PyUnicode_AsUTF8AndSize(payload, &size)
            message.payload_len = <size_t>size
            return self._append_message(routes, count, &message, tickets, held)
        PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
        try:
            message.payload = <const uint8_t *>view.buf
            message.payload_len = <size_t>view.len
            slot = self._append_message(routes, count, &message, tickets, held)
        finally:
            PyBuffer_Release(&view)
        return slot

    cdef int64_t _append_message(self, const mcore_route *const *routes, size_t count, const mcore_message *message,
                                 mcore_ticket *const *tickets, bint held) except -1:
        cdef int64_t slot
        # 12: NATS/1.0, its line end and the empty line; 26: the line of an automatic id with the longest slot number.
        cdef size_t block = 12 + self._route.fixed_len + message.headers_len
        if message.msg_id_len > 0:
            block += self._route.id_name_len + 4 + message.msg_id_len
        elif self._route.auto_id:
            block += self._route.id_name_len + 26 + <size_t>PyBytes_GET_SIZE(self.link.token)
        cdef size_t size = message.payload_len
        cdef size_t i
        if message.parts != NULL:
            size = 0
            for i in range(count):
                size = max(size, message.parts[i])
        if size + block > self.link.max_payload:
            raise PayloadTooLargeError(
                f"message of {size} bytes with {block} bytes of headers: the broker takes at most "
                f"max_payload={self.link.max_payload} bytes for both")
        if held:
            slot = mcore_outbox_unhold(self.link._outbox, routes, count, message, tickets)
            if slot == MCORE_E_ENDED:
                return slot
        else:
            slot = mcore_outbox_append(self.link._outbox, routes, count, message, tickets)
        if slot < 0:
            self._raise_full(<int>slot, count, message)
        return slot

    cdef int _raise_full(self, int error, size_t count, const mcore_message *message) except -1:
        if error == MCORE_E_CLOSED:
            raise ClosedError("the client is closed; the message was not taken")
        cdef mcore_stats stats
        mcore_outbox_stats(self.link._outbox, &stats)
        if error == MCORE_E_TOO_LARGE:
            raise PayloadTooLargeError(
                f"message of {message.payload_len} bytes: {frames_of(count)} larger than the whole outbox "
                f"(outbox_max_bytes={stats.max_bytes})")
        if error == MCORE_E_TOO_MANY:
            raise ConfigurationError(
                f"a message for {count} stations is {count} messages, and the outbox takes "
                f"outbox_max_messages={stats.max_messages}; raise this option of connect()")
        if error == MCORE_E_MEMORY:
            raise MemoryError("no memory for another message")
        if error == MCORE_E_FULL_BYTES or error == MCORE_E_FULL_MESSAGES:
            raise BufferFullError(
                f"the outbox is full: {stats.queued + stats.in_flight} messages wait for the broker, and it takes "
                f"outbox_max_messages={stats.max_messages} in outbox_max_bytes={stats.max_bytes}; raise these options "
                f"of connect(), or let produce() wait for room: block_on_full_s of the producer, or produce_many()")
        raise LocalProtocolError(f"the C core refused a message ({error})")

    def frame_size(self, size_t payload_len, size_t headers_len, size_t msg_id_len):
        """Bytes that such a message takes in the outbox, at most."""
        cdef mcore_message message
        memset(&message, 0, sizeof(message))
        message.payload_len = payload_len
        message.headers_len = headers_len
        message.msg_id_len = msg_id_len
        return mcore_outbox_frame_size(self.link._outbox, &self._route, &message)

    def send(self, payload, bytes headers not None, bytes msg_id not None, int64_t timeout_ns, type kind not None,
             callback=None):
        """
        Appends one message and returns its ticket at once.

        Args:
            payload: bytes, str (UTF-8), or an object with the buffer interface; copied.
            headers: The user's header lines, line ends included.
            msg_id: The message id; empty: the route's rule.
            timeout_ns: From now to the message's deadline.
            kind: Ticket, or a subclass without state of its own: what to return.
            callback: If given, ``Link.wait_reports`` hands it out with the settled ticket.

        Raises:
            BufferFullError: No room; the message was not taken.
            PayloadTooLargeError: Larger than the server's ``max_payload`` or than the outbox.
            ClosedError: After ``Link.close()``.
            ForkedError: The link is from before a fork.
        """
        return self._send(payload, headers, msg_id, timeout_ns, kind, callback)

    cdef Ticket _send(self, payload, bytes headers, bytes msg_id, int64_t timeout_ns, type kind, callback):
        cdef Ticket ticket = <Ticket>new_off_list(kind)
        cdef const mcore_route *part = &self._route
        cdef mcore_ticket *slot = &ticket._ticket
        ticket._route = self
        ticket._msg_id = msg_id
        self._append(&part, 1, payload, headers, msg_id, timeout_ns, callback is not None, False, &slot)
        if callback is not None:
            self.link._watched.setdefault(ticket._ticket.slot, []).append((ticket, callback))
        return ticket

    def send_and_wait(self, payload, bytes headers not None, bytes msg_id not None, int64_t timeout_ns,
                      type kind not None, int64_t slice_ns):
        """``send``, ahead of other threads' backlog, by this very thread where possible; waits at most *slice_ns*."""
        return self._send_and_wait(payload, headers, msg_id, timeout_ns, kind, slice_ns)

    cdef Ticket _send_and_wait(self, payload, bytes headers, bytes msg_id, int64_t timeout_ns, type kind,
                               int64_t slice_ns):
        cdef Ticket ticket = <Ticket>new_off_list(kind)
        cdef const mcore_route *part = &self._route
        cdef mcore_ticket *slot = &ticket._ticket
        ticket._route = self
        ticket._msg_id = msg_id
        ticket._ticket.observed = 1
        self._append(&part, 1, payload, headers, msg_id, timeout_ns, False, True, &slot)
        with nogil:
            mcore_link_push(self.link._link)
            mcore_ticket_wait(self.link._outbox, slot, slice_ns)
        return ticket


@cython.final
cdef class RoundRobin:
    """
    The routes of one producer to one station, in turn: an iterator without end.

    Args:
        routes: At least one.
        live: Has an attribute ``codec``; take() takes nothing while that is not None.
        functions: take() takes nothing while there are any.
        timeout: What take() must be given as *timeout*, by identity, and what that means in nanoseconds.
        kind: As of Route.send().
    """

    cdef list _routes
    cdef Py_ssize_t _next
    cdef object _live
    cdef dict _functions
    cdef object _timeout
    cdef int64_t _timeout_ns
    cdef type _kind
    cdef public bint is_plain

    def __cinit__(self, list routes not None, live, dict functions not None, timeout, int64_t timeout_ns,
                  type kind not None):
        if not routes:
            raise ConfigurationError("a round robin needs at least one route")
        self._routes = routes
        self._next = 0
        self._live = live
        self._functions = functions
        self._timeout = timeout
        self._timeout_ns = timeout_ns
        self._kind = kind
        self.is_plain = False

    def __iter__(self):
        return self

    def __next__(self):
        return self._route()

    def take(self, message, timeout, headers, msg_id, limit, key, number, callback, int64_t wait_ns=-1):
        """
        Sends a message that is bytes or str and has no options of its own by the next route: what most calls of a
        producer ask for, in one step.

        Args:
            message: Anything.
            timeout: See the class.
            headers, msg_id, limit, key, callback: None, or there is an option.
            number: -1, or there is an option.
            wait_ns: 0 or more: as Route.send_and_wait(), for so long; below: as Route.send().

        Returns:
            The ticket; None for anything else, also while ``is_plain`` is not set: nothing was done then.

        Raises:
            UnicodeEncodeError: The str is no text.
            BufferFullError, PayloadTooLargeError, ClosedError, ForkedError: As Route.send().
        """
        if self._has_option(timeout, headers, msg_id, limit, key, number, callback) or not self._takes(message):
            return None
        if wait_ns >= 0:
            return self._route()._send_and_wait(message, b"", b"", self._timeout_ns, self._kind, wait_ns)
        return self._send(message)

    def take_from(self, iterator, list into not None, Py_ssize_t limit):
        """
        As take() without options, for what an iterator yields: until *limit* tickets stand in *into*.

        Returns:
            None at the limit and ``()`` at the iterator's end. ``(item,)`` for an item that take() does not take, or
            refuses with an error: it was not sent.

        Raises:
            Exception: Whatever the iterator raises; *into* holds the tickets of what came before.
        """
        while len(into) < limit:
            item = next(iterator, self)
            if item is self:
                return ()
            if not self._takes(item):
                return (item,)
            try:
                into.append(self._send(item))
            except Exception:  # for the caller, who meets it again
                return (item,)
        return None

    cdef bint _has_option(self, timeout, headers, msg_id, limit, key, number, callback) except -1:
        return (timeout is not self._timeout or headers is not None or msg_id is not None or limit is not None
                or key is not None or callback is not None or number != -1)

    cdef bint _takes(self, message) except -1:
        return self.is_plain and is_plain_message(message) and self._is_free()

    cdef bint _is_free(self) except -1:
        return not self._functions and self._live.codec is None

    cdef Route _route(self):
        cdef Py_ssize_t place = self._next
        self._next = place + 1 if place + 1 < len(self._routes) else 0
        return <Route>self._routes[place]

    cdef Ticket _send(self, message):
        return self._route()._send(message, b"", b"", self._timeout_ns, self._kind, None)


cdef inline bint is_plain_message(message):
    return PyBytes_CheckExact(message) or PyUnicode_CheckExact(message)


@cython.final
cdef class FanOut:
    """
    The round robins of one producer to several stations, for messages that go to all of them.

    Args:
        round_robins: 1 to 64, of one link, and with the same timeout and kind.
        together: What take() returns is made by it from the list of tickets, in the order of the round robins.
    """

    cdef list _round_robins
    cdef object _together
    cdef public bint is_plain

    def __cinit__(self, list round_robins not None, together):
        if not round_robins:
            raise ConfigurationError("a fan-out needs at least one round robin")
        self._round_robins = round_robins
        self._together = together
        self.is_plain = False

    def take(self, message, timeout, headers, msg_id, limit, key, number, callback, int64_t wait_ns=-1):
        """As RoundRobin.take(), for all of them or none; never waits, and takes nothing when it is to."""
        cdef RoundRobin first = self._round_robins[0]
        cdef RoundRobin round_robin
        if (wait_ns >= 0 or first._has_option(timeout, headers, msg_id, limit, key, number, callback)
                or not self.is_plain or not is_plain_message(message)):
            return None
        for round_robin in self._round_robins:
            if not round_robin._is_free():
                return None
        routes = []
        for round_robin in self._round_robins:
            routes.append(round_robin._route())
        return self._together((<Route>routes[0]).link.send_all(routes, message, b"", b"", first._timeout_ns,
                                                               first._kind))


def count_delivered(list tickets not None, Py_ssize_t start):
    """
    Counts off delivered tickets, and notes that somebody knows of them.

    Returns:
        ``(place, duplicates)``: the first place from *start* on whose ticket is not delivered, or their number; and how
        many of those before it the broker had before.
    """
    cdef Ticket ticket
    cdef Py_ssize_t place = start
    cdef Py_ssize_t duplicates = 0
    while place < len(tickets):
        ticket = tickets[place]
        ticket._route.link._check()
        if mcore_ticket_outcome(&ticket._ticket) != MCORE_DELIVERED:
            break
        ticket._ticket.observed = 1
        duplicates += ticket._ticket.duplicate
        place += 1
    return place, duplicates


@cython.no_gc
cdef class Ticket:
    """How one appended message ended, or that it has not yet. Made by Route; costs nothing when nobody looks."""

    cdef mcore_ticket _ticket
    cdef Route _route
    cdef bytes _msg_id

    def __cinit__(self):
        memset(&self._ticket, 0, sizeof(self._ticket))

    def __dealloc__(self):
        if self._route is not None and mcore_fork_generation() == self._route.link._generation:
            mcore_ticket_release(self._route.link._outbox, &self._ticket)

    @property
    def route(self):
        """The route it was appended to."""
        return self._route

    @property
    def slot(self):
        """Its number in the log of its link, from 0, or from 2**62 in the express lane."""
        return self._ticket.slot

    @property
    def outcome(self):
        """0 pending, 1 delivered, 2 refused, 3 no responders, 4 expired, 5 abandoned, 6 unknown, 7 unsent."""
        self._route.link._check()
        return mcore_ticket_outcome(&self._ticket)

    def wait(self, int64_t timeout_ns):
        """Waits for the outcome at most *timeout_ns*; returns it, 0 when it is still pending."""
        self._route.link._check()
        cdef int outcome
        self._ticket.observed = 1
        with nogil:
            outcome = mcore_ticket_wait(self._route.link._outbox, &self._ticket, timeout_ns)
        return outcome

    def observe(self):
        """Notes that somebody knows the outcome, so that a failure is not logged as unseen; returns it."""
        self._route.link._check()
        self._ticket.observed = 1
        return mcore_ticket_outcome(&self._ticket)

    @property
    def sequence(self):
        """Delivered: the sequence in the stream."""
        return self._ticket.sequence

    @property
    def duplicate(self):
        """Delivered: whether the broker had the message before."""
        return self._ticket.duplicate != 0

    @property
    def was_written(self):
        """Whether the frame was given to the socket at least once. Valid once settled."""
        return self._ticket.was_written != 0

    @property
    def code(self):
        """Refused, unknown: the broker's HTTP-like status."""
        return self._ticket.code

    @property
    def err_code(self):
        """Refused, unknown: JetStream's error code."""
        return self._ticket.err_code

    @property
    def text(self):
        """Refused, unknown: the broker's text, as it stood in the JSON."""
        return "" if self._ticket.text == NULL else (<bytes>self._ticket.text).decode("utf-8", "replace")

    @property
    def message_id(self):
        """The id that the message carries; None without one."""
        if self._msg_id:
            return self._msg_id.decode()
        if self._route._route.auto_id:
            mark = "e" if self._ticket.slot >> MCORE_EXPRESS_BIT else ""
            number = self._ticket.slot & ((<uint64_t>1 << MCORE_EXPRESS_BIT) - 1)
            return f"{self._route.link.token.decode()}-{mark}{number}"
        return None


@cython.final
@cython.no_gc_clear  # the links must outlive it
cdef class WaitSet:
    """
    Waits for many tickets at once, of several links too. One thread uses it.

    Args:
        tickets: At most 2**32 - 1.
    """

    cdef mcore_wait_set *_set
    cdef uint64_t _generation
    cdef tuple _tickets

    def __cinit__(self, tickets):
        cdef Ticket ticket
        self._generation = mcore_fork_generation()
        self._tickets = tuple(tickets)
        self._set = mcore_wait_set_new(len(self._tickets))
        if self._set == NULL:
            raise MemoryError(f"no memory to wait for {len(self._tickets)} messages")
        for ticket in self._tickets:
            ticket._route.link._check()
            ticket._ticket.observed = 1
            mcore_wait_set_add(self._set, ticket._route.link._outbox, &ticket._ticket)

    def __dealloc__(self):
        if mcore_fork_generation() == self._generation:
            mcore_wait_set_free(self._set)

    def wait(self, int64_t timeout_ns):
        """Waits for at least one more settled ticket; the places of the new ones among the tickets, in their order."""
        cdef uint32_t places[1024]
        cdef long count
        cdef long i
        if mcore_fork_generation() != self._generation:
            raise ForkedError("this wait began before a fork and stays with the parent process")
        with nogil:
            count = mcore_wait_set_wait(self._set, places, 1024, timeout_ns)
        return [places[i] for i in range(count)]


cdef class Chunk:
    """Memory of received records, freed with the last message that points into it."""

    cdef uint8_t *_data

    def __dealloc__(self):
        mcore_free(self._data)


@cython.no_gc
cdef class RawMessage:
    """
    One received message, read from the C core's memory only as far as it is asked. Made by ReceiveBuffer.take().

    The garbage collector does not know of it, which takes thousands of objects off its list: what is `owner` or `answer`
    must not lead back to the message.
    """

    cdef Chunk _chunk
    cdef const mcore_record *_record
    cdef Link _link
    cdef readonly object owner
    cdef public object answer

    cdef const char *_bytes(self) except NULL:
        if self._record == NULL:
            raise TypeError("a message comes from fetch() only")
        return <const char *>self._record + sizeof(mcore_record)

    @property
    def subject(self):
        """The subject it was stored under."""
        cdef const char *start = self._bytes()
        return start[:self._record.subject_len].decode("utf-8", "replace")

    @property
    def reply(self):
        """Where its acknowledgement goes."""
        cdef const char *start = self._bytes() + self._record.subject_len
        return start[:self._record.reply_len].decode("utf-8", "replace")

    @property
    def header_block(self):
        """The raw header block; empty without headers."""
        cdef const char *start = self._bytes() + self._record.subject_len + self._record.reply_len
        return PyBytes_FromStringAndSize(start, self._record.header_len)

    @property
    def payload(self):
        """A copy of the payload."""
        cdef const char *start = (self._bytes() + self._record.subject_len + self._record.reply_len +
                                  self._record.header_len)
        return PyBytes_FromStringAndSize(start, self._record.payload_len)

    @property
    def payload_len(self):
        """Length of the payload in bytes."""
        self._bytes()
        return self._record.payload_len

    @property
    def age_ns(self):
        """How long ago it was received, or renewed."""
        self._bytes()
        return mcore_now_ns() - self._record.received_ns

    def renew(self):
        """Tells the server that it is being worked on, so that its ack time begins anew. Raises as respond()."""
        self.respond(b"+WPI")
        (<mcore_record *>self._record).received_ns = mcore_now_ns()

    def respond(self, bytes body not None=b""):
        """Queues an acknowledgement and returns at once. ConnectionLostError when there is no connection."""
        cdef const uint8_t *reply = <const uint8_t *>self._bytes() + self._record.subject_len
        self._link._check()
        self._link._raise_for(mcore_link_publish(self._link._link, reply, self._record.reply_len,
                                                 <const uint8_t *>PyBytes_AS_STRING(body), len(body)))


@cython.final
cdef class ReceiveBuffer:
    """
    What one subscription of the link receives.

    Args:
        link: The link.
        sid: The subscription's number.
        jetstream: Take only messages that the server itself delivers, with an ack subject, and statuses.
    """

    cdef mcore_receive_buffer *_buffer
    cdef readonly Link link
    cdef readonly uint64_t sid
    cdef readonly uint64_t dropped

    def __cinit__(self, Link link not None, uint64_t sid, bint jetstream=False):
        link._check()
        self.link = link
        self.sid = sid
        self._buffer = mcore_receive_buffer_new(link._link, sid, jetstream)
        if self._buffer == NULL:
            raise MemoryError("no memory for a receive buffer")

    def __dealloc__(self):
        if self.link is not None and mcore_fork_generation() == self.link._generation:
            mcore_receive_buffer_free(self._buffer)

    def expect(self, uint64_t messages, uint64_t size):
        """
        Takes messages up to this number, counted since the buffer was made, and so many bytes of them at once:
        subjects, replies, headers and payloads. What is beyond is dropped and counted. At first any number, and
        RECEIVE_BUFFER_BYTES.
        """
        self.link._check()
        mcore_receive_buffer_expect(self._buffer, messages, size)

    def wait(self, uint64_t messages, uint64_t statuses, int64_t timeout_ns):
        """
        Waits until so many messages or so many statuses have come since the buffer was made, or for wake().

        Returns:
            0 then, -13 after *timeout_ns*, -11 when the connection ended.
        """
        self.link._check()
        cdef int result
        with nogil:
            mcore_link_push(self.link._link)
            result = mcore_receive_buffer_wait(self._buffer, messages, statuses, timeout_ns)
        return result

    def wake(self):
        """Ends a wait() of another thread, or the next one. From any thread."""
        self.link._check()
        mcore_receive_buffer_wake(self._buffer)

    @property
    def is_closed(self):
        """Whether its connection has ended: nothing more comes."""
        self.link._check()
        return mcore_receive_buffer_is_closed(self._buffer) != 0

    def take(self, type kind not None, owner):
        """
        All that has come: ``(messages, statuses)``, instances of *kind* and ``(status, subject, block)`` tuples.
        ``dropped`` is up to date after it.
        """
        self.link._check()
        cdef uint8_t *data = NULL
        cdef size_t size = 0
        cdef size_t at = 0
        cdef const mcore_record *record
        cdef RawMessage message
        mcore_receive_buffer_take(self._buffer, &data, &size)
        self.dropped = mcore_receive_buffer_dropped(self._buffer)
        cdef Chunk chunk = Chunk.__new__(Chunk)
        chunk._data = data
        messages = []
        statuses = []
        while at < size:
            record = <const mcore_record *>(data + at)
            at += record.size
            message = <RawMessage>(new_off_list(kind) if record.status == 0 else RawMessage.__new__(RawMessage))
            message._chunk = chunk
            message._record = record
            message._link = self.link
            message.owner = owner
            if record.status == 0:
                messages.append(message)
            else:
                statuses.append((record.status, message.subject, message.header_block))
        return messages, statuses
