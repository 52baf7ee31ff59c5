# ReceiveBuffer and RawMessage: what one subscription of a link has received.


# Memory of received records, freed with the last message that points into it.
cdef class Chunk:
    cdef uint8_t *_data

    def __dealloc__(self):
        mcore_free(self._data)


# The garbage collector does not know of it, which takes thousands of objects off its list: what is `owner` or `answer`
# must not lead back to the message.
@cython.no_gc
cdef class RawMessage:
    cdef Chunk _chunk
    cdef mcore_record *_record
    cdef Link _link
    cdef readonly object owner
    cdef public object answer

    cdef const uint8_t *_bytes(self) except NULL:
        if self._record == NULL:
            raise TypeError("messages are created by fetch() only")
        return <const uint8_t *>self._record + sizeof(mcore_record)

    @property
    def subject(self):
        return PyUnicode_DecodeUTF8(<const char *>self._bytes(), self._record.subject_len, "replace")

    @property
    def reply(self):
        cdef const char *start = <const char *>self._bytes() + self._record.subject_len
        return PyUnicode_DecodeUTF8(start, self._record.reply_len, "replace")

    @property
    def header_block(self):
        cdef const uint8_t *start = self._bytes()
        return part_of(start, self._record.subject_len + self._record.reply_len, self._record.header_len)

    @property
    def payload(self):
        cdef const uint8_t *start = self._bytes()
        return part_of(start, self._record.subject_len + self._record.reply_len + self._record.header_len,
                       self._record.payload_len)

    @property
    def payload_len(self):
        self._bytes()
        return self._record.payload_len

    @property
    def age_ns(self):
        self._bytes()
        return mcore_now_ns() - self._record.received_ns

    def renew(self):
        self.respond(b"+WPI")
        self._record.received_ns = mcore_now_ns()

    def respond(self, bytes body not None=b""):
        cdef const uint8_t *reply = self._bytes() + self._record.subject_len
        if not self._link._is_ours():
            raise ForkedError(FORKED_MESSAGE)
        checked(mcore_link_publish(self._link._own(), reply, self._record.reply_len, at(body), size_of(body)))


@cython.final
cdef class ReceiveBuffer:
    cdef mcore_receive_buffer *_buffer
    cdef readonly Link link
    cdef readonly uint64_t sid
    cdef readonly uint64_t dropped

    def __cinit__(self, Link link not None, uint64_t sid, bint jetstream=False):
        self._buffer = mcore_receive_buffer_new(link._own(), sid, jetstream)
        if self._buffer == NULL:
            raise MemoryError("no memory for a receive buffer")
        self.link = link
        self.sid = sid

    def __dealloc__(self):
        if self.link is not None and self.link._is_ours():
            mcore_receive_buffer_free(self._buffer)

    def expect(self, uint64_t messages, uint64_t size):
        self.link._check()
        mcore_receive_buffer_expect(self._buffer, messages, size)

    def wait(self, uint64_t messages, uint64_t statuses, until):
        cdef int64_t end = ns_of(until)
        cdef mcore_link *link = self.link._own()
        cdef int result
        cdef int64_t slice_ns
        while True:
            slice_ns = slice_of(end)
            with nogil:
                mcore_link_push(link)
                result = mcore_receive_buffer_wait(self._buffer, messages, statuses, slice_ns)
            if result != MCORE_E_TIMEOUT or not goes_on(end):
                return result

    def wake(self):
        self.link._check()
        mcore_receive_buffer_wake(self._buffer)

    @property
    def is_closed(self):
        self.link._check()
        return mcore_receive_buffer_is_closed(self._buffer) != 0

    def take(self, type kind not None, owner):
        cdef Chunk chunk = Chunk.__new__(Chunk)
        cdef size_t size = 0
        cdef size_t place = 0
        cdef mcore_record *record
        cdef RawMessage message
        self.link._check()
        mcore_receive_buffer_take(self._buffer, &chunk._data, &size)
        self.dropped = mcore_receive_buffer_dropped(self._buffer)
        messages = []
        statuses = []
        while place < size:
            record = <mcore_record *>(chunk._data + place)
            place += record.size
            message = <RawMessage?>(new_off_list(kind) if record.status == 0 else RawMessage.__new__(RawMessage))
            message._chunk = chunk
            message._record = record
            message._link = self.link
            message.owner = owner
            if record.status == 0:
                messages.append(message)
            else:
                statuses.append((record.status, message.subject, message.header_block))
        return messages, statuses
