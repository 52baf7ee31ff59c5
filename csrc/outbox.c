/*
 * The outbox: its two lanes under one lock. Append, runs for the sender, settling, rewind, expiry; tickets are in
 * ticket.c, waiting and reporting in outbox_wait.c.
 */
#include <stdlib.h>
#include <string.h>

#include "core_internal.h"

/* Room for the messages that producers wait for: each waiting thread has one, so this many is many threads. */
#define EXPRESS_MESSAGES 4096u
#define EXPRESS_BYTES (16u * 1024u * 1024u)

static const uint64_t express_tag = UINT64_C(1) << MCORE_EXPRESS_BIT;

struct mcore_outbox *mcore_outbox_new(const uint8_t *token, size_t token_len, uint64_t max_bytes, uint64_t max_messages,
                                      uint64_t window)
{
    if (max_bytes == 0 || max_messages == 0 || window == 0 || token_len == 0)
        return NULL;
    struct mcore_outbox *outbox = calloc(1, sizeof(*outbox));
    if (outbox == NULL)
        return NULL;
    uint64_t express_bytes = max_bytes < EXPRESS_BYTES ? max_bytes : EXPRESS_BYTES;
    uint64_t express_messages = max_messages < EXPRESS_MESSAGES ? max_messages : EXPRESS_MESSAGES;
    if (!mcore_send_log_init(&outbox->lanes[MCORE_BULK], token, token_len, "", 0, max_bytes, max_messages) ||
        !mcore_send_log_init(&outbox->lanes[MCORE_EXPRESS_LANE], token, token_len, "e", express_tag, express_bytes,
                             express_messages)) {
        mcore_send_log_free(&outbox->lanes[MCORE_BULK]);
        mcore_send_log_free(&outbox->lanes[MCORE_EXPRESS_LANE]);
        free(outbox);
        return NULL;
    }
    outbox->window = window;
    outbox->next_deadline_ns = MCORE_NEVER;
    outbox->held_due_ns = MCORE_NEVER;
    outbox->room_wanted = UINT64_MAX;
    outbox->stats.max_bytes = max_bytes;
    outbox->stats.max_messages = max_messages;
    pthread_mutex_init(&outbox->lock, NULL);
    mcore_cond_init(&outbox->work);
    mcore_cond_init(&outbox->drained);
    mcore_cond_init(&outbox->room);
    mcore_cond_init(&outbox->reports);
    return outbox;
}

void mcore_outbox_free(struct mcore_outbox *outbox)
{
    if (outbox == NULL)
        return;
    pthread_cond_destroy(&outbox->work);
    pthread_cond_destroy(&outbox->drained);
    pthread_cond_destroy(&outbox->room);
    pthread_cond_destroy(&outbox->reports);
    pthread_mutex_destroy(&outbox->lock);
    for (int i = 0; i < MCORE_LANES; i++)
        mcore_send_log_free(&outbox->lanes[i]);
    free(outbox->owners);
    free(outbox->reported);
    free(outbox->retries);
    free(outbox);
}

void mcore_outbox_set_retry(struct mcore_outbox *outbox, unsigned attempts, int64_t pause_ns)
{
    pthread_mutex_lock(&outbox->lock);
    outbox->retry_attempts = attempts < UINT8_MAX ? attempts : UINT8_MAX;
    outbox->retry_pause_ns = pause_ns > 0 ? pause_ns : 0;
    pthread_mutex_unlock(&outbox->lock);
}

long mcore_outbox_owner_new(struct mcore_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    struct mcore_owner *owners = realloc(outbox->owners, (outbox->owner_count + 1) * sizeof(*owners));
    long owner = MCORE_E_MEMORY;
    if (owners != NULL) {
        outbox->owners = owners;
        owner = (long)outbox->owner_count++;
        owners[owner] = (struct mcore_owner){0};
    }
    pthread_mutex_unlock(&outbox->lock);
    return owner;
}

size_t mcore_outbox_frame_size(const struct mcore_outbox *outbox, const struct mcore_route *route,
                               const struct mcore_message *message)
{
    return mcore_send_log_frame_size(&outbox->lanes[MCORE_EXPRESS_LANE], route, message, MCORE_MAX_U64_DIGITS);
}

struct mcore_send_log *mcore_outbox_lane(struct mcore_outbox *outbox, uint64_t slot)
{
    return &outbox->lanes[slot & express_tag ? MCORE_EXPRESS_LANE : MCORE_BULK];
}

/* ---- append ------------------------------------------------------------------------------------------------------- */

uint32_t mcore_thread_number(void)
{
    static uint32_t next;
    static _Thread_local uint32_t mine;
    if (mine == 0)
        mine = __atomic_add_fetch(&next, 1, __ATOMIC_RELAXED);
    return mine % MCORE_THREADS;
}

static struct mcore_send_log *lane_for(struct mcore_outbox *outbox, const struct mcore_route *const *routes,
                                       size_t count, const struct mcore_message *message, uint32_t thread, int *error)
{
    struct mcore_send_log *express = &outbox->lanes[MCORE_EXPRESS_LANE];
    if (message->urgent && outbox->thread_backlog[thread] == 0 &&
        mcore_send_log_check(express, routes, count, message) == MCORE_OK) {
        *error = MCORE_OK;
        return express;
    }
    struct mcore_send_log *bulk = &outbox->lanes[MCORE_BULK];
    *error = mcore_send_log_check(bulk, routes, count, message);
    if (*error == MCORE_OK && outbox->held_messages > 0) {
        size_t bytes = mcore_send_log_frame_size(bulk, routes[0], message, MCORE_MAX_U64_DIGITS);
        *error = mcore_outbox_room_beside_held_locked(outbox, bytes * count, count);
    }
    return bulk;
}

int64_t mcore_outbox_append(struct mcore_outbox *outbox, const struct mcore_route *const *routes, size_t count,
                            const struct mcore_message *message, struct mcore_ticket *const *tickets)
{
    if (count == 0)
        return MCORE_E_ARGUMENT;
    if (message->payload_len > UINT32_MAX / 2 || message->headers_len > UINT32_MAX / 4)
        return MCORE_E_TOO_LARGE;
    int64_t deadline_ns = mcore_deadline_after(message->timeout_ns);
    uint32_t thread = mcore_thread_number();
    pthread_mutex_lock(&outbox->lock);
    int error = MCORE_E_CLOSED;
    struct mcore_send_log *lane = outbox->closed ? NULL : lane_for(outbox, routes, count, message, thread, &error);
    if (error != MCORE_OK) {
        if (error == MCORE_E_FULL_BYTES || error == MCORE_E_FULL_MESSAGES)
            outbox->stats.buffer_full++;
        pthread_mutex_unlock(&outbox->lock);
        return error;
    }
    int64_t first = (int64_t)(lane->log->tail_slot | lane->tag);
    struct mcore_message part = *message;
    for (size_t i = 0; i < count; i++) {
        if (message->parts != NULL)
            part.payload_len = message->parts[i];
        struct mcore_slot *entry = mcore_send_log_append(lane, routes[i], &part, tickets == NULL ? NULL : tickets[i]);
        if (message->parts != NULL)
            part.payload += part.payload_len;
        mcore_send_log_set_deadline(lane, deadline_ns);
        entry->thread = thread;
        outbox->stats.accepted++;
        outbox->stats.queued++;
        outbox->stats.queued_bytes += entry->len;
        if (entry->owner < outbox->owner_count)
            outbox->owners[entry->owner].outstanding++;
    }
    if (lane->tag == 0)
        outbox->thread_backlog[thread] += (uint32_t)count;
    if (deadline_ns < outbox->next_deadline_ns)
        outbox->next_deadline_ns = deadline_ns;
    /* An urgent message is written by its own thread, which asks for it right after this call. */
    if (deadline_ns < outbox->sender_until_ns || (!message->urgent && mcore_outbox_has_run_locked(outbox)))
        mcore_outbox_wake_sender_locked(outbox);
    pthread_mutex_unlock(&outbox->lock);
    return first;
}

/* ---- the sender's side -------------------------------------------------------------------------------------------- */

void mcore_outbox_wake_sender_locked(struct mcore_outbox *outbox)
{
    if (outbox->sender_sleeps) {
        outbox->sender_sleeps = false;
        outbox->sender_until_ns = 0;
        pthread_cond_signal(&outbox->work);
    }
}

bool mcore_outbox_has_run_locked(const struct mcore_outbox *outbox)
{
    return mcore_send_log_has_run(&outbox->lanes[MCORE_EXPRESS_LANE], outbox->window) ||
           mcore_send_log_has_run(&outbox->lanes[MCORE_BULK], outbox->window);
}

long mcore_outbox_run_take_locked(struct mcore_outbox *outbox, size_t max_bytes, const uint8_t **data, size_t *len)
{
    for (int i = MCORE_LANES - 1; i >= 0; i--) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        long count = mcore_send_log_run_take(lane, outbox->window, max_bytes, &outbox->stats, data, len);
        if (count > 0) {
            outbox->writing_lane = lane;
            return count;
        }
    }
    return 0;
}

void mcore_outbox_run_done_locked(struct mcore_outbox *outbox)
{
    struct mcore_send_log *lane = outbox->writing_lane;
    if (lane == NULL)
        return;
    outbox->writing_lane = NULL;
    lane->pin_pos = UINT64_MAX;
    mcore_send_log_reclaim(lane);
    mcore_outbox_after_settle_locked(outbox);
}

uint64_t mcore_outbox_rewind_locked(struct mcore_outbox *outbox)
{
    uint64_t count = 0;
    for (int i = 0; i < MCORE_LANES; i++)
        count += mcore_send_log_rewind(&outbox->lanes[i], &outbox->stats);
    return count;
}

/* ---- settling ----------------------------------------------------------------------------------------------------- */

void mcore_outbox_count_locked(struct mcore_outbox *outbox, int outcome, int duplicate)
{
    struct mcore_stats *stats = &outbox->stats;
    if (outcome == MCORE_DELIVERED) {
        stats->delivered++;
        stats->duplicates += duplicate ? 1 : 0;
    } else if (outcome == MCORE_ABANDONED) {
        stats->abandoned++;
    } else {
        stats->failed++;
    }
}

void mcore_outbox_owner_less_locked(struct mcore_outbox *outbox, uint32_t owner, int outcome)
{
    if (owner >= outbox->owner_count)
        return;
    struct mcore_owner *its = &outbox->owners[owner];
    if (outcome != MCORE_DELIVERED && outcome != MCORE_PENDING)
        its->failed++;
    if (--its->outstanding <= its->wake_at && outbox->drain_waiters > 0)
        pthread_cond_broadcast(&outbox->drained);
}

static int settle_locked(struct mcore_outbox *outbox, uint64_t number, int outcome, uint64_t sequence, int duplicate,
                         int code, int err_code, const char *text, size_t text_len)
{
    struct mcore_send_log *lane = mcore_outbox_lane(outbox, number);
    uint64_t slot = number & ~express_tag;
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
    mcore_outbox_count_locked(outbox, outcome, duplicate);
    if (lane->tag == 0)
        outbox->thread_backlog[entry->thread]--;
    mcore_outbox_owner_less_locked(outbox, entry->owner, outcome);
    if (outbox->flushes != NULL)
        mcore_outbox_count_off_locked(outbox, lane, slot, entry->owner);
    mcore_outbox_notify_locked(outbox, lane, slot, outcome, sequence, duplicate, code, err_code, text, text_len,
                               entry->flags);
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
    int settled = settle_locked(outbox, slot, outcome, sequence, duplicate, code, err_code, text, text_len);
    mcore_outbox_unlock(outbox);
    return settled;
}

/* ---- nobody listens ----------------------------------------------------------------------------------------------- */

static bool retry_push(struct mcore_outbox *outbox, uint64_t number, int64_t due_ns)
{
    if (outbox->retries_len == outbox->retries_cap) {
        size_t kept = outbox->retries_len - outbox->retries_head;
        size_t cap = kept < 32 ? 64 : kept * 2;
        struct mcore_retry *grown = malloc(cap * sizeof(*grown));
        if (grown == NULL)
            return false;
        if (kept > 0)
            memcpy(grown, outbox->retries + outbox->retries_head, kept * sizeof(*grown));
        free(outbox->retries);
        outbox->retries = grown;
        outbox->retries_head = 0;
        outbox->retries_len = kept;
        outbox->retries_cap = cap;
    }
    outbox->retries[outbox->retries_len++] = (struct mcore_retry){number, due_ns};
    return true;
}

/*
 * Lets a message pause to which nobody listened: until it is sent again, or, when it has had its attempts or no time for
 * another one, for as long as the ack of a message that was stored all the same may take.
 */
static void pause_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, uint64_t number)
{
    uint64_t slot = number & ~express_tag;
    struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
    if (entry->state != MCORE_SLOT_IN_FLIGHT) {
        /* Two answers to one writing: one of them is false. */
        entry->flags |= MCORE_FLAG_UNSURE;
        return;
    }
    int64_t due_ns = mcore_deadline_after(outbox->retry_pause_ns);
    entry->state = MCORE_SLOT_PAUSED;
    entry->flags |= MCORE_FLAG_NO_RESPONDERS;
    lane->in_flight--;
    outbox->stats.in_flight--;
    outbox->stats.queued++;
    outbox->stats.queued_bytes += entry->len;
    if (entry->retried < outbox->retry_attempts && due_ns < entry->deadline_ns && retry_push(outbox, number, due_ns)) {
        entry->retried++;
    } else {
        due_ns = mcore_deadline_after(MCORE_VERDICT_NS);
        if (due_ns < entry->deadline_ns)
            mcore_send_log_advance_deadline(lane, slot, due_ns);
        if (due_ns < outbox->next_deadline_ns)
            outbox->next_deadline_ns = due_ns;
    }
    if (due_ns < outbox->sender_until_ns || mcore_outbox_has_run_locked(outbox))
        mcore_outbox_wake_sender_locked(outbox);
}

/* Queues what has paused long enough; entries of messages that were settled meanwhile fall out. */
static void retry_due_locked(struct mcore_outbox *outbox, int64_t now_ns)
{
    while (outbox->retries_head < outbox->retries_len && outbox->retries[outbox->retries_head].due_ns <= now_ns) {
        uint64_t number = outbox->retries[outbox->retries_head++].slot;
        struct mcore_send_log *lane = mcore_outbox_lane(outbox, number);
        uint64_t slot = number & ~express_tag;
        if (slot >= lane->log->head_slot && mcore_send_log_slot(lane, slot)->state == MCORE_SLOT_PAUSED)
            mcore_send_log_queue_again(lane, slot);
    }
    if (outbox->retries_head == outbox->retries_len)
        outbox->retries_head = outbox->retries_len = 0;
}

int64_t mcore_outbox_next_due_locked(const struct mcore_outbox *outbox)
{
    int64_t due_ns = outbox->next_deadline_ns;
    if (outbox->retries_head < outbox->retries_len && outbox->retries[outbox->retries_head].due_ns < due_ns)
        due_ns = outbox->retries[outbox->retries_head].due_ns;
    return due_ns;
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
    uint64_t slot = number & ~express_tag;
    if (slot < lane->log->head_slot || slot >= lane->log->tail_slot)
        return 0;
    const struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
    if (entry->state == MCORE_SLOT_SETTLED)
        return 0;
    if ((entry->flags & MCORE_FLAG_WRITTEN) == 0)
        return disbelieve(outbox, "it came before the message was sent");
    if (status == 503) {
        pause_locked(outbox, lane, number);
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
    return settle_locked(outbox, number, outcome, ack.sequence, ack.duplicate, ack.code, ack.err_code, ack.text,
                         ack.text_len);
}

int mcore_outbox_ack(struct mcore_outbox *outbox, uint64_t slot, int status, const uint8_t *json, size_t len)
{
    pthread_mutex_lock(&outbox->lock);
    int settled = mcore_outbox_ack_locked(outbox, slot, status, json, len);
    mcore_outbox_unlock(outbox);
    return settled;
}

/*
 * Ends a message whose time is over. One that nobody listened to, each time that it was sent, is known not to be stored.
 */
static int expire_slot_locked(struct mcore_outbox *outbox, uint64_t number, unsigned flags)
{
    if ((flags & MCORE_FLAG_NO_RESPONDERS) == 0)
        return settle_locked(outbox, number, MCORE_EXPIRED, 0, 0, 0, 0, NULL, 0);
    int outcome = (flags & MCORE_FLAG_UNSURE) != 0 ? MCORE_UNKNOWN : MCORE_NO_RESPONDERS;
    return settle_locked(outbox, number, outcome, 0, 0, 503, 0, NULL, 0);
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
            expired += (uint64_t)expire_slot_locked(outbox, slot | lane->tag, entry->flags);
        else if (entry->deadline_ns < next)
            next = entry->deadline_ns;
    }
    lane->due_ns[block] = next;
    return expired;
}

uint64_t mcore_outbox_expire_locked(struct mcore_outbox *outbox, int64_t now_ns)
{
    retry_due_locked(outbox, now_ns);
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
    uint64_t count = mcore_outbox_abandon_held_locked(outbox);
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        uint64_t tail = lane->log->tail_slot;
        for (uint64_t slot = lane->log->head_slot; slot < tail; slot++)
            count += (uint64_t)settle_locked(outbox, slot | lane->tag, MCORE_ABANDONED, 0, 0, 0, 0, NULL, 0);
    }
    mcore_outbox_unlock(outbox);
    return count;
}

int mcore_outbox_release(struct mcore_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    bool can = outbox->closed && outbox->stats.queued + outbox->stats.in_flight == 0 &&
               outbox->lanes[MCORE_BULK].pin_pos == UINT64_MAX &&
               outbox->lanes[MCORE_EXPRESS_LANE].pin_pos == UINT64_MAX;
    for (int i = 0; can && i < MCORE_LANES; i++)
        if (outbox->lanes[i].block != NULL)
            mcore_send_log_release(&outbox->lanes[i]);
    pthread_mutex_unlock(&outbox->lock);
    return can ? 1 : 0;
}

/* ---- the same for callers without the lock ---------------------------------------------------------------------- */

void mcore_outbox_stats(struct mcore_outbox *outbox, struct mcore_stats *stats)
{
    pthread_mutex_lock(&outbox->lock);
    *stats = outbox->stats;
    pthread_mutex_unlock(&outbox->lock);
}

void mcore_outbox_close(struct mcore_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    outbox->closed = true;
    pthread_cond_broadcast(&outbox->room);
    pthread_mutex_unlock(&outbox->lock);
}

long mcore_outbox_run_take(struct mcore_outbox *outbox, size_t max_bytes, const uint8_t **data, size_t *len)
{
    pthread_mutex_lock(&outbox->lock);
    long count = mcore_outbox_run_take_locked(outbox, max_bytes, data, len);
    pthread_mutex_unlock(&outbox->lock);
    return count;
}

void mcore_outbox_run_done(struct mcore_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    mcore_outbox_run_done_locked(outbox);
    pthread_mutex_unlock(&outbox->lock);
}

uint64_t mcore_outbox_rewind(struct mcore_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    uint64_t count = mcore_outbox_rewind_locked(outbox);
    pthread_mutex_unlock(&outbox->lock);
    return count;
}

uint64_t mcore_outbox_expire(struct mcore_outbox *outbox, int64_t now_ns)
{
    pthread_mutex_lock(&outbox->lock);
    uint64_t count = mcore_outbox_expire_locked(outbox, now_ns);
    mcore_outbox_unlock(outbox);
    return count;
}
