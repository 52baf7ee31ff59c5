# Sections 6 to 8 of csrc/memphis_core.h: outbox, link, receive buffer. Only what the binding calls.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "memphis_core.h" nogil:
    enum:
        MCORE_E_FULL_BYTES
        MCORE_E_FULL_MESSAGES
        MCORE_E_TOO_LARGE
        MCORE_E_CLOSED
        MCORE_E_MEMORY
        MCORE_E_TIMEOUT
        MCORE_E_TOO_MANY
        MCORE_E_ENDED
        MCORE_UNSENT
        MCORE_DELIVERED
        MCORE_EXPRESS_BIT
        MCORE_LINK_GOES_ON
        MCORE_RECEIVE_BUFFER_BYTES

    struct mcore_outbox:
        pass

    struct mcore_link:
        pass

    struct mcore_receive_buffer:
        pass

    struct mcore_wait_set:
        pass

    struct mcore_ticket:
        uint64_t slot
        uint64_t sequence
        int duplicate
        int was_written
        int observed
        int code
        int err_code
        char *text

    struct mcore_route:
        const uint8_t *subject
        size_t subject_len
        const uint8_t *id_name
        size_t id_name_len
        const uint8_t *fixed
        size_t fixed_len
        uint32_t owner
        int auto_id

    struct mcore_message:
        const uint8_t *payload
        size_t payload_len
        const uint8_t *headers
        size_t headers_len
        const uint8_t *msg_id
        size_t msg_id_len
        int64_t timeout_ns
        int report
        int urgent
        const size_t *parts

    struct mcore_stats:
        uint64_t accepted
        uint64_t queued
        uint64_t queued_bytes
        uint64_t in_flight
        uint64_t delivered
        uint64_t duplicates
        uint64_t failed
        uint64_t abandoned
        uint64_t buffer_full
        uint64_t resent
        uint64_t unseen
        uint64_t disbelieved
        uint64_t max_bytes
        uint64_t max_messages

    struct mcore_record:
        uint32_t size
        uint32_t subject_len
        uint32_t reply_len
        uint32_t header_len
        uint32_t payload_len
        int32_t status
        int64_t received_ns

    mcore_outbox *mcore_outbox_new(const uint8_t *, size_t, uint64_t, uint64_t, uint64_t)
    void mcore_outbox_free(mcore_outbox *)
    void mcore_outbox_set_retry(mcore_outbox *, unsigned, int64_t)
    long mcore_outbox_owner_new(mcore_outbox *)
    size_t mcore_outbox_frame_size(const mcore_outbox *, const mcore_route *, const mcore_message *)
    int64_t mcore_outbox_append(mcore_outbox *, const mcore_route *const *, size_t, const mcore_message *,
                                mcore_ticket *const *)
    int mcore_outbox_hold(mcore_outbox *, uint32_t, size_t, size_t, int64_t, mcore_ticket *const *)
    int64_t mcore_outbox_unhold(mcore_outbox *, const mcore_route *const *, size_t, const mcore_message *,
                                mcore_ticket *const *)
    int mcore_outbox_settle_held(mcore_outbox *, mcore_ticket *, int, const char *, size_t)
    int mcore_outbox_end_holding(mcore_outbox *, uint32_t)
    uint64_t mcore_outbox_expire_held(mcore_outbox *, int64_t)
    uint64_t mcore_outbox_held_mark(mcore_outbox *)
    uint64_t mcore_outbox_wait_held(mcore_outbox *, uint64_t, int64_t)
    uint64_t mcore_ticket_number(const mcore_ticket *)
    void mcore_outbox_close(mcore_outbox *)
    uint64_t mcore_outbox_abandon(mcore_outbox *)
    void mcore_outbox_stats(mcore_outbox *, mcore_stats *)
    uint64_t mcore_outbox_outstanding(mcore_outbox *, long)
    uint64_t mcore_outbox_wait_drained(mcore_outbox *, long, uint64_t, int64_t)
    void mcore_outbox_marks(mcore_outbox *, uint64_t *)
    uint64_t mcore_outbox_wait_marks(mcore_outbox *, long, const uint64_t *, int64_t)
    uint64_t mcore_outbox_take_failed(mcore_outbox *, long)
    int mcore_outbox_release(mcore_outbox *)
    int mcore_outbox_wait_room(mcore_outbox *, size_t, int64_t)
    long mcore_outbox_wait_reports(mcore_outbox *, uint64_t *, size_t, int64_t)
    int mcore_outbox_report(mcore_outbox *, mcore_ticket *)
    void mcore_outbox_wake_reports(mcore_outbox *)
    uint64_t mcore_outbox_take_unseen(mcore_outbox *, char *, size_t)
    uint64_t mcore_outbox_take_disbelieved(mcore_outbox *, char *, size_t)
    int mcore_ticket_outcome(const mcore_ticket *)
    int mcore_ticket_wait(mcore_outbox *, mcore_ticket *, int64_t)
    void mcore_ticket_release(mcore_outbox *, mcore_ticket *)

    mcore_wait_set *mcore_wait_set_new(size_t)
    void mcore_wait_set_free(mcore_wait_set *)
    int mcore_wait_set_add(mcore_wait_set *, mcore_outbox *, mcore_ticket *)
    long mcore_wait_set_wait(mcore_wait_set *, uint32_t *, size_t, int64_t)

    mcore_link *mcore_link_new(mcore_outbox *, size_t, int64_t, int)
    void mcore_link_free(mcore_link *)
    int mcore_link_attach(mcore_link *, int, const uint8_t *, size_t, const uint8_t *, size_t)
    uint64_t mcore_link_detach(mcore_link *)
    int mcore_link_read_loop(mcore_link *)
    int mcore_link_send_loop(mcore_link *)
    void mcore_link_release(mcore_link *)
    void mcore_link_stop(mcore_link *)
    int mcore_link_is_up(mcore_link *)
    void mcore_link_push(mcore_link *)
    int mcore_link_next(mcore_link *, int64_t, const uint8_t **, size_t *)
    void mcore_link_written(mcore_link *, size_t, int)
    int64_t mcore_link_run_timers(mcore_link *)
    void mcore_link_wake(mcore_link *)
    int mcore_link_feed(mcore_link *, const uint8_t *, size_t)
    int mcore_link_ended(mcore_link *, int)
    int mcore_link_control(mcore_link *, const uint8_t *, size_t)
    int mcore_link_write(mcore_link *, const uint8_t *, size_t)
    int mcore_link_publish(mcore_link *, const uint8_t *, size_t, const uint8_t *, size_t)
    int64_t mcore_link_ping(mcore_link *)
    int mcore_link_wait_pong(mcore_link *, int64_t, int64_t)
    int mcore_link_errno(mcore_link *)
    size_t mcore_link_text(mcore_link *, char *, size_t)

    mcore_receive_buffer *mcore_receive_buffer_new(mcore_link *, uint64_t, int)
    void mcore_receive_buffer_free(mcore_receive_buffer *)
    void mcore_receive_buffer_expect(mcore_receive_buffer *, uint64_t, uint64_t)
    uint64_t mcore_receive_buffer_dropped(mcore_receive_buffer *)
    int mcore_receive_buffer_wait(mcore_receive_buffer *, uint64_t, uint64_t, int64_t)
    void mcore_receive_buffer_wake(mcore_receive_buffer *)
    int mcore_receive_buffer_is_closed(mcore_receive_buffer *)
    long mcore_receive_buffer_take(mcore_receive_buffer *, uint8_t **, size_t *)
    int64_t mcore_now_ns()
    void mcore_free(void *)
