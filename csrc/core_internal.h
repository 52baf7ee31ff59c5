/*
 * What the files of the outbox and of the link share, and no binding sees.
 *
 * Lock order: outbox->lock, then link->receive_lock; nobody holds either across IO.
 *   outbox->lock        the logs, their counters, tickets that are attached, the link's connection and control buffers
 *   link->receive_lock  the list of receive buffers and what they hold
 *   set->lock           which tickets of a wait set are settled; taken last
 * Conditions use CLOCK_MONOTONIC. A condition is signalled only when its waiter count says that somebody waits.
 */
#ifndef MEMPHIS_CORE_INTERNAL_H
#define MEMPHIS_CORE_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>

#include "memphis_core.h"

#define MCORE_LOG_MAGIC UINT64_C(0x314f434d53504d4d) /* "MMPSMCO1" little-endian */
#define MCORE_LOG_FORMAT 1u
#define MCORE_NEVER INT64_MAX
#define MCORE_EXPRESS_TAG (UINT64_C(1) << MCORE_EXPRESS_BIT)

enum mcore_slot_state {
    MCORE_SLOT_SETTLED = 0,
    MCORE_SLOT_QUEUED = 1,
    MCORE_SLOT_IN_FLIGHT = 2,
    MCORE_SLOT_PAUSED = 3 /* its stream does not answer: outage.c queues it again, or it has a moment until it ends */
};

enum mcore_slot_flag {
    MCORE_FLAG_WRITTEN = 1,
    MCORE_FLAG_NO_RESPONDERS = 4, /* its last answer was that nobody listens; not written since */
    MCORE_FLAG_UNSURE = 8 /* a writing had no answer, or may have had two: it may be stored, whatever is answered */
};

/* How long the ack of a message may come after a false "nobody listens"; a true one is the only answer there is. */
#define MCORE_VERDICT_NS INT64_C(100000000)

/* One message of the log; 32 bytes, and with its ticket pointer 40 over the frame's own bytes. */
struct mcore_slot {
    uint64_t pos; /* of the frame, in bytes since the log began; pos % max_bytes is its place */
    int64_t deadline_ns;
    uint32_t len;
    uint32_t owner;
    uint16_t state;
    uint8_t flags;
    uint8_t round;   /* of its lane, when it was last written */
    uint32_t thread; /* number of the producing thread, below MCORE_THREADS */
};

/* First bytes of the block: enough to read the log again from a mapped file. Positions and slots only grow. */
struct mcore_log {
    uint64_t magic;
    uint32_t format;
    uint32_t generation;
    uint64_t max_bytes;
    uint64_t max_messages;
    uint64_t slots_off; /* from the start of the block */
    uint64_t data_off;
    uint64_t head_slot; /* oldest slot that is kept */
    uint64_t sent_slot; /* first slot not written on this connection */
    uint64_t tail_slot; /* next slot to give */
    uint64_t head_pos;  /* first byte in use */
    uint64_t tail_pos;  /* first byte free */
};

/* A held message; it lives as long as its ticket. outbox->lock guards it. */
struct mcore_held {
    struct mcore_held *prev;
    struct mcore_held *next;
    struct mcore_ticket *ticket;
    uint64_t number; /* its slot number until it is a frame; they grow in the order of holding */
    int64_t deadline_ns;
    size_t bytes;
    uint32_t owner;
    uint32_t thread;
    bool waits;    /* it is on the outbox's list, unsettled */
    bool has_room; /* its bytes count against the outbox's bounds */
};

struct mcore_owner {
    uint64_t outstanding;
    bool holds_no_more;
    uint64_t wake_at; /* the highest count that a waiter wants it down to, now or earlier; 0 is always of interest */
    uint64_t failed;  /* failed or abandoned */
    uint64_t failed_taken;
};

/* A thread that waits for what was accepted until some moment; it lives on that thread's stack. outbox->lock guards it. */
struct mcore_flush {
    struct mcore_flush *next;
    long owner;            /* -1: of all */
    const uint64_t *marks; /* of each lane: the first slot that it does not wait for */
    uint64_t left;
};

/*
 * A thread that waits for one ticket; it lives on that thread's stack. Whoever settles the ticket takes it off the
 * ticket's list under outbox->lock, and posts it after letting the lock go, so that it does not wake up into that lock.
 * A waiter that was taken stays until it is posted, however late its own time is.
 */
struct mcore_waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool posted;
    bool taken; /* outbox->lock guards it */
    struct mcore_waiter *next;
};

/* Who wants to be told of a ticket's outcome: on the ticket's list, then on the outbox's until it is handed out. */
struct mcore_watcher {
    struct mcore_watcher *next;
    void *cookie;
};

/* How a message ends. */
struct mcore_verdict {
    int outcome;
    uint64_t sequence;
    int duplicate;
    int code;
    int err_code;
    const char *text; /* still escaped as in its JSON */
    size_t text_len;
};

/* One ticket of a wait set, on the ticket's list of sets while it is not settled. */
struct mcore_wait_set_node {
    struct mcore_wait_set_node *next;
    struct mcore_wait_set *set;
    struct mcore_outbox *outbox;
    struct mcore_ticket *ticket;
    uint32_t place; /* in the set */
};

/*
 * Two logs share a link. The bulk lane takes everything that nobody waits for; the express lane takes a message that its
 * producer waits for, so that it does not stand behind another thread's backlog. It is used only by a thread that has
 * nothing unsettled in the bulk lane, which keeps the order of each thread's messages.
 */
enum mcore_lane_number { MCORE_BULK = 0, MCORE_EXPRESS_LANE = 1, MCORE_LANES = 2 };

struct mcore_send_log {
    uint8_t *block;
    size_t block_len;
    struct mcore_log *log;
    struct mcore_slot *slots;
    uint8_t *data;
    struct mcore_ticket **tickets; /* by slot % max_messages; this process only */
    int64_t *due_ns; /* of each MCORE_DUE_BLOCK slots: no unsettled one has a deadline before; MCORE_NEVER: none has */
    uint8_t *inbox;  /* "_INBOX.<token>." and the lane's mark */
    size_t inbox_len;
    uint8_t *id; /* "<token>-" and the lane's mark */
    size_t id_len;
    uint64_t tag;     /* in the numbers that go out of here: MCORE_EXPRESS or 0 */
    uint64_t pin_pos; /* bytes from here on are being written; UINT64_MAX when nobody writes */
    uint64_t queued;
    uint64_t in_flight;
    uint8_t round;        /* counts seconds while there is something to do; an age is a difference of two */
    bool window_was_full; /* then the sender waits for a worthwhile part of the window */
    struct mcore_file_entry
        *entries;      /* by slot % max_messages; NULL: the log is in memory. `data` is in the file, too */
    uint64_t *written; /* in the file: slots from here on were never given to a socket */
    uint64_t salt;
    struct mcore_log released; /* what `log` points to once the block was given back: an empty log */
};

/* So many deadlines are looked at together: a long backlog is not searched slot by slot whenever one of them is due. */
#define MCORE_DUE_BLOCK 256u

#define MCORE_THREADS 1024 /* threads are told apart up to this many; more only makes the express lane rarer */

struct mcore_outbox {
    pthread_mutex_t lock;
    pthread_cond_t work;    /* the sender has something to do */
    pthread_cond_t drained; /* an owner, or all, has nothing outstanding */
    pthread_cond_t room;    /* there is air again */
    pthread_cond_t reports; /* settled slots wait to be reported */

    struct mcore_send_log lanes[MCORE_LANES];
    struct mcore_send_log *writing_lane; /* whose run is being written */
    uint64_t window;
    int64_t next_deadline_ns; /* no unsettled deadline lies before it */
    unsigned retry_attempts;
    int64_t retry_pause_ns;
    struct mcore_outage *outages; /* one a stream */
    size_t outage_count;
    size_t outage_cap;
    bool has_question; /* a new one, which the sender has not told of */
    int64_t round_due_ns;
    uint64_t round_accepted; /* how many messages had been accepted when the round began */
    struct mcore_stats stats;
    struct mcore_owner *owners;
    size_t owner_count;
    uint32_t thread_backlog[MCORE_THREADS]; /* unsettled in the bulk lane or held, by the thread that produced them */

    struct mcore_held *held_first;
    struct mcore_held *held_last;
    uint64_t held_count; /* since the outbox was made */
    uint64_t held_messages;
    uint64_t held_bytes;
    unsigned held_waiters; /* on `drained`, for held messages to become frames */
    int64_t held_due_ns;   /* no deadline of theirs lies before it, or it is not looked at before */

    struct mcore_watcher *reports_first; /* of settled tickets */
    struct mcore_watcher *reports_last;
    char unseen_text[256];
    uint64_t unseen_taken;
    const char *disbelieved_text;
    uint64_t disbelieved_taken;
    int64_t log_due_ns; /* not before this are unseen failures and ignored answers handed out again */

    struct mcore_waiter *to_post; /* taken off settled tickets, to be posted after the unlock */
    struct mcore_flush *flushes;
    uint64_t failed_taken;
    unsigned drain_waiters;
    unsigned room_waiters;
    unsigned report_waiters;
    unsigned report_wakes;
    uint64_t room_wanted; /* bytes that the most modest room waiter wants free */
    long recovered_owner; /* whose messages an earlier process had accepted; -1: nobody's */
    uint8_t *file;        /* the mapping that the lanes' frames lie in; NULL: they are in memory */
    size_t file_len;
    int file_fd;
    bool sender_sleeps;      /* on `work`, with a connection: an append wakes it */
    int64_t sender_until_ns; /* when the sender wakes by itself; 0 while it is awake */
    bool closed;
};

struct mcore_buffer {
    uint8_t *data;
    size_t len;
    size_t cap;
};

struct mcore_link {
    struct mcore_outbox *outbox;
    pthread_cond_t quiet; /* nobody writes any more */
    pthread_cond_t pong;

    int fd;              /* -1: no connection */
    uint64_t connection; /* counts attaches */
    bool up;
    bool stopping;
    bool writing;        /* a thread is in send() with `current`, or holds it between next and written */
    bool sans_io;        /* the bytes go through the caller's hands, not to the socket as they are */
    bool wake_requested; /* mcore_link_wake() was called since the last next */

    struct mcore_buffer control; /* filled by callers */
    unsigned pongs_queued;       /* in `control` */
    struct mcore_buffer acks;    /* of messages: they gather, and go out behind `control` */
    int64_t acks_due_ns;         /* when they go out by themselves, while there are any */
    struct mcore_buffer sending; /* taken from control or acks, being written */
    const uint8_t *current;      /* what is being written: part of sending or of the log */
    size_t current_len;
    bool current_is_run;

    int64_t pings;
    int64_t pongs;
    unsigned pong_waiters;
    int64_t ping_interval_ns;
    int64_t heard_ns;  /* when the peer last sent anything; written by the reader without the lock */
    int64_t asked_ns;  /* when it was last asked with a PING */
    bool is_lame_duck; /* the server has announced its end */

    struct mcore_parser parser;
    struct mcore_buffer input;
    int last_errno;
    char text[512];

    pthread_mutex_t receive_lock;
    struct mcore_receive_buffer *receive_buffers;
    bool receive_ready; /* what somebody waits for has come; it is told when the lock is about to be let go */
};

struct mcore_receive_buffer {
    struct mcore_link *link;
    struct mcore_receive_buffer *next;
    uint64_t sid;
    uint64_t connection;
    pthread_cond_t cond;
    struct mcore_buffer records;
    size_t usual; /* how many bytes were taken last time: the next block begins as large */
    long count;
    uint64_t messages; /* since the buffer was made */
    uint64_t statuses;
    uint64_t dropped;
    bool is_jetstream;      /* takes no messages but the server's own */
    uint64_t most_messages; /* what mcore_receive_buffer_expect() said */
    uint64_t most_bytes;
    uint64_t held_bytes; /* of messages in `records`, as most_bytes counts */
    unsigned held_statuses;
    uint64_t wanted_messages; /* of the waiter; UINT64_MAX without one */
    uint64_t wanted_statuses;
    bool woken; /* mcore_receive_buffer_wake() was called since the last wait */
    bool closed;
};

/* send_log.c: one log; outbox->lock held. */
bool mcore_send_log_init(struct mcore_send_log *send_log, const uint8_t *token, size_t token_len, const char *mark,
                         uint64_t tag, uint64_t max_bytes, uint64_t max_messages);
void mcore_send_log_free(struct mcore_send_log *send_log);
/* Gives the memory of the messages back; there must be none. Nothing can be appended afterwards. */
void mcore_send_log_release(struct mcore_send_log *send_log);
struct mcore_slot *mcore_send_log_slot(const struct mcore_send_log *send_log, uint64_t slot);
/* Bytes of the header block, and of the whole frame, for a slot number of `digits` digits. */
size_t mcore_send_log_block_size(const struct mcore_send_log *send_log, const struct mcore_route *route,
                                 const struct mcore_message *message, size_t digits);
size_t mcore_send_log_frame_size(const struct mcore_send_log *send_log, const struct mcore_route *route,
                                 const struct mcore_message *message, size_t digits);
/* MCORE_OK, or why the message does not fit now, once for each route. */
int mcore_send_log_check(const struct mcore_send_log *send_log, const struct mcore_route *const *routes, size_t count,
                         const struct mcore_message *message);
/* Writes the frame; returns its slot. There must be room. In a file it is accepted with mcore_file_accept(). */
struct mcore_slot *mcore_send_log_append(struct mcore_send_log *send_log, const struct mcore_route *route,
                                         const struct mcore_message *message, struct mcore_ticket *ticket);
/* Gives the newest slot its deadline. */
void mcore_send_log_set_deadline(struct mcore_send_log *send_log, int64_t deadline_ns);
/* Moves the deadline of a slot forward. */
void mcore_send_log_advance_deadline(struct mcore_send_log *send_log, uint64_t slot, int64_t deadline_ns);
/* The stream that stores a frame: its subject's first token. */
const uint8_t *mcore_send_log_stream(const struct mcore_send_log *send_log, const struct mcore_slot *entry,
                                     size_t *len);
/* What the broker's limit counts of a frame: header block and payload. */
size_t mcore_send_log_message_size(const struct mcore_send_log *send_log, const struct mcore_slot *entry);
bool mcore_send_log_has_run(const struct mcore_send_log *send_log, uint64_t window);
long mcore_send_log_run_take(struct mcore_send_log *send_log, uint64_t window, size_t max_bytes,
                             struct mcore_stats *stats, const uint8_t **data, size_t *len);
/* Whether the broker can find a duplicate of it. */
bool mcore_send_log_has_id(const struct mcore_send_log *send_log, const struct mcore_slot *entry);
/* A paused slot may be sent again. */
void mcore_send_log_queue_again(struct mcore_send_log *send_log, uint64_t slot);
/* Gives storage back from the head as far as everything is settled and nobody writes it. */
void mcore_send_log_reclaim(struct mcore_send_log *send_log);
uint64_t mcore_send_log_rewind(struct mcore_send_log *send_log, struct mcore_stats *stats);

/* Outbox parts that the link calls with outbox->lock held. */
int mcore_outbox_ack_locked(struct mcore_outbox *outbox, uint64_t slot, int status, const uint8_t *json, size_t len);
long mcore_outbox_run_take_locked(struct mcore_outbox *outbox, size_t max_bytes, const uint8_t **data, size_t *len);
void mcore_outbox_run_done_locked(struct mcore_outbox *outbox);
uint64_t mcore_outbox_rewind_locked(struct mcore_outbox *outbox);
uint64_t mcore_outbox_expire_locked(struct mcore_outbox *outbox, int64_t now_ns);
/* When mcore_outbox_expire_locked() has something to do next, as far as is known. */
int64_t mcore_outbox_next_due_locked(const struct mcore_outbox *outbox);
bool mcore_outbox_has_run_locked(const struct mcore_outbox *outbox);
/* Whether there are unseen failures or ignored answers to log. */
bool mcore_outbox_has_news_locked(const struct mcore_outbox *outbox);
void mcore_outbox_wake_sender_locked(struct mcore_outbox *outbox);

/* Lets outbox->lock go and posts the waiters of what was settled under it. */
void mcore_outbox_unlock(struct mcore_outbox *outbox);

/* settle.c: what follows from an outcome; lock held. */
struct mcore_send_log *mcore_outbox_lane(const struct mcore_outbox *outbox, uint64_t slot);
/* A message that is in flight waits again. */
void mcore_outbox_pause_slot_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, struct mcore_slot *entry);
void mcore_outbox_notify_ticket_locked(struct mcore_outbox *outbox, struct mcore_ticket *ticket,
                                       const struct mcore_verdict *verdict, bool was_written);
void mcore_outbox_after_settle_locked(struct mcore_outbox *outbox);
/* A slot of an owner was settled: whoever waits for it counts it off. */
void mcore_outbox_count_off_locked(struct mcore_outbox *outbox, const struct mcore_send_log *lane, uint64_t slot,
                                   uint32_t owner);
/* A failure that nobody will ask about; without a text one is found for it. */
void mcore_outbox_note_unseen_locked(struct mcore_outbox *outbox, int outcome, const char *text, size_t len);
void mcore_outbox_count_locked(struct mcore_outbox *outbox, int outcome, int duplicate);
/* An owner has one unsettled message less; MCORE_PENDING: it was not settled. */
void mcore_outbox_owner_less_locked(struct mcore_outbox *outbox, uint32_t owner, int outcome);
void mcore_watchers_free(struct mcore_watcher *watcher);
/* admission.c */
/* Room for so much in the bulk lane, beside what is held: the express lane falls back to it. */
bool mcore_outbox_has_room_locked(const struct mcore_outbox *outbox, uint64_t bytes, uint64_t slots);
/* MCORE_OK, or which bound what is held leaves no room for. */
int mcore_outbox_room_beside_held_locked(const struct mcore_outbox *outbox, uint64_t bytes, uint64_t messages);
/* MCORE_OK, or why the message can never be taken, once for each route. Needs no lock. */
int mcore_outbox_check_size(const struct mcore_outbox *outbox, const struct mcore_route *const *routes, size_t count,
                            const struct mcore_message *message);
/* Small numbers for threads, in the order in which they first produce; a number is never given twice. */
uint32_t mcore_thread_number(void);

/* outbox_file.c: the bounds of the express lane, from those of the outbox, in memory and in a file. */
void mcore_express_bounds(uint64_t *max_bytes, uint64_t *max_messages);

/* The same file; lock held. An append begins with the first and accepts its message with the second (accepted_s 0: now). */
void mcore_file_begin(struct mcore_send_log *send_log, uint64_t slot);
void mcore_file_accept(struct mcore_send_log *send_log, uint64_t slot, bool was_written, uint32_t accepted_s);
void mcore_file_settle(struct mcore_send_log *send_log, uint64_t slot);
/* Lets mapping, descriptor and lock go; what is live in the file stays there. */
void mcore_outbox_leave_file(struct mcore_outbox *outbox);

/* xxh64.c */
uint64_t mcore_xxh64(const uint8_t *data, size_t len, uint64_t seed);

/* held.c; lock held. */
uint64_t mcore_outbox_abandon_held_locked(struct mcore_outbox *outbox);
void mcore_held_release_locked(struct mcore_outbox *outbox, struct mcore_held *held);

/* wait_set.c: a ticket of a wait set was settled; the outbox's lock held. Does not touch the ticket. */
void mcore_wait_set_settled(struct mcore_wait_set_node *node);

/* JetStream's answer to a publish; the pointers lead into its JSON, still escaped. */
struct mcore_puback {
    const uint8_t *stream; /* NULL: it names none */
    size_t stream_len;
    uint64_t sequence;
    int duplicate;
    int code;
    int err_code;
    const char *text; /* of an error */
    size_t text_len;
};

/* Reads a PubAck. Returns MCORE_DELIVERED, MCORE_REFUSED, or MCORE_PENDING for what is none. */
int mcore_puback_parse(const uint8_t *json, size_t len, struct mcore_puback *ack);

/* One message; receive_lock held. Who waits for it is woken by the unlock. */
void mcore_receive_buffer_put_locked(struct mcore_link *link, const uint8_t *data, const struct mcore_event *event,
                                     int status);
void mcore_receive_buffer_unlock(struct mcore_link *link);
void mcore_receive_buffer_close_all(struct mcore_link *link);

/* A socket error ends the connection; outbox->lock held. */
void mcore_link_broken_locked(struct mcore_link *link, int error);

/* Queues whole frames; outbox->lock held. MCORE_OK, MCORE_E_CLOSED, also for a peer that takes nothing, or _MEMORY. */
int mcore_link_control_locked(struct mcore_link *link, const void *data, size_t len);

/* Appends the gathered acks to `control`, as far as memory allows; outbox->lock held. */
void mcore_link_gather_acks_locked(struct mcore_link *link);

/* Makes room for `more` bytes behind len. */
bool mcore_buffer_reserve(struct mcore_buffer *buffer, size_t more);
void mcore_buffer_free(struct mcore_buffer *buffer);

int mcore_cond_init(pthread_cond_t *cond);
/* pthread_cond_timedwait to a monotonic time; MCORE_NEVER waits without limit. Returns 0 or ETIMEDOUT. */
int mcore_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t until_ns);
int64_t mcore_deadline_after(int64_t timeout_ns);

/* In the child of a fork, which has one thread: a thread of the parent's may have held the bell's lock. */
void mcore_bell_after_fork(void);

#endif
