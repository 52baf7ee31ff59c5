/*
 * The C core of memphis_sync for its two bindings (Cython, cffi): the rules of all of it, and what knows nothing of threads
 * or sockets. memphis_outbox.h has the outbox and its tickets, memphis_link.h the link and its receive buffers.
 *
 * Rules of this library
 *   1. C11 and POSIX, no Python.h. Functions that know nothing of threads or sockets come first (sections 1 to 5, in
 *      this header); outbox and link (sections 6 to 8) are the only ones that lock, wait or do IO.
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
    MCORE_RECEIVE_BUFFER_BYTES = 67108864,    /* of the messages that a buffer holds, unless its owner expects more */
    MCORE_RECEIVE_BUFFER_STATUSES = 1024,     /* that a buffer holds; each request is ended by one */
    MCORE_RECEIVE_BUFFER_STATUS_BYTES = 4096, /* of one of them, its subject and header block */
    MCORE_FILE_FORMAT = 1,                    /* of an outbox file, the newest that is known */
    MCORE_FILE_BOOT = 40                      /* bytes of the name of a start of the machine */
};

/* ---- 2. Hash, fork counter, bell ------------------------------------------------------------------------------------- */

/*
 * MurmurHash3, x86 variant, 32-bit result. Reads little-endian blocks on every host. Memphis partitioning uses seed 31.
 * Source: Appleby, MurmurHash3.cpp; vectors in tests/unit/codec/vectors/murmur3.json.
 */
uint32_t mcore_murmur3_x86_32(const uint8_t *data, size_t len, uint32_t seed);

/* Starts counting forks with pthread_atfork; idempotent. Returns MCORE_OK or MCORE_E_MEMORY. */
int mcore_fork_watch(void);

/* How many forks lie between the process that first called mcore_fork_watch and this one; 0 in that process. */
uint64_t mcore_fork_generation(void);

/*
 * The bell of this process is rung by whatever may end a wait for something in the core. Rings are counted from the first
 * mcore_bell_wait on, whose lock and count a forked child has for itself.
 */
void mcore_bell_ring(void);
uint64_t mcore_bell_count(void);

/* Waits until the count is another one than `seen`, for timeout_ns at most; returns the count. */
uint64_t mcore_bell_wait(uint64_t seen, int64_t timeout_ns);

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

/* bindings: end */

#ifdef __cplusplus
}
#endif

#include "memphis_outbox.h"

#include "memphis_link.h"

#endif
