/*
 * Waiting for the outbox as a whole: reports of outcomes, news to log, counts of what is outstanding, and room.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core_internal.h"

/* ---- reports ------------------------------------------------------------------------------------------------------ */

int mcore_outbox_watch(struct mcore_outbox *outbox, struct mcore_ticket *ticket, void *cookie)
{
    struct mcore_watcher *watcher = malloc(sizeof(*watcher));
    if (watcher == NULL)
        return MCORE_E_MEMORY;
    *watcher = (struct mcore_watcher){NULL, cookie};
    pthread_mutex_lock(&outbox->lock);
    bool is_pending = ticket->outcome == MCORE_PENDING;
    if (is_pending) {
        struct mcore_watcher **place = &ticket->watchers;
        while (*place != NULL)
            place = &(*place)->next;
        *place = watcher;
    }
    pthread_mutex_unlock(&outbox->lock);
    if (!is_pending)
        free(watcher);
    return is_pending;
}

long mcore_outbox_wait_reports(struct mcore_outbox *outbox, void **out, size_t max, int64_t timeout_ns)
{
    int64_t until = mcore_deadline_after(timeout_ns);
    pthread_mutex_lock(&outbox->lock);
    unsigned wakes = outbox->report_wakes;
    outbox->report_waiters++;
    while (outbox->reports_first == NULL && outbox->report_wakes == wakes)
        if (mcore_cond_wait_until(&outbox->reports, &outbox->lock, until) == ETIMEDOUT)
            break;
    outbox->report_waiters--;
    size_t count = 0;
    for (struct mcore_watcher *next; count < max && outbox->reports_first != NULL; outbox->reports_first = next) {
        next = outbox->reports_first->next;
        out[count++] = outbox->reports_first->cookie;
        free(outbox->reports_first);
    }
    if (outbox->reports_first == NULL)
        outbox->reports_last = NULL;
    pthread_mutex_unlock(&outbox->lock);
    return (long)count;
}

void mcore_outbox_wake_reports(struct mcore_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    outbox->report_wakes++;
    pthread_cond_broadcast(&outbox->reports);
    pthread_mutex_unlock(&outbox->lock);
}

static void copy_text(char *out, size_t cap, const char *text)
{
    if (cap > 0)
        snprintf(out, cap, "%s", text == NULL ? "" : text);
}

uint64_t mcore_outbox_take_unseen(struct mcore_outbox *outbox, char *text, size_t cap)
{
    pthread_mutex_lock(&outbox->lock);
    uint64_t count = outbox->stats.unseen - outbox->unseen_taken;
    outbox->unseen_taken = outbox->stats.unseen;
    copy_text(text, cap, outbox->unseen_text);
    pthread_mutex_unlock(&outbox->lock);
    return count;
}

uint64_t mcore_outbox_take_disbelieved(struct mcore_outbox *outbox, char *text, size_t cap)
{
    pthread_mutex_lock(&outbox->lock);
    uint64_t count = outbox->stats.disbelieved - outbox->disbelieved_taken;
    outbox->disbelieved_taken = outbox->stats.disbelieved;
    copy_text(text, cap, outbox->disbelieved_text);
    pthread_mutex_unlock(&outbox->lock);
    return count;
}

bool mcore_outbox_has_news_locked(const struct mcore_outbox *outbox)
{
    return outbox->stats.unseen != outbox->unseen_taken || outbox->stats.disbelieved != outbox->disbelieved_taken;
}

/* ---- counts and waits --------------------------------------------------------------------------------------------- */

static uint64_t outstanding_locked(const struct mcore_outbox *outbox, long owner)
{
    if (owner < 0)
        return outbox->stats.queued + outbox->stats.in_flight;
    return (size_t)owner < outbox->owner_count ? outbox->owners[owner].outstanding : 0;
}

uint64_t mcore_outbox_outstanding(struct mcore_outbox *outbox, long owner)
{
    pthread_mutex_lock(&outbox->lock);
    uint64_t count = outstanding_locked(outbox, owner);
    pthread_mutex_unlock(&outbox->lock);
    return count;
}

uint64_t mcore_outbox_wait_drained(struct mcore_outbox *outbox, long owner, uint64_t down_to, int64_t timeout_ns)
{
    int64_t until = mcore_deadline_after(timeout_ns);
    pthread_mutex_lock(&outbox->lock);
    outbox->drain_waiters++;
    if (owner < 0)
        down_to = 0;
    else if ((size_t)owner < outbox->owner_count && outbox->owners[owner].wake_at < down_to)
        outbox->owners[owner].wake_at = down_to;
    uint64_t count;
    while ((count = outstanding_locked(outbox, owner)) > down_to)
        if (mcore_cond_wait_until(&outbox->drained, &outbox->lock, until) == ETIMEDOUT) {
            count = outstanding_locked(outbox, owner);
            break;
        }
    outbox->drain_waiters--;
    pthread_mutex_unlock(&outbox->lock);
    return count;
}

void mcore_outbox_marks(struct mcore_outbox *outbox, uint64_t *marks)
{
    pthread_mutex_lock(&outbox->lock);
    for (int i = 0; i < MCORE_LANES; i++)
        marks[i] = outbox->lanes[i].log->tail_slot;
    pthread_mutex_unlock(&outbox->lock);
}

/* How many slots of an owner (-1: of all) that lie before the marks are not settled. */
static uint64_t count_before(const struct mcore_outbox *outbox, long owner, const uint64_t *marks)
{
    uint64_t count = 0;
    for (int i = 0; i < MCORE_LANES; i++) {
        const struct mcore_send_log *lane = &outbox->lanes[i];
        for (uint64_t slot = lane->log->head_slot; slot < marks[i] && slot < lane->log->tail_slot; slot++) {
            const struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
            count += entry->state != MCORE_SLOT_SETTLED && (owner < 0 || entry->owner == (uint32_t)owner);
        }
    }
    return count;
}

uint64_t mcore_outbox_wait_marks(struct mcore_outbox *outbox, long owner, const uint64_t *marks, int64_t timeout_ns)
{
    int64_t until = mcore_deadline_after(timeout_ns);
    pthread_mutex_lock(&outbox->lock);
    struct mcore_flush self = {outbox->flushes, owner, marks, count_before(outbox, owner, marks)};
    outbox->flushes = &self;
    while (self.left > 0)
        if (mcore_cond_wait_until(&outbox->drained, &outbox->lock, until) == ETIMEDOUT)
            break;
    struct mcore_flush **place = &outbox->flushes;
    while (*place != &self)
        place = &(*place)->next;
    *place = self.next;
    pthread_mutex_unlock(&outbox->lock);
    return self.left;
}

uint64_t mcore_outbox_take_failed(struct mcore_outbox *outbox, long owner)
{
    uint64_t count = 0;
    pthread_mutex_lock(&outbox->lock);
    if (owner < 0) {
        uint64_t failed = outbox->stats.failed + outbox->stats.abandoned;
        count = failed - outbox->failed_taken;
        outbox->failed_taken = failed;
    } else if ((size_t)owner < outbox->owner_count) {
        struct mcore_owner *counts = &outbox->owners[owner];
        count = counts->failed - counts->failed_taken;
        counts->failed_taken = counts->failed;
    }
    pthread_mutex_unlock(&outbox->lock);
    return count;
}

int mcore_outbox_wait_room(struct mcore_outbox *outbox, size_t bytes, int64_t timeout_ns)
{
    int64_t until = mcore_deadline_after(timeout_ns);
    pthread_mutex_lock(&outbox->lock);
    /* Two frames' worth: a frame that does not fit before the ring's end leaves up to its own size unused. */
    uint64_t wanted = 2 * (uint64_t)bytes;
    if (wanted < outbox->stats.max_bytes / 8)
        wanted = outbox->stats.max_bytes / 8;
    if (wanted > outbox->stats.max_bytes)
        wanted = outbox->stats.max_bytes;
    uint64_t slots = outbox->stats.max_messages / 8;
    int result = MCORE_OK;
    outbox->room_waiters++;
    if (wanted < outbox->room_wanted)
        outbox->room_wanted = wanted;
    while (!outbox->closed && !mcore_outbox_has_room_locked(outbox, wanted, slots > 0 ? slots : 1))
        if (mcore_cond_wait_until(&outbox->room, &outbox->lock, until) == ETIMEDOUT) {
            result = mcore_outbox_has_room_locked(outbox, 2 * (uint64_t)bytes, 1) ? MCORE_OK : MCORE_E_TIMEOUT;
            break;
        }
    if (outbox->closed)
        result = MCORE_E_CLOSED;
    if (--outbox->room_waiters == 0)
        outbox->room_wanted = UINT64_MAX;
    pthread_mutex_unlock(&outbox->lock);
    return result;
}
