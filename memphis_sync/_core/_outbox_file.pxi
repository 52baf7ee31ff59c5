# The outbox of a Link in a file, and OutboxFile: what an earlier process has left in one.


def outbox_file_size(uint64_t max_bytes, uint64_t max_messages):
    return mcore_outbox_file_size(max_bytes, max_messages)


@cython.final
cdef class OutboxFile:
    cdef mcore_outbox_file *_file

    def __cinit__(self, int fd):
        with nogil:
            self._file = mcore_outbox_file_read(fd)
        if self._file == NULL:
            raise MemoryError("no memory to read an outbox file")

    def __dealloc__(self):
        mcore_outbox_file_free(self._file)

    def __len__(self):
        cdef mcore_file_info info
        mcore_outbox_file_info(self._file, &info)
        return info.messages

    def info(self):
        cdef mcore_file_info info
        mcore_outbox_file_info(self._file, &info)
        return info

    def message(self, uint64_t index):
        cdef mcore_file_message m
        if mcore_outbox_file_message(self._file, index, &m) != MCORE_OK:
            raise IndexError(f"there is no message {index}")
        return (
            part_of(m.subject, 0, m.subject_len),
            part_of(m.msg_id, 0, m.msg_id_len),
            part_of(m.headers, 0, m.headers_len),
            part_of(m.payload, 0, m.payload_len),
            m.accepted_s,
            m.was_written != 0,
        )


def use_file(Link link not None, int fd, uint64_t salt, bytes boot not None):
    checked(mcore_outbox_use_file(link._box(), fd, salt, at(boot), size_of(boot)))


def sync_file(Link link not None):
    cdef mcore_outbox *outbox = link._box()
    cdef int error
    with nogil:
        error = mcore_outbox_sync(outbox)
    return error


def adopt(Link link not None, OutboxFile file not None, bytes id_name not None):
    return checked(mcore_outbox_adopt(link._box(), file._file, at(id_name), size_of(id_name)))


def recovered(Link link not None):
    cdef uint64_t left
    cdef uint64_t failed
    mcore_outbox_recovered(link._box(), &left, &failed)
    return left, failed
