/*
 * The link of the C core and what it receives. The rules stand in memphis_core.h.
 */
#ifndef MEMPHIS_LINK_H
#define MEMPHIS_LINK_H

#include "memphis_outbox.h"

#ifdef __cplusplus
extern "C" {
#endif

/* bindings: begin */

/* ---- 7. Link --------------------------------------------------------------------------------------------------------
 * One TCP connection with its two loops. The handshake is the caller's: a link takes a connected socket whose INFO and
 * PONG have been read. Control frames (SUB, UNSUB, pulls, PONG) go before produced messages.
 *
 * Acks of messages gather for a millisecond, or until there are many: a write for each would cost both sides more than
 * the ack. They go out behind the next control frame, a pull for instance, so that a server delivers while it reads them;
 * mcore_link_ping() puts its PING behind them, and mcore_link_push() writes them at once.
 */

struct mcore_link;
struct mcore_receive_buffer;

enum mcore_link_end {
    MCORE_LINK_GOES_ON = -1, /* no end yet */
    MCORE_LINK_STOPPED = 0,  /* mcore_link_stop() */
    MCORE_LINK_EOF = 1,      /* the peer closed */
    MCORE_LINK_ERRNO = 2,    /* a socket error: mcore_link_errno() */
    MCORE_LINK_PROTOCOL = 3, /* the peer broke the protocol: mcore_link_text() shows the bytes */
    MCORE_LINK_SERVER = 4,   /* the server sent -ERR and closed: mcore_link_text() */
    MCORE_LINK_LAME = 5      /* the server is in lame-duck mode: it will close soon */
};

/*
 * max_payload: the largest that it can receive, MCORE_MAX_RECEIVED for a client.
 * ping_interval_ns: a peer that is silent for so long is asked with a PING, and after twice as long it counts as gone
 * (MCORE_LINK_ERRNO, ETIMEDOUT); 0 never asks.
 * sans_io: the bytes are not for the socket as they are (TLS). The caller runs the two loops itself, with the functions
 * from mcore_link_next() to mcore_link_ended(); the socket only serves to be shut down.
 */
struct mcore_link *mcore_link_new(struct mcore_outbox *outbox, size_t max_payload, int64_t ping_interval_ns,
                                  int sans_io);
void mcore_link_free(struct mcore_link *link);

/* Takes the socket; the first bytes to write (SUB ...) are in `first`, bytes read too far by the handshake in `rest`. */
int mcore_link_attach(struct mcore_link *link, int fd, const uint8_t *first, size_t first_len, const uint8_t *rest,
                      size_t rest_len);

/*
 * Ends the connection's use: wakes both loops, waits until no thread writes any more, rewinds the outbox, fails the open
 * buffers. The socket itself is still the caller's to close. Returns how many frames were in flight.
 */
uint64_t mcore_link_detach(struct mcore_link *link);

/* Reads until the connection ends; an enum mcore_link_end. For the reader thread. */
int mcore_link_read_loop(struct mcore_link *link);

/*
 * Writes until the link is stopped, across connections; expires deadlines. For the sender thread.
 * Returns 0 once stopped, 1 when there are unseen failures or ignored answers to log (at most once a second: call again).
 */
int mcore_link_send_loop(struct mcore_link *link);

/* Both loops return soon; nothing is sent any more. */
void mcore_link_stop(struct mcore_link *link);

/* Gives the link's buffers back, once both loops have returned for good. */
void mcore_link_release(struct mcore_link *link);

/* Whether a socket is attached and not known to be broken. */
int mcore_link_is_up(struct mcore_link *link);

/*
 * Writes what is queued at once, if nobody else is writing and the socket takes it: saves a blocking caller a thread.
 * With sans_io it only wakes the sender.
 */
void mcore_link_push(struct mcore_link *link);

enum mcore_next {
    MCORE_NEXT_STOPPED = 0, /* mcore_link_stop() */
    MCORE_NEXT_UNSEEN = 1,  /* a question to take, or unseen failures or ignored answers to log (these once a second) */
    MCORE_NEXT_BYTES = 2,   /* write these, then call mcore_link_written() */
    MCORE_NEXT_NOTHING = 3  /* the time is over */
};

/*
 * The send loop's step, for one thread: waits for bytes to write, across connections, and expires deadlines and asks a
 * silent peer meanwhile; an enum mcore_next. With MCORE_NEXT_BYTES the bytes stay valid, and mcore_link_detach() waits,
 * until mcore_link_written(); none at all (len 0) means that mcore_link_wake() was called.
 */
int mcore_link_next(struct mcore_link *link, int64_t timeout_ns, const uint8_t **data, size_t *len);

/*
 * The first `count` of them are out; what is left comes again with the next call. error: the socket's errno, which ends the
 * connection, or 0.
 */
void mcore_link_written(struct mcore_link *link, size_t count, int error);

/*
 * For a sender that waits for its socket: does what mcore_link_next() does besides waiting. Returns after how many
 * nanoseconds it is to be called again.
 */
int64_t mcore_link_run_timers(struct mcore_link *link);

/* Makes mcore_link_next() return if there is a connection, with or without bytes: its caller has something to write. */
void mcore_link_wake(struct mcore_link *link);

/* The read loop's step: bytes that the peer sent. MCORE_LINK_GOES_ON, or an end. Call it once
 * with none at all first, for what attach() was given as read too far. */
int mcore_link_feed(struct mcore_link *link, const uint8_t *data, size_t len);

/* The socket gives no more: error is its errno, 0 when the peer closed. Returns the end as the loops would. */
int mcore_link_ended(struct mcore_link *link, int error);

/*
 * Queues whole control frames. Returns MCORE_OK, MCORE_E_CLOSED (no connection) or MCORE_E_MEMORY. With
 * MCORE_CONTROL_BYTES queued already the peer takes nothing: the connection ends (MCORE_LINK_ERRNO, ENOBUFS), and this
 * returns MCORE_E_CLOSED; so do all that queue.
 */
int mcore_link_control(struct mcore_link *link, const uint8_t *data, size_t len);

/* The same, and writes at once as mcore_link_push() does: for a caller that is about to wait for the answer. */
int mcore_link_write(struct mcore_link *link, const uint8_t *data, size_t len);

/* Queues PUB <subject> <len>\r\n<payload>\r\n, to go out with others: a message's ack, which is counted as such. */
int mcore_link_publish(struct mcore_link *link, const uint8_t *subject, size_t subject_len, const uint8_t *payload,
                       size_t payload_len);

/* Counts an ack that went another way. */
void mcore_link_count_ack(struct mcore_link *link, const uint8_t *payload, size_t payload_len);

/* Queues a PING; returns its number on this connection, or MCORE_E_CLOSED. */
int64_t mcore_link_ping(struct mcore_link *link);

/* Waits for the PONG of that number. MCORE_OK, MCORE_E_TIMEOUT or MCORE_E_CLOSED. */
int mcore_link_wait_pong(struct mcore_link *link, int64_t number, int64_t timeout_ns);

int mcore_link_errno(struct mcore_link *link);

/* Copies the text of the link's end or of the last -ERR (NUL-terminated, cut to cap). Returns its length. */
size_t mcore_link_text(struct mcore_link *link, char *text, size_t cap);

/* ---- 8. Receive buffer-------------------------------------------------------------------------------------------------
 * What the reader has received for one subscription, in the order of the wire, until somebody takes it. Everybody who may
 * publish can send to it, so it holds no more than was asked for: what is beyond that is dropped and counted. A server
 * delivers a message again that was dropped so.
 */

/* One received message; its bytes follow it: subject, reply, header block, payload. `size` leads to the next. */
struct mcore_record {
    uint32_t size; /* of record and bytes, a multiple of 8 */
    uint32_t subject_len;
    uint32_t reply_len;
    uint32_t header_len;
    uint32_t payload_len;
    int32_t status;      /* 0: a message; else the status of the header block: 404, 408, 409, 503 ... */
    int64_t received_ns; /* by mcore_now_ns(), when the bytes came out of the socket */
};

/*
 * jetstream: take only messages whose ack goes to $JS.ACK., which nats-server lets nobody but itself send ("Permissions
 * Violation for Publish with Reply"), and statuses; what others send there is dropped.
 */
struct mcore_receive_buffer *mcore_receive_buffer_new(struct mcore_link *link, uint64_t sid, int jetstream);
void mcore_receive_buffer_free(struct mcore_receive_buffer *buffer);

/*
 * Up to which number of messages, counted since the buffer was made, it takes any, and how many bytes of them it holds
 * before they are taken: subjects, replies, header blocks and payloads, as JetStream counts a pull's max_bytes. At first
 * any number, and MCORE_RECEIVE_BUFFER_BYTES.
 */
void mcore_receive_buffer_expect(struct mcore_receive_buffer *buffer, uint64_t messages, uint64_t bytes);

/* How many messages and statuses were dropped since the buffer was made. */
uint64_t mcore_receive_buffer_dropped(struct mcore_receive_buffer *buffer);

/*
 * Waits for so many messages, or so many statuses, or mcore_receive_buffer_wake(), or the end of the connection.
 * MCORE_OK, MCORE_E_TIMEOUT or MCORE_E_CLOSED (the connection ended; what had come can still be taken).
 */
int mcore_receive_buffer_wait(struct mcore_receive_buffer *buffer, uint64_t messages, uint64_t statuses,
                              int64_t timeout_ns);

/* Ends the wait for this buffer with MCORE_OK, or the next one if nobody waits now. */
void mcore_receive_buffer_wake(struct mcore_receive_buffer *buffer);

/* Whether its connection has ended: nothing more comes. */
int mcore_receive_buffer_is_closed(struct mcore_receive_buffer *buffer);

/* Detaches all records received so far; free *data with mcore_free(). Returns the number of records. */
long mcore_receive_buffer_take(struct mcore_receive_buffer *buffer, uint8_t **data, size_t *len);

void mcore_free(void *memory);

/* bindings: end */

#ifdef __cplusplus
}
#endif

#endif
