# Link: the outbox and the two loops of one data link.
#
# Lifetime: Route, Ticket, ReceiveBuffer and RawMessage hold their Link, which owns the C outbox and link. A Link is freed
# when the last of them is gone, and only after its loops have returned (they hold a reference while they run).
# Fork: the C locks may be held by a thread that does not exist in the child, so nothing of a Link from before a fork is
# touched there: calls raise ForkedError, destructors do nothing.
# Waits are cut into slices (MCORE_SLICE_NS), and between two of them signals are served and other greenlets run.
from cpython.buffer cimport PyBUF_READ
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport INT64_MAX

from memphis_sync._core._translate import (
    FORKED_LINK, FORKED_MESSAGE, FORKED_TICKET, append_error, checked_count, link_error,
)
from memphis_sync.errors import ClosedError, ConfigurationError, ForkedError

RECEIVE_BUFFER_BYTES = MCORE_RECEIVE_BUFFER_BYTES

cdef enum:
    REPORTS_AT_ONCE = 256


cdef int64_t ns_of(until) except -1:
    if until is None or until > 9e9:  # seconds: further than the clock can count
        return INT64_MAX
    return <int64_t>(<double>until * 1e9) if until > 0 else 0


# Set by the first connect() where greenlets run; None for ever elsewhere.
cdef object is_greenlet = None
cdef object pause = None


def wait_as_greenlets(is_here, pause_until):
    global is_greenlet, pause
    is_greenlet, pause = is_here, pause_until


# How long a wait may take at once: a slice, or nothing where it would hold up other greenlets.
cdef int64_t slice_of(int64_t until) except -1:
    if is_greenlet is not None and is_greenlet():
        return 0
    return mcore_slice_until(until)


# Between two slices of a wait: serves Ctrl-C, lets other greenlets run, and says whether there is time left.
cdef bint goes_on(int64_t until) except -1:
    PyErr_CheckSignals()
    if mcore_now_ns() >= until:
        return False
    if pause is not None:
        pause(until)
    return True


cdef int64_t checked(int64_t result) except -1:
    if result < 0:
        raise link_error(result)
    return result


cdef str decoded(const char *text):
    return (<bytes>text).decode("utf-8", "replace")


@cython.final
cdef class Link:
    cdef mcore_outbox *_outbox
    cdef mcore_link *_link
    cdef uint64_t _generation
    cdef readonly bytes token

    def __cinit__(self, bytes token not None, uint64_t max_bytes, uint64_t max_messages, uint64_t window,
                  size_t max_payload, int64_t ping_interval_ns=0, unsigned int retry_attempts=0,
                  int64_t retry_pause_ns=0, bint sans_io=False):
        self._generation = mcore_fork_generation()
        self.token = token
        self._outbox = mcore_outbox_new(at(token), size_of(token), max_bytes, max_messages, window)
        if self._outbox == NULL:
            raise MemoryError(f"no memory for an outbox of {max_bytes} bytes and {max_messages} messages")
        mcore_outbox_set_max_payload(self._outbox, max_payload)
        mcore_outbox_set_retry(self._outbox, retry_attempts, retry_pause_ns)
        self._link = mcore_link_new(self._outbox, MCORE_MAX_RECEIVED, ping_interval_ns, sans_io)
        if self._link == NULL:
            raise MemoryError("no memory for a data link")

    def __dealloc__(self):
        if self._is_ours():
            mcore_link_free(self._link)
            mcore_outbox_free(self._outbox)

    cdef bint _is_ours(self) noexcept:
        return mcore_fork_generation() == self._generation

    cdef int _check(self) except -1:
        if not self._is_ours():
            raise ForkedError(FORKED_LINK)
        return 0

    cdef mcore_link *_own(self) except NULL:
        self._check()
        return self._link

    cdef mcore_outbox *_box(self) except NULL:
        self._check()
        return self._outbox

    cdef object _ended(self, int end):
        return None if end == MCORE_LINK_GOES_ON else (end, mcore_link_errno(self._link), self.text())

    # ---- connection --------------------------------------------------------------------------------------------

    def attach(self, int fd, bytes first not None, bytes rest not None):
        return mcore_link_attach(self._own(), fd, at(first), size_of(first), at(rest), size_of(rest)) == MCORE_OK

    def detach(self):
        cdef mcore_link *link = self._own()
        cdef uint64_t count
        with nogil:
            count = mcore_link_detach(link)
        return count

    def read_loop(self):
        cdef mcore_link *link = self._own()
        cdef int end
        with nogil:
            end = mcore_link_read_loop(link)
        return self._ended(end)

    def send_loop(self):
        cdef mcore_link *link = self._own()
        cdef int unseen
        with nogil:
            unseen = mcore_link_send_loop(link)
        return unseen != 0

    def next(self, int64_t timeout_ns):
        cdef mcore_link *link = self._own()
        cdef const uint8_t *data
        cdef size_t size
        cdef int kind
        with nogil:
            kind = mcore_link_next(link, timeout_ns, &data, &size)
        if size == 0:
            return kind, memoryview(b"")
        return kind, PyMemoryView_FromMemory(<char *>data, <Py_ssize_t>size, PyBUF_READ)

    def written(self, size_t count, int errno=0):
        mcore_link_written(self._own(), count, errno)

    def run_timers(self):
        return mcore_link_run_timers(self._own())

    def wake(self):
        mcore_link_wake(self._own())

    def feed(self, data):
        cdef mcore_link *link = self._own()
        cdef Py_buffer view
        cdef int end
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                end = mcore_link_feed(link, <const uint8_t *>view.buf, <size_t>view.len)
        finally:
            PyBuffer_Release(&view)
        return self._ended(end)

    def ended(self, int errno):
        return self._ended(mcore_link_ended(self._own(), errno))

    def stop(self):
        if self._is_ours():
            with nogil:
                mcore_link_stop(self._link)

    def is_up(self):
        return mcore_link_is_up(self._own()) != 0

    def text(self):
        cdef char text[512]
        mcore_link_text(self._link, text, sizeof(text))
        return decoded(text)

    def control(self, bytes frames not None):
        checked(mcore_link_control(self._own(), at(frames), size_of(frames)))

    def write(self, bytes frames not None):
        cdef mcore_link *link = self._own()
        cdef const uint8_t *data = at(frames)
        cdef size_t size = size_of(frames)
        cdef int result
        with nogil:
            result = mcore_link_write(link, data, size)
        checked(result)

    def push(self):
        cdef mcore_link *link = self._own()
        with nogil:
            mcore_link_push(link)

    def ping(self):
        return checked(mcore_link_ping(self._own()))

    def wait_pong(self, int64_t number, until):
        cdef int64_t end = ns_of(until)
        cdef mcore_link *link = self._own()
        cdef int result
        cdef int64_t slice_ns
        while True:
            slice_ns = slice_of(end)
            with nogil:
                result = mcore_link_wait_pong(link, number, slice_ns)
            if result != MCORE_E_TIMEOUT:
                checked(result)
                return True
            if not goes_on(end):
                return False

    # ---- outbox ------------------------------------------------------------------------------------------------

    def set_max_payload(self, size_t max_payload):
        mcore_outbox_set_max_payload(self._box(), max_payload)

    def owner_new(self):
        return checked(mcore_outbox_owner_new(self._box()))

    def stats(self):
        cdef mcore_stats stats
        mcore_outbox_stats(self._box(), &stats)
        return stats

    def count_ack(self, bytes body not None):
        mcore_link_count_ack(self._own(), at(body), size_of(body))

    def outstanding(self, long owner=-1):
        return mcore_outbox_outstanding(self._box(), owner)

    def wait_drained(self, long owner, until, uint64_t down_to=0):
        cdef int64_t end = ns_of(until)
        cdef mcore_outbox *outbox = self._box()
        cdef uint64_t count
        cdef int64_t slice_ns
        while True:
            slice_ns = slice_of(end)
            with nogil:
                mcore_link_push(self._link)
                count = mcore_outbox_wait_drained(outbox, owner, down_to, slice_ns)
            if count <= down_to or not goes_on(end):
                return count

    def marks(self):
        cdef uint64_t marks[2]
        mcore_outbox_marks(self._box(), marks)
        return marks[0], marks[1]

    def wait_marks(self, long owner, marks not None, until):
        cdef int64_t end = ns_of(until)
        cdef mcore_outbox *outbox = self._box()
        cdef uint64_t both[2]
        cdef uint64_t count
        both[0], both[1] = marks
        cdef int64_t slice_ns
        while True:
            slice_ns = slice_of(end)
            with nogil:
                mcore_link_push(self._link)
                count = mcore_outbox_wait_marks(outbox, owner, both, slice_ns)
            if count == 0 or not goes_on(end):
                return count

    def take_failed(self, long owner=-1):
        return mcore_outbox_take_failed(self._box(), owner)

    def wait_room(self, size_t size, until):
        cdef int64_t end = ns_of(until)
        cdef mcore_outbox *outbox = self._box()
        cdef int result
        cdef int64_t slice_ns
        while True:
            slice_ns = slice_of(end)
            with nogil:
                result = mcore_outbox_wait_room(outbox, size, slice_ns)
            if result == MCORE_E_CLOSED:
                raise ClosedError("the client is closed")
            if result == MCORE_OK or not goes_on(end):
                return result == MCORE_OK

    def close(self):
        if self._is_ours():
            mcore_outbox_close(self._outbox)

    def abandon(self):
        return mcore_outbox_abandon(self._box())

    def release(self):
        if not mcore_outbox_release(self._box()):
            return False
        mcore_link_release(self._link)
        return True

    def take_unseen(self):
        cdef char text[256]
        cdef uint64_t count = mcore_outbox_take_unseen(self._box(), text, sizeof(text))
        return count, decoded(text)

    def take_disbelieved(self):
        cdef char text[256]
        cdef uint64_t count = mcore_outbox_take_disbelieved(self._box(), text, sizeof(text))
        return count, decoded(text)

    def take_question(self):
        cdef char text[MCORE_MAX_STREAM]
        return "" if mcore_outbox_take_question(self._box(), text, sizeof(text)) == 0 else decoded(text)

    def answer_question(self, str stream not None, int answer):
        cdef bytes name = stream.encode()
        mcore_outbox_answer_question(self._box(), name, len(name), answer)

    def send_all(self, list routes not None, payload, bytes headers not None, bytes msg_id not None,
                 int64_t timeout_ns, type kind not None, bint urgent=False):
        tickets = new_tickets(routes, kind, msg_id)
        append_each(routes, tickets, payload, headers, msg_id, timeout_ns, urgent, False)
        return tickets

    # ---- held messages -----------------------------------------------------------------------------------------

    def hold(self, list routes not None, size_t size, bytes msg_id not None, int64_t timeout_ns, type kind not None):
        cdef mcore_ticket *slots[MCORE_MAX_ROUTES]
        cdef size_t i
        cdef size_t count = checked_count(len(routes))
        tickets = new_tickets(routes, kind, msg_id)
        for i in range(count):
            slots[i] = &(<Ticket>tickets[i])._ticket
        cdef int error = mcore_outbox_hold(self._box(), (<Route>routes[0])._route.owner, count, size, timeout_ns, slots)
        if error == MCORE_E_ENDED:
            return None
        if error < 0:
            raise append_error(error, count, size, 0, self.stats())
        return tickets

    def unhold(self, list routes not None, payload, bytes headers not None, bytes msg_id not None,
               list tickets not None):
        cdef Ticket ticket
        if len(tickets) != len(routes):
            raise ConfigurationError(f"{len(tickets)} held messages for {len(routes)} routes")
        before = [(<Ticket?>each)._route for each in tickets]
        for ticket, route in zip(tickets, routes):
            ticket._route = route  # before it can be settled: its reader asks the route where it went
        try:
            return append_each(routes, tickets, payload, headers, msg_id, 0, False, True) != MCORE_E_ENDED
        except BaseException:
            for ticket, route in zip(tickets, before):
                ticket._route = route
            raise

    def fail_held(self, Ticket ticket not None, Route route not None, str text not None):
        cdef mcore_outbox *outbox = self._box()
        cdef bytes encoded = text.encode("utf-8", "replace")
        if mcore_ticket_outcome(&ticket._ticket) != MCORE_PENDING:
            return False
        ticket._route = route
        return mcore_outbox_settle_held(outbox, &ticket._ticket, MCORE_UNSENT, PyBytes_AS_STRING(encoded),
                                        size_of(encoded)) != 0

    def held_mark(self):
        return mcore_outbox_held_mark(self._box())

    def wait_held(self, uint64_t mark, until):
        cdef int64_t end = ns_of(until)
        cdef mcore_outbox *outbox = self._box()
        cdef uint64_t count
        cdef int64_t slice_ns
        while True:
            slice_ns = slice_of(end)
            with nogil:
                count = mcore_outbox_wait_held(outbox, mark, slice_ns)
            if count == 0 or not goes_on(end):
                return count

    def end_holding(self, uint32_t owner):
        return mcore_outbox_end_holding(self._box(), owner) != 0

    def expire_held(self):
        mcore_outbox_expire_held(self._box(), mcore_now_ns())

    # ---- reports: a cookie is a reference to (ticket, callback), which the outbox holds until it hands it out --------

    def watch(self, Ticket ticket not None, callback):
        entry = (ticket, callback)
        Py_INCREF(entry)
        cdef int is_watched = mcore_outbox_watch(self._box(), &ticket._ticket, <void *>entry)
        if is_watched <= 0:
            Py_DECREF(entry)
            checked(is_watched)
        return is_watched > 0

    def wait_reports(self, int64_t timeout_ns):
        cdef mcore_outbox *outbox = self._box()
        cdef void *cookies[REPORTS_AT_ONCE]
        cdef long count
        cdef long i
        with nogil:
            count = mcore_outbox_wait_reports(outbox, cookies, REPORTS_AT_ONCE, timeout_ns)
        found = []
        for i in range(count):
            found.append(<object>cookies[i])
            Py_DECREF(<object>cookies[i])
        return found

    def wake_reports(self):
        if self._is_ours():
            mcore_outbox_wake_reports(self._outbox)
