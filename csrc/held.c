/*
 * Held messages: accepted while it is not known yet what their frames look like, because their producer is still being
 * registered. What they consist of is kept by the binding; here they count, keep their deadlines and their tickets, and
 * turn into frames of the bulk lane, in which they keep the order of each thread's messages.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "outage.h"

/* Numbers of held messages; no slot has this bit. */
static const uint64_t held_tag = UINT64_C(1) << 61;

/* With deadlines in no order the whole list is looked at for each: not more often than this. */
#define HELD_LOOK_NS INT64_C(5000000)

static void leave(struct mcore_outbox *outbox, struct mcore_held *held)
{
    *(held->prev == NULL ? &outbox->held_first : &held->prev->next) = held->next;
    *(held->next == NULL ? &outbox->held_last : &held->next->prev) = held->prev;
    held->prev = held->next = NULL;
    held->waits = false;
    outbox->stats.queued--;
    outbox->stats.queued_bytes -= held->bytes;
    outbox->thread_backlog[held->thread]--;
    mcore_outbox_owner_less_locked(outbox, held->owner, MCORE_PENDING);
    if (outbox->held_waiters > 0)
        pthread_cond_broadcast(&outbox->drained);
    mcore_bell_ring();
}

static void let_go(struct mcore_outbox *outbox, struct mcore_held *held)
{
    if (held->has_room) {
        held->has_room = false;
        outbox->held_messages--;
        outbox->held_bytes -= held->bytes;
    }
}

static int check(const struct mcore_outbox *outbox, uint32_t owner, size_t count, size_t bytes)
{
    const struct mcore_log *log = outbox->lanes[MCORE_BULK].log;
    if (outbox->closed)
        return MCORE_E_CLOSED;
    if (owner >= outbox->owner_count)
        return MCORE_E_ARGUMENT;
    if (outbox->owners[owner].holds_no_more)
        return MCORE_E_ENDED;
    if (count > log->max_messages)
        return MCORE_E_TOO_MANY;
    if (bytes > log->max_bytes / count)
        return MCORE_E_TOO_LARGE;
    return mcore_outbox_room_beside_held_locked(outbox, bytes * count, count);
}

int mcore_outbox_hold(struct mcore_outbox *outbox, uint32_t owner, size_t count, size_t bytes, int64_t timeout_ns,
                      struct mcore_ticket *const *tickets)
{
    int64_t deadline_ns = mcore_deadline_after(timeout_ns);
    uint32_t thread = mcore_thread_number();
    for (size_t i = 0; i < count; i++) {
        if (tickets[i]->held == NULL) /* else it is from a call that was refused */
            tickets[i]->held = calloc(1, sizeof(struct mcore_held));
        if (tickets[i]->held == NULL)
            return MCORE_E_MEMORY; /* what there is goes with its ticket */
    }
    pthread_mutex_lock(&outbox->lock);
    int error = check(outbox, owner, count, bytes);
    if (error == MCORE_E_FULL_BYTES || error == MCORE_E_FULL_MESSAGES)
        outbox->stats.buffer_full++;
    for (size_t i = 0; error == MCORE_OK && i < count; i++) {
        struct mcore_held *held = tickets[i]->held;
        *held = (struct mcore_held){.prev = outbox->held_last,
                                    .ticket = tickets[i],
                                    .number = held_tag | outbox->held_count++,
                                    .deadline_ns = deadline_ns,
                                    .bytes = bytes,
                                    .owner = owner,
                                    .thread = thread,
                                    .waits = true,
                                    .has_room = true};
        *(outbox->held_last == NULL ? &outbox->held_first : &outbox->held_last->next) = held;
        outbox->held_last = held;
        tickets[i]->slot = held->number;
        outbox->held_messages++;
        outbox->held_bytes += bytes;
        outbox->stats.accepted++;
        outbox->stats.queued++;
        outbox->stats.queued_bytes += bytes;
        outbox->owners[owner].outstanding++;
        outbox->thread_backlog[thread]++;
        if (deadline_ns < outbox->held_due_ns)
            outbox->held_due_ns = deadline_ns;
    }
    pthread_mutex_unlock(&outbox->lock);
    return error;
}

int64_t mcore_outbox_unhold(struct mcore_outbox *outbox, const struct mcore_route *const *routes, size_t count,
                            const struct mcore_message *message, struct mcore_ticket *const *tickets)
{
    int error = mcore_outbox_check_size(outbox, routes, count, message);
    if (error != MCORE_OK)
        return error;
    struct mcore_send_log *lane = &outbox->lanes[MCORE_BULK];
    struct mcore_message part = *message;
    pthread_mutex_lock(&outbox->lock);
    int64_t result = MCORE_OK;
    for (size_t i = 0; i < count; i++)
        if (tickets[i]->held == NULL || !tickets[i]->held->waits)
            result = MCORE_E_ENDED;
    if (result == MCORE_OK)
        result = mcore_send_log_check(lane, routes, count, message);
    if (result == MCORE_OK)
        result = (int64_t)lane->log->tail_slot;
    for (size_t i = 0; i < count && result >= 0; i++) {
        struct mcore_held *held = tickets[i]->held;
        leave(outbox, held);
        let_go(outbox, held);
        if (message->parts != NULL)
            part.payload_len = message->parts[i];
        struct mcore_slot *entry = mcore_send_log_append(lane, routes[i], &part, tickets[i]);
        if (message->parts != NULL)
            part.payload += part.payload_len;
        mcore_send_log_set_deadline(lane, held->deadline_ns);
        mcore_outage_appended_locked(outbox, lane, entry);
        entry->thread = held->thread;
        outbox->thread_backlog[entry->thread]++;
        outbox->stats.queued++;
        outbox->stats.queued_bytes += entry->len;
        if (entry->owner < outbox->owner_count)
            outbox->owners[entry->owner].outstanding++;
        if (held->deadline_ns < outbox->next_deadline_ns)
            outbox->next_deadline_ns = held->deadline_ns;
        if (held->deadline_ns < outbox->sender_until_ns)
            mcore_outbox_wake_sender_locked(outbox);
    }
    for (size_t i = 0; i < count && result == MCORE_E_ENDED; i++)
        if (tickets[i]->held != NULL)
            let_go(outbox, tickets[i]->held);
    if (mcore_outbox_has_run_locked(outbox))
        mcore_outbox_wake_sender_locked(outbox);
    mcore_outbox_after_settle_locked(outbox);
    pthread_mutex_unlock(&outbox->lock);
    return result;
}

static int settle_locked(struct mcore_outbox *outbox, struct mcore_held *held, int outcome, const char *text,
                         size_t text_len)
{
    if (!held->waits)
        return 0;
    leave(outbox, held);
    mcore_outbox_count_locked(outbox, outcome, 0);
    const struct mcore_verdict verdict = {.outcome = outcome, .text = text, .text_len = text_len};
    mcore_outbox_notify_ticket_locked(outbox, held->ticket, &verdict, false);
    mcore_outbox_after_settle_locked(outbox);
    return 1;
}

int mcore_outbox_settle_held(struct mcore_outbox *outbox, struct mcore_ticket *ticket, int outcome, const char *text,
                             size_t text_len)
{
    pthread_mutex_lock(&outbox->lock);
    int settled = 0;
    if (ticket->held != NULL) {
        let_go(outbox, ticket->held);
        settled = settle_locked(outbox, ticket->held, outcome, text, text_len);
    }
    mcore_outbox_unlock(outbox);
    return settled;
}

int mcore_outbox_end_holding(struct mcore_outbox *outbox, uint32_t owner)
{
    pthread_mutex_lock(&outbox->lock);
    int ended = owner < outbox->owner_count && outbox->owners[owner].outstanding == 0;
    if (ended)
        outbox->owners[owner].holds_no_more = true;
    pthread_mutex_unlock(&outbox->lock);
    return ended;
}

uint64_t mcore_outbox_held_mark(struct mcore_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    uint64_t mark = outbox->held_count;
    pthread_mutex_unlock(&outbox->lock);
    return mark;
}

static uint64_t held_before(const struct mcore_outbox *outbox, uint64_t mark)
{
    uint64_t count = 0;
    for (const struct mcore_held *held = outbox->held_first; held != NULL && held->number < (held_tag | mark);
         held = held->next)
        count++; /* the list is in the order of the numbers */
    return count;
}

uint64_t mcore_outbox_wait_held(struct mcore_outbox *outbox, uint64_t mark, int64_t timeout_ns)
{
    int64_t until = mcore_deadline_after(timeout_ns);
    uint64_t count;
    pthread_mutex_lock(&outbox->lock);
    outbox->held_waiters++;
    while ((count = held_before(outbox, mark)) > 0)
        if (mcore_cond_wait_until(&outbox->drained, &outbox->lock, until) == ETIMEDOUT) {
            count = held_before(outbox, mark);
            break;
        }
    outbox->held_waiters--;
    pthread_mutex_unlock(&outbox->lock);
    return count;
}

static uint64_t settle_due(struct mcore_outbox *outbox, int outcome, int64_t now_ns)
{
    uint64_t count = 0;
    int64_t next = MCORE_NEVER;
    for (struct mcore_held *held = outbox->held_first; held != NULL;) {
        struct mcore_held *after = held->next; /* a settled one may be gone with its ticket */
        if (held->deadline_ns <= now_ns)
            count += (uint64_t)settle_locked(outbox, held, outcome, NULL, 0);
        else if (held->deadline_ns < next)
            next = held->deadline_ns;
        held = after;
    }
    int64_t soon = now_ns < MCORE_NEVER - HELD_LOOK_NS ? now_ns + HELD_LOOK_NS : MCORE_NEVER;
    outbox->held_due_ns = next < soon ? soon : next;
    return count;
}

uint64_t mcore_outbox_expire_held(struct mcore_outbox *outbox, int64_t now_ns)
{
    pthread_mutex_lock(&outbox->lock);
    uint64_t count = now_ns < outbox->held_due_ns ? 0 : settle_due(outbox, MCORE_EXPIRED, now_ns);
    mcore_outbox_unlock(outbox);
    return count;
}

uint64_t mcore_outbox_abandon_held_locked(struct mcore_outbox *outbox)
{
    return outbox->held_first == NULL ? 0 : settle_due(outbox, MCORE_ABANDONED, MCORE_NEVER);
}

void mcore_held_release_locked(struct mcore_outbox *outbox, struct mcore_held *held)
{
    if (held->waits) { /* nobody has it in hand any more */
        leave(outbox, held);
        mcore_outbox_count_locked(outbox, MCORE_ABANDONED, 0);
        mcore_outbox_note_unseen_locked(outbox, MCORE_ABANDONED, NULL, 0);
        mcore_outbox_after_settle_locked(outbox);
    }
    let_go(outbox, held);
}
