/*
 * The outbox: its two lanes under one lock, how messages come in and how runs of them go to the sender. How they end is in
 * verdict.c, waiting for them in ticket.c, wait_set.c and outbox_wait.c.
 */
#include <stdlib.h>
#include <string.h>

#include "outage.h"

struct mcore_outbox *mcore_outbox_new(const uint8_t *token, size_t token_len, uint64_t max_bytes, uint64_t max_messages,
                                      uint64_t window)
{
    if (max_bytes == 0 || max_messages == 0 || window == 0 || token_len == 0 ||
        mcore_fork_watch() != MCORE_OK) /* its memory does not exist in a child, which must therefore be told apart */
        return NULL;
    struct mcore_outbox *outbox = calloc(1, sizeof(*outbox));
    if (outbox == NULL)
        return NULL;
    uint64_t express_bytes = max_bytes;
    uint64_t express_messages = max_messages;
    mcore_express_bounds(&express_bytes, &express_messages);
    if (!mcore_send_log_init(&outbox->lanes[MCORE_BULK], token, token_len, "", 0, max_bytes, max_messages) ||
        !mcore_send_log_init(&outbox->lanes[MCORE_EXPRESS_LANE], token, token_len, "e", MCORE_EXPRESS_TAG,
                             express_bytes, express_messages)) {
        mcore_send_log_free(&outbox->lanes[MCORE_BULK]);
        mcore_send_log_free(&outbox->lanes[MCORE_EXPRESS_LANE]);
        free(outbox);
        return NULL;
    }
    outbox->window = window;
    outbox->next_deadline_ns = MCORE_NEVER;
    outbox->held_due_ns = MCORE_NEVER;
    outbox->room_wanted = UINT64_MAX;
    outbox->recovered_owner = -1;
    outbox->stats.max_bytes = max_bytes;
    outbox->stats.max_messages = max_messages;
    outbox->stats.max_payload = SIZE_MAX;
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
    mcore_outbox_leave_file(outbox);
    for (int i = 0; i < MCORE_LANES; i++)
        mcore_send_log_free(&outbox->lanes[i]);
    free(outbox->owners);
    mcore_watchers_free(outbox->reports_first);
    mcore_outages_free(outbox);
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

/* ---- append ------------------------------------------------------------------------------------------------------- */

/* What was recovered goes out before anything new. */
static bool is_recovering(const struct mcore_outbox *outbox)
{
    return outbox->recovered_owner >= 0 && outbox->owners[outbox->recovered_owner].outstanding > 0;
}

static struct mcore_send_log *lane_for(struct mcore_outbox *outbox, const struct mcore_route *const *routes,
                                       size_t count, const struct mcore_message *message, uint32_t thread, int *error)
{
    struct mcore_send_log *express = &outbox->lanes[MCORE_EXPRESS_LANE];
    if (message->urgent && outbox->thread_backlog[thread] == 0 && !is_recovering(outbox) &&
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
    int error = mcore_outbox_check_size(outbox, routes, count, message);
    struct mcore_watcher *watcher = NULL;
    if (error == MCORE_OK && message->watcher != NULL) {
        watcher = malloc(sizeof(*watcher));
        if (watcher == NULL)
            return MCORE_E_MEMORY;
        *watcher = (struct mcore_watcher){NULL, message->watcher};
    }
    if (error != MCORE_OK)
        return error;
    int64_t deadline_ns = mcore_deadline_after(message->timeout_ns);
    uint32_t thread = mcore_thread_number();
    pthread_mutex_lock(&outbox->lock);
    error = MCORE_E_CLOSED;
    struct mcore_send_log *lane = outbox->closed ? NULL : lane_for(outbox, routes, count, message, thread, &error);
    if (error != MCORE_OK) {
        if (error == MCORE_E_FULL_BYTES || error == MCORE_E_FULL_MESSAGES)
            outbox->stats.buffer_full++;
        pthread_mutex_unlock(&outbox->lock);
        free(watcher);
        return error;
    }
    if (watcher != NULL)
        tickets[0]->watchers = watcher;
    int64_t first = (int64_t)(lane->log->tail_slot | lane->tag);
    struct mcore_message part = *message;
    for (size_t i = 0; i < count; i++) {
        if (message->parts != NULL)
            part.payload_len = message->parts[i];
        struct mcore_slot *entry = mcore_send_log_append(lane, routes[i], &part, tickets == NULL ? NULL : tickets[i]);
        if (message->parts != NULL)
            part.payload += part.payload_len;
        mcore_send_log_set_deadline(lane, deadline_ns);
        mcore_outage_appended_locked(outbox, lane, entry);
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
    mcore_outage_end_all_locked(outbox);
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
    if (can)
        mcore_outbox_leave_file(outbox);
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
    mcore_bell_ring();
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
