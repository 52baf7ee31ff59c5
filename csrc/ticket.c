/*
 * Tickets: how one learns its outcome, is waited for and let go. A waiter of one ticket has a condition of its own, so an
 * ack wakes the thread that waits for it and no other.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core_internal.h"

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

size_t mcore_ticket_id(const struct mcore_outbox *outbox, const struct mcore_ticket *ticket, char *out, size_t cap)
{
    const struct mcore_send_log *lane = mcore_outbox_lane(outbox, ticket->slot);
    return (size_t)snprintf(out, cap, "%.*s%" PRIu64, (int)lane->id_len, (const char *)lane->id,
                            ticket->slot & ~MCORE_EXPRESS_TAG);
}

void mcore_ticket_release(struct mcore_outbox *outbox, struct mcore_ticket *ticket)
{
    /* Delivered or looked at: the outbox has let go of it, so the common case needs no lock. */
    int outcome = mcore_ticket_outcome(ticket);
    if (outcome != MCORE_DELIVERED && outbox != NULL) {
        pthread_mutex_lock(&outbox->lock);
        outcome = ticket->outcome;
        if (ticket->held != NULL)
            mcore_held_release_locked(outbox, ticket->held);
        if (ticket->attached) {
            struct mcore_send_log *lane = mcore_outbox_lane(outbox, ticket->slot);
            lane->tickets[(ticket->slot & ~lane->tag) % lane->log->max_messages] = NULL;
            ticket->attached = 0;
        } else if (outcome > MCORE_DELIVERED && !ticket->observed) {
            mcore_outbox_note_unseen_locked(outbox, outcome, ticket->text,
                                            ticket->text == NULL ? 0 : strlen(ticket->text));
        }
        pthread_mutex_unlock(&outbox->lock);
    }
    mcore_watchers_free(ticket->watchers);
    free(ticket->text);
    free(ticket->held);
    ticket->watchers = NULL;
    ticket->text = NULL;
    ticket->held = NULL;
}
