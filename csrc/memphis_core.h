/*
 * The C core of memphis_sync: one header for its two bindings (Cython, cffi).
 *
 * Rules of this library
 *   1. C11 and POSIX, no Python.h. Functions that know nothing of threads or sockets come first (sections 1 to 5);
 *      the outbox and the two link loops come last and are the only ones that lock, wait or do IO.
 *   2. The caller owns all memory of sections 1 to 5. They take (const uint8_t *, size_t), return a count or a negative
 *      enum mcore_error, set no errno, allocate nothing and log nothing.
 *   3. Size first, write second: mcore_x_size() tells what mcore_x_write() will need.
 *   4. The text between the two `bindings` marks is plain C without preprocessor lines: cffi reads it as it is.
 */
#ifndef MEMPHIS_CORE_H
#define MEMPHIS_CORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* bindings: begin */

/* ---- 1. Errors and limits ---------------------------------------------------------------------------------------- */

enum mcore_error {
    MCORE_OK = 0,
    MCORE_E_ARGUMENT = -1,      /* an argument that no correct binding passes */
    MCORE_E_ROOM = -2,          /* the caller's buffer is smaller than the size asked for */
    MCORE_E_CONTROL_LINE = -3,  /* a control line longer than the limit */
    MCORE_E_PAYLOAD = -4,       /* a payload, with its headers, above the limit; or a length that is no number */
    MCORE_E_SYNTAX = -5,        /* bytes that are no NATS frame */
    MCORE_E_HEADER = -6,        /* a header block, name or value that breaks NATS/1.0 */
    MCORE_E_POISONED = -7,      /* the parser has failed before and was not reset */
    MCORE_E_FULL_BYTES = -8,    /* outbox: no room for the frame's bytes */
    MCORE_E_FULL_MESSAGES = -9, /* outbox: no slot left */
    MCORE_E_TOO_LARGE = -10,    /* outbox: the frame is larger than the whole outbox */
    MCORE_E_CLOSED = -11,       /* the outbox or link takes nothing any more */
    MCORE_E_MEMORY = -12,       /* the system gave no memory */
    MCORE_E_TIMEOUT = -13,      /* a wait ended at its limit */
    MCORE_E_TOO_MANY = -14,     /* outbox: more messages at once than it ever takes */
    MCORE_E_ENDED = -15         /* outbox: the message, or the holding of messages, has ended */
};

enum mcore_limit {
    MCORE_MAX_CONTROL_LINE = 4096, /* nats-server's own default for a control line, INFO and -ERR aside */
    MCORE_MAX_INFO_LINE = 262144,  /* INFO lists every server of a cluster; 256 KiB is far above any seen */
    MCORE_MAX_U64_DIGITS = 20,
    MCORE_MAX_ROUTES = 64,      /* of one message: so many stations get it at once */
    MCORE_SLICE_NS = 200000000, /* a wait of a caller's thread is cut, so that Ctrl-C is served within 0.3 s */
    MCORE_MAX_PUBACK = 16384,   /* bytes read of an answer to a message; JetStream's have a few hundred */
    MCORE_MAX_RECEIVED =
        67108864,         /* a payload; a server may send more than it takes: headers, what was stored before */
    MCORE_MAX_PONGS = 16, /* queued at once; a server that asks faster is answered by fewer */
    MCORE_CONTROL_BYTES = 67108864, /* control frames and acks that a connection may owe: more, and it is broken */
    MCORE_RECEIVE_BUFFER_BYTES = 67108864,   /* of the messages that a buffer holds, unless its owner expects more */
    MCORE_RECEIVE_BUFFER_STATUSES = 1024,    /* that a buffer holds; each request is ended by one */
    MCORE_RECEIVE_BUFFER_STATUS_BYTES = 4096 /* of one of them, its subject and header block */
};

/* ---- 2. Hash and fork counter ------------------------------------------------------------------------------------- */

/*
 * MurmurHash3, x86 variant, 32-bit result. Reads little-endian blocks on every host. Memphis partitioning uses seed 31.
 * Source: Appleby, MurmurHash3.cpp; vectors in tests/unit/codec/vectors/murmur3.json.
 */
uint32_t mcore_murmur3_x86_32(const uint8_t *data, size_t len, uint32_t seed);

/* Starts counting forks with pthread_atfork; idempotent. Returns MCORE_OK or MCORE_E_MEMORY. */
int mcore_fork_watch(void);

/* How many forks lie between the process that first called mcore_fork_watch and this one; 0 in that process. */
uint64_t mcore_fork_generation(void);

/* ---- 3. Frames ------------------------------------------------------------------------------------------------------
 * Subjects, replies, queue names: bytes 0x21 to 0x7e and UTF-8, no blanks, no control bytes, length >= 1. A writer
 * returns the bytes written, MCORE_E_ROOM when cap is too small or MCORE_E_ARGUMENT for a bad subject.
 * An absent reply or queue has length 0. A refused frame leaves the buffer as it was.
 */

size_t mcore_u64_size(uint64_t value);
size_t mcore_u64_write(uint8_t *out, uint64_t value);

/* CONNECT <json>\r\n; MCORE_E_ARGUMENT for an empty text and for one with CR or LF */
size_t mcore_connect_size(size_t json_len);
long mcore_connect_write(uint8_t *out, size_t cap, const uint8_t *json, size_t json_len);

/* SUB <subject> [queue] <sid>\r\n */
size_t mcore_sub_size(size_t subject_len, size_t queue_len, uint64_t sid);
long mcore_sub_write(uint8_t *out, size_t cap, const uint8_t *subject, size_t subject_len, const uint8_t *queue,
                     size_t queue_len, uint64_t sid);

/* UNSUB <sid> [max_msgs]\r\n; max_msgs 0 leaves it out */
size_t mcore_unsub_size(uint64_t sid, uint64_t max_msgs);
long mcore_unsub_write(uint8_t *out, size_t cap, uint64_t sid, uint64_t max_msgs);

/* PUB <subject> [reply] <payload_len>\r\n<payload>\r\n */
size_t mcore_pub_size(size_t subject_len, size_t reply_len, size_t payload_len);
long mcore_pub_write(uint8_t *out, size_t cap, const uint8_t *subject, size_t subject_len, const uint8_t *reply,
                     size_t reply_len, const uint8_t *payload, size_t payload_len);

/* ---- 4. Header blocks -----------------------------------------------------------------------------------------------
 * NATS/1.0[ <status>[ <description>]]\r\n, then <name>: <value>\r\n each, then \r\n.
 */

struct mcore_span {
    size_t off; /* from the start of the buffer that was given */
    size_t len;
};

struct mcore_header {
    struct mcore_span name;
    struct mcore_span value; /* both without the blanks around them */
};

/* MCORE_OK for 1..n bytes of 0x21..0x7e without ':'; else MCORE_E_HEADER. */
int mcore_header_name_check(const uint8_t *name, size_t len);

/* MCORE_OK for any bytes but CR, LF and NUL; else MCORE_E_HEADER. */
int mcore_header_value_check(const uint8_t *value, size_t len);

/* <name>: <value>\r\n. Checks both. */
size_t mcore_header_size(size_t name_len, size_t value_len);
long mcore_header_write(uint8_t *out, size_t cap, const uint8_t *name, size_t name_len, const uint8_t *value,
                        size_t value_len);

/*
 * Reads a whole header block. Returns the number of headers found, of which at most `max` are written to `out` (call
 * again with more room when it is larger), or MCORE_E_HEADER. *status is 0 without one; *description may be empty.
 * Reading is more lenient than writing: names may hold blanks, and names and values any byte but CR and LF, for other
 * SDKs send such headers and a message that cannot be read would stop its consumer.
 */
long mcore_headers_parse(const uint8_t *data, size_t len, int *status, struct mcore_span *description,
                         struct mcore_header *out, size_t max);

/* ---- 5. Parser ------------------------------------------------------------------------------------------------------
 * Incremental: give it the unconsumed bytes of the stream, it reports whole frames and how many bytes they took. What
 * is left is given again with more behind it. It remembers how far it has searched, so a stream that comes one byte at
 * a time costs linear work.
 */

enum mcore_event_kind {
    MCORE_EV_INFO = 1, /* payload: the JSON text */
    MCORE_EV_MSG = 2,
    MCORE_EV_HMSG = 3,
    MCORE_EV_PING = 4,
    MCORE_EV_PONG = 5,
    MCORE_EV_OK = 6,
    MCORE_EV_ERR = 7 /* payload: the text without its quotes */
};

struct mcore_event {
    int kind;                /* enum mcore_event_kind */
    uint64_t sid;            /* MSG, HMSG */
    struct mcore_span frame; /* the whole frame, line ends included */
    struct mcore_span subject;
    struct mcore_span reply;   /* len 0: none */
    struct mcore_span headers; /* HMSG: the block from NATS/1.0 to its empty line */
    struct mcore_span payload; /* without the final CRLF */
};

struct mcore_parser {
    size_t max_control_line; /* bytes, CRLF excluded */
    size_t max_payload;      /* bytes, headers included */
    size_t scanned;          /* bytes of the unconsumed line already searched for its end */
    size_t need;             /* > 0: the control line is read, `pending` holds it, the frame needs so many bytes */
    struct mcore_event pending;
    int error;
};

/* max_control_line 0 means MCORE_MAX_CONTROL_LINE; INFO and -ERR lines may always have MCORE_MAX_INFO_LINE bytes. */
void mcore_parser_init(struct mcore_parser *parser, size_t max_control_line, size_t max_payload);
void mcore_parser_reset(struct mcore_parser *parser);

/*
 * Parses up to max_events frames from data. Spans are offsets into data. *consumed is the end of the last whole frame.
 * Operation names in any case; blanks and tabs may be doubled, as nats-server and Memphis accept and send them.
 * Returns the number of events, 0 when more bytes are needed, or a negative enum mcore_error: then *consumed is 0, where
 * the offending frame starts, and the parser refuses input (MCORE_E_POISONED) until it is reset. Good frames in front of
 * an offending one are returned first, so that what is seen does not depend on how the stream was split: call again
 * with the rest until it returns 0 or an error.
 */
long mcore_parse(struct mcore_parser *parser, const uint8_t *data, size_t len, struct mcore_event *events,
                 size_t max_events, size_t *consumed);

/* ---- 6. Outbox ------------------------------------------------------------------------------------------------------
 * Queue, in-flight window and retransmission store at once: a bounded, append-only log of encoded frames in one block of
 * memory, addressed by offsets only. Each message has a slot; slots are numbered from 0 and never reused, and the number
 * is the last token of the frame's reply subject, so an ack finds its slot without a search. An urgent message may go
 * into a second log, the express lane, which is written first; its slot numbers have bit MCORE_EXPRESS_BIT set. At any instant
 *   accepted == delivered + failed + abandoned + queued + in_flight.
 * Every function may be called from any thread; none of them waits but those named wait.
 */

struct mcore_outbox;

enum mcore_slot_tag { MCORE_EXPRESS_BIT = 62 }; /* slot numbers from 1 << 62 on belong to the express lane */

enum mcore_outcome {
    MCORE_PENDING = 0,
    MCORE_DELIVERED = 1,
    MCORE_REFUSED = 2,       /* the broker answered with an error */
    MCORE_NO_RESPONDERS = 3, /* nothing listens on the subject: the station is gone */
    MCORE_EXPIRED = 4,       /* its deadline passed */
    MCORE_ABANDONED = 5,     /* given up when the client closed */
    MCORE_UNKNOWN = 6,       /* refused, or nothing listened, but an earlier writing of it had no answer */
    MCORE_UNSENT = 7         /* a held message could not become a frame; the text says why */
};

struct mcore_held;
struct mcore_watcher;

/* How one message ended. The binding owns it; the outbox writes it once, `outcome` last (release order). */
struct mcore_ticket {
    uint64_t slot;
    uint64_t sequence; /* delivered: the stream sequence */
    int outcome;       /* enum mcore_outcome; read it with mcore_ticket_outcome() */
    int duplicate;     /* delivered: the broker had it before */
    int was_written;   /* the frame was given to the socket at least once */
    int attached;      /* the outbox may still write to it */
    int observed;      /* somebody has asked for the outcome */
    int code;          /* refused, unknown: HTTP-like status */
    int err_code;      /* refused, unknown: JetStream's own code */
    char *text;        /* refused, unknown: the broker's text, NUL-terminated, or NULL; freed by mcore_ticket_release */
    void *waiters;     /* threads that wait for it alone */
    struct mcore_watcher *watchers; /* of mcore_outbox_watch() */
    void *wait_sets;                /* those that wait for it among others */
    struct mcore_held *held;        /* NULL: its message was never held; freed by mcore_ticket_release */
};

/* The constant parts of a frame to one subject. The bytes belong to the caller and outlive the route's use. */
struct mcore_route {
    const uint8_t *subject;
    size_t subject_len;
    const uint8_t *id_name; /* header that carries the message id: Nats-Msg-Id, or msg-id on a Memphis broker */
    size_t id_name_len;
    const uint8_t *fixed; /* header lines of each message, line ends included */
    size_t fixed_len;
    uint32_t owner; /* whose backlog it counts in: mcore_outbox_owner_new() */
    int auto_id;    /* make an id from the link's token and the slot where the caller gives none */
};

/* What varies from message to message. */
struct mcore_message {
    const uint8_t *payload;
    size_t payload_len;
    const uint8_t *headers; /* the user's header lines, line ends included */
    size_t headers_len;
    const uint8_t *msg_id; /* length 0: none */
    size_t msg_id_len;
    int64_t timeout_ns;  /* from now to the slot's deadline */
    void *watcher;       /* NULL, or the cookie of mcore_outbox_watch() for the first ticket */
    int urgent;          /* its producer waits for it: use the express lane if that keeps the thread's order */
    const size_t *parts; /* NULL: each route gets the whole payload; else route i the next parts[i] bytes of it */
};

struct mcore_stats {
    uint64_t accepted;
    uint64_t queued;
    uint64_t queued_bytes;
    uint64_t in_flight;
    uint64_t delivered;
    uint64_t duplicates; /* of delivered: the broker had them before */
    uint64_t failed;
    uint64_t abandoned;
    uint64_t buffer_full; /* appends refused for want of room */
    uint64_t resent;      /* frames written again: after a reconnect, or because nobody answered */
    uint64_t unseen;      /* failed or abandoned messages that nobody asked about */
    uint64_t disbelieved; /* answers that were ignored, because no broker can have given them to that message */
    uint64_t max_bytes;
    uint64_t max_messages;
    uint64_t max_payload; /* what the server takes of one message */
};

/* How large a message is, in bytes, with the longest slot number: at most. */
struct mcore_sizes {
    size_t payload; /* of the largest, of those to several routes */
    size_t block;   /* its header block */
    size_t frames;  /* all frames together */
};

/*
 * token: the link's own token; replies go to _INBOX.<token>.<slot> and automatic ids are <token>-<slot>; in the express
 * lane <slot> is the letter e and the slot's number there.
 * Returns NULL when the system gives no memory.
 */
struct mcore_outbox *mcore_outbox_new(const uint8_t *token, size_t token_len, uint64_t max_bytes, uint64_t max_messages,
                                      uint64_t window);
void mcore_outbox_free(struct mcore_outbox *outbox);

/*
 * What becomes of a message to which nobody listens (status 503): it is sent again after pause_ns, up to `attempts` times
 * (0, as it is at first: never; at most 255), unless its deadline comes first; then it ends as MCORE_NO_RESPONDERS, a
 * moment after the last answer.
 * Meanwhile it counts as queued, and the messages behind it go on: only such a message may lose its place in the order.
 */
void mcore_outbox_set_retry(struct mcore_outbox *outbox, unsigned attempts, int64_t pause_ns);

/* A number for a producer's own backlog, or MCORE_E_MEMORY. */
long mcore_outbox_owner_new(struct mcore_outbox *outbox);

/* The largest message with its header block that the server takes; at first any. */
void mcore_outbox_set_max_payload(struct mcore_outbox *outbox, size_t max_payload);

struct mcore_sizes mcore_outbox_sizes(const struct mcore_outbox *outbox, const struct mcore_route *const *routes,
                                      size_t count, const struct mcore_message *message);

/*
 * Appends the message once for each route, all of them or none. tickets[i] may be NULL: nobody will ask.
 * Returns the slot of the first (the others follow it), MCORE_E_FULL_BYTES, MCORE_E_FULL_MESSAGES, MCORE_E_PAYLOAD,
 * MCORE_E_TOO_LARGE, MCORE_E_TOO_MANY, MCORE_E_MEMORY or MCORE_E_CLOSED; MCORE_E_ARGUMENT unless there are 1 to
 * MCORE_MAX_ROUTES routes. Copies everything: nothing given is referenced after the return, tickets aside.
 */
int64_t mcore_outbox_append(struct mcore_outbox *outbox, const struct mcore_route *const *routes, size_t count,
                            const struct mcore_message *message, struct mcore_ticket *const *tickets);

/*
 * Held messages: taken while their producer is being registered, so that nothing is known yet of their frames. The caller
 * keeps what they consist of. They count as queued, with `bytes` each, and within the outbox's bounds.
 *
 * Holds one message for each ticket, all or none, for an owner of its own. Returns MCORE_OK, an error as of
 * mcore_outbox_append(), MCORE_E_MEMORY, or MCORE_E_ENDED once mcore_outbox_end_holding() has ended it.
 */
int mcore_outbox_hold(struct mcore_outbox *outbox, uint32_t owner, size_t count, size_t bytes, int64_t timeout_ns,
                      struct mcore_ticket *const *tickets);

/*
 * Appends held messages as mcore_outbox_append() does, with the deadline, thread and ticket that they have. Also of a closed
 * outbox. MCORE_E_ENDED: they were settled meanwhile, and their room is given back. After any other error they wait on.
 */
int64_t mcore_outbox_unhold(struct mcore_outbox *outbox, const struct mcore_route *const *routes, size_t count,
                            const struct mcore_message *message, struct mcore_ticket *const *tickets);

/* Settles a held message and gives its room back. Returns 1 when this call settled it. */
int mcore_outbox_settle_held(struct mcore_outbox *outbox, struct mcore_ticket *ticket, int outcome, const char *text,
                             size_t text_len);

/* Ends the holding of an owner's messages, if none is held. Returns 1 when it has ended: who tries later sends himself. */
int mcore_outbox_end_holding(struct mcore_outbox *outbox, uint32_t owner);

/* Fails the held messages that are past their deadline at now_ns. Returns how many. */
uint64_t mcore_outbox_expire_held(struct mcore_outbox *outbox, int64_t now_ns);

/* How many messages were held until now, for the next. */
uint64_t mcore_outbox_held_mark(struct mcore_outbox *outbox);

/* Waits until none of those that were held before the mark is held. Returns how many are. */
uint64_t mcore_outbox_wait_held(struct mcore_outbox *outbox, uint64_t mark, int64_t timeout_ns);

/* Settles a slot; a slot that is settled or unknown is left alone. Returns 1 when this call settled it. */
int mcore_outbox_settle(struct mcore_outbox *outbox, uint64_t slot, int outcome, uint64_t sequence, int duplicate,
                        int code, int err_code, const char *text, size_t text_len);

/*
 * Settles a slot by a PubAck's JSON (or an empty no-responders status, when `status` is 503). Returns 1 when it did.
 *
 * Anybody who may publish can send to a reply subject, so an answer is believed only as far as it cannot be false:
 * - One to a message that was not written yet, one that cannot be read, and one that names another stream than the
 *   subject's (what stands before its first dot) are ignored: the message goes on waiting.
 * - "Nothing listens" ends a message only when no ack comes within a moment (MCORE_VERDICT_NS), and means "not stored" only
 *   when each writing of the frame had that answer, once, and its connection lasted until then. Else, and for a refusal
 *   after a writing whose answer was lost with its connection, the message ends as MCORE_UNKNOWN.
 */
int mcore_outbox_ack(struct mcore_outbox *outbox, uint64_t slot, int status, const uint8_t *json, size_t len);

/*
 * The next contiguous run of unsent frames, at most max_bytes unless a single frame is longer, and within the window.
 * Returns the number of frames and marks them in flight; the bytes stay valid until mcore_outbox_run_done().
 */
long mcore_outbox_run_take(struct mcore_outbox *outbox, size_t max_bytes, const uint8_t **data, size_t *len);
void mcore_outbox_run_done(struct mcore_outbox *outbox);

/* The link is gone: everything unsettled is to be sent again, in its order. Returns how many frames were in flight. */
uint64_t mcore_outbox_rewind(struct mcore_outbox *outbox);

/* Fails what is past its deadline at now_ns (monotonic), and queues what has paused long enough. Returns how many failed. */
uint64_t mcore_outbox_expire(struct mcore_outbox *outbox, int64_t now_ns);

/* No append from now on. */
void mcore_outbox_close(struct mcore_outbox *outbox);

/* Settles all that is left as abandoned. Returns how many. */
uint64_t mcore_outbox_abandon(struct mcore_outbox *outbox);

/*
 * Gives the memory of the messages back: of an outbox that is closed, whose messages are all settled and that no loop uses
 * any more. Every call still works afterwards and finds it closed and empty. Returns 0 when it cannot be given back yet.
 */
int mcore_outbox_release(struct mcore_outbox *outbox);

void mcore_outbox_stats(struct mcore_outbox *outbox, struct mcore_stats *stats);

/* Unsettled messages of an owner, or of all with owner -1. */
uint64_t mcore_outbox_outstanding(struct mcore_outbox *outbox, long owner);

/* Waits until an owner has no more than down_to unsettled, or all (-1) nothing. Returns what is outstanding. */
uint64_t mcore_outbox_wait_drained(struct mcore_outbox *outbox, long owner, uint64_t down_to, int64_t timeout_ns);

/* How far the outbox has accepted at this moment, two numbers: for mcore_outbox_wait_marks(). */
void mcore_outbox_marks(struct mcore_outbox *outbox, uint64_t *marks);

/*
 * Waits until all that an owner (-1: anybody) had accepted at the marks is settled, whatever is accepted meanwhile. Returns
 * how many of those messages are not.
 */
uint64_t mcore_outbox_wait_marks(struct mcore_outbox *outbox, long owner, const uint64_t *marks, int64_t timeout_ns);

/* How many messages of an owner (-1: of all) have failed or were abandoned since the last call for the same owner. */
uint64_t mcore_outbox_take_failed(struct mcore_outbox *outbox, long owner);

/* Waits until a frame of so many bytes fits, with some air so that a bulk caller is not woken for each ack. */
int mcore_outbox_wait_room(struct mcore_outbox *outbox, size_t bytes, int64_t timeout_ns);

/*
 * Has mcore_outbox_wait_reports() hand out the cookie once the ticket is settled. Returns 1, 0 when it is settled already,
 * or MCORE_E_MEMORY. A ticket may have several; those of one that is released, or of an outbox that is freed, are not
 * handed out any more.
 */
int mcore_outbox_watch(struct mcore_outbox *outbox, struct mcore_ticket *ticket, void *cookie);

/* Waits for cookies of settled tickets, in the order of settling; returns how many were written to out. */
long mcore_outbox_wait_reports(struct mcore_outbox *outbox, void **out, size_t max, int64_t timeout_ns);

/* Wakes everybody who waits in mcore_outbox_wait_reports(). */
void mcore_outbox_wake_reports(struct mcore_outbox *outbox);

/* Copies the text of the last unseen failure (NUL-terminated, cut to cap) and returns how many came since the last call. */
uint64_t mcore_outbox_take_unseen(struct mcore_outbox *outbox, char *text, size_t cap);

/* Copies why the last answer was ignored (NUL-terminated, cut to cap) and returns how many were since the last call. */
uint64_t mcore_outbox_take_disbelieved(struct mcore_outbox *outbox, char *text, size_t cap);

int mcore_ticket_outcome(const struct mcore_ticket *ticket);

/* Waits for the ticket's own outcome. Returns it, MCORE_PENDING after timeout_ns. */
int mcore_ticket_wait(struct mcore_outbox *outbox, struct mcore_ticket *ticket, int64_t timeout_ns);

/* The id of a message that has made its own, NUL-terminated; its length as of snprintf(). */
size_t mcore_ticket_id(const struct mcore_outbox *outbox, const struct mcore_ticket *ticket, char *out, size_t cap);

/*
 * The ticket's memory is about to go. An outcome that nobody looked at and that is no delivery counts as unseen.
 * outbox: NULL when that has been freed before.
 */
void mcore_ticket_release(struct mcore_outbox *outbox, struct mcore_ticket *ticket);

/*
 * A wait set waits for many tickets at once, of several outboxes too: each settled ticket is handed out once, by its
 * place in the order of adding, in the order of settling. The tickets and their outboxes outlive the set. One thread uses
 * it.
 */
struct mcore_wait_set;

/* Room for `count` tickets; NULL when the system gives no memory. */
struct mcore_wait_set *mcore_wait_set_new(size_t count);
void mcore_wait_set_free(struct mcore_wait_set *set);

/* Adds a ticket; one that is settled already is handed out by the next wait. MCORE_OK, or MCORE_E_ROOM. */
int mcore_wait_set_add(struct mcore_wait_set *set, struct mcore_outbox *outbox, struct mcore_ticket *ticket);

/* Waits for at least one; returns how many places were written to `out`, 0 after timeout_ns. */
long mcore_wait_set_wait(struct mcore_wait_set *set, uint32_t *out, size_t max, int64_t timeout_ns);

int64_t mcore_now_ns(void);

/* How long a wait until then may take at once, in nanoseconds: a slice at most, and 0 when the time is over. */
int64_t mcore_slice_until(int64_t until_ns);

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
    MCORE_NEXT_UNSEEN = 1,  /* there are unseen failures or ignored answers to log (at most once a second) */
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

/* Queues PUB <subject> <len>\r\n<payload>\r\n, to go out with others: a message's ack. */
int mcore_link_publish(struct mcore_link *link, const uint8_t *subject, size_t subject_len, const uint8_t *payload,
                       size_t payload_len);

/* Queues a PING; returns its number on this connection, or MCORE_E_CLOSED. */
int64_t mcore_link_ping(struct mcore_link *link);

/* Waits for the PONG of that number. MCORE_OK, MCORE_E_TIMEOUT or MCORE_E_CLOSED. */
int mcore_link_wait_pong(struct mcore_link *link, int64_t number, int64_t timeout_ns);

int mcore_link_errno(struct mcore_link *link);

/* Copies the text of the link's end or of the last -ERR (NUL-terminated, cut to cap). Returns its length. */
size_t mcore_link_text(struct mcore_link *link, char *text, size_t cap);

/* ---- 8. Inbox -------------------------------------------------------------------------------------------------------
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
