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


cdef inline bytes room(size_t size):
    return PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)


def murmur3_x86_32(data, seed=0):
    """
    MurmurHash3, x86 variant, 32-bit result.

    Args:
        data: Bytes to hash; any length, including none.
        seed: Unsigned 32-bit seed. Memphis partitioning uses 31.

    Returns:
        Unsigned hash, 0 <= h < 2**32. Little-endian block reads on every host.

    Raises:
        ConfigurationError: *seed* is outside 0..2**32-1.

    Source: Appleby, MurmurHash3.cpp; vectors in tests/unit/codec/vectors/murmur3.json.
    """
    cdef uint32_t checked = checked_number("seed", seed, 0, MAX_U32)
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return mcore_murmur3_x86_32(<const uint8_t *>view.buf, <size_t>view.len, checked)
    finally:
        PyBuffer_Release(&view)


def watch_forks():
    """
    Starts counting forks; idempotent.

    Raises:
        MemoryError: The system has no memory for the handler.
    """
    if mcore_fork_watch() != MCORE_OK:
        raise MemoryError("no memory to watch for forks")


def fork_generation():
    """How many forks lie between the process that first called watch_forks() and this one; 0 in that process."""
    return mcore_fork_generation()


def encode_connect(bytes json not None):
    r"""
    ``CONNECT <json>\r\n``.

    Raises:
        LocalProtocolError: *json* is empty or more than one line; the text does not show it.
    """
    cdef bytes out = room(mcore_connect_size(PyBytes_GET_SIZE(json)))
    if mcore_connect_write(<uint8_t *>at(out), PyBytes_GET_SIZE(out), at(json), PyBytes_GET_SIZE(json)) < 0:
        raise connect_error()
    return out


def encode_sub(bytes subject not None, sid, bytes queue not None=b""):
    r"""
    ``SUB <subject> [queue] <sid>\r\n``.

    Raises:
        LocalProtocolError: *subject* or *queue* holds blanks or control bytes, or is not UTF-8.
        ConfigurationError: *sid* is outside 0..2**64-1.
    """
    cdef uint64_t number = checked_number("sid", sid, 0, MAX_U64)
    cdef bytes out = room(mcore_sub_size(PyBytes_GET_SIZE(subject), PyBytes_GET_SIZE(queue), number))
    cdef long code = mcore_sub_write(
        <uint8_t *>at(out), PyBytes_GET_SIZE(out), at(subject), PyBytes_GET_SIZE(subject),
        at(queue), PyBytes_GET_SIZE(queue), number,
    )
    if code < 0:
        raise frame_error(code, subject, "queue", queue)
    return out


def encode_unsub(sid, max_msgs=0):
    r"""
    ``UNSUB <sid> [max_msgs]\r\n``.

    Args:
        sid: Subscription id.
        max_msgs: Messages after which the server ends the subscription; 0 ends it at once.

    Raises:
        ConfigurationError: A number is outside 0..2**64-1.
    """
    cdef uint64_t number = checked_number("sid", sid, 0, MAX_U64)
    cdef uint64_t limit = checked_number("max_msgs", max_msgs, 0, MAX_U64)
    cdef bytes out = room(mcore_unsub_size(number, limit))
    mcore_unsub_write(<uint8_t *>at(out), PyBytes_GET_SIZE(out), number, limit)
    return out


def encode_pub(bytes subject not None, bytes payload not None, bytes reply not None=b""):
    r"""
    ``PUB <subject> [reply] <payload_len>\r\n<payload>\r\n``, the length in bytes.

    Raises:
        LocalProtocolError: *subject* or *reply* holds blanks or control bytes, or is not UTF-8.
    """
    cdef bytes out = room(
        mcore_pub_size(PyBytes_GET_SIZE(subject), PyBytes_GET_SIZE(reply), PyBytes_GET_SIZE(payload))
    )
    cdef long code = mcore_pub_write(
        <uint8_t *>at(out), PyBytes_GET_SIZE(out), at(subject), PyBytes_GET_SIZE(subject),
        at(reply), PyBytes_GET_SIZE(reply), at(payload), PyBytes_GET_SIZE(payload),
    )
    if code < 0:
        raise frame_error(code, subject, "reply", reply)
    return out


def encode_hpub(bytes subject not None, bytes header not None, bytes payload not None, bytes reply not None=b""):
    r"""
    ``HPUB <subject> [reply] <hdr_len> <total_len>\r\n<header block><payload>\r\n``, lengths in bytes.

    Args:
        subject: Where to.
        header: A whole block, as encode_headers() makes it.
        payload: What to send.
        reply: Where an answer goes; empty for none.

    Raises:
        LocalProtocolError: *subject* or *reply* holds blanks or control bytes, or is not UTF-8.
        HeaderError: *header* does not start with NATS/1.0 and end with an empty line.
    """
    cdef bytes out = room(
        mcore_hpub_size(
            PyBytes_GET_SIZE(subject), PyBytes_GET_SIZE(reply), PyBytes_GET_SIZE(header), PyBytes_GET_SIZE(payload)
        )
    )
    cdef long code = mcore_hpub_write(
        <uint8_t *>at(out), PyBytes_GET_SIZE(out), at(subject), PyBytes_GET_SIZE(subject),
        at(reply), PyBytes_GET_SIZE(reply), at(header), PyBytes_GET_SIZE(header), at(payload), PyBytes_GET_SIZE(payload),
    )
    if code < 0:
        raise frame_error(code, subject, "reply", reply)
    return out


def encode_header(bytes name not None, bytes value not None):
    r"""
    ``<name>: <value>\r\n``.

    Raises:
        HeaderError: The name is no printable ASCII or holds ':' or a blank; the value holds CR, LF or NUL.
    """
    cdef bytes out = room(mcore_header_size(PyBytes_GET_SIZE(name), PyBytes_GET_SIZE(value)))
    cdef long code = mcore_header_write(
        <uint8_t *>at(out), PyBytes_GET_SIZE(out), at(name), PyBytes_GET_SIZE(name), at(value), PyBytes_GET_SIZE(value)
    )
    if code < 0:
        raise header_error(name, value)
    return out


def encode_headers(pairs):
    r"""
    A whole block: ``NATS/1.0\r\n``, ``<name>: <value>\r\n`` for each pair, ``\r\n``.

    Blanks around a value are not kept by those who read it.

    Raises:
        HeaderError: As encode_header().
    """
    lines = [b"NATS/1.0\r\n"]
    for name, value in pairs:
        lines.append(encode_header(name, value))
    lines.append(b"\r\n")
    return b"".join(lines)


cdef object text(const uint8_t *data, mcore_span span):
    return PyUnicode_DecodeUTF8(<const char *>data + span.off, <Py_ssize_t>span.len, "surrogateescape")


def parse_headers(bytes block not None):
    """
    Reads a whole header block.

    Returns:
        status (0 without one), description, and the headers in the order of the wire. Text is UTF-8 with
        surrogateescape; blanks around names and values are gone.

    Raises:
        HeaderError: *block* is no NATS/1.0 header block.
    """
    cdef mcore_header on_stack[HEADERS_ON_STACK]
    cdef mcore_header *found = on_stack
    cdef mcore_span description
    cdef int status = 0
    cdef bytes more
    cdef size_t size = PyBytes_GET_SIZE(block)
    cdef long count = mcore_headers_parse(at(block), size, &status, &description, found, HEADERS_ON_STACK)
    cdef long i
    if count > HEADERS_ON_STACK:
        more = room(<size_t>count * sizeof(mcore_header))
        found = <mcore_header *>PyBytes_AS_STRING(more)
        count = mcore_headers_parse(at(block), size, &status, &description, found, <size_t>count)
    if count < 0:
        raise block_error(count)
    headers = [(text(at(block), found[i].name), text(at(block), found[i].value)) for i in range(count)]
    return status, text(at(block), description), headers


cdef bytes part(const uint8_t *data, mcore_span span):
    return PyBytes_FromStringAndSize(<const char *>data + span.off, <Py_ssize_t>span.len)


cdef object event_of(const uint8_t *data, mcore_event *event):
    return Event(
        KINDS[event.kind],
        event.sid,
        part(data, event.subject),
        part(data, event.reply),
        part(data, event.headers),
        part(data, event.payload),
    )


@cython.final
cdef class Parser:
    """
    Reads the server's side of a NATS connection; knows nothing of sockets.

    One parser belongs to one stream and one thread. What it reports depends on the stream alone, not on how it was
    split: when good frames precede an offending one, feed() returns them, keeps the error in `failure`, and the next
    feed() raises it.

    Args:
        max_payload: Largest payload in bytes, headers included.
        max_control_line: Longest control line in bytes, CRLF excluded; INFO and -ERR may always have 256 KiB.

    Raises:
        ConfigurationError: A limit is below 1.
    """

    cdef mcore_parser parser
    cdef mcore_event events[EVENTS_AT_ONCE]
    cdef bytearray tail
    cdef size_t limit
    cdef object failed
    cdef bint raised

    def __init__(self, max_payload=DEFAULT_MAX_PAYLOAD, max_control_line=MCORE_MAX_CONTROL_LINE):
        self.limit = checked_number("max_payload", max_payload, 1, MAX_SIZE)
        mcore_parser_init(&self.parser, checked_number("max_control_line", max_control_line, 1, MAX_SIZE), self.limit)
        self.tail = bytearray()
        self.failed = None
        self.raised = False

    @property
    def buffered(self):
        """Bytes of an incomplete frame that wait for the rest of it."""
        return len(self.tail)

    @property
    def failure(self):
        """The error that ended the stream, also before feed() has raised it; None while it is sound."""
        return self.failed

    @cython.critical_section
    def reset(self):
        """Forgets everything but the limits: for a new stream."""
        mcore_parser_reset(&self.parser)
        self.tail = bytearray()
        self.failed = None
        self.raised = False

    @cython.critical_section
    def feed(self, data):
        """
        Takes the next bytes of the stream; keeps the part that is no whole frame yet.

        Returns:
            The frames that are complete now, in order.

        Raises:
            RemoteProtocolError: The server broke the protocol; shows up to 64 bytes from the offending frame on.
            LocalProtocolError: The parser has raised before and was not reset.
        """
        cdef Py_buffer view
        cdef list found = []
        cdef size_t taken
        if self.failed is not None:
            raise self.refused()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not self.tail:   # nothing to put in front: parse the caller's bytes where they are
                taken = self.parse(<const uint8_t *>view.buf, <size_t>view.len, found)
                self.tail += part_from(<const uint8_t *>view.buf, taken, <size_t>view.len)
            else:
                self.tail += part_from(<const uint8_t *>view.buf, 0, <size_t>view.len)
                self.parse_tail(found)
        finally:
            PyBuffer_Release(&view)
        if self.failed is not None and not found:
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

    cdef size_t parse(self, const uint8_t *data, size_t size, list found) except? 0:
        """Appends the whole frames to `found` and returns how many bytes they took; sets `failed`."""
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
            self.failed = remote_error(count, self.limit, part_from(data, start, min(size, start + 64)))
        return start

    cdef object refused(self):
        if self.raised:
            return poisoned_error(self.failed)
        self.raised = True
        return self.failed


cdef bytes part_from(const uint8_t *data, size_t start, size_t end):
    return PyBytes_FromStringAndSize(<const char *>data + start, <Py_ssize_t>(end - start))
