/*
 * Partitions that nobody serves for the moment: the stream is gone, or its servers elect a leader. Which of the two nobody
 * can tell here. So the messages of that partition wait in their places while those of others go on: one of them, the
 * oldest, is sent again after each pause to find out. Once it is answered the others follow it, in their order. Meanwhile
 * a question is left for whoever can ask the broker: messages of a stream that does not exist end after some attempts.
 *
 * A leader that is lost takes along what it had and did not answer. So a stream that answers nothing for some seconds is
 * suspected: when it then answers later messages only, those before them are sent again, and when it still answers nothing
 * it counts as one without a leader.
 *
 * A message without an id is never sent again while it may be stored and its connection lives: nothing would find the
 * duplicate.
 */
#include <stdlib.h>
#include <string.h>

#include "outage.h"

/* A message that was sent to find out counts as unanswered after so long: a server that elects may not answer at all. */
#define SILENCE_NS INT64_C(1000000000)
/* Once it answers, what was sent long ago may be answered first; after so long without an answer the rest goes again. */
#define CALM_NS INT64_C(20000000)
/* The question is left again after so many further attempts: when nobody could tell, and when the stream exists. */
#define ASK_AGAIN 4u
#define ASK_LATER 20u

enum { QUESTION_NONE, QUESTION_OPEN, QUESTION_TAKEN };

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

/* From now on the messages of the stream wait; the first of them is sent to find out at due_ns. */
static void declare(struct mcore_outbox *outbox, struct mcore_outage *outage, int64_t due_ns)
{
    outage->phase = MCORE_WAITING;
    outage->due_ns = due_ns;
    ask(outbox, outage);
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        for (uint64_t slot = mcore_outage_next_slot(outage, lane, outage->from[i]); slot < lane->log->tail_slot;
             slot = mcore_outage_next_slot(outage, lane, slot + 1))
            keep_back(lane, mcore_send_log_slot(lane, slot));
    }
}

/* The stream answers again: everything of it that waits is queued, in its place. */
static void resume(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        for (uint64_t slot = mcore_outage_next_slot(outage, lane, outage->from[i]); slot < lane->log->tail_slot;
             slot = mcore_outage_next_slot(outage, lane, slot + 1))
            if (mcore_send_log_slot(lane, slot)->state == MCORE_SLOT_PAUSED)
                mcore_send_log_queue_again(lane, slot);
    }
    mcore_outage_end(outbox, outage);
    if (mcore_outbox_has_run_locked(outbox))
        mcore_outbox_wake_sender_locked(outbox);
}

/* The stream does not exist: its messages end, a moment later than an ack behind a false answer may come. */
static void give_up(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    int64_t due_ns = mcore_deadline_after(MCORE_VERDICT_NS);
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        for (uint64_t slot = mcore_outage_next_slot(outage, lane, outage->from[i]); slot < lane->log->tail_slot;
             slot = mcore_outage_next_slot(outage, lane, slot + 1)) {
            struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
            if (entry->state == MCORE_SLOT_PAUSED)
                entry->flags |= MCORE_FLAG_NO_RESPONDERS;
            if (due_ns < entry->deadline_ns)
                mcore_send_log_advance_deadline(lane, slot, due_ns);
        }
    }
    if (due_ns < outbox->next_deadline_ns)
        outbox->next_deadline_ns = due_ns;
    mcore_outage_end(outbox, outage);
    mcore_outbox_wake_sender_locked(outbox);
}

/* ---- finding out -------------------------------------------------------------------------------------------------- */

/* A message that was sent to find out had no responder, or no answer. */
static void count_attempt(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    outage->probe = MCORE_NO_SLOT;
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
        for (uint64_t slot = mcore_outage_next_slot(outage, lane, outage->from[i]); slot < lane->log->tail_slot;
             slot = mcore_outage_next_slot(outage, lane, slot + 1)) {
            struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
            if (entry->state != MCORE_SLOT_IN_FLIGHT || !mcore_send_log_has_id(lane, entry))
                continue;
            entry->flags |= MCORE_FLAG_UNSURE;
            mcore_outbox_pause_slot_locked(outbox, lane, entry);
            outage->took_back = true;
        }
    }
}

/* Sends the oldest message that waits; false when there is none. */
static bool send_probe(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        uint64_t slot = mcore_outage_next_slot(outage, lane, outage->from[i]);
        outage->from[i] = slot;
        while (slot < lane->log->tail_slot && mcore_send_log_slot(lane, slot)->state != MCORE_SLOT_PAUSED)
            slot = mcore_outage_next_slot(outage, lane, slot + 1); /* on its way, and it cannot be sent again */
        if (slot == lane->log->tail_slot)
            continue;
        mcore_send_log_queue_again(lane, slot);
        outage->probe = slot | lane->tag;
        outage->due_ns = mcore_deadline_after(SILENCE_NS);
        return true;
    }
    return false;
}

static void end_calmly(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    if (outage->has_answered) {
        outage->has_answered = false;
        outage->due_ns = mcore_deadline_after(CALM_NS);
    } else {
        resume(outbox, outage);
    }
}

static bool has_work(const struct mcore_outbox *outbox)
{
    const struct mcore_stats *stats = &outbox->stats;
    return outbox->retry_attempts > 0 &&
           (stats->queued + stats->in_flight > 0 || stats->accepted != outbox->round_accepted);
}

void mcore_outage_run_due_locked(struct mcore_outbox *outbox, int64_t now_ns)
{
    if (outbox->round_due_ns <= now_ns && has_work(outbox)) {
        mcore_outage_look_for_silence(outbox);
        outbox->round_due_ns = mcore_deadline_after(MCORE_ROUND_NS);
        outbox->round_accepted = outbox->stats.accepted;
    }
    for (size_t i = outbox->outage_count; i-- > 0;) {
        struct mcore_outage *outage = &outbox->outages[i];
        if (outage->due_ns > now_ns)
            continue;
        if (outage->phase == MCORE_SUSPECTED && outage->has_answered) {
            mcore_outage_send_skipped(outbox, outage);
            mcore_outage_end(outbox, outage);
            continue;
        }
        if (outage->phase == MCORE_ENDING) {
            end_calmly(outbox, outage);
            continue;
        }
        if (outage->phase == MCORE_SUSPECTED)
            declare(outbox, outage, now_ns);
        if (outage->probe != MCORE_NO_SLOT) {
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
    int64_t due_ns = has_work(outbox) ? outbox->round_due_ns : MCORE_NEVER;
    for (size_t i = 0; i < outbox->outage_count; i++)
        if (outbox->outages[i].due_ns < due_ns)
            due_ns = outbox->outages[i].due_ns;
    return due_ns;
}

/* ---- what the outbox tells ---------------------------------------------------------------------------------------- */

void mcore_outage_appended_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, struct mcore_slot *entry)
{
    const struct mcore_outage *outage = outbox->outage_count == 0 ? NULL : mcore_outage_find(outbox, lane, entry);
    if (outage != NULL && outage->phase != MCORE_SUSPECTED)
        keep_back(lane, entry);
}

bool mcore_outage_unheard_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, uint64_t number)
{
    if (outbox->retry_attempts == 0)
        return false;
    const struct mcore_slot *entry = mcore_send_log_slot(lane, number & ~MCORE_EXPRESS_TAG);
    struct mcore_outage *outage = mcore_outage_find(outbox, lane, entry);
    if (outage == NULL)
        outage = mcore_outage_suspect(outbox, lane, entry);
    if (outage == NULL)
        return false;
    if (outage->phase == MCORE_SUSPECTED) {
        declare(outbox, outage, mcore_deadline_after(outbox->retry_pause_ns));
    } else if (outage->probe == number) {
        count_attempt(outbox, outage);
        outage->due_ns = mcore_deadline_after(is_over(outbox, outage) ? 0 : outbox->retry_pause_ns);
    }
    if (outage->due_ns < outbox->sender_until_ns || outbox->has_question)
        mcore_outbox_wake_sender_locked(outbox);
    return true;
}

void mcore_outage_settled_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, uint64_t number, int outcome)
{
    uint64_t slot = number & ~MCORE_EXPRESS_TAG;
    struct mcore_outage *outage = mcore_outage_find(outbox, lane, mcore_send_log_slot(lane, slot));
    if (outage == NULL)
        return;
    bool is_answer = outcome == MCORE_DELIVERED || outcome == MCORE_REFUSED;
    if (is_answer) {
        uint8_t round = mcore_send_log_slot(lane, slot)->round;
        if (!outage->has_answered || (int8_t)(round - outage->newest) > 0)
            outage->newest = round;
        outage->has_answered = true;
    }
    if (outage->probe != number)
        return;
    outage->probe = MCORE_NO_SLOT;
    outage->due_ns = 0;
    if (is_answer) {
        if (!outage->took_back) {
            resume(outbox, outage);
            return;
        }
        outage->phase = MCORE_ENDING;
        outage->has_answered = false;
        outage->due_ns = mcore_deadline_after(CALM_NS);
    }
    mcore_outbox_wake_sender_locked(outbox);
}

void mcore_outage_end_all_locked(struct mcore_outbox *outbox)
{
    while (outbox->outage_count > 0)
        resume(outbox, &outbox->outages[outbox->outage_count - 1]);
}

bool mcore_outage_is_waited_out_locked(const struct mcore_outbox *outbox, const struct mcore_send_log *lane,
                                       const struct mcore_slot *entry)
{
    const struct mcore_outage *outage = outbox->outage_count == 0 ? NULL : mcore_outage_find(outbox, lane, entry);
    return outage != NULL && outage->phase != MCORE_SUSPECTED && !outage->is_gone;
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
        if (!mcore_outage_is_of(outage, (const uint8_t *)stream, len))
            continue;
        outage->question = QUESTION_NONE;
        outage->ask_at = outage->attempts + (answer == MCORE_STREAM_EXISTS ? ASK_LATER : ASK_AGAIN);
        outage->is_gone = answer == MCORE_STREAM_GONE;
        if (is_over(outbox, outage) && outage->probe == MCORE_NO_SLOT) {
            outage->due_ns = 0;
            mcore_outbox_wake_sender_locked(outbox);
        }
        break;
    }
    mcore_outbox_unlock(outbox);
}
