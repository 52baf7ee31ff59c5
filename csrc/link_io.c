/*
 * What comes in and goes out of a link, and the two loops that do it on a plain TCP socket. Where somebody else holds the
 * bytes (TLS), that one asks mcore_link_next() what to write, tells mcore_link_written() how it went, and gives
 * mcore_link_feed() what it read; the plain loops stand on the same steps, and so does the write that a blocking caller may
 * do in the sender's place.
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
#define SANS_IO_RUN_BYTES (1024u * 1024u) /* each run costs its Python loop several turns at the interpreter's lock */
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
    struct mcore_buffer *next = &link->control;
    if (link->control.len > 0)
        mcore_link_gather_acks_locked(link);
    else if (link->acks.len > 0 && link->acks_due_ns <= mcore_now_ns())
        next = &link->acks;
    if (next->len > 0) {
        struct mcore_buffer swap = link->sending;
        link->sending = *next;
        *next = swap;
        next->len = 0;
        link->current = link->sending.data;
        link->current_len = link->sending.len;
        link->current_is_run = false;
        return true;
    }
    if (!mcore_outbox_has_run_locked(link->outbox))
        return false;
    size_t len = 0;
    const uint8_t *data = NULL;
    if (mcore_outbox_run_take_locked(link->outbox, link->sans_io ? SANS_IO_RUN_BYTES : RUN_BYTES, &data,
                                     &len) <= 0)
        return false;
    link->current = data;
    link->current_len = len;
    link->current_is_run = true;
    return true;
}

static void broken(struct mcore_link *link, int error)
{
    if (link->up) {
        link->last_errno = error;
        link->up = false;
        shutdown(link->fd, SHUT_RDWR); /* the reader sees the end and tells its caller */
    }
}

/* `count` bytes of `current` are out, or the socket said `error`; lock held. */
static void settle_write(struct mcore_link *link, size_t count, int error)
{
    if (error != 0) {
        if (error != EAGAIN && error != EWOULDBLOCK && error != EINTR)
            broken(link, error);
        return;
    }
    link->current += count;
    link->current_len -= count;
    if (link->current_len == 0 && link->current_is_run)
        mcore_outbox_run_done_locked(link->outbox);
}

static void end_writing(struct mcore_link *link)
{
    link->writing = false;
    pthread_cond_broadcast(&link->quiet);
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
        int error = count < 0 ? errno : 0;
        pthread_mutex_lock(&outbox->lock);
        settle_write(link, count < 0 ? 0 : (size_t)count, error);
        full = error == EAGAIN || error == EWOULDBLOCK;
    }
    end_writing(link);
    return full;
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

/*
 * What is due by the clock: deadlines, paused messages and the silent peer; lock held on entry and return, and let go
 * between if deadlines were due, so that who waited for them does not wake up into it. Returns when to look again.
 */
static int64_t tend(struct mcore_link *link)
{
    struct mcore_outbox *outbox = link->outbox;
    if (mcore_outbox_expire_locked(outbox, mcore_now_ns()) > 0) {
        mcore_outbox_unlock(outbox);
        pthread_mutex_lock(&outbox->lock);
    }
    int64_t until = check_peer(link, mcore_now_ns());
    int64_t due = mcore_outbox_next_due_locked(outbox);
    return due < until ? due : until;
}

/* Waits until the socket takes bytes again, or something is due; lock held on entry and return. */
static void wait_writable(struct mcore_link *link)
{
    struct mcore_outbox *outbox = link->outbox;
    link->writing = true; /* keeps detach() from letting the socket go */
    int64_t left = tend(link) - mcore_now_ns();
    int timeout_ms = left <= 0 ? 0 : left > FULL_LOOK_NS ? (int)(FULL_LOOK_NS / 1000000) : (int)(left / 1000000) + 1;
    struct pollfd poller = {.fd = link->fd, .events = POLLOUT};
    pthread_mutex_unlock(&outbox->lock);
    poll(&poller, 1, timeout_ms);
    pthread_mutex_lock(&outbox->lock);
    end_writing(link);
}

/* Sleeps until somebody has bytes to write and nobody else writes, or until `limit`; lock held on entry and return. */
static int wait_next(struct mcore_link *link, int64_t limit)
{
    struct mcore_outbox *outbox = link->outbox;
    for (;;) {
        int64_t until = tend(link);
        if (link->stopping)
            return MCORE_NEXT_STOPPED;
        int64_t now = mcore_now_ns();
        bool is_unseen = outbox->stats.unseen != outbox->unseen_taken;
        if (is_unseen && now >= outbox->unseen_due_ns) {
            outbox->unseen_due_ns = now + INT64_C(1000000000);
            return MCORE_NEXT_UNSEEN;
        }
        if (link->up && !link->writing && (next_current(link) || link->poked))
            return MCORE_NEXT_BYTES;
        if (now >= limit)
            return MCORE_NEXT_NOTHING;
        if (is_unseen && outbox->unseen_due_ns < until)
            until = outbox->unseen_due_ns;
        if (link->up && link->acks.len > 0 && link->acks_due_ns < until)
            until = link->acks_due_ns;
        if (limit < until)
            until = limit;
        outbox->sender_sleeps = true;
        outbox->sender_until_ns = until;
        mcore_cond_wait_until(&outbox->work, &outbox->lock, until);
        outbox->sender_sleeps = false;
        outbox->sender_until_ns = 0;
    }
}

int mcore_link_send_loop(struct mcore_link *link)
{
    int next;
    pthread_mutex_lock(&link->outbox->lock);
    while ((next = wait_next(link, MCORE_NEVER)) == MCORE_NEXT_BYTES) {
        if (write_some(link) && !link->stopping)
            wait_writable(link);
    }
    pthread_mutex_unlock(&link->outbox->lock);
    return next == MCORE_NEXT_UNSEEN;
}

int mcore_link_next(struct mcore_link *link, int64_t timeout_ns, const uint8_t **data, size_t *len)
{
    int64_t limit = mcore_deadline_after(timeout_ns);
    pthread_mutex_lock(&link->outbox->lock);
    int next = wait_next(link, limit);
    *data = NULL;
    *len = 0;
    if (next == MCORE_NEXT_BYTES) {
        link->writing = true;
        link->poked = false;
        *data = link->current;
        *len = link->current_len;
    }
    pthread_mutex_unlock(&link->outbox->lock);
    return next;
}

void mcore_link_written(struct mcore_link *link, size_t count, int error)
{
    pthread_mutex_lock(&link->outbox->lock);
    if (error != 0 || count <= link->current_len)
        settle_write(link, count, error);
    end_writing(link);
    pthread_mutex_unlock(&link->outbox->lock);
}

int64_t mcore_link_tend(struct mcore_link *link)
{
    pthread_mutex_lock(&link->outbox->lock);
    int64_t until = tend(link);
    pthread_mutex_unlock(&link->outbox->lock);
    int64_t now = mcore_now_ns();
    return until == MCORE_NEVER ? MCORE_NEVER : until > now ? until - now : 0;
}

void mcore_link_wake(struct mcore_link *link)
{
    pthread_mutex_lock(&link->outbox->lock);
    link->poked = true;
    mcore_outbox_wake_sender_locked(link->outbox);
    pthread_mutex_unlock(&link->outbox->lock);
}

void mcore_link_push(struct mcore_link *link)
{
    struct mcore_outbox *outbox = link->outbox;
    pthread_mutex_lock(&outbox->lock);
    link->acks_due_ns = 0;
    if (link->sans_io) {
        mcore_outbox_wake_sender_locked(outbox); /* the bytes are not for the socket as they are */
    } else if (link->up && !link->writing && !link->stopping) {
        write_some(link);
        /* Whatever the socket did not take, or came meanwhile, is the sender's. */
        if (link->current_len > 0 || link->control.len > 0 || link->acks.len > 0 || mcore_outbox_has_run_locked(outbox))
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
    enum { NONE, OUTBOX, INBOXES } locked = NONE; /* kept for as long as events need the same one */
    for (long i = 0; i < count; i++) {
        const struct mcore_event *event = &events[i];
        bool is_message = event->kind == MCORE_EV_MSG || event->kind == MCORE_EV_HMSG;
        bool is_for_inbox = is_message && event->sid != 1;
        if (is_for_inbox && locked != INBOXES) {
            if (locked == OUTBOX)
                mcore_outbox_unlock(outbox);
            pthread_mutex_lock(&link->inbox_lock);
            locked = INBOXES;
        } else if (!is_for_inbox && locked != OUTBOX) {
            if (locked == INBOXES)
                mcore_inbox_unlock(link);
            pthread_mutex_lock(&outbox->lock);
            locked = OUTBOX;
        }
        if (is_for_inbox) {
            mcore_inbox_put_locked(link, data, event, status_of(data, event));
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
    else if (locked == INBOXES)
        mcore_inbox_unlock(link);
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
        broken(link, EPROTO);
        pthread_mutex_unlock(&link->outbox->lock);
        return MCORE_LINK_PROTOCOL;
    }
    return link->is_lame ? end_of(link, true, 0) : MCORE_LINK_GOES_ON;
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
