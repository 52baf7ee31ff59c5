/*
 * The outbox of the C core: what becomes of a message, and who waits for it. The rules stand in memphis_core.h.
 */
#ifndef MEMPHIS_OUTBOX_H
#define MEMPHIS_OUTBOX_H

#include "memphis_core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* bindings: begin */

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
    uint64_t buffer_full;   /* appends refused for want of room */
    uint64_t resent;        /* frames written again: after a reconnect, or because nobody answered */
    uint64_t unseen;        /* failed or abandoned messages that nobody asked about */
    uint64_t disbelieved;   /* answers that were ignored, because no broker can have given them to that message */
    uint64_t received;      /* deliveries that were taken from receive buffers of JetStream's messages */
    uint64_t acked;         /* of received: answered with an acknowledgement, */
    uint64_t given_back;    /* one that asks for another delivery, */
    uint64_t dead_lettered; /* or one that ends them */
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
 * What becomes of a message to which nobody listens (status 503). With attempts 0, as it is at first, it ends as
 * MCORE_NO_RESPONDERS, a moment later. Else its stream may be electing a leader: the messages of that stream wait in their
 * places and count as queued, those of others go on. The oldest is sent again after each pause_ns, and once it is answered
 * they all go, in their order. mcore_outbox_take_question() hands the stream out, so that the broker can be asked whether
 * it exists; if it does not, its messages end as MCORE_NO_RESPONDERS after `attempts` (at most 255). Else they wait for
 * their deadlines, and end as MCORE_EXPIRED with code 503 when they are known not to be stored.
 */
void mcore_outbox_set_retry(struct mcore_outbox *outbox, unsigned attempts, int64_t pause_ns);

enum { MCORE_MAX_STREAM = 512 }; /* bytes of a stream's name, and its NUL; a longer one is never asked about */

/*
 * Copies the name of a stream that does not answer (NUL-terminated) and returns its length; 0: there is no further
 * question. The sender's loop comes back with MCORE_NEXT_UNSEEN for it.
 */
size_t mcore_outbox_take_question(struct mcore_outbox *outbox, char *stream, size_t cap);

enum mcore_stream_answer { MCORE_STREAM_UNKNOWN = 0, MCORE_STREAM_EXISTS = 1, MCORE_STREAM_GONE = 2 };

/* The answer to it; each question has one, be it that nobody could tell. */
void mcore_outbox_answer_question(struct mcore_outbox *outbox, const char *stream, size_t len, int answer);

/*
 * The outbox in a file: frames that are accepted outlive the process, until they are settled; one that is abandoned stays.
 * A new file is as large as mcore_outbox_file_size() says and has all its blocks, so that no write can fail; who opens it
 * has locked it. Held messages are not in it.
 */
uint64_t mcore_outbox_file_size(uint64_t max_bytes, uint64_t max_messages);

/*
 * Before the first append. salt: random, of this file alone. boot: names the start of the machine, at most MCORE_FILE_BOOT
 * bytes. Takes the descriptor over: it is closed when the memory is given back, and in a forked child. Returns MCORE_OK;
 * MCORE_E_ARGUMENT for a file of another size, MCORE_E_TOO_MANY, MCORE_E_MEMORY: the descriptor is still the caller's.
 */
int mcore_outbox_use_file(struct mcore_outbox *outbox, int fd, uint64_t salt, const uint8_t *boot, size_t boot_len);

/* Waits until the disk has what the file holds. Returns 0, also without a file, or an errno. */
int mcore_outbox_sync(struct mcore_outbox *outbox);

enum mcore_file_fault {
    MCORE_FILE_WHOLE = 0,
    MCORE_FILE_FOREIGN = 1,     /* no outbox file */
    MCORE_FILE_OTHER_ORDER = 2, /* of a machine of another byte order */
    MCORE_FILE_NEWER = 3,       /* of a format that is not known here */
    MCORE_FILE_CUT = 4,         /* of another size than it says */
    MCORE_FILE_HEADER = 5,      /* its header is damaged */
    MCORE_FILE_UNREADABLE = 6   /* the system cannot read it */
};

/* What is said of a file that was read; all but `fault`, `format` and the sizes is 0 for one with a fault. */
struct mcore_file_info {
    int fault; /* enum mcore_file_fault */
    uint32_t format;
    uint64_t size; /* as it says itself */
    uint64_t actual_size;
    uint64_t pid; /* whose it was */
    int64_t created_s;
    uint64_t max_bytes;
    uint64_t max_messages;
    uint64_t messages; /* live ones */
    uint64_t bytes;    /* of their frames */
    uint64_t damaged;  /* entries that are neither empty nor whole */
    char boot[41];     /* as given to mcore_outbox_use_file(), NUL-terminated */
};

/* A message in a file; the pointers lead into it. */
struct mcore_file_message {
    const uint8_t *subject;
    size_t subject_len;
    const uint8_t *id_name; /* length 0: it has no message id */
    size_t id_name_len;
    const uint8_t *msg_id;
    size_t msg_id_len;
    const uint8_t *headers; /* the lines behind the id, line ends included */
    size_t headers_len;
    const uint8_t *payload;
    size_t payload_len;
    int64_t accepted_s; /* seconds since 1970 */
    int was_written;    /* it may have been sent, and so be stored */
};

/* Reads a file without changing it. The descriptor stays the caller's. NULL when the system gives no memory. */
struct mcore_outbox_file;
struct mcore_outbox_file *mcore_outbox_file_read(int fd);
void mcore_outbox_file_free(struct mcore_outbox_file *file);
void mcore_outbox_file_info(const struct mcore_outbox_file *file, struct mcore_file_info *info);

/* Live message number `index`, in the order in which they are to be sent. MCORE_OK, or MCORE_E_ARGUMENT behind the last. */
int mcore_outbox_file_message(const struct mcore_outbox_file *file, uint64_t index, struct mcore_file_message *message);

/*
 * Appends all live messages of a file, with their own ids, times and marks, and without a deadline: they stay until the
 * broker has confirmed or refused them. Until they are settled nothing new goes out before them. id_name: the header that
 * this broker knows message ids by. Returns how many, MCORE_E_FULL_BYTES or _MESSAGES (none was appended then), _MEMORY.
 */
int64_t mcore_outbox_adopt(struct mcore_outbox *outbox, const struct mcore_outbox_file *file, const uint8_t *id_name,
                           size_t id_name_len);

/* Of those that were adopted: how many are unsettled, and how many have failed until now. */
void mcore_outbox_recovered(struct mcore_outbox *outbox, uint64_t *left, uint64_t *failed);

/* A number for a producer's own backlog, or MCORE_E_MEMORY. */
long mcore_outbox_owner_new(struct mcore_outbox *outbox);

/*
 * The largest message with its header block that the server takes; at first any. Called before each attach. What waits and
 * is larger ends here: MCORE_UNSENT, or MCORE_UNKNOWN when it was sent before, with a text that says both sizes.
 */
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

/* Fails what is past its deadline at now_ns (monotonic), and sends again what is due. Returns how many failed. */
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

/* bindings: end */

#ifdef __cplusplus
}
#endif

#endif
