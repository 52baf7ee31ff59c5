/* Messages of streams that do not answer; outbox->lock held. */
#ifndef OUTAGE_H
#define OUTAGE_H

#include "core_internal.h"

#define MCORE_NO_SLOT UINT64_MAX
#define MCORE_ROUND_NS INT64_C(1000000000)

enum mcore_outage_phase {
    MCORE_SUSPECTED, /* its messages go on; it has until due_ns to answer one */
    MCORE_WAITING,   /* they wait, and one of them finds out */
    MCORE_ENDING     /* it answers again; they go on when it has answered what it had */
};

struct mcore_outage {
    uint8_t *stream;
    size_t stream_len;
    enum mcore_outage_phase phase;
    uint64_t from[MCORE_LANES]; /* of each lane: no unsettled message of the stream lies before it */
    uint64_t probe;             /* which message was sent to find out; MCORE_NO_SLOT: none is on its way */
    int64_t due_ns;             /* when the next one is sent, or this one counts as unanswered; the end of a phase */
    bool has_answered;          /* since due_ns was last set */
    uint8_t newest;             /* the round of the last written of those that it answered then */
    unsigned attempts;          /* that had no responder, or no answer */
    unsigned ask_at;            /* so many of them leave the question */
    int question;
    bool took_back; /* messages that may be answered yet */
    bool is_gone;   /* the answer: its messages end after the last attempt, when none of them is on its way */
};

/* outage_list.c */
bool mcore_outage_is_of(const struct mcore_outage *outage, const uint8_t *stream, size_t len);
/* The first unsettled message of the stream from `slot` on; the lane's tail when there is none. */
uint64_t mcore_outage_next_slot(const struct mcore_outage *outage, const struct mcore_send_log *lane, uint64_t slot);
/* The outage of a message's stream; NULL: there is none. */
struct mcore_outage *mcore_outage_find(const struct mcore_outbox *outbox, const struct mcore_send_log *lane,
                                       const struct mcore_slot *entry);
/* A new one, suspected, of a message's stream; NULL: the system gives no memory. */
struct mcore_outage *mcore_outage_suspect(struct mcore_outbox *outbox, const struct mcore_send_log *lane,
                                          const struct mcore_slot *entry);
void mcore_outage_end(struct mcore_outbox *outbox, struct mcore_outage *outage);

/* silence.c */
/* Suspects the streams of messages that have had no answer for long; once each MCORE_ROUND_NS. */
void mcore_outage_look_for_silence(struct mcore_outbox *outbox);
/* Sends again what the stream has not answered, though it has answered later messages: it is lost. */
void mcore_outage_send_skipped(struct mcore_outbox *outbox, struct mcore_outage *outage);

/* outage.c */
/* One was appended: it waits, when its stream does not answer. */
void mcore_outage_appended_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, struct mcore_slot *entry);
/* Nobody listened to one, which has been paused. False: it is not sent again. */
bool mcore_outage_unheard_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, uint64_t number);
void mcore_outage_settled_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, uint64_t number,
                                 int outcome);
/* Sends what is due to be sent again, one message a stream. */
void mcore_outage_run_due_locked(struct mcore_outbox *outbox, int64_t now_ns);
int64_t mcore_outage_next_due_locked(const struct mcore_outbox *outbox);
/* The connection is another one: all that waits is queued. */
void mcore_outage_end_all_locked(struct mcore_outbox *outbox);
/* Whether its stream does not answer, and is not known to be gone. */
bool mcore_outage_is_waited_out_locked(const struct mcore_outbox *outbox, const struct mcore_send_log *lane,
                                       const struct mcore_slot *entry);
void mcore_outages_free(struct mcore_outbox *outbox);

#endif
