# Route, RoundRobin, FanOut and Ticket: what a message is sent by, and how it ended.
from cpython.unicode cimport PyUnicode_CheckExact
from cpython.bytes cimport PyBytes_CheckExact
from libc.string cimport memset


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyObject_IS_GC(object)
    void PyObject_GC_UnTrack(void *)


# An instance of *kind* that the garbage collector does not look at. Every class that is written in Python puts its
# instances on the collector's list, those of a parent without one too; with 100,000 of them in a backlog, walking the
# list costs more than sending. So nothing that such an instance refers to may lead back to it.
cdef object new_off_list(type kind):
    made = kind.__new__(kind)
    if PyObject_IS_GC(made):
        PyObject_GC_UnTrack(<void *>made)
    return made


cdef Ticket new_ticket(type kind, Route route, bytes msg_id):
    cdef Ticket ticket = <Ticket?>new_off_list(kind)
    ticket._route = route
    ticket._msg_id = msg_id
    return ticket


cdef list new_tickets(list routes, type kind, bytes msg_id):
    checked_count(len(routes))
    return [new_ticket(kind, <Route?>route, msg_id) for route in routes]


# The payload and headers go into *message*, whose other fields are set, and that into the outbox. Returns the slot of the
# first, or MCORE_E_ENDED of what was held.
cdef int64_t append(Link link, const mcore_route *const *routes, size_t count, payload, bytes headers, bytes msg_id,
                    mcore_message *message, mcore_ticket *const *tickets, bint held) except -1:
    cdef mcore_outbox *outbox = link._box()
    cdef Py_buffer view
    cdef Py_ssize_t size = 0
    cdef int64_t slot
    cdef mcore_sizes sizes
    cdef bint is_viewed = False
    if PyBytes_CheckExact(payload):
        message.payload = at(payload)
        message.payload_len = size_of(payload)
    elif PyUnicode_CheckExact(payload):
        message.payload = <const uint8_t *>PyUnicode_AsUTF8AndSize(payload, &size)
        message.payload_len = <size_t>size
    else:
        PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
        message.payload = <const uint8_t *>view.buf
        message.payload_len = <size_t>view.len
        is_viewed = True
    message.headers = at(headers)
    message.headers_len = size_of(headers)
    message.msg_id = at(msg_id)
    message.msg_id_len = size_of(msg_id)
    if held:
        slot = mcore_outbox_unhold(outbox, routes, count, message, tickets)
    else:
        slot = mcore_outbox_append(outbox, routes, count, message, tickets)
    if slot < 0 and slot != MCORE_E_ENDED:
        sizes = mcore_outbox_sizes(outbox, routes, count, message)
    if is_viewed:
        PyBuffer_Release(&view)
    if slot < 0 and slot != MCORE_E_ENDED:
        raise append_error(slot, count, sizes.payload, sizes.block, link.stats())
    return slot


cdef int64_t append_each(list routes, list tickets, payload, bytes headers, bytes msg_id, int64_t timeout_ns, bint urgent,
                         bint held) except -1:
    cdef const mcore_route *parts[MCORE_MAX_ROUTES]
    cdef mcore_ticket *slots[MCORE_MAX_ROUTES]
    cdef size_t sizes[MCORE_MAX_ROUTES]
    cdef mcore_message message
    cdef size_t i
    cdef size_t count = checked_count(len(routes))
    memset(&message, 0, sizeof(message))
    message.timeout_ns = timeout_ns
    message.urgent = urgent
    for i in range(count):
        parts[i] = &(<Route?>routes[i])._route
        slots[i] = &(<Ticket?>tickets[i])._ticket
    if type(payload) is list:
        if <size_t>len(payload) != count:
            raise ConfigurationError(f"{len(payload)} payloads for {count} stations")
        for i in range(count):
            sizes[i] = len(payload[i])
        payload = b"".join(payload)
        message.parts = sizes
    return append((<Route>routes[0]).link, parts, count, payload, headers, msg_id, &message, slots, held)


@cython.final
cdef class Route:
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
        self._route.subject = at(subject)
        self._route.subject_len = size_of(subject)
        self._route.id_name = at(id_name)
        self._route.id_name_len = size_of(id_name)
        self._route.fixed = at(fixed)
        self._route.fixed_len = size_of(fixed)
        self._route.owner = owner
        self._route.auto_id = auto_id

    def frame_size(self, size_t payload_len, size_t headers_len, size_t msg_id_len):
        cdef mcore_message message
        cdef const mcore_route *route = &self._route
        memset(&message, 0, sizeof(message))
        message.payload_len = payload_len
        message.headers_len = headers_len
        message.msg_id_len = msg_id_len
        return mcore_outbox_sizes(self.link._outbox, &route, 1, &message).frames

    def send(self, payload, bytes headers not None, bytes msg_id not None, int64_t timeout_ns, type kind not None,
             callback=None):
        return self._send(payload, headers, msg_id, timeout_ns, kind, callback, False)

    def send_and_wait(self, payload, bytes headers not None, bytes msg_id not None, int64_t timeout_ns,
                      type kind not None):
        return self._send(payload, headers, msg_id, timeout_ns, kind, None, True)

    cdef Ticket _send(self, payload, bytes headers, bytes msg_id, int64_t timeout_ns, type kind, callback, bint wait):
        cdef Ticket ticket = new_ticket(kind, self, msg_id)
        cdef const mcore_route *route = &self._route
        cdef mcore_ticket *slot = &ticket._ticket
        cdef mcore_message message
        message.timeout_ns = timeout_ns
        message.urgent = wait
        message.watcher = NULL
        message.parts = NULL
        ticket._ticket.observed = wait
        if callback is None:
            append(self.link, &route, 1, payload, headers, msg_id, &message, &slot, False)
        else:
            entry = (ticket, callback)
            message.watcher = <void *>entry
            Py_INCREF(entry)
            try:
                append(self.link, &route, 1, payload, headers, msg_id, &message, &slot, False)
            except BaseException:
                Py_DECREF(entry)
                raise
        if wait:
            ticket._wait(INT64_MAX, True)
        return ticket


@cython.final
cdef class RoundRobin:
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

    def take(self, message, timeout, headers, msg_id, limit, key, number, callback, bint wait=False):
        if self._has_option(timeout, headers, msg_id, limit, key, number, callback) or not self._takes(message):
            (<Route>self._routes[0]).link._check()  # which is the way to learn of a fork, as _send() below is
            return None
        return self._send(message, wait, b"")

    def take_from(self, iterator, list into not None, Py_ssize_t limit, bytes headers not None=b""):
        while len(into) < limit:
            item = next(iterator, self)
            if item is self:
                return ()
            if not self._takes(item):
                return (item,)
            try:
                into.append(self._send(item, False, headers))
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

    cdef Ticket _send(self, message, bint wait, bytes headers):
        return self._route()._send(message, headers, b"", self._timeout_ns, self._kind, None, wait)


cdef inline bint is_plain_message(message):
    return PyBytes_CheckExact(message) or PyUnicode_CheckExact(message)


@cython.final
cdef class FanOut:
    cdef list _round_robins
    cdef object _together
    cdef public bint is_plain

    def __cinit__(self, list round_robins not None, together):
        if not round_robins:
            raise ConfigurationError("a fan-out needs at least one round robin")
        self._round_robins = round_robins
        self._together = together
        self.is_plain = False

    def take(self, message, timeout, headers, msg_id, limit, key, number, callback, bint wait=False):
        cdef RoundRobin first = self._round_robins[0]
        cdef RoundRobin round_robin
        if (wait or first._has_option(timeout, headers, msg_id, limit, key, number, callback)
                or not self.is_plain or not is_plain_message(message)):
            (<Route>first._routes[0]).link._check()
            return None
        for round_robin in self._round_robins:
            if not round_robin._is_free():
                (<Route>first._routes[0]).link._check()
                return None
        routes = []
        for round_robin in self._round_robins:
            routes.append(round_robin._route())
        tickets = new_tickets(routes, first._kind, b"")
        append_each(routes, tickets, message, b"", b"", first._timeout_ns, False, False)
        return self._together(tickets)


def count_delivered(list tickets not None, Py_ssize_t start):
    cdef Ticket ticket
    cdef Py_ssize_t place = start
    cdef Py_ssize_t duplicates = 0
    while place < len(tickets):
        ticket = tickets[place]
        ticket._check()
        if mcore_ticket_outcome(&ticket._ticket) != MCORE_DELIVERED:
            break
        ticket._ticket.observed = 1
        duplicates += ticket._ticket.duplicate
        place += 1
    return place, duplicates


@cython.no_gc
cdef class Ticket:
    cdef mcore_ticket _ticket
    cdef Route _route
    cdef bytes _msg_id

    def __cinit__(self):
        memset(&self._ticket, 0, sizeof(self._ticket))

    def __dealloc__(self):
        if self._route is not None and self._route.link._is_ours():
            mcore_ticket_release(self._route.link._outbox, &self._ticket)

    @property
    def route(self):
        return self._route

    @property
    def slot(self):
        return self._ticket.slot

    cdef int _check(self) except -1:
        if not self._route.link._is_ours():
            raise ForkedError(FORKED_TICKET)
        return 0

    @property
    def outcome(self):
        return mcore_ticket_outcome(&self._ticket)  # in a child: what was known before the fork

    def wait(self, until):
        return self._wait(ns_of(until), False)

    cdef int _wait(self, int64_t until, bint push) except -1:
        cdef Link link = self._route.link
        cdef int outcome
        self._check()
        self._ticket.observed = 1
        cdef int64_t slice_ns
        while True:
            slice_ns = slice_of(until)
            with nogil:
                if push:
                    mcore_link_push(link._link)
                outcome = mcore_ticket_wait(link._outbox, &self._ticket, slice_ns)
            if outcome != MCORE_PENDING or not goes_on(until):
                return outcome

    def observe(self):
        self._check()
        self._ticket.observed = 1
        return mcore_ticket_outcome(&self._ticket)

    @property
    def sequence(self):
        return self._ticket.sequence

    @property
    def duplicate(self):
        return self._ticket.duplicate != 0

    @property
    def failure(self):
        text = "" if self._ticket.text == NULL else decoded(self._ticket.text)
        return self._ticket.was_written != 0, self._ticket.code, self._ticket.err_code, text

    @property
    def message_id(self):
        cdef char text[256]
        if self._msg_id:
            return self._msg_id.decode()
        if not self._route._route.auto_id:
            return None
        mcore_ticket_id(self._route.link._outbox, &self._ticket, text, sizeof(text))
        return decoded(text)


@cython.final
@cython.no_gc_clear  # the links must outlive it
cdef class WaitSet:
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
            ticket._check()
            ticket._ticket.observed = 1
            mcore_wait_set_add(self._set, ticket._route.link._box(), &ticket._ticket)

    def __dealloc__(self):
        if mcore_fork_generation() == self._generation:
            mcore_wait_set_free(self._set)

    def wait(self, until):
        cdef int64_t end = ns_of(until)
        cdef uint32_t places[1024]
        cdef long count
        cdef long i
        if mcore_fork_generation() != self._generation:
            raise ForkedError("this wait began before a fork and belongs to the parent process")
        cdef int64_t slice_ns
        while True:
            slice_ns = slice_of(end)
            with nogil:
                count = mcore_wait_set_wait(self._set, places, 1024, slice_ns)
            if count > 0 or not goes_on(end):
                return [places[i] for i in range(count)]
