/*
 * How messages end: by an answer, by the lack of one, by their deadline, or because the client ends. What follows from
 * that is in settle.c.
 */
#include <stdio.h>
#include <string.h>

#include "outage.h"

/* ---- settling ----------------------------------------------------------------------------------------------------- */

static int settle_locked(struct mcore_outbox *outbox, uint64_t number, const struct mcore_verdict *verdict)
{
    struct mcore_send_log *lane = mcore_outbox_lane(outbox, number);
    uint64_t slot = number & ~MCORE_EXPRESS_TAG;
    if (slot < lane->log->head_slot || slot >= lane->log->tail_slot)
        return 0;
    struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
    if (entry->state == MCORE_SLOT_SETTLED)
        return 0;
    bool sleeps_without_run = outbox->sender_sleeps && !mcore_outbox_has_run_locked(outbox);
    if (entry->state != MCORE_SLOT_IN_FLIGHT) {
        if (entry->state == MCORE_SLOT_QUEUED)
            lane->queued--;
        outbox->stats.queued--;
        outbox->stats.queued_bytes -= entry->len;
    } else {
        lane->in_flight--;
        outbox->stats.in_flight--;
    }
    entry->state = MCORE_SLOT_SETTLED;
    if (lane->entries != NULL &&
        verdict->outcome != MCORE_ABANDONED) /* that one waits in the file for the next process */
        mcore_file_settle(lane, slot);
    mcore_outbox_count_locked(outbox, verdict->outcome, verdict->duplicate);
    if (lane->tag == 0)
        outbox->thread_backlog[entry->thread]--;
    mcore_outbox_owner_less_locked(outbox, entry->owner, verdict->outcome);
    if (outbox->flushes != NULL)
        mcore_outbox_count_off_locked(outbox, lane, slot, entry->owner);
    struct mcore_ticket **place = &lane->tickets[slot % lane->log->max_messages];
    struct mcore_ticket *ticket = *place;
    *place = NULL;
    if (ticket != NULL)
        mcore_outbox_notify_ticket_locked(outbox, ticket, verdict, (entry->flags & MCORE_FLAG_WRITTEN) != 0);
    else if (verdict->outcome != MCORE_DELIVERED)
        mcore_outbox_note_unseen_locked(outbox, verdict->outcome, verdict->text, verdict->text_len);
    if (outbox->outage_count > 0)
        mcore_outage_settled_locked(outbox, lane, number, verdict->outcome);
    if (slot == lane->log->head_slot)
        mcore_send_log_reclaim(lane);
    /* Only when the window kept it back until now: else whoever queued it has seen to its being written. */
    if (sleeps_without_run && mcore_outbox_has_run_locked(outbox))
        mcore_outbox_wake_sender_locked(outbox);
    mcore_outbox_after_settle_locked(outbox);
    return 1;
}

int mcore_outbox_settle(struct mcore_outbox *outbox, uint64_t slot, int outcome, uint64_t sequence, int duplicate,
                        int code, int err_code, const char *text, size_t text_len)
{
    pthread_mutex_lock(&outbox->lock);
    const struct mcore_verdict verdict = {outcome, sequence, duplicate, code, err_code, text, text_len};
    int settled = settle_locked(outbox, slot, &verdict);
    mcore_outbox_unlock(outbox);
    return settled;
}

/* ---- the broker's limit -------------------------------------------------------------------------------------------- */

/* Ends a message that the broker would end the connection for, again and again. */
static void refuse_size_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, uint64_t slot, size_t most)
{
    const struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
    if (entry->len <= most || (entry->state != MCORE_SLOT_QUEUED && entry->state != MCORE_SLOT_PAUSED))
        return;
    size_t size = mcore_send_log_message_size(lane, entry);
    if (size <= most)
        return;
    char text[128];
    int len = snprintf(text, sizeof(text), "it has %zu bytes with its headers, and the broker now accepts at most %zu",
                       size, most);
    bool was_sent = (entry->flags & (MCORE_FLAG_WRITTEN | MCORE_FLAG_UNSURE)) != 0;
    const struct mcore_verdict verdict = {
        .outcome = was_sent ? MCORE_UNKNOWN : MCORE_UNSENT, .text = text, .text_len = (size_t)len};
    settle_locked(outbox, slot | lane->tag, &verdict);
}

void mcore_outbox_set_max_payload(struct mcore_outbox *outbox, size_t max_payload)
{
    pthread_mutex_lock(&outbox->lock);
    __atomic_store_n(&outbox->stats.max_payload, max_payload, __ATOMIC_RELAXED); /* appends read it without the lock */
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        uint64_t tail = lane->log->tail_slot;
        for (uint64_t slot = lane->log->head_slot; slot < tail; slot++)
            refuse_size_locked(outbox, lane, slot, max_payload);
    }
    mcore_outbox_unlock(outbox);
}

/* ---- nobody listens ----------------------------------------------------------------------------------------------- */

/*
 * Nobody listened to a message: it waits until its stream answers again. When it is not to be sent again, it waits for as
 * long as the ack of a message that was stored all the same may take.
 */
static void unheard_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, uint64_t number)
{
    uint64_t slot = number & ~MCORE_EXPRESS_TAG;
    struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
    if (entry->state != MCORE_SLOT_IN_FLIGHT) {
        /* Two answers to one writing: one of them is false. */
        entry->flags |= MCORE_FLAG_UNSURE;
        return;
    }
    mcore_outbox_pause_slot_locked(outbox, lane, entry);
    entry->flags |= MCORE_FLAG_NO_RESPONDERS;
    if (!mcore_outage_unheard_locked(outbox, lane, number)) {
        int64_t due_ns = mcore_deadline_after(MCORE_VERDICT_NS);
        if (due_ns < entry->deadline_ns)
            mcore_send_log_advance_deadline(lane, slot, due_ns);
        if (due_ns < outbox->next_deadline_ns)
            outbox->next_deadline_ns = due_ns;
        if (due_ns < outbox->sender_until_ns)
            mcore_outbox_wake_sender_locked(outbox);
    }
    if (mcore_outbox_has_run_locked(outbox))
        mcore_outbox_wake_sender_locked(outbox);
}

int64_t mcore_outbox_next_due_locked(const struct mcore_outbox *outbox)
{
    int64_t due_ns = mcore_outage_next_due_locked(outbox);
    return due_ns < outbox->next_deadline_ns ? due_ns : outbox->next_deadline_ns;
}

/* ---- answers ------------------------------------------------------------------------------------------------------ */

static int disbelieve(struct mcore_outbox *outbox, const char *why)
{
    outbox->disbelieved_text = why;
    outbox->stats.disbelieved++;
    mcore_outbox_wake_sender_locked(outbox); /* whose thread logs it */
    return 0;
}

int mcore_outbox_ack_locked(struct mcore_outbox *outbox, uint64_t number, int status, const uint8_t *json, size_t len)
{
    struct mcore_send_log *lane = mcore_outbox_lane(outbox, number);
    uint64_t slot = number & ~MCORE_EXPRESS_TAG;
    if (slot < lane->log->head_slot || slot >= lane->log->tail_slot)
        return 0;
    const struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
    if (entry->state == MCORE_SLOT_SETTLED)
        return 0;
    if ((entry->flags & MCORE_FLAG_WRITTEN) == 0)
        return disbelieve(outbox, "it came before the message was sent");
    if (status == 503) {
        unheard_locked(outbox, lane, number);
        return 0;
    }
    struct mcore_puback ack;
    int outcome = status == 0 ? mcore_puback_parse(json, len, &ack) : MCORE_PENDING;
    if (outcome == MCORE_PENDING)
        return disbelieve(outbox, "it cannot be read");
    size_t stream_len;
    const uint8_t *stream = mcore_send_log_stream(lane, entry, &stream_len);
    if (ack.stream == NULL || ack.stream_len != stream_len || memcmp(ack.stream, stream, stream_len) != 0)
        return disbelieve(outbox, "it names another stream than the message's");
    if (outcome == MCORE_REFUSED && (entry->flags & MCORE_FLAG_UNSURE) != 0)
        outcome = MCORE_UNKNOWN;
    const struct mcore_verdict verdict = {outcome,      ack.sequence, ack.duplicate, ack.code,
                                          ack.err_code, ack.text,     ack.text_len};
    return settle_locked(outbox, number, &verdict);
}

int mcore_outbox_ack(struct mcore_outbox *outbox, uint64_t slot, int status, const uint8_t *json, size_t len)
{
    pthread_mutex_lock(&outbox->lock);
    int settled = mcore_outbox_ack_locked(outbox, slot, status, json, len);
    mcore_outbox_unlock(outbox);
    return settled;
}

/*
 * Ends a message whose time is over. One that nobody listened to, each time that it was sent, is known not to be stored;
 * whether its station is gone is another question.
 */
static int expire_slot_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, uint64_t slot)
{
    const struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
    struct mcore_verdict verdict = {.outcome = MCORE_EXPIRED};
    if ((entry->flags & MCORE_FLAG_NO_RESPONDERS) != 0) {
        verdict.code = 503;
        if ((entry->flags & MCORE_FLAG_UNSURE) != 0)
            verdict.outcome = MCORE_UNKNOWN;
        else if (!mcore_outage_is_waited_out_locked(outbox, lane, entry))
            verdict.outcome = MCORE_NO_RESPONDERS;
    }
    return settle_locked(outbox, slot | lane->tag, &verdict);
}

/* Fails what is due in one block of slots, and notes when the next of them is. */
static uint64_t expire_block(struct mcore_outbox *outbox, struct mcore_send_log *lane, uint64_t block, int64_t now_ns)
{
    uint64_t max = lane->log->max_messages;
    uint64_t head = lane->log->head_slot;
    uint64_t end = (block + 1) * MCORE_DUE_BLOCK < max ? (block + 1) * MCORE_DUE_BLOCK : max;
    uint64_t expired = 0;
    int64_t next = MCORE_NEVER;
    for (uint64_t place = block * MCORE_DUE_BLOCK; place < end; place++) {
        const struct mcore_slot *entry = &lane->slots[place];
        if (entry->state == MCORE_SLOT_SETTLED)
            continue;
        uint64_t slot = head + (place + max - head % max) % max;
        if (entry->deadline_ns <= now_ns)
            expired += (uint64_t)expire_slot_locked(outbox, lane, slot);
        else if (entry->deadline_ns < next)
            next = entry->deadline_ns;
    }
    lane->due_ns[block] = next;
    return expired;
}

uint64_t mcore_outbox_expire_locked(struct mcore_outbox *outbox, int64_t now_ns)
{
    mcore_outage_run_due_locked(outbox, now_ns);
    if (now_ns < outbox->next_deadline_ns)
        return 0;
    uint64_t expired = 0;
    int64_t next = MCORE_NEVER;
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        uint64_t max = lane->log->max_messages;
        uint64_t tail = lane->log->tail_slot;
        for (uint64_t slot = lane->log->head_slot; slot < tail;) {
            uint64_t place = slot % max;
            uint64_t block = place / MCORE_DUE_BLOCK;
            uint64_t left = MCORE_DUE_BLOCK - place % MCORE_DUE_BLOCK;
            if (lane->due_ns[block] <= now_ns)
                expired += expire_block(outbox, lane, block, now_ns);
            if (lane->due_ns[block] < next)
                next = lane->due_ns[block];
            slot += left < max - place ? left : max - place;
        }
    }
    outbox->next_deadline_ns = next;
    return expired;
}

uint64_t mcore_outbox_abandon(struct mcore_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    const struct mcore_verdict abandoned = {.outcome = MCORE_ABANDONED};
    uint64_t count = mcore_outbox_abandon_held_locked(outbox);
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        uint64_t tail = lane->log->tail_slot;
        for (uint64_t slot = lane->log->head_slot; slot < tail; slot++)
            count += (uint64_t)settle_locked(outbox, slot | lane->tag, &abandoned);
    }
    mcore_outbox_unlock(outbox);
    return count;
}

uint64_t mcore_outbox_expire(struct mcore_outbox *outbox, int64_t now_ns)
{
    pthread_mutex_lock(&outbox->lock);
    uint64_t count = mcore_outbox_expire_locked(outbox, now_ns);
    mcore_outbox_unlock(outbox);
    return count;
}
