# Sections 1 to 5 of csrc/memphis_core.h: hash, fork counter, frames, headers, parser. _cffi.py mirrors it name by name.
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8

from memphis_sync._core._event import DEFAULT_MAX_PAYLOAD, KINDS, Event
from memphis_sync._core._translate import (
    MAX_SIZE,
    MAX_U32,
    MAX_U64,
    block_error,
    checked_number,
    connect_error,
    frame_error,
    header_error,
    poisoned_error,
    remote_error,
)

IMPL = "cython"
PING = b"PING\r\n"
PONG = b"PONG\r\n"

cdef enum:
    HEADERS_ON_STACK = 16   # headers of a block read without asking for memory; Memphis writes two to four
    EVENTS_AT_ONCE = 256    # _event.MAX_EVENTS, as a constant of C


cdef inline const uint8_t *at(bytes data) noexcept:
    return <const uint8_t *>PyBytes_AS_STRING(data)


cdef inline size_t size_of(bytes data) noexcept:
    return <size_t>PyBytes_GET_SIZE(data)


cdef inline bytes room(size_t size):
    return PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)


cdef inline bytes part_of(const uint8_t *data, size_t start, size_t size):
    return PyBytes_FromStringAndSize(<const char *>data + start, <Py_ssize_t>size)


def murmur3_x86_32(data, seed=0):
    cdef uint32_t checked = checked_number("seed", seed, 0, MAX_U32)
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return mcore_murmur3_x86_32(<const uint8_t *>view.buf, <size_t>view.len, checked)
    finally:
        PyBuffer_Release(&view)


def watch_forks():
    if mcore_fork_watch() != MCORE_OK:
        raise MemoryError("no memory to watch for forks")


def fork_generation():
    return mcore_fork_generation()


def ring_bell():
    mcore_bell_ring()


def bell_count():
    return mcore_bell_count()


def wait_bell(uint64_t seen, int64_t timeout_ns):
    cdef uint64_t count
    with nogil:
        count = mcore_bell_wait(seen, timeout_ns)
    return count


def keep_forever(thing not None):
    Py_INCREF(thing)


def encode_connect(bytes json not None):
    cdef bytes out = room(mcore_connect_size(size_of(json)))
    if mcore_connect_write(<uint8_t *>at(out), size_of(out), at(json), size_of(json)) < 0:
        raise connect_error()
    return out


def encode_sub(bytes subject not None, sid, bytes queue not None=b""):
    cdef uint64_t number = checked_number("sid", sid, 0, MAX_U64)
    cdef bytes out = room(mcore_sub_size(size_of(subject), size_of(queue), number))
    if mcore_sub_write(<uint8_t *>at(out), size_of(out), at(subject), size_of(subject), at(queue), size_of(queue),
                       number) < 0:
        raise frame_error(subject, "queue", queue)
    return out


def encode_unsub(sid, max_msgs=0):
    cdef uint64_t number = checked_number("sid", sid, 0, MAX_U64)
    cdef uint64_t limit = checked_number("max_msgs", max_msgs, 0, MAX_U64)
    cdef bytes out = room(mcore_unsub_size(number, limit))
    mcore_unsub_write(<uint8_t *>at(out), size_of(out), number, limit)
    return out


def encode_pub(bytes subject not None, bytes payload not None, bytes reply not None=b""):
    cdef bytes out = room(mcore_pub_size(size_of(subject), size_of(reply), size_of(payload)))
    if mcore_pub_write(<uint8_t *>at(out), size_of(out), at(subject), size_of(subject), at(reply), size_of(reply),
                       at(payload), size_of(payload)) < 0:
        raise frame_error(subject, "reply", reply)
    return out


def encode_header(bytes name not None, bytes value not None):
    cdef bytes out = room(mcore_header_size(size_of(name), size_of(value)))
    if mcore_header_write(<uint8_t *>at(out), size_of(out), at(name), size_of(name), at(value), size_of(value)) < 0:
        raise header_error(name, value)
    return out


def encode_headers(pairs):
    return b"".join([b"NATS/1.0\r\n", *[encode_header(name, value) for name, value in pairs], b"\r\n"])


cdef object text(const uint8_t *data, mcore_span span):
    return PyUnicode_DecodeUTF8(<const char *>data + span.off, <Py_ssize_t>span.len, "surrogateescape")


def parse_headers(bytes block not None):
    cdef mcore_header on_stack[HEADERS_ON_STACK]
    cdef mcore_header *found = on_stack
    cdef mcore_span description
    cdef int status = 0
    cdef bytes more
    cdef long count = mcore_headers_parse(at(block), size_of(block), &status, &description, found, HEADERS_ON_STACK)
    cdef long i
    if count > HEADERS_ON_STACK:
        more = room(<size_t>count * sizeof(mcore_header))
        found = <mcore_header *>PyBytes_AS_STRING(more)
        count = mcore_headers_parse(at(block), size_of(block), &status, &description, found, <size_t>count)
    if count < 0:
        raise block_error(count)
    headers = [(text(at(block), found[i].name), text(at(block), found[i].value)) for i in range(count)]
    return status, text(at(block), description), headers


cdef object event_of(const uint8_t *data, mcore_event *event):
    return Event(
        KINDS[event.kind],
        event.sid,
        part_of(data, event.subject.off, event.subject.len),
        part_of(data, event.reply.off, event.reply.len),
        part_of(data, event.headers.off, event.headers.len),
        part_of(data, event.payload.off, event.payload.len),
    )


@cython.final
cdef class Parser:
    cdef mcore_parser parser
    cdef mcore_event events[EVENTS_AT_ONCE]
    cdef bytearray tail
    cdef size_t limit
    cdef readonly object failure
    cdef bint raised

    def __init__(self, max_payload=DEFAULT_MAX_PAYLOAD, max_control_line=MCORE_MAX_CONTROL_LINE):
        self.limit = checked_number("max_payload", max_payload, 1, MAX_SIZE)
        mcore_parser_init(&self.parser, checked_number("max_control_line", max_control_line, 1, MAX_SIZE), self.limit)
        self.reset()

    @property
    def buffered(self):
        return len(self.tail)

    @cython.critical_section
    def reset(self):
        mcore_parser_reset(&self.parser)
        self.tail = bytearray()
        self.failure = None
        self.raised = False

    @cython.critical_section
    def feed(self, data):
        cdef Py_buffer view
        cdef list found = []
        cdef size_t taken
        if self.failure is not None:
            raise self.refused()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not self.tail:   # nothing to put in front: parse the caller's bytes where they are
                taken = self.parse(<const uint8_t *>view.buf, <size_t>view.len, found)
                self.tail += part_of(<const uint8_t *>view.buf, taken, <size_t>view.len - taken)
            else:
                self.tail += part_of(<const uint8_t *>view.buf, 0, <size_t>view.len)
                self.parse_tail(found)
        finally:
            PyBuffer_Release(&view)
        if self.failure is not None and not found:
            raise self.refused()
        return found

    cdef object parse_tail(self, list found):
        cdef Py_buffer view
        cdef size_t taken
        PyObject_GetBuffer(self.tail, &view, PyBUF_SIMPLE)   # exported: nothing can move it meanwhile
        try:
            taken = self.parse(<const uint8_t *>view.buf, <size_t>view.len, found)
        finally:
            PyBuffer_Release(&view)
        del self.tail[:taken]

    # Appends the whole frames to `found` and returns how many bytes they took; sets `failure`.
    cdef size_t parse(self, const uint8_t *data, size_t size, list found) except? 0:
        cdef size_t start = 0
        cdef size_t consumed = 0
        cdef long count = 1
        cdef long i
        while count > 0:
            count = mcore_parse(&self.parser, data + start, size - start, self.events, EVENTS_AT_ONCE, &consumed)
            for i in range(count):
                found.append(event_of(data + start, &self.events[i]))
            start += consumed
        if count < 0:
            self.failure = remote_error(count, self.limit, part_of(data, start, min(size - start, <size_t>64)))
        return start

    cdef object refused(self):
        if self.raised:
            return poisoned_error(self.failure)
        self.raised = True
        return self.failure
