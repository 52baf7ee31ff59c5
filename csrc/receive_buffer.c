/*
 * What was received for a subscription, kept as one growing block of records that its taker gets whole.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core_internal.h"

#define MAX_USUAL (4u * 1024u * 1024u) /* one large batch is no reason to hold more for the small ones after it */

static const char ack_prefix[] = "$JS.ACK.";

struct mcore_receive_buffer *mcore_receive_buffer_new(struct mcore_link *link, uint64_t sid, int jetstream)
{
    struct mcore_receive_buffer *buffer = calloc(1, sizeof(*buffer));
    if (buffer == NULL)
        return NULL;
    buffer->link = link;
    buffer->sid = sid;
    buffer->is_jetstream = jetstream != 0;
    buffer->most_messages = UINT64_MAX;
    buffer->most_bytes = MCORE_RECEIVE_BUFFER_BYTES;
    buffer->wanted_messages = UINT64_MAX;
    buffer->wanted_statuses = UINT64_MAX;
    mcore_cond_init(&buffer->cond);
    /* Looked at under the outbox lock: a buffer made after a detach belongs to no connection and is closed. */
    pthread_mutex_lock(&link->outbox->lock);
    buffer->closed = !link->up;
    pthread_mutex_unlock(&link->outbox->lock);
    pthread_mutex_lock(&link->receive_lock);
    buffer->next = link->receive_buffers;
    link->receive_buffers = buffer;
    pthread_mutex_unlock(&link->receive_lock);
    return buffer;
}

void mcore_receive_buffer_free(struct mcore_receive_buffer *buffer)
{
    if (buffer == NULL)
        return;
    struct mcore_link *link = buffer->link;
    pthread_mutex_lock(&link->receive_lock);
    struct mcore_receive_buffer **place = &link->receive_buffers;
    while (*place != NULL && *place != buffer)
        place = &(*place)->next;
    if (*place == buffer)
        *place = buffer->next;
    pthread_mutex_unlock(&link->receive_lock);
    pthread_cond_destroy(&buffer->cond);
    mcore_buffer_free(&buffer->records);
    free(buffer);
}

static bool is_satisfied(const struct mcore_receive_buffer *buffer, uint64_t messages, uint64_t statuses)
{
    return buffer->messages >= messages || buffer->statuses >= statuses || buffer->woken;
}

static bool is_the_servers(const uint8_t *data, struct mcore_span reply)
{
    return reply.len >= sizeof(ack_prefix) - 1 && memcmp(data + reply.off, ack_prefix, sizeof(ack_prefix) - 1) == 0;
}

/* Whether it was asked for, and there is room; a status has room of its own, so that messages never hide the end. */
static bool is_expected(const struct mcore_receive_buffer *buffer, const uint8_t *data, struct mcore_span reply,
                        size_t bytes, int status)
{
    if (status != 0)
        return buffer->held_statuses < MCORE_RECEIVE_BUFFER_STATUSES && bytes <= MCORE_RECEIVE_BUFFER_STATUS_BYTES;
    return buffer->messages < buffer->most_messages && buffer->held_bytes <= buffer->most_bytes &&
           bytes <= buffer->most_bytes - buffer->held_bytes && (!buffer->is_jetstream || is_the_servers(data, reply));
}

static uint8_t *put(uint8_t *out, const uint8_t *data, struct mcore_span span)
{
    if (span.len > 0)
        memcpy(out, data + span.off, span.len);
    return out + span.len;
}

void mcore_receive_buffer_put_locked(struct mcore_link *link, const uint8_t *data, const struct mcore_event *event,
                                     int status)
{
    struct mcore_receive_buffer *buffer = link->receive_buffers;
    while (buffer != NULL && buffer->sid != event->sid)
        buffer = buffer->next;
    size_t bytes = event->subject.len + event->reply.len + event->headers.len + event->payload.len;
    size_t size = (sizeof(struct mcore_record) + bytes + 7) / 8 * 8;
    if (buffer == NULL)
        return;
    if (!is_expected(buffer, data, event->reply, bytes, status)) {
        buffer->dropped++;
        return;
    }
    /* In one step to what came last time: doubling from little would copy each record several times. */
    if (buffer->records.cap == 0 && buffer->usual > size)
        mcore_buffer_reserve(&buffer->records, buffer->usual);
    if (size <= UINT32_MAX && mcore_buffer_reserve(&buffer->records, size)) {
        uint8_t *out = buffer->records.data + buffer->records.len;
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
        buffer->records.len += size;
        buffer->count++;
        if (status == 0) {
            buffer->messages++;
            buffer->held_bytes += bytes;
        } else {
            buffer->statuses++;
            buffer->held_statuses++;
        }
        if (is_satisfied(buffer, buffer->wanted_messages, buffer->wanted_statuses))
            link->receive_ready = true;
    }
}

void mcore_receive_buffer_unlock(struct mcore_link *link)
{
    if (link->receive_ready) {
        link->receive_ready = false;
        for (struct mcore_receive_buffer *buffer = link->receive_buffers; buffer != NULL; buffer = buffer->next)
            if (is_satisfied(buffer, buffer->wanted_messages, buffer->wanted_statuses))
                pthread_cond_signal(&buffer->cond);
    }
    pthread_mutex_unlock(&link->receive_lock);
    mcore_bell_ring();
}

void mcore_receive_buffer_expect(struct mcore_receive_buffer *buffer, uint64_t messages, uint64_t bytes)
{
    pthread_mutex_lock(&buffer->link->receive_lock);
    buffer->most_messages = messages;
    buffer->most_bytes = bytes;
    pthread_mutex_unlock(&buffer->link->receive_lock);
}

uint64_t mcore_receive_buffer_dropped(struct mcore_receive_buffer *buffer)
{
    pthread_mutex_lock(&buffer->link->receive_lock);
    uint64_t dropped = buffer->dropped;
    pthread_mutex_unlock(&buffer->link->receive_lock);
    return dropped;
}

void mcore_receive_buffer_wake(struct mcore_receive_buffer *buffer)
{
    pthread_mutex_lock(&buffer->link->receive_lock);
    buffer->woken = true;
    pthread_cond_signal(&buffer->cond);
    pthread_mutex_unlock(&buffer->link->receive_lock);
    mcore_bell_ring();
}

int mcore_receive_buffer_is_closed(struct mcore_receive_buffer *buffer)
{
    pthread_mutex_lock(&buffer->link->receive_lock);
    int closed = buffer->closed;
    pthread_mutex_unlock(&buffer->link->receive_lock);
    return closed;
}

void mcore_receive_buffer_close_all(struct mcore_link *link)
{
    pthread_mutex_lock(&link->receive_lock);
    for (struct mcore_receive_buffer *buffer = link->receive_buffers; buffer != NULL; buffer = buffer->next) {
        buffer->closed = true;
        pthread_cond_signal(&buffer->cond);
    }
    pthread_mutex_unlock(&link->receive_lock);
    mcore_bell_ring();
}

int mcore_receive_buffer_wait(struct mcore_receive_buffer *buffer, uint64_t messages, uint64_t statuses,
                              int64_t timeout_ns)
{
    int64_t until = mcore_deadline_after(timeout_ns);
    int result = MCORE_OK;
    pthread_mutex_t *lock = &buffer->link->receive_lock;
    pthread_mutex_lock(lock);
    buffer->wanted_messages = messages;
    buffer->wanted_statuses = statuses;
    while (!is_satisfied(buffer, messages, statuses)) {
        if (buffer->closed) {
            result = MCORE_E_CLOSED;
            break;
        }
        if (mcore_cond_wait_until(&buffer->cond, lock, until) == ETIMEDOUT) {
            result = is_satisfied(buffer, messages, statuses) ? MCORE_OK : MCORE_E_TIMEOUT;
            break;
        }
    }
    buffer->woken = false;
    buffer->wanted_messages = UINT64_MAX;
    buffer->wanted_statuses = UINT64_MAX;
    pthread_mutex_unlock(lock);
    return result;
}

long mcore_receive_buffer_take(struct mcore_receive_buffer *buffer, uint8_t **data, size_t *len)
{
    pthread_mutex_lock(&buffer->link->receive_lock);
    long count = buffer->count;
    *data = buffer->records.data;
    *len = buffer->records.len;
    buffer->usual = buffer->records.len < MAX_USUAL ? buffer->records.len : MAX_USUAL;
    memset(&buffer->records, 0, sizeof(buffer->records));
    uint64_t messages = buffer->is_jetstream ? (uint64_t)count - buffer->held_statuses : 0;
    buffer->count = 0;
    buffer->held_bytes = 0;
    buffer->held_statuses = 0;
    pthread_mutex_unlock(&buffer->link->receive_lock);
    if (messages > 0) {
        pthread_mutex_lock(&buffer->link->outbox->lock);
        buffer->link->outbox->stats.received += messages;
        pthread_mutex_unlock(&buffer->link->outbox->lock);
    }
    return count;
}
