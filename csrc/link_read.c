/*
 * What comes in over a link, and the loop that reads it from a plain TCP socket. Where somebody else holds the bytes (TLS),
 * that one gives mcore_link_feed() what it read; the plain loop stands on the same steps.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "core_internal.h"

#define READ_BYTES (256u * 1024u)
#define EVENTS 256

/*
 * The slot number at the end of _INBOX.<token>.<slot>; with the lane's letter before it in the express lane. Anybody can
 * publish there: a number that the lane has not given yet is none. outbox->lock held.
 */
static bool slot_of(const struct mcore_outbox *outbox, const uint8_t *subject, size_t len, uint64_t *slot)
{
    const struct mcore_send_log *lane = &outbox->lanes[MCORE_BULK];
    if (len > lane->inbox_len && subject[lane->inbox_len] == 'e')
        lane = &outbox->lanes[MCORE_EXPRESS_LANE];
    if (len <= lane->inbox_len || len > lane->inbox_len + MCORE_MAX_U64_DIGITS)
        return false;
    uint64_t value = 0;
    for (size_t i = lane->inbox_len; i < len; i++) {
        if (subject[i] < '0' || subject[i] > '9' || value >= lane->log->tail_slot)
            return false;
        value = value * 10 + (uint64_t)(subject[i] - '0'); /* no overflow: a lane does not live to see slot 1 << 60 */
    }
    if (value >= lane->log->tail_slot)
        return false;
    *slot = value | lane->tag;
    return true;
}

static int status_of(const uint8_t *data, const struct mcore_event *event)
{
    if (event->kind != MCORE_EV_HMSG)
        return 0;
    /* "NATS/1.0 503...": the status stands at a fixed place; a block without one has CR there. */
    const uint8_t *block = data + event->headers.off;
    if (event->headers.len < 14 || block[8] != ' ')
        return 0;
    int status = 0;
    for (size_t i = 9; i < 12; i++) {
        if (block[i] < '0' || block[i] > '9') /* isdigit() asks the locale */
            return 0;
        status = status * 10 + (block[i] - '0');
    }
    return status;
}

static void keep_text(struct mcore_link *link, const uint8_t *text, size_t len)
{
    size_t cut = len < sizeof(link->text) - 1 ? len : sizeof(link->text) - 1;
    memcpy(link->text, text, cut);
    link->text[cut] = '\0';
}

static void control_event_locked(struct mcore_link *link, const uint8_t *data, const struct mcore_event *event)
{
    switch (event->kind) {
    case MCORE_EV_PING:
        /* One PONG tells a server that all before it were heard as well (nats-server, processPong). */
        if (link->pongs_queued < MCORE_MAX_PONGS && mcore_link_control_locked(link, "PONG\r\n", 6) == MCORE_OK) {
            link->pongs_queued++;
            mcore_outbox_wake_sender_locked(link->outbox);
        }
        break;
    case MCORE_EV_PONG:
        link->pongs++;
        if (link->pong_waiters > 0)
            pthread_cond_broadcast(&link->pong);
        break;
    case MCORE_EV_INFO:
        /* Written by Go's encoder, which leaves no blanks. */
        if (memmem(data + event->payload.off, event->payload.len, "\"ldm\":true", 10) != NULL)
            link->is_lame_duck = true;
        break;
    case MCORE_EV_ERR: keep_text(link, data + event->payload.off, event->payload.len); break;
    default: break;
    }
}

static void handle_events(struct mcore_link *link, const uint8_t *data, const struct mcore_event *events, long count)
{
    struct mcore_outbox *outbox = link->outbox;
    enum { NONE, OUTBOX, RECEIVE_BUFFERS } locked = NONE; /* kept for as long as events need the same one */
    for (long i = 0; i < count; i++) {
        const struct mcore_event *event = &events[i];
        bool is_message = event->kind == MCORE_EV_MSG || event->kind == MCORE_EV_HMSG;
        bool is_for_buffer = is_message && event->sid != 1;
        if (is_for_buffer && locked != RECEIVE_BUFFERS) {
            if (locked == OUTBOX)
                mcore_outbox_unlock(outbox);
            pthread_mutex_lock(&link->receive_lock);
            locked = RECEIVE_BUFFERS;
        } else if (!is_for_buffer && locked != OUTBOX) {
            if (locked == RECEIVE_BUFFERS)
                mcore_receive_buffer_unlock(link);
            pthread_mutex_lock(&outbox->lock);
            locked = OUTBOX;
        }
        if (is_for_buffer) {
            mcore_receive_buffer_put_locked(link, data, event, status_of(data, event));
            continue;
        }
        uint64_t slot;
        if (!is_message)
            control_event_locked(link, data, event);
        else if (slot_of(outbox, data + event->subject.off, event->subject.len, &slot))
            mcore_outbox_ack_locked(outbox, slot, status_of(data, event), data + event->payload.off,
                                    event->payload.len);
    }
    if (locked == OUTBOX)
        mcore_outbox_unlock(outbox);
    else if (locked == RECEIVE_BUFFERS)
        mcore_receive_buffer_unlock(link);
}

static void keep_offending(struct mcore_link *link, const uint8_t *data, size_t len)
{
    char shown[sizeof(link->text)];
    size_t used = 0;
    for (size_t i = 0; i < len && i < 64; i++)
        used += (size_t)snprintf(shown + used, sizeof(shown) - used,
                                 data[i] >= 0x20 && data[i] < 0x7f && data[i] != '\\' ? "%c" : "\\x%02x", data[i]);
    pthread_mutex_lock(&link->outbox->lock);
    keep_text(link, (const uint8_t *)shown, used);
    pthread_mutex_unlock(&link->outbox->lock);
}

/* Parses what is in the input buffer. Returns false when the peer broke the protocol. */
static bool consume(struct mcore_link *link)
{
    struct mcore_buffer *input = &link->input;
    struct mcore_event events[EVENTS];
    size_t start = 0;
    for (;;) {
        size_t consumed = 0;
        long count = mcore_parse(&link->parser, input->data + start, input->len - start, events, EVENTS, &consumed);
        if (count < 0) {
            keep_offending(link, input->data + start + consumed, input->len - start - consumed);
            return false;
        }
        if (count == 0) /* not count < EVENTS: good frames come before the error of the one behind them */
            break;
        handle_events(link, input->data + start, events, count);
        start += consumed;
    }
    input->len -= start;
    if (start > 0 && input->len > 0)
        memmove(input->data, input->data + start, input->len);
    return true;
}

static int end_of(struct mcore_link *link, bool eof, int error)
{
    struct mcore_outbox *outbox = link->outbox;
    pthread_mutex_lock(&outbox->lock);
    int end;
    if (link->stopping)
        end = MCORE_LINK_STOPPED;
    else if (link->is_lame_duck)
        end = MCORE_LINK_LAME;
    else if (link->text[0] != '\0')
        end = MCORE_LINK_SERVER;
    else if (link->last_errno != 0)
        end = MCORE_LINK_ERRNO; /* the sender saw it first */
    else
        end = eof ? MCORE_LINK_EOF : MCORE_LINK_ERRNO;
    if (end == MCORE_LINK_ERRNO && link->last_errno == 0)
        link->last_errno = error;
    link->up = false;
    pthread_mutex_unlock(&outbox->lock);
    return end;
}

/* Makes room for what the parser waits for, and for at least so many bytes. */
static bool reserve_input(struct mcore_link *link, size_t bytes)
{
    size_t want = link->parser.need > link->input.len ? link->parser.need - link->input.len : 0;
    return mcore_buffer_reserve(&link->input, want > bytes ? want : bytes);
}

/* So many bytes have come into the input buffer. Returns MCORE_LINK_GOES_ON, or the connection's end. */
static int received(struct mcore_link *link, size_t count)
{
    __atomic_store_n(&link->heard_ns, mcore_now_ns(), __ATOMIC_RELAXED);
    link->input.len += count;
    if (!consume(link)) {
        pthread_mutex_lock(&link->outbox->lock);
        mcore_link_broken_locked(link, EPROTO);
        pthread_mutex_unlock(&link->outbox->lock);
        return MCORE_LINK_PROTOCOL;
    }
    return link->is_lame_duck ? end_of(link, true, 0) : MCORE_LINK_GOES_ON;
}

/* The socket, -1 when there is none to read from. */
static int readable_fd(struct mcore_link *link)
{
    pthread_mutex_lock(&link->outbox->lock);
    int fd = link->stopping ? -1 : link->fd;
    pthread_mutex_unlock(&link->outbox->lock);
    return fd;
}

int mcore_link_read_loop(struct mcore_link *link)
{
    int fd = readable_fd(link);
    if (fd < 0)
        return MCORE_LINK_STOPPED;
    int end = received(link, 0); /* what the handshake has read too far */
    while (end == MCORE_LINK_GOES_ON) {
        if (!reserve_input(link, READ_BYTES))
            return end_of(link, false, ENOMEM);
        ssize_t count = recv(fd, link->input.data + link->input.len, link->input.cap - link->input.len, 0);
        if (count > 0)
            end = received(link, (size_t)count);
        else if (count == 0 || errno != EINTR)
            end = end_of(link, count == 0, errno);
    }
    return end;
}

int mcore_link_feed(struct mcore_link *link, const uint8_t *data, size_t len)
{
    if (readable_fd(link) < 0)
        return MCORE_LINK_STOPPED;
    if (!reserve_input(link, len))
        return end_of(link, false, ENOMEM);
    if (len > 0)
        memcpy(link->input.data + link->input.len, data, len);
    return received(link, len);
}

int mcore_link_ended(struct mcore_link *link, int error)
{
    return end_of(link, error == 0, error);
}
