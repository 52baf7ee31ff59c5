# Sections 1 to 5 of csrc/memphis_core.h, as far as the binding uses them.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "memphis_core.h" nogil:
    int MCORE_OK
    int MCORE_E_POISONED
    int MCORE_MAX_CONTROL_LINE

    uint32_t mcore_murmur3_x86_32(const uint8_t *data, size_t length, uint32_t seed)
    int mcore_fork_watch()
    uint64_t mcore_fork_generation()

    size_t mcore_connect_size(size_t json_len)
    long mcore_connect_write(uint8_t *out, size_t cap, const uint8_t *json, size_t json_len)
    size_t mcore_sub_size(size_t subject_len, size_t queue_len, uint64_t sid)
    long mcore_sub_write(uint8_t *out, size_t cap, const uint8_t *subject, size_t subject_len, const uint8_t *queue,
                         size_t queue_len, uint64_t sid)
    size_t mcore_unsub_size(uint64_t sid, uint64_t max_msgs)
    long mcore_unsub_write(uint8_t *out, size_t cap, uint64_t sid, uint64_t max_msgs)
    size_t mcore_pub_size(size_t subject_len, size_t reply_len, size_t payload_len)
    long mcore_pub_write(uint8_t *out, size_t cap, const uint8_t *subject, size_t subject_len, const uint8_t *reply,
                         size_t reply_len, const uint8_t *payload, size_t payload_len)
    size_t mcore_hpub_size(size_t subject_len, size_t reply_len, size_t header_len, size_t payload_len)
    long mcore_hpub_write(uint8_t *out, size_t cap, const uint8_t *subject, size_t subject_len, const uint8_t *reply,
                          size_t reply_len, const uint8_t *header, size_t header_len, const uint8_t *payload,
                          size_t payload_len)

    struct mcore_span:
        size_t off
        size_t len

    struct mcore_header:
        mcore_span name
        mcore_span value

    size_t mcore_header_size(size_t name_len, size_t value_len)
    long mcore_header_write(uint8_t *out, size_t cap, const uint8_t *name, size_t name_len, const uint8_t *value,
                            size_t value_len)
    long mcore_headers_parse(const uint8_t *data, size_t length, int *status, mcore_span *description,
                             mcore_header *out, size_t max_headers)

    struct mcore_event:
        int kind
        uint64_t sid
        mcore_span frame
        mcore_span subject
        mcore_span reply
        mcore_span headers
        mcore_span payload

    struct mcore_parser:
        int error

    void mcore_parser_init(mcore_parser *parser, size_t max_control_line, size_t max_payload)
    void mcore_parser_reset(mcore_parser *parser)
    long mcore_parse(mcore_parser *parser, const uint8_t *data, size_t length, mcore_event *events, size_t max_events,
                     size_t *consumed)
