/*
 * Partitions that nobody serves for the moment: the stream is gone, or its servers elect a leader. Which of the two nobody
 * can tell here. So the messages of that partition wait in their places while those of others go on: one of them, the
 * oldest, is sent again after each pause to find out. Once it is answered the others follow it, in their order. Meanwhile
 * a question is left for whoever can ask the broker: messages of a stream that does not exist end after some attempts.
 *
 * A message without an id is never sent again while it may be stored and its connection lives: nothing would find the
 * duplicate.
 */
#include <stdlib.h>
#include <string.h>

#include "outage.h"

#define NO_SLOT UINT64_MAX
/* A message that was sent to find out counts as unanswered after so long: a server that elects may not answer at all. */
#define SILENCE_NS INT64_C(1000000000)
/* The question is left again after so many further attempts: when nobody could tell, and when the stream exists. */
#define ASK_AGAIN 4u
#define ASK_LATER 20u

enum { QUESTION_NONE, QUESTION_OPEN, QUESTION_TAKEN };

struct mcore_outage {
    uint8_t *stream;
    size_t stream_len;
    uint64_t from[MCORE_LANES]; /* of each lane: no unsettled message of the stream lies before it */
    uint64_t probe;             /* which message was sent to find out; NO_SLOT: none is on its way */
    int64_t due_ns;             /* when the next one is sent, or this one counts as unanswered */
    unsigned attempts;          /* that had no responder, or no answer */
    unsigned ask_at;            /* so many of them leave the question */
    int question;
    bool is_gone; /* the answer: its messages end after the last attempt, when none of them is on its way */
};

/* ---- one partition's messages ------------------------------------------------------------------------------------- */

static bool is_of(const struct mcore_outage *outage, const uint8_t *stream, size_t len)
{
    return outage->stream_len == len && memcmp(outage->stream, stream, len) == 0;
}

static bool has_slot(const struct mcore_outage *outage, const struct mcore_send_log *lane, uint64_t slot)
{
    const struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
    size_t len;
    if (entry->state == MCORE_SLOT_SETTLED)
        return false;
    const uint8_t *stream = mcore_send_log_stream(lane, entry, &len);
    return is_of(outage, stream, len);
}

/* The first unsettled message of the stream from `slot` on; the lane's tail when there is none. */
static uint64_t next_slot(const struct mcore_outage *outage, const struct mcore_send_log *lane, uint64_t slot)
{
    if (slot < lane->log->head_slot)
        slot = lane->log->head_slot;
    while (slot < lane->log->tail_slot && !has_slot(outage, lane, slot))
        slot++;
    return slot;
}

static struct mcore_outage *find(const struct mcore_outbox *outbox, const struct mcore_send_log *lane,
                                 const struct mcore_slot *entry)
{
    size_t len;
    const uint8_t *stream = mcore_send_log_stream(lane, entry, &len);
    for (size_t i = 0; i < outbox->outage_count; i++)
        if (is_of(&outbox->outages[i], stream, len))
            return &outbox->outages[i];
    return NULL;
}

/* ---- begin and end ------------------------------------------------------------------------------------------------ */

static void ask(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    outage->question = QUESTION_OPEN;
    outbox->has_question = true;
}

static bool is_over(const struct mcore_outbox *outbox, const struct mcore_outage *outage)
{
    return outage->is_gone && outage->attempts >= outbox->retry_attempts;
}

/* Keeps a queued message back. */
static void keep_back(struct mcore_send_log *lane, struct mcore_slot *entry)
{
    if (entry->state == MCORE_SLOT_QUEUED) {
        entry->state = MCORE_SLOT_PAUSED;
        lane->queued--;
    }
}

static struct mcore_outage *begin(struct mcore_outbox *outbox, const struct mcore_send_log *lane,
                                  const struct mcore_slot *entry)
{
    if (outbox->outage_count == outbox->outage_cap) {
        size_t cap = outbox->outage_cap == 0 ? 8 : outbox->outage_cap * 2;
        struct mcore_outage *grown = realloc(outbox->outages, cap * sizeof(*grown));
        if (grown == NULL)
            return NULL;
        outbox->outages = grown;
        outbox->outage_cap = cap;
    }
    size_t len;
    const uint8_t *stream = mcore_send_log_stream(lane, entry, &len);
    uint8_t *copy = malloc(len + 1);
    if (copy == NULL)
        return NULL;
    memcpy(copy, stream, len);
    struct mcore_outage *outage = &outbox->outages[outbox->outage_count++];
    *outage = (struct mcore_outage){
        .stream = copy, .stream_len = len, .probe = NO_SLOT, .due_ns = mcore_deadline_after(outbox->retry_pause_ns)};
    ask(outbox, outage);
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *each = &outbox->lanes[i];
        uint64_t slot = next_slot(outage, each, 0);
        outage->from[i] = slot;
        for (; slot < each->log->tail_slot; slot = next_slot(outage, each, slot + 1))
            keep_back(each, mcore_send_log_slot(each, slot));
    }
    return outage;
}

static void end(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    free(outage->stream);
    *outage = outbox->outages[--outbox->outage_count];
}

/* The stream answers again: everything of it that waits is queued, in its place. */
static void resume(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        for (uint64_t slot = next_slot(outage, lane, outage->from[i]); slot < lane->log->tail_slot;
             slot = next_slot(outage, lane, slot + 1))
            if (mcore_send_log_slot(lane, slot)->state == MCORE_SLOT_PAUSED)
                mcore_send_log_queue_again(lane, slot);
    }
    end(outbox, outage);
    if (mcore_outbox_has_run_locked(outbox))
        mcore_outbox_wake_sender_locked(outbox);
}

/* The stream does not exist: its messages end, a moment later than an ack behind a false answer may come. */
static void give_up(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    int64_t due_ns = mcore_deadline_after(MCORE_VERDICT_NS);
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        for (uint64_t slot = next_slot(outage, lane, outage->from[i]); slot < lane->log->tail_slot;
             slot = next_slot(outage, lane, slot + 1)) {
            struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
            if (entry->state == MCORE_SLOT_PAUSED)
                entry->flags |= MCORE_FLAG_NO_RESPONDERS;
            if (due_ns < entry->deadline_ns)
                mcore_send_log_advance_deadline(lane, slot, due_ns);
        }
    }
    if (due_ns < outbox->next_deadline_ns)
        outbox->next_deadline_ns = due_ns;
    end(outbox, outage);
    mcore_outbox_wake_sender_locked(outbox);
}

/* ---- finding out -------------------------------------------------------------------------------------------------- */

/* A message that was sent to find out had no responder, or no answer. */
static void count_attempt(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    outage->probe = NO_SLOT;
    outage->attempts++;
    if (outage->question == QUESTION_NONE && !outage->is_gone && outage->attempts >= outage->ask_at)
        ask(outbox, outage);
}

/*
 * What was on its way when the outage began and has no answer until now is lost, as far as anybody can tell: it goes
 * again with the others. Not so what has no id.
 */
static void take_back_unanswered(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        for (uint64_t slot = next_slot(outage, lane, outage->from[i]); slot < lane->log->tail_slot;
             slot = next_slot(outage, lane, slot + 1)) {
            struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
            if (entry->state != MCORE_SLOT_IN_FLIGHT || !mcore_send_log_has_id(lane, entry))
                continue;
            entry->flags |= MCORE_FLAG_UNSURE;
            mcore_outbox_pause_slot_locked(outbox, lane, entry);
        }
    }
}

/* Sends the oldest message that waits; false when there is none. */
static bool send_probe(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        uint64_t slot = next_slot(outage, lane, outage->from[i]);
        outage->from[i] = slot;
        while (slot < lane->log->tail_slot && mcore_send_log_slot(lane, slot)->state != MCORE_SLOT_PAUSED)
            slot = next_slot(outage, lane, slot + 1); /* on its way, and it cannot be sent again */
        if (slot == lane->log->tail_slot)
            continue;
        mcore_send_log_queue_again(lane, slot);
        outage->probe = slot | lane->tag;
        outage->due_ns = mcore_deadline_after(SILENCE_NS);
        return true;
    }
    return false;
}

void mcore_outage_run_due_locked(struct mcore_outbox *outbox, int64_t now_ns)
{
    for (size_t i = outbox->outage_count; i-- > 0;) {
        struct mcore_outage *outage = &outbox->outages[i];
        if (outage->due_ns > now_ns)
            continue;
        if (outage->probe != NO_SLOT) {
            struct mcore_send_log *lane = mcore_outbox_lane(outbox, outage->probe);
            const struct mcore_slot *entry = mcore_send_log_slot(lane, outage->probe & ~MCORE_EXPRESS_TAG);
            if (entry->state == MCORE_SLOT_QUEUED) { /* the socket took nothing until now */
                outage->due_ns = mcore_deadline_after(SILENCE_NS);
                continue;
            }
            count_attempt(outbox, outage);
        }
        if (is_over(outbox, outage)) {
            give_up(outbox, outage);
            continue;
        }
        take_back_unanswered(outbox, outage);
        if (!send_probe(outbox, outage))
            resume(outbox, outage); /* nothing waits any more; what comes next finds out by itself */
    }
}

int64_t mcore_outage_next_due_locked(const struct mcore_outbox *outbox)
{
    int64_t due_ns = MCORE_NEVER;
    for (size_t i = 0; i < outbox->outage_count; i++)
        if (outbox->outages[i].due_ns < due_ns)
            due_ns = outbox->outages[i].due_ns;
    return due_ns;
}

/* ---- what the outbox tells ---------------------------------------------------------------------------------------- */

void mcore_outage_appended_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, struct mcore_slot *entry)
{
    if (outbox->outage_count > 0 && find(outbox, lane, entry) != NULL)
        keep_back(lane, entry);
}

bool mcore_outage_unheard_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, uint64_t number)
{
    if (outbox->retry_attempts == 0)
        return false;
    const struct mcore_slot *entry = mcore_send_log_slot(lane, number & ~MCORE_EXPRESS_TAG);
    struct mcore_outage *outage = find(outbox, lane, entry);
    if (outage == NULL)
        outage = begin(outbox, lane, entry);
    else if (outage->probe == number) {
        count_attempt(outbox, outage);
        outage->due_ns = mcore_deadline_after(is_over(outbox, outage) ? 0 : outbox->retry_pause_ns);
    }
    if (outage == NULL)
        return false;
    if (outage->due_ns < outbox->sender_until_ns || outbox->has_question)
        mcore_outbox_wake_sender_locked(outbox);
    return true;
}

void mcore_outage_settled_locked(struct mcore_outbox *outbox, uint64_t number, int outcome)
{
    for (size_t i = 0; i < outbox->outage_count; i++) {
        struct mcore_outage *outage = &outbox->outages[i];
        if (outage->probe != number)
            continue;
        if (outcome == MCORE_DELIVERED || outcome == MCORE_REFUSED) {
            resume(outbox, outage);
        } else {
            outage->probe = NO_SLOT;
            outage->due_ns = 0;
            mcore_outbox_wake_sender_locked(outbox);
        }
        return;
    }
}

void mcore_outage_end_all_locked(struct mcore_outbox *outbox)
{
    while (outbox->outage_count > 0)
        resume(outbox, &outbox->outages[outbox->outage_count - 1]);
}

bool mcore_outage_is_waited_out_locked(const struct mcore_outbox *outbox, const struct mcore_send_log *lane,
                                       const struct mcore_slot *entry)
{
    const struct mcore_outage *outage = outbox->outage_count == 0 ? NULL : find(outbox, lane, entry);
    return outage != NULL && !outage->is_gone;
}

void mcore_outages_free(struct mcore_outbox *outbox)
{
    for (size_t i = 0; i < outbox->outage_count; i++)
        free(outbox->outages[i].stream);
    free(outbox->outages);
}

/* ---- the question ------------------------------------------------------------------------------------------------- */

size_t mcore_outbox_take_question(struct mcore_outbox *outbox, char *stream, size_t cap)
{
    size_t len = 0;
    pthread_mutex_lock(&outbox->lock);
    for (size_t i = 0; i < outbox->outage_count && len == 0; i++) {
        struct mcore_outage *outage = &outbox->outages[i];
        if (outage->question != QUESTION_OPEN || outage->stream_len >= cap)
            continue;
        outage->question = QUESTION_TAKEN;
        len = outage->stream_len;
        memcpy(stream, outage->stream, len);
        stream[len] = '\0';
    }
    pthread_mutex_unlock(&outbox->lock);
    return len;
}

void mcore_outbox_answer_question(struct mcore_outbox *outbox, const char *stream, size_t len, int answer)
{
    pthread_mutex_lock(&outbox->lock);
    for (size_t i = 0; i < outbox->outage_count; i++) {
        struct mcore_outage *outage = &outbox->outages[i];
        if (!is_of(outage, (const uint8_t *)stream, len))
            continue;
        outage->question = QUESTION_NONE;
        outage->ask_at = outage->attempts + (answer == MCORE_STREAM_EXISTS ? ASK_LATER : ASK_AGAIN);
        outage->is_gone = answer == MCORE_STREAM_GONE;
        if (is_over(outbox, outage) && outage->probe == NO_SLOT) {
            outage->due_ns = 0;
            mcore_outbox_wake_sender_locked(outbox);
        }
        break;
    }
    mcore_outbox_unlock(outbox);
}
