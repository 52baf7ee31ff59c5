/*
 * Telling the outcome: tickets, waiters, reports, counts. A waiter of one ticket has a condition of its own, so an ack
 * wakes the thread that waits for it and no other.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core_internal.h"

int64_t mcore_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t mcore_deadline_after(int64_t timeout_ns)
{
    int64_t now = mcore_now_ns();
    if (timeout_ns <= 0)
        return now;
    return timeout_ns < MCORE_NEVER - now ? now + timeout_ns : MCORE_NEVER - 1;
}

int mcore_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#if !defined(__APPLE__)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    int error = pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
    return error;
}

int mcore_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t until_ns)
{
    if (until_ns == MCORE_NEVER)
        return pthread_cond_wait(cond, lock);
#if defined(__APPLE__)
    int64_t left = until_ns - mcore_now_ns();
    if (left <= 0)
        return ETIMEDOUT;
    struct timespec span = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
    return pthread_cond_timedwait_relative_np(cond, lock, &span);
#else
    struct timespec at = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
    return pthread_cond_timedwait(cond, lock, &at);
#endif
}

/* ---- one ticket --------------------------------------------------------------------------------------------------- */

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

static void note_unseen(struct mcore_outbox *outbox, int outcome, const char *text, size_t len)
{
    static const char *const plain[] = {"", "", "refused", "no responders: the station is gone", "not confirmed in time",
                                        "abandoned at close", "no responders, but it was sent before: it may be stored", "it could not be sent"};
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

void mcore_outbox_unlock(struct mcore_outbox *outbox)
{
    struct mcore_waiter *waiter = outbox->to_post;
    outbox->to_post = NULL;
    pthread_mutex_unlock(&outbox->lock);
    while (waiter != NULL) {
        struct mcore_waiter *next = waiter->next; /* the waiter is gone once it is posted */
        pthread_mutex_lock(&waiter->lock);
        waiter->posted = true;
        pthread_cond_signal(&waiter->cond);
        pthread_mutex_unlock(&waiter->lock);
        waiter = next;
    }
}

void mcore_outbox_note_report_locked(struct mcore_outbox *outbox, uint64_t number)
{
    if (outbox->reported_len == outbox->reported_cap) {
        size_t cap = outbox->reported_cap == 0 ? 64 : outbox->reported_cap * 2;
        uint64_t *grown = realloc(outbox->reported, cap * sizeof(*grown));
        if (grown == NULL)
            return; /* the ticket still has its outcome; only the callback is late until somebody asks */
        outbox->reported = grown;
        outbox->reported_cap = cap;
    }
    outbox->reported[outbox->reported_len++] = number;
    if (outbox->report_waiters > 0)
        pthread_cond_signal(&outbox->reports);
}

void mcore_outbox_note_unseen_locked(struct mcore_outbox *outbox, int outcome)
{
    note_unseen(outbox, outcome, NULL, 0);
}

void mcore_outbox_tell_ticket_locked(struct mcore_outbox *outbox, struct mcore_ticket *ticket, int outcome,
                                     uint64_t sequence, int duplicate, int code, int err_code, const char *text,
                                     size_t text_len, unsigned flags)
{
    ticket->sequence = sequence;
    ticket->duplicate = duplicate;
    ticket->was_written = (flags & MCORE_FLAG_WRITTEN) != 0;
    ticket->code = code;
    ticket->err_code = err_code;
    ticket->text = copy_text(text, text_len);
    ticket->attached = 0;
    take_waiters(outbox, ticket);
    struct mcore_group_node *node = ticket->groups;
    ticket->groups = NULL;
    /* Last: from here on the ticket's owner may free it without the lock. */
    __atomic_store_n(&ticket->outcome, outcome, __ATOMIC_RELEASE);
    while (node != NULL) {
        struct mcore_group_node *next = node->next; /* the group may be gone once it knows */
        mcore_group_settled(node);
        node = next;
    }
}

void mcore_outbox_tell_locked(struct mcore_outbox *outbox, struct mcore_lane *lane, uint64_t slot, int outcome,
                              uint64_t sequence, int duplicate, int code, int err_code, const char *text,
                              size_t text_len, unsigned flags)
{
    bool wants_report = (flags & MCORE_FLAG_REPORT) != 0;
    struct mcore_ticket **place = &lane->tickets[slot % lane->log->max_messages];
    struct mcore_ticket *ticket = *place;
    uint64_t number = ticket == NULL ? slot | lane->tag : mcore_ticket_number(ticket);
    *place = NULL;
    if (ticket != NULL)
        mcore_outbox_tell_ticket_locked(outbox, ticket, outcome, sequence, duplicate, code, err_code, text, text_len,
                                        flags);
    else if (outcome != MCORE_DELIVERED && !wants_report)
        note_unseen(outbox, outcome, text, text_len);
    if (wants_report)
        mcore_outbox_note_report_locked(outbox, number);
}

uint64_t mcore_ticket_number(const struct mcore_ticket *ticket)
{
    return ticket->held == NULL ? ticket->slot : ticket->held->number;
}

int mcore_ticket_outcome(const struct mcore_ticket *ticket)
{
    return __atomic_load_n(&ticket->outcome, __ATOMIC_ACQUIRE);
}

static int wait_posted(struct mcore_waiter *self, int64_t until_ns)
{
    int error = 0;
    pthread_mutex_lock(&self->lock);
    while (!self->posted && error != ETIMEDOUT)
        error = mcore_cond_wait_until(&self->cond, &self->lock, until_ns);
    error = self->posted ? 0 : ETIMEDOUT;
    pthread_mutex_unlock(&self->lock);
    return error;
}

static void leave_list(struct mcore_ticket *ticket, const struct mcore_waiter *self)
{
    if (ticket->waiters == self) {
        ticket->waiters = self->next;
        return;
    }
    struct mcore_waiter *waiter = ticket->waiters;
    while (waiter->next != self)
        waiter = waiter->next;
    waiter->next = self->next;
}

int mcore_ticket_wait(struct mcore_outbox *outbox, struct mcore_ticket *ticket, int64_t timeout_ns)
{
    int outcome = mcore_ticket_outcome(ticket);
    if (outcome != MCORE_PENDING || timeout_ns <= 0)
        return outcome;
    int64_t until = mcore_deadline_after(timeout_ns);
    struct mcore_waiter self = {.posted = false};
    pthread_mutex_lock(&outbox->lock);
    outcome = mcore_ticket_outcome(ticket);
    if (outcome == MCORE_PENDING) {
        pthread_mutex_init(&self.lock, NULL);
        mcore_cond_init(&self.cond);
        self.next = ticket->waiters;
        ticket->waiters = &self;
    }
    pthread_mutex_unlock(&outbox->lock);
    if (outcome != MCORE_PENDING)
        return outcome;
    if (wait_posted(&self, until) == ETIMEDOUT) {
        pthread_mutex_lock(&outbox->lock);
        bool taken = self.taken;
        if (!taken)
            leave_list(ticket, &self);
        pthread_mutex_unlock(&outbox->lock);
        if (taken)
            wait_posted(&self, MCORE_NEVER);
    }
    pthread_cond_destroy(&self.cond);
    pthread_mutex_destroy(&self.lock);
    return mcore_ticket_outcome(ticket);
}

void mcore_ticket_release(struct mcore_outbox *outbox, struct mcore_ticket *ticket)
{
    /* Delivered or looked at: the outbox has let go of it, so the common case needs no lock. */
    int outcome = mcore_ticket_outcome(ticket);
    if (outcome != MCORE_DELIVERED) {
        pthread_mutex_lock(&outbox->lock);
        outcome = ticket->outcome;
        if (ticket->held != NULL)
            mcore_held_release_locked(outbox, ticket->held);
        if (ticket->attached) {
            struct mcore_lane *lane = mcore_outbox_lane(outbox, ticket->slot);
            lane->tickets[(ticket->slot & ~lane->tag) % lane->log->max_messages] = NULL;
            ticket->attached = 0;
        } else if (outcome > MCORE_DELIVERED && !ticket->looked) {
            note_unseen(outbox, outcome, ticket->text == NULL ? "" : ticket->text,
                        ticket->text == NULL ? 0 : strlen(ticket->text));
        }
        pthread_mutex_unlock(&outbox->lock);
    }
    free(ticket->text);
    ticket->text = NULL;
    free(ticket->held);
    ticket->held = NULL;
}

/* ---- reports ------------------------------------------------------------------------------------------------------ */

int mcore_outbox_report(struct mcore_outbox *outbox, struct mcore_ticket *ticket)
{
    pthread_mutex_lock(&outbox->lock);
    int wanted = 0;
    if (ticket->held != NULL && ticket->held->waits) {
        ticket->held->report = true;
        wanted = 1;
    } else if (ticket->attached) {
        const struct mcore_lane *lane = mcore_outbox_lane(outbox, ticket->slot);
        mcore_lane_slot(lane, ticket->slot & ~lane->tag)->flags |= MCORE_FLAG_REPORT;
        wanted = 1;
    }
    pthread_mutex_unlock(&outbox->lock);
    return wanted;
}

long mcore_outbox_wait_reports(struct mcore_outbox *outbox, uint64_t *out, size_t max, int64_t timeout_ns)
{
    int64_t until = mcore_deadline_after(timeout_ns);
    pthread_mutex_lock(&outbox->lock);
    unsigned wakes = outbox->report_wakes;
    outbox->report_waiters++;
    while (outbox->reported_len == 0 && outbox->report_wakes == wakes)
        if (mcore_cond_wait_until(&outbox->reports, &outbox->lock, until) == ETIMEDOUT)
            break;
    outbox->report_waiters--;
    size_t count = outbox->reported_len < max ? outbox->reported_len : max;
    if (count > 0) {
        memcpy(out, outbox->reported, count * sizeof(*out));
        outbox->reported_len -= count;
        memmove(outbox->reported, outbox->reported + count, outbox->reported_len * sizeof(*out));
    }
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

uint64_t mcore_outbox_take_unseen(struct mcore_outbox *outbox, char *text, size_t cap)
{
    pthread_mutex_lock(&outbox->lock);
    uint64_t count = outbox->stats.unseen - outbox->unseen_taken;
    outbox->unseen_taken = outbox->stats.unseen;
    if (cap > 0) {
        size_t len = strlen(outbox->unseen_text);
        size_t cut = len < cap - 1 ? len : cap - 1;
        memcpy(text, outbox->unseen_text, cut);
        text[cut] = '\0';
    }
    pthread_mutex_unlock(&outbox->lock);
    return count;
}

bool mcore_outbox_has_news_locked(const struct mcore_outbox *outbox)
{
    return outbox->stats.unseen != outbox->unseen_taken || outbox->stats.disbelieved != outbox->disbelieved_taken;
}

uint64_t mcore_outbox_take_disbelieved(struct mcore_outbox *outbox, char *text, size_t cap)
{
    pthread_mutex_lock(&outbox->lock);
    uint64_t count = outbox->stats.disbelieved - outbox->disbelieved_taken;
    outbox->disbelieved_taken = outbox->stats.disbelieved;
    if (cap > 0) {
        const char *why = outbox->disbelieved_text == NULL ? "" : outbox->disbelieved_text;
        size_t len = strlen(why);
        size_t cut = len < cap - 1 ? len : cap - 1;
        memcpy(text, why, cut);
        text[cut] = '\0';
    }
    pthread_mutex_unlock(&outbox->lock);
    return count;
}

/* ---- counts and waits --------------------------------------------------------------------------------------------- */

static uint64_t outstanding_locked(const struct mcore_outbox *outbox, long owner)
{
    if (owner < 0)
        return outbox->stats.queued + outbox->stats.in_flight;
    return (size_t)owner < outbox->owner_count ? outbox->owners[owner].outstanding : 0;
}

/* Room is asked for in the bulk lane: the express lane falls back to it. */
static bool has_room(const struct mcore_outbox *outbox, uint64_t bytes, uint64_t slots)
{
    const struct mcore_log *log = outbox->lanes[MCORE_BULK].log;
    if (log->head_slot == log->tail_slot && outbox->held_messages == 0)
        return true;
    if (outbox->held_messages > 0)
        return mcore_outbox_room_beside_held_locked(outbox, bytes, slots) == MCORE_OK;
    return log->max_bytes - (log->tail_pos - log->head_pos) >= bytes &&
           log->max_messages - (log->tail_slot - log->head_slot) >= slots;
}

void mcore_outbox_after_settle_locked(struct mcore_outbox *outbox)
{
    if (outbox->drain_waiters > 0 && outbox->stats.queued + outbox->stats.in_flight == 0)
        pthread_cond_broadcast(&outbox->drained);
    if (outbox->room_waiters > 0 && has_room(outbox, outbox->room_wanted, outbox->stats.max_messages / 8))
        pthread_cond_broadcast(&outbox->room);
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
        const struct mcore_lane *lane = &outbox->lanes[i];
        for (uint64_t slot = lane->log->head_slot; slot < marks[i] && slot < lane->log->tail_slot; slot++) {
            const struct mcore_slot *entry = mcore_lane_slot(lane, slot);
            count += entry->state != MCORE_SLOT_SETTLED && (owner < 0 || entry->owner == (uint32_t)owner);
        }
    }
    return count;
}

void mcore_outbox_count_off_locked(struct mcore_outbox *outbox, const struct mcore_lane *lane, uint64_t slot,
                                   uint32_t owner)
{
    size_t number = (size_t)(lane - outbox->lanes);
    for (struct mcore_flush *flush = outbox->flushes; flush != NULL; flush = flush->next)
        if (slot < flush->marks[number] && (flush->owner < 0 || flush->owner == (long)owner) && --flush->left == 0)
            pthread_cond_broadcast(&outbox->drained);
}

uint64_t mcore_outbox_wait_marks(struct mcore_outbox *outbox, long owner, const uint64_t *marks,
                                 int64_t timeout_ns)
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
    while (!outbox->closed && !has_room(outbox, wanted, slots > 0 ? slots : 1))
        if (mcore_cond_wait_until(&outbox->room, &outbox->lock, until) == ETIMEDOUT) {
            result = has_room(outbox, 2 * (uint64_t)bytes, 1) ? MCORE_OK : MCORE_E_TIMEOUT;
            break;
        }
    if (outbox->closed)
        result = MCORE_E_CLOSED;
    if (--outbox->room_waiters == 0)
        outbox->room_wanted = UINT64_MAX;
    pthread_mutex_unlock(&outbox->lock);
    return result;
}

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
