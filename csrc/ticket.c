/*
 * Tickets: how one learns its outcome, is waited for and let go. A waiter of one ticket has a condition of its own, so an
 * ack wakes the thread that waits for it and no other.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core_internal.h"

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

void mcore_outbox_notify_ticket_locked(struct mcore_outbox *outbox, struct mcore_ticket *ticket, int outcome,
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
    struct mcore_wait_set_node *node = ticket->wait_sets;
    ticket->wait_sets = NULL;
    /* Last: from here on the ticket's owner may free it without the lock. */
    __atomic_store_n(&ticket->outcome, outcome, __ATOMIC_RELEASE);
    while (node != NULL) {
        struct mcore_wait_set_node *next = node->next; /* the group may be gone once it knows */
        mcore_wait_set_settled(node);
        node = next;
    }
}

void mcore_outbox_notify_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, uint64_t slot, int outcome,
                                uint64_t sequence, int duplicate, int code, int err_code, const char *text,
                                size_t text_len, unsigned flags)
{
    bool wants_report = (flags & MCORE_FLAG_REPORT) != 0;
    struct mcore_ticket **place = &lane->tickets[slot % lane->log->max_messages];
    struct mcore_ticket *ticket = *place;
    uint64_t number = ticket == NULL ? slot | lane->tag : mcore_ticket_number(ticket);
    *place = NULL;
    if (ticket != NULL)
        mcore_outbox_notify_ticket_locked(outbox, ticket, outcome, sequence, duplicate, code, err_code, text, text_len,
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
            struct mcore_send_log *lane = mcore_outbox_lane(outbox, ticket->slot);
            lane->tickets[(ticket->slot & ~lane->tag) % lane->log->max_messages] = NULL;
            ticket->attached = 0;
        } else if (outcome > MCORE_DELIVERED && !ticket->observed) {
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
