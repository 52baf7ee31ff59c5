/*
 * What was received for a subscription, kept as one growing block of records that its taker gets whole.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core_internal.h"

#define MAX_USUAL (4u * 1024u * 1024u) /* one large batch is no reason to hold more for the small ones after it */

static const char ack_prefix[] = "$JS.ACK.";

struct mcore_inbox *mcore_inbox_new(struct mcore_link *link, uint64_t sid, int jetstream)
{
    struct mcore_inbox *inbox = calloc(1, sizeof(*inbox));
    if (inbox == NULL)
        return NULL;
    inbox->link = link;
    inbox->sid = sid;
    inbox->is_jetstream = jetstream != 0;
    inbox->most_messages = UINT64_MAX;
    inbox->most_bytes = MCORE_INBOX_BYTES;
    inbox->wanted_messages = UINT64_MAX;
    inbox->wanted_statuses = UINT64_MAX;
    mcore_cond_init(&inbox->cond);
    /* Looked at under the outbox lock: an inbox made after a detach belongs to no connection and is closed. */
    inbox->closed = !mcore_link_is_up(link);
    pthread_mutex_lock(&link->inbox_lock);
    inbox->next = link->inboxes;
    link->inboxes = inbox;
    pthread_mutex_unlock(&link->inbox_lock);
    return inbox;
}

void mcore_inbox_free(struct mcore_inbox *inbox)
{
    if (inbox == NULL)
        return;
    struct mcore_link *link = inbox->link;
    pthread_mutex_lock(&link->inbox_lock);
    struct mcore_inbox **place = &link->inboxes;
    while (*place != NULL && *place != inbox)
        place = &(*place)->next;
    if (*place == inbox)
        *place = inbox->next;
    pthread_mutex_unlock(&link->inbox_lock);
    pthread_cond_destroy(&inbox->cond);
    mcore_buffer_free(&inbox->records);
    free(inbox);
}

static bool is_satisfied(const struct mcore_inbox *inbox, uint64_t messages, uint64_t statuses)
{
    return inbox->messages >= messages || inbox->statuses >= statuses || inbox->woken;
}

static bool is_the_servers(const uint8_t *data, struct mcore_span reply)
{
    return reply.len >= sizeof(ack_prefix) - 1 && memcmp(data + reply.off, ack_prefix, sizeof(ack_prefix) - 1) == 0;
}

/* Whether it was asked for, and there is room; a status has room of its own, so that messages never hide the end. */
static bool is_expected(const struct mcore_inbox *inbox, const uint8_t *data, struct mcore_span reply, size_t bytes,
                        int status)
{
    if (status != 0)
        return inbox->held_statuses < MCORE_INBOX_STATUSES && bytes <= MCORE_INBOX_STATUS_BYTES;
    return inbox->messages < inbox->most_messages && inbox->held_bytes <= inbox->most_bytes &&
           bytes <= inbox->most_bytes - inbox->held_bytes && (!inbox->is_jetstream || is_the_servers(data, reply));
}

static uint8_t *put(uint8_t *out, const uint8_t *data, struct mcore_span span)
{
    if (span.len > 0)
        memcpy(out, data + span.off, span.len);
    return out + span.len;
}

void mcore_inbox_put_locked(struct mcore_link *link, const uint8_t *data, const struct mcore_event *event, int status)
{
    struct mcore_inbox *inbox = link->inboxes;
    while (inbox != NULL && inbox->sid != event->sid)
        inbox = inbox->next;
    size_t bytes = event->subject.len + event->reply.len + event->headers.len + event->payload.len;
    size_t size = (sizeof(struct mcore_record) + bytes + 7) / 8 * 8;
    if (inbox == NULL)
        return;
    if (!is_expected(inbox, data, event->reply, bytes, status)) {
        inbox->dropped++;
        return;
    }
    /* In one step to what came last time: doubling from little would copy each record several times. */
    if (inbox->records.cap == 0 && inbox->usual > size)
        mcore_buffer_reserve(&inbox->records, inbox->usual);
    if (size <= UINT32_MAX && mcore_buffer_reserve(&inbox->records, size)) {
        uint8_t *out = inbox->records.data + inbox->records.len;
        struct mcore_record record = {(uint32_t)size,
                                      (uint32_t)event->subject.len,
                                      (uint32_t)event->reply.len,
                                      (uint32_t)event->headers.len,
                                      (uint32_t)event->payload.len,
                                      status,
                                      __atomic_load_n(&link->heard_ns, __ATOMIC_RELAXED)};
        memcpy(out, &record, sizeof(record));
        out = put(out + sizeof(record), data, event->subject);
        out = put(out, data, event->reply);
        out = put(out, data, event->headers);
        put(out, data, event->payload);
        inbox->records.len += size;
        inbox->count++;
        if (status == 0) {
            inbox->messages++;
            inbox->held_bytes += bytes;
        } else {
            inbox->statuses++;
            inbox->held_statuses++;
        }
        if (is_satisfied(inbox, inbox->wanted_messages, inbox->wanted_statuses))
            link->inbox_ready = true;
    }
}

void mcore_inbox_unlock(struct mcore_link *link)
{
    if (link->inbox_ready) {
        link->inbox_ready = false;
        for (struct mcore_inbox *inbox = link->inboxes; inbox != NULL; inbox = inbox->next)
            if (is_satisfied(inbox, inbox->wanted_messages, inbox->wanted_statuses))
                pthread_cond_signal(&inbox->cond);
    }
    pthread_mutex_unlock(&link->inbox_lock);
}

void mcore_inbox_expect(struct mcore_inbox *inbox, uint64_t messages, uint64_t bytes)
{
    pthread_mutex_lock(&inbox->link->inbox_lock);
    inbox->most_messages = messages;
    inbox->most_bytes = bytes;
    pthread_mutex_unlock(&inbox->link->inbox_lock);
}

uint64_t mcore_inbox_dropped(struct mcore_inbox *inbox)
{
    pthread_mutex_lock(&inbox->link->inbox_lock);
    uint64_t dropped = inbox->dropped;
    pthread_mutex_unlock(&inbox->link->inbox_lock);
    return dropped;
}

void mcore_inbox_wake(struct mcore_inbox *inbox)
{
    pthread_mutex_lock(&inbox->link->inbox_lock);
    inbox->woken = true;
    pthread_cond_signal(&inbox->cond);
    pthread_mutex_unlock(&inbox->link->inbox_lock);
}

int mcore_inbox_is_closed(struct mcore_inbox *inbox)
{
    pthread_mutex_lock(&inbox->link->inbox_lock);
    int closed = inbox->closed;
    pthread_mutex_unlock(&inbox->link->inbox_lock);
    return closed;
}

void mcore_inbox_close_all(struct mcore_link *link)
{
    pthread_mutex_lock(&link->inbox_lock);
    for (struct mcore_inbox *inbox = link->inboxes; inbox != NULL; inbox = inbox->next) {
        inbox->closed = true;
        pthread_cond_signal(&inbox->cond);
    }
    pthread_mutex_unlock(&link->inbox_lock);
}

int mcore_inbox_wait(struct mcore_inbox *inbox, uint64_t messages, uint64_t statuses, int64_t timeout_ns)
{
    int64_t until = mcore_deadline_after(timeout_ns);
    int result = MCORE_OK;
    pthread_mutex_t *lock = &inbox->link->inbox_lock;
    pthread_mutex_lock(lock);
    inbox->wanted_messages = messages;
    inbox->wanted_statuses = statuses;
    while (!is_satisfied(inbox, messages, statuses)) {
        if (inbox->closed) {
            result = MCORE_E_CLOSED;
            break;
        }
        if (mcore_cond_wait_until(&inbox->cond, lock, until) == ETIMEDOUT) {
            result = is_satisfied(inbox, messages, statuses) ? MCORE_OK : MCORE_E_TIMEOUT;
            break;
        }
    }
    inbox->woken = false;
    inbox->wanted_messages = UINT64_MAX;
    inbox->wanted_statuses = UINT64_MAX;
    pthread_mutex_unlock(lock);
    return result;
}

long mcore_inbox_take(struct mcore_inbox *inbox, uint8_t **data, size_t *len)
{
    pthread_mutex_lock(&inbox->link->inbox_lock);
    long count = inbox->count;
    *data = inbox->records.data;
    *len = inbox->records.len;
    inbox->usual = inbox->records.len < MAX_USUAL ? inbox->records.len : MAX_USUAL;
    memset(&inbox->records, 0, sizeof(inbox->records));
    inbox->count = 0;
    inbox->held_bytes = 0;
    inbox->held_statuses = 0;
    pthread_mutex_unlock(&inbox->link->inbox_lock);
    return count;
}
