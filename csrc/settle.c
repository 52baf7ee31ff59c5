/*
 * What follows from an outcome, for the files that settle messages: counts, the ticket, whoever waits for it or watches
 * it, the sender that may go on. Everything here has outbox->lock held.
 */
#include <stdlib.h>
#include <string.h>

#include "core_internal.h"

struct mcore_send_log *mcore_outbox_lane(const struct mcore_outbox *outbox, uint64_t slot)
{
    return (struct mcore_send_log *)&outbox->lanes[slot & MCORE_EXPRESS_TAG ? MCORE_EXPRESS_LANE : MCORE_BULK];
}

void mcore_outbox_pause_slot_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, struct mcore_slot *entry)
{
    entry->state = MCORE_SLOT_PAUSED;
    lane->in_flight--;
    outbox->stats.in_flight--;
    outbox->stats.queued++;
    outbox->stats.queued_bytes += entry->len;
}

bool mcore_outbox_has_run_locked(const struct mcore_outbox *outbox)
{
    return mcore_send_log_has_run(&outbox->lanes[MCORE_EXPRESS_LANE], outbox->window) ||
           mcore_send_log_has_run(&outbox->lanes[MCORE_BULK], outbox->window);
}

void mcore_outbox_wake_sender_locked(struct mcore_outbox *outbox)
{
    if (outbox->sender_sleeps) {
        outbox->sender_sleeps = false;
        outbox->sender_until_ns = 0;
        pthread_cond_signal(&outbox->work);
    }
}

/* ---- counts ------------------------------------------------------------------------------------------------------- */

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

void mcore_outbox_count_off_locked(struct mcore_outbox *outbox, const struct mcore_send_log *lane, uint64_t slot,
                                   uint32_t owner)
{
    size_t number = (size_t)(lane - outbox->lanes);
    for (struct mcore_flush *flush = outbox->flushes; flush != NULL; flush = flush->next)
        if (slot < flush->marks[number] && (flush->owner < 0 || flush->owner == (long)owner) && --flush->left == 0)
            pthread_cond_broadcast(&outbox->drained);
}

void mcore_outbox_after_settle_locked(struct mcore_outbox *outbox)
{
    if (outbox->drain_waiters > 0 && outbox->stats.queued + outbox->stats.in_flight == 0)
        pthread_cond_broadcast(&outbox->drained);
    if (outbox->room_waiters > 0 &&
        mcore_outbox_has_room_locked(outbox, outbox->room_wanted, outbox->stats.max_messages / 8))
        pthread_cond_broadcast(&outbox->room);
}

/* ---- who is notified ---------------------------------------------------------------------------------------------- */

static char *copy_text(const char *text, size_t len)
{
    if (len == 0)
        return NULL;
    char *copy = malloc(len + 1);
    if (copy == NULL)
        return NULL;
    memcpy(copy, text, len);
    copy[len] = '\0';
    return copy;
}

void mcore_outbox_note_unseen_locked(struct mcore_outbox *outbox, int outcome, const char *text, size_t len)
{
    static const char *const plain[] = {
        [MCORE_REFUSED] = "refused",
        [MCORE_NO_RESPONDERS] = "no responders: the station is gone",
        [MCORE_EXPIRED] = "not confirmed in time",
        [MCORE_ABANDONED] = "abandoned at close",
        [MCORE_UNKNOWN] = "no responders, but it was sent before: it may be stored",
        [MCORE_UNSENT] = "it could not be sent",
    };
    if (len == 0) {
        text = plain[outcome];
        len = strlen(text);
    }
    size_t cut = len < sizeof(outbox->unseen_text) - 1 ? len : sizeof(outbox->unseen_text) - 1;
    memcpy(outbox->unseen_text, text, cut);
    outbox->unseen_text[cut] = '\0';
    outbox->stats.unseen++;
    mcore_outbox_wake_sender_locked(outbox); /* whose thread logs it */
}

/* Moves the waiters of a ticket that is being settled to those that mcore_outbox_unlock() posts. */
static void take_waiters(struct mcore_outbox *outbox, struct mcore_ticket *ticket)
{
    struct mcore_waiter *waiter = ticket->waiters;
    ticket->waiters = NULL;
    while (waiter != NULL) {
        struct mcore_waiter *next = waiter->next;
        waiter->taken = true;
        waiter->next = outbox->to_post;
        outbox->to_post = waiter;
        waiter = next;
    }
}

void mcore_watchers_free(struct mcore_watcher *watcher)
{
    while (watcher != NULL) {
        struct mcore_watcher *next = watcher->next;
        free(watcher);
        watcher = next;
    }
}

/* Queues the watchers of a ticket that is being settled, in the order in which they came. */
static void report(struct mcore_outbox *outbox, struct mcore_ticket *ticket)
{
    for (struct mcore_watcher *watcher = ticket->watchers; watcher != NULL; watcher = watcher->next) {
        *(outbox->reports_last == NULL ? &outbox->reports_first : &outbox->reports_last->next) = watcher;
        outbox->reports_last = watcher;
    }
    if (ticket->watchers != NULL && outbox->report_waiters > 0)
        pthread_cond_signal(&outbox->reports);
    ticket->watchers = NULL;
}

void mcore_outbox_notify_ticket_locked(struct mcore_outbox *outbox, struct mcore_ticket *ticket,
                                       const struct mcore_verdict *verdict, bool was_written)
{
    ticket->sequence = verdict->sequence;
    ticket->duplicate = verdict->duplicate;
    ticket->was_written = was_written;
    ticket->code = verdict->code;
    ticket->err_code = verdict->err_code;
    ticket->text = copy_text(verdict->text, verdict->text_len);
    ticket->attached = 0;
    take_waiters(outbox, ticket);
    report(outbox, ticket);
    struct mcore_wait_set_node *node = ticket->wait_sets;
    ticket->wait_sets = NULL;
    /* Last: from here on the ticket's owner may free it without the lock. */
    __atomic_store_n(&ticket->outcome, verdict->outcome, __ATOMIC_RELEASE);
    while (node != NULL) {
        struct mcore_wait_set_node *next = node->next; /* the set may be gone once it knows */
        mcore_wait_set_settled(node);
        node = next;
    }
}

void mcore_outbox_unlock(struct mcore_outbox *outbox)
{
    struct mcore_waiter *waiter = outbox->to_post;
    outbox->to_post = NULL;
    pthread_mutex_unlock(&outbox->lock);
    mcore_bell_ring();
    while (waiter != NULL) {
        struct mcore_waiter *next = waiter->next; /* the waiter is gone once it is posted */
        pthread_mutex_lock(&waiter->lock);
        waiter->posted = true;
        pthread_cond_signal(&waiter->cond);
        pthread_mutex_unlock(&waiter->lock);
        waiter = next;
    }
}
