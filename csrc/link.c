/*
 * A link's state: attach and detach, control frames, acks, what the loops share. The loops are in link_write.c and link_read.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core_internal.h"

#define KEPT_BYTES (1024u * 1024u)

struct mcore_link *mcore_link_new(struct mcore_outbox *outbox, size_t max_payload, int64_t ping_interval_ns,
                                  int sans_io)
{
    struct mcore_link *link = calloc(1, sizeof(*link));
    if (link == NULL)
        return NULL;
    link->outbox = outbox;
    link->fd = -1;
    link->ping_interval_ns = ping_interval_ns;
    link->sans_io = sans_io != 0;
    mcore_parser_init(&link->parser, 0, max_payload);
    mcore_cond_init(&link->quiet);
    mcore_cond_init(&link->pong);
    pthread_mutex_init(&link->receive_lock, NULL);
    return link;
}

void mcore_link_free(struct mcore_link *link)
{
    if (link == NULL)
        return;
    mcore_buffer_free(&link->control);
    mcore_buffer_free(&link->acks);
    mcore_buffer_free(&link->sending);
    mcore_buffer_free(&link->input);
    pthread_cond_destroy(&link->quiet);
    pthread_cond_destroy(&link->pong);
    pthread_mutex_destroy(&link->receive_lock);
    free(link);
}

void mcore_link_release(struct mcore_link *link)
{
    pthread_mutex_lock(&link->outbox->lock);
    if (link->stopping && !link->up && !link->writing) {
        link->current_len = 0;
        mcore_buffer_free(&link->control);
        mcore_buffer_free(&link->acks);
        mcore_buffer_free(&link->sending);
        mcore_buffer_free(&link->input);
    }
    pthread_mutex_unlock(&link->outbox->lock);
}

static void lock(struct mcore_link *link)
{
    pthread_mutex_lock(&link->outbox->lock);
}

static void unlock(struct mcore_link *link)
{
    pthread_mutex_unlock(&link->outbox->lock);
}

static bool control_add(struct mcore_link *link, const void *data, size_t len)
{
    if (!mcore_buffer_reserve(&link->control, len))
        return false;
    if (len > 0)
        memcpy(link->control.data + link->control.len, data, len);
    link->control.len += len;
    return true;
}

/* Whether so much is queued that the peer cannot be taking anything; its connection is ended then. */
static bool is_clogged(struct mcore_link *link)
{
    if (link->control.len + link->acks.len < MCORE_CONTROL_BYTES)
        return false;
    mcore_link_broken_locked(link, ENOBUFS);
    return true;
}

void mcore_link_broken_locked(struct mcore_link *link, int error)
{
    if (link->up) {
        link->last_errno = error;
        link->up = false;
        shutdown(link->fd, SHUT_RDWR); /* the reader sees the end and tells its caller */
    }
}

int mcore_link_control_locked(struct mcore_link *link, const void *data, size_t len)
{
    if (!link->up || is_clogged(link))
        return MCORE_E_CLOSED;
    return control_add(link, data, len) ? MCORE_OK : MCORE_E_MEMORY;
}

/* A connection that has ended leaves no more memory behind than the next one needs. */
static void empty(struct mcore_buffer *buffer)
{
    buffer->len = 0;
    if (buffer->cap > KEPT_BYTES)
        mcore_buffer_free(buffer);
}

int mcore_link_attach(struct mcore_link *link, int fd, const uint8_t *first, size_t first_len, const uint8_t *rest,
                      size_t rest_len)
{
    int result = MCORE_OK;
    lock(link);
    if (link->stopping || link->fd >= 0) {
        result = MCORE_E_CLOSED;
    } else {
        mcore_parser_reset(&link->parser);
        empty(&link->input);
        link->control.len = 0;
        link->acks.len = 0;
        link->pongs_queued = 0;
        if (!control_add(link, first, first_len) || !mcore_buffer_reserve(&link->input, rest_len + 65536)) {
            result = MCORE_E_MEMORY;
        } else {
            if (rest_len > 0)
                memcpy(link->input.data, rest, rest_len);
            link->input.len = rest_len;
            link->current = NULL;
            link->current_len = 0;
            link->pings = 0;
            link->pongs = 0;
            link->is_lame_duck = false;
            link->wake_requested = false;
            link->asked_ns = 0;
            __atomic_store_n(&link->heard_ns, mcore_now_ns(), __ATOMIC_RELAXED);
            link->last_errno = 0;
            link->text[0] = '\0';
            link->fd = fd;
            link->up = true;
            link->connection++;
            pthread_cond_broadcast(&link->outbox->work);
        }
    }
    unlock(link);
    return result;
}

uint64_t mcore_link_detach(struct mcore_link *link)
{
    struct mcore_outbox *outbox = link->outbox;
    lock(link);
    link->up = false;
    if (link->fd >= 0)
        shutdown(link->fd, SHUT_RDWR); /* wakes a thread in send() or recv() */
    while (link->writing)
        pthread_cond_wait(&link->quiet, &outbox->lock);
    link->fd = -1;
    link->current = NULL;
    link->current_len = 0;
    link->pongs_queued = 0;
    empty(&link->control);
    empty(&link->acks); /* the broker delivers those messages again */
    empty(&link->sending);
    mcore_outbox_run_done_locked(outbox);
    uint64_t in_flight = mcore_outbox_rewind_locked(outbox);
    pthread_cond_broadcast(&link->pong);
    unlock(link);
    mcore_receive_buffer_close_all(link);
    return in_flight;
}

void mcore_link_stop(struct mcore_link *link)
{
    lock(link);
    link->stopping = true;
    link->up = false;
    if (link->fd >= 0)
        shutdown(link->fd, SHUT_RDWR);
    pthread_cond_broadcast(&link->outbox->work);
    pthread_cond_broadcast(&link->pong);
    unlock(link);
    mcore_bell_ring();
}

int mcore_link_is_up(struct mcore_link *link)
{
    lock(link);
    int up = link->up;
    unlock(link);
    return up;
}

int mcore_link_control(struct mcore_link *link, const uint8_t *data, size_t len)
{
    lock(link);
    int result = mcore_link_control_locked(link, data, len);
    if (result == MCORE_OK)
        mcore_outbox_wake_sender_locked(link->outbox);
    unlock(link);
    return result;
}

void mcore_link_gather_acks_locked(struct mcore_link *link)
{
    if (link->acks.len > 0 && control_add(link, link->acks.data, link->acks.len))
        link->acks.len = 0;
}

/* Acks go out when the first of them has waited so long, or at once when they are so many bytes: about 400 of them. */
#define ACKS_WAIT_NS INT64_C(1000000)
#define ACKS_MANY (32u * 1024u)

/* By JetStream's words: "+ACK", which may be left out, "-NAK", "+TERM"; "+WPI" ends no delivery. */
static void count_ack_locked(struct mcore_stats *stats, const uint8_t *payload, size_t payload_len)
{
    if (payload_len < 2 || payload[1] == 'A')
        stats->acked++;
    else if (payload[1] == 'N')
        stats->given_back++;
    else if (payload[1] == 'T')
        stats->dead_lettered++;
}

void mcore_link_count_ack(struct mcore_link *link, const uint8_t *payload, size_t payload_len)
{
    lock(link);
    count_ack_locked(&link->outbox->stats, payload, payload_len);
    unlock(link);
}

int mcore_link_publish(struct mcore_link *link, const uint8_t *subject, size_t subject_len, const uint8_t *payload,
                       size_t payload_len)
{
    int result = MCORE_OK;
    size_t size = mcore_pub_size(subject_len, 0, payload_len);
    lock(link);
    struct mcore_buffer *acks = &link->acks;
    if (!link->up || is_clogged(link)) {
        result = MCORE_E_CLOSED;
    } else if (!mcore_buffer_reserve(acks, size)) {
        result = MCORE_E_MEMORY;
    } else {
        if (acks->len == 0)
            link->acks_due_ns = mcore_now_ns() + ACKS_WAIT_NS;
        long written =
            mcore_pub_write(acks->data + acks->len, size, subject, subject_len, NULL, 0, payload, payload_len);
        if (written < 0) {
            result = (int)written;
        } else {
            acks->len += (size_t)written;
            count_ack_locked(&link->outbox->stats, payload, payload_len);
        }
        if (acks->len >= ACKS_MANY)
            link->acks_due_ns = 0;
        if (link->acks_due_ns < link->outbox->sender_until_ns)
            mcore_outbox_wake_sender_locked(link->outbox);
    }
    unlock(link);
    return result;
}

int64_t mcore_link_ping(struct mcore_link *link)
{
    int64_t number = MCORE_E_CLOSED;
    lock(link);
    mcore_link_gather_acks_locked(link);
    if (mcore_link_control_locked(link, "PING\r\n", 6) == MCORE_OK) {
        number = ++link->pings;
        mcore_outbox_wake_sender_locked(link->outbox);
    }
    unlock(link);
    return number;
}

int mcore_link_wait_pong(struct mcore_link *link, int64_t number, int64_t timeout_ns)
{
    int64_t until = mcore_deadline_after(timeout_ns);
    int result = MCORE_OK;
    lock(link);
    uint64_t connection = link->connection;
    link->pong_waiters++;
    while (link->pongs < number) {
        if (!link->up || link->connection != connection) {
            result = MCORE_E_CLOSED;
            break;
        }
        if (mcore_cond_wait_until(&link->pong, &link->outbox->lock, until) != 0 && link->pongs < number) {
            result = MCORE_E_TIMEOUT;
            break;
        }
    }
    link->pong_waiters--;
    unlock(link);
    return result;
}

int mcore_link_errno(struct mcore_link *link)
{
    lock(link);
    int error = link->last_errno;
    unlock(link);
    return error;
}

size_t mcore_link_text(struct mcore_link *link, char *text, size_t cap)
{
    lock(link);
    size_t len = strlen(link->text);
    if (cap > 0) {
        size_t cut = len < cap - 1 ? len : cap - 1;
        memcpy(text, link->text, cut);
        text[cut] = '\0';
    }
    unlock(link);
    return len;
}
