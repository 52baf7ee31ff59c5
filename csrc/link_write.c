/*
 * What goes out of a link, and the loop that does it on a plain TCP socket. Where somebody else holds the bytes (TLS), that
 * one asks mcore_link_next() what to write and tells mcore_link_written() how it went; the plain loop stands on the same
 * steps, and so does the write that a blocking caller may do in the sender's place.
 *
 * One thread writes at a time (`writing`). What is being written is `current`: control frames or acks moved to `sending`, or
 * a run of the log. A write that the socket took only in part leaves the rest in `current`, and nothing else is written
 * before it, so frames never mix.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "core_internal.h"

/* Large enough that the system call is cheap, small enough that an urgent control frame waits for little. */
#define RUN_BYTES (256u * 1024u)
#define SANS_IO_RUN_BYTES (1024u * 1024u) /* each run costs its Python loop several turns at the interpreter's lock */
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
        link->pongs_queued = 0; /* they are in `control`, and that is what goes, or it is empty */
        link->current = link->sending.data;
        link->current_len = link->sending.len;
        link->current_is_run = false;
        return true;
    }
    if (!mcore_outbox_has_run_locked(link->outbox))
        return false;
    size_t len = 0;
    const uint8_t *data = NULL;
    if (mcore_outbox_run_take_locked(link->outbox, link->sans_io ? SANS_IO_RUN_BYTES : RUN_BYTES, &data, &len) <= 0)
        return false;
    link->current = data;
    link->current_len = len;
    link->current_is_run = true;
    return true;
}

/* `count` bytes of `current` are out, or the socket said `error`; lock held. */
static void settle_write(struct mcore_link *link, size_t count, int error)
{
    if (error != 0) {
        if (error != EAGAIN && error != EWOULDBLOCK && error != EINTR)
            mcore_link_broken_locked(link, error);
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
        mcore_link_broken_locked(link, ETIMEDOUT);
        return MCORE_NEVER;
    }
    if (now - heard >= link->ping_interval_ns && link->asked_ns <= heard) {
        link->asked_ns = now;
        if (mcore_link_control_locked(link, "PING\r\n", 6) == MCORE_OK)
            link->pings++;
    }
    return heard + (link->asked_ns > heard ? 2 : 1) * link->ping_interval_ns;
}

/*
 * What is due by the clock: deadlines, paused messages and the silent peer; lock held on entry and return, and let go
 * between if deadlines were due, so that who waited for them does not wake up into it. Returns when to look again.
 */
static int64_t run_timers(struct mcore_link *link)
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
    int64_t left = run_timers(link) - mcore_now_ns();
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
        int64_t until = run_timers(link);
        if (link->stopping)
            return MCORE_NEXT_STOPPED;
        if (outbox->has_question) {
            outbox->has_question = false;
            return MCORE_NEXT_UNSEEN;
        }
        int64_t now = mcore_now_ns();
        bool has_news = mcore_outbox_has_news_locked(outbox);
        if (has_news && now >= outbox->log_due_ns) {
            outbox->log_due_ns = now + INT64_C(1000000000);
            return MCORE_NEXT_UNSEEN;
        }
        if (link->up && !link->writing && (next_current(link) || link->wake_requested))
            return MCORE_NEXT_BYTES;
        if (now >= limit)
            return MCORE_NEXT_NOTHING;
        if (has_news && outbox->log_due_ns < until)
            until = outbox->log_due_ns;
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
        link->wake_requested = false;
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

int64_t mcore_link_run_timers(struct mcore_link *link)
{
    pthread_mutex_lock(&link->outbox->lock);
    int64_t until = run_timers(link);
    pthread_mutex_unlock(&link->outbox->lock);
    int64_t now = mcore_now_ns();
    return until == MCORE_NEVER ? MCORE_NEVER : until > now ? until - now : 0;
}

void mcore_link_wake(struct mcore_link *link)
{
    pthread_mutex_lock(&link->outbox->lock);
    link->wake_requested = true;
    mcore_outbox_wake_sender_locked(link->outbox);
    pthread_mutex_unlock(&link->outbox->lock);
}

static void push_locked(struct mcore_link *link)
{
    struct mcore_outbox *outbox = link->outbox;
    link->acks_due_ns = 0;
    if (link->sans_io) {
        mcore_outbox_wake_sender_locked(outbox); /* the bytes are not for the socket as they are */
    } else if (link->up && !link->writing && !link->stopping) {
        write_some(link);
        /* Whatever the socket did not take, or came meanwhile, is the sender's. */
        if (link->current_len > 0 || link->control.len > 0 || link->acks.len > 0 || mcore_outbox_has_run_locked(outbox))
            mcore_outbox_wake_sender_locked(outbox);
    }
}

void mcore_link_push(struct mcore_link *link)
{
    pthread_mutex_lock(&link->outbox->lock);
    push_locked(link);
    pthread_mutex_unlock(&link->outbox->lock);
}

int mcore_link_write(struct mcore_link *link, const uint8_t *data, size_t len)
{
    pthread_mutex_lock(&link->outbox->lock);
    int result = mcore_link_control_locked(link, data, len);
    if (result == MCORE_OK)
        push_locked(link);
    pthread_mutex_unlock(&link->outbox->lock);
    return result;
}
