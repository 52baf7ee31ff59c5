/*
 * The two loops of a plain TCP link, and the write step that a blocking caller may take in the sender's place.
 *
 * One thread writes at a time (`writing`). What is being written is `current`: control frames moved to `sending`, or a run
 * of the log. A write that the socket took only in part leaves the rest in `current`, and nothing else is written before
 * it, so frames never mix.
 */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "core_internal.h"

/* Large enough that the system call is cheap, small enough that an urgent control frame waits for little. */
#define RUN_BYTES (256u * 1024u)
#define READ_BYTES (256u * 1024u)
#define EVENTS 256
/* A thread in poll() is not woken by an earlier deadline that comes: with the socket full it looks again after so long. */
#define FULL_LOOK_NS INT64_C(50000000)

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

/* ---- writing ------------------------------------------------------------------------------------------------------ */

/* Chooses what to write next; lock held. False: nothing to do. */
static bool next_current(struct mcore_link *link)
{
    if (link->current_len > 0)
        return true;
    if (link->control.len > 0) {
        struct mcore_buffer swap = link->sending;
        link->sending = link->control;
        link->control = swap;
        link->control.len = 0;
        link->current = link->sending.data;
        link->current_len = link->sending.len;
        link->current_is_run = false;
        return true;
    }
    if (!mcore_outbox_has_run_locked(link->outbox))
        return false;
    size_t len = 0;
    const uint8_t *data = NULL;
    if (mcore_outbox_run_take_locked(link->outbox, RUN_BYTES, &data, &len) <= 0)
        return false;
    link->current = data;
    link->current_len = len;
    link->current_is_run = true;
    return true;
}

static void current_written(struct mcore_link *link, size_t count)
{
    link->current += count;
    link->current_len -= count;
    if (link->current_len == 0 && link->current_is_run)
        mcore_outbox_run_done_locked(link->outbox);
}

static void broken(struct mcore_link *link, int error)
{
    if (link->up) {
        link->last_errno = error;
        link->up = false;
        shutdown(link->fd, SHUT_RDWR); /* the reader sees the end and tells its caller */
    }
}

/*
 * Writes what there is until the socket takes no more; lock held on entry and return, released while writing.
 * Returns true when the socket is full.
 */
static bool write_some(struct mcore_link *link)
{
    struct mcore_outbox *outbox = link->outbox;
    bool full = false;
    link->writing = true;
    while (link->up && !full && next_current(link)) {
        const uint8_t *data = link->current;
        size_t len = link->current_len;
        int fd = link->fd;
        pthread_mutex_unlock(&outbox->lock);
        ssize_t count = send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        int error = errno;
        pthread_mutex_lock(&outbox->lock);
        if (count >= 0)
            current_written(link, (size_t)count);
        else if (error == EAGAIN || error == EWOULDBLOCK)
            full = true;
        else if (error != EINTR)
            broken(link, error);
    }
    link->writing = false;
    pthread_cond_broadcast(&link->quiet);
    return full;
}

/* Waits until the socket takes bytes again, or a deadline is due; lock held on entry and return. */
static void wait_writable(struct mcore_link *link)
{
    struct mcore_outbox *outbox = link->outbox;
    int64_t due = mcore_outbox_next_due_locked(outbox);
    int64_t left = due == MCORE_NEVER ? FULL_LOOK_NS : due - mcore_now_ns();
    int timeout_ms = left <= 0 ? 0 : left > FULL_LOOK_NS ? (int)(FULL_LOOK_NS / 1000000) : (int)(left / 1000000) + 1;
    struct pollfd poller = {.fd = link->fd, .events = POLLOUT};
    link->writing = true; /* keeps detach() from letting the socket go */
    pthread_mutex_unlock(&outbox->lock);
    poll(&poller, 1, timeout_ms);
    pthread_mutex_lock(&outbox->lock);
    link->writing = false;
    pthread_cond_broadcast(&link->quiet);
}

/* Asks a silent peer, and gives up one that stays silent; lock held. Returns when to look again. */
static int64_t check_peer(struct mcore_link *link, int64_t now)
{
    if (!link->up || link->ping_interval_ns <= 0)
        return MCORE_NEVER;
    int64_t heard = __atomic_load_n(&link->heard_ns, __ATOMIC_RELAXED);
    if (now - heard >= 2 * link->ping_interval_ns) {
        broken(link, ETIMEDOUT);
        return MCORE_NEVER;
    }
    if (now - heard >= link->ping_interval_ns && link->asked_ns <= heard) {
        link->asked_ns = now;
        if (mcore_buffer_reserve(&link->control, 6)) {
            memcpy(link->control.data + link->control.len, "PING\r\n", 6);
            link->control.len += 6;
            link->pings++;
        }
    }
    return heard + (link->asked_ns > heard ? 2 : 1) * link->ping_interval_ns;
}

int mcore_link_send_loop(struct mcore_link *link)
{
    struct mcore_outbox *outbox = link->outbox;
    int unseen = 0;
    pthread_mutex_lock(&outbox->lock);
    while (!link->stopping) {
        int64_t now = mcore_now_ns();
        if (mcore_outbox_expire_locked(outbox, now) > 0) {
            mcore_outbox_unlock(outbox);
            pthread_mutex_lock(&outbox->lock);
            continue;
        }
        if (outbox->stats.unseen != outbox->unseen_taken && now >= outbox->unseen_due_ns) {
            outbox->unseen_due_ns = now + INT64_C(1000000000);
            unseen = 1;
            break;
        }
        if (link->up && !link->writing) {
            bool full = write_some(link);
            if (link->stopping)
                break;
            if (full) {
                wait_writable(link);
                continue;
            }
            if (link->up && (link->control.len > 0 || mcore_outbox_has_run_locked(outbox)))
                continue;
        }
        /* Only now: while write_some() let go of the lock, earlier deadlines may have come, and nobody slept to be woken. */
        int64_t until = check_peer(link, now);
        if (link->up && !link->writing && link->control.len > 0)
            continue; /* its PING */
        if (mcore_outbox_next_due_locked(outbox) < until)
            until = mcore_outbox_next_due_locked(outbox);
        if (outbox->stats.unseen != outbox->unseen_taken && outbox->unseen_due_ns < until)
            until = outbox->unseen_due_ns;
        outbox->sender_sleeps = true;
        outbox->sender_until_ns = until;
        mcore_cond_wait_until(&outbox->work, &outbox->lock, until);
        outbox->sender_sleeps = false;
        outbox->sender_until_ns = 0;
    }
    pthread_mutex_unlock(&outbox->lock);
    return unseen;
}

void mcore_link_push(struct mcore_link *link)
{
    struct mcore_outbox *outbox = link->outbox;
    pthread_mutex_lock(&outbox->lock);
    if (link->up && !link->writing && !link->stopping) {
        write_some(link);
        /* Whatever the socket did not take, or came meanwhile, is the sender's. */
        if (link->current_len > 0 || link->control.len > 0 || mcore_outbox_has_run_locked(outbox))
            mcore_outbox_wake_sender_locked(outbox);
    }
    pthread_mutex_unlock(&outbox->lock);
}

/* ---- reading ------------------------------------------------------------------------------------------------------ */

/* The slot number at the end of _INBOX.<token>.<slot>; with the lane's letter before it in the express lane. */
static bool slot_of(const struct mcore_outbox *outbox, const uint8_t *subject, size_t len, uint64_t *slot)
{
    const struct mcore_lane *lane = &outbox->lanes[MCORE_BULK];
    if (len > lane->inbox_len && subject[lane->inbox_len] == 'e')
        lane = &outbox->lanes[MCORE_EXPRESS_LANE];
    if (len <= lane->inbox_len || len > lane->inbox_len + MCORE_MAX_U64_DIGITS)
        return false;
    uint64_t value = 0;
    for (size_t i = lane->inbox_len; i < len; i++) {
        if (subject[i] < '0' || subject[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(subject[i] - '0');
    }
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
        if (!isdigit(block[i]))
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
    struct mcore_buffer *control = &link->control;
    switch (event->kind) {
    case MCORE_EV_PING:
        if (mcore_buffer_reserve(control, 6)) {
            memcpy(control->data + control->len, "PONG\r\n", 6);
            control->len += 6;
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
            link->is_lame = true;
        break;
    case MCORE_EV_ERR:
        keep_text(link, data + event->payload.off, event->payload.len);
        break;
    default:
        break;
    }
}

static void handle_events(struct mcore_link *link, const uint8_t *data, const struct mcore_event *events, long count)
{
    struct mcore_outbox *outbox = link->outbox;
    bool locked = false;
    for (long i = 0; i < count; i++) {
        const struct mcore_event *event = &events[i];
        bool is_message = event->kind == MCORE_EV_MSG || event->kind == MCORE_EV_HMSG;
        if (is_message && event->sid != 1) {
            if (locked)
                mcore_outbox_unlock(outbox);
            locked = false;
            mcore_inbox_put(link, data, event, status_of(data, event));
            continue;
        }
        if (!locked)
            pthread_mutex_lock(&outbox->lock);
        locked = true;
        uint64_t slot;
        if (!is_message)
            control_event_locked(link, data, event);
        else if (slot_of(outbox, data + event->subject.off, event->subject.len, &slot))
            mcore_outbox_ack_locked(outbox, slot, status_of(data, event), data + event->payload.off,
                                    event->payload.len);
    }
    if (locked)
        mcore_outbox_unlock(outbox);
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
    else if (link->is_lame)
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

int mcore_link_read_loop(struct mcore_link *link)
{
    pthread_mutex_lock(&link->outbox->lock);
    int fd = link->fd;
    bool stopping = link->stopping;
    pthread_mutex_unlock(&link->outbox->lock);
    if (stopping || fd < 0)
        return MCORE_LINK_STOPPED;
    for (;;) {
        if (!consume(link)) {
            pthread_mutex_lock(&link->outbox->lock);
            broken(link, EPROTO);
            pthread_mutex_unlock(&link->outbox->lock);
            return MCORE_LINK_PROTOCOL;
        }
        if (link->is_lame)
            return end_of(link, true, 0);
        size_t want = link->parser.need > link->input.len ? link->parser.need - link->input.len : 0;
        if (!mcore_buffer_reserve(&link->input, want > READ_BYTES ? want : READ_BYTES))
            return end_of(link, false, ENOMEM);
        ssize_t count = recv(fd, link->input.data + link->input.len, link->input.cap - link->input.len, 0);
        __atomic_store_n(&link->heard_ns, mcore_now_ns(), __ATOMIC_RELAXED);
        if (count > 0)
            link->input.len += (size_t)count;
        else if (count == 0 || errno != EINTR)
            return end_of(link, count == 0, errno);
    }
}
