/*
 * The log: append, runs for the sender, settling, rewind. Waiting and reporting are in outbox_wait.c.
 *
 * Bytes of the log form a ring of max_bytes; a frame is always contiguous, so one that does not fit before the end of
 * the ring starts at its beginning and the bytes between are left out. When the log becomes empty it starts again at
 * the ring's beginning, which keeps the memory that a modest producer touches small and warm.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core_internal.h"

static struct mcore_slot *slot_at(const struct mcore_outbox *outbox, uint64_t slot)
{
    return &outbox->slots[slot % outbox->log->max_messages];
}

static size_t round_up(size_t value, size_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static uint8_t *joined(const char *front, const uint8_t *token, size_t token_len, const char *back, size_t *len)
{
    size_t front_len = strlen(front);
    size_t back_len = strlen(back);
    uint8_t *out = malloc(front_len + token_len + back_len + 1);
    if (out == NULL)
        return NULL;
    memcpy(out, front, front_len);
    memcpy(out + front_len, token, token_len);
    memcpy(out + front_len + token_len, back, back_len);
    *len = front_len + token_len + back_len;
    return out;
}

struct mcore_outbox *mcore_outbox_new(const uint8_t *token, size_t token_len, uint64_t max_bytes,
                                      uint64_t max_messages, uint64_t window)
{
    if (max_bytes == 0 || max_messages == 0 || window == 0 || token_len == 0)
        return NULL;
    struct mcore_outbox *outbox = calloc(1, sizeof(*outbox));
    if (outbox == NULL)
        return NULL;
    size_t slots_off = round_up(sizeof(struct mcore_log), 64);
    size_t data_off = round_up(slots_off + max_messages * sizeof(struct mcore_slot), 4096);
    outbox->block_len = data_off + max_bytes;
    outbox->block = mmap(NULL, outbox->block_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    outbox->tickets = calloc(max_messages, sizeof(*outbox->tickets));
    outbox->inbox = joined("_INBOX.", token, token_len, ".", &outbox->inbox_len);
    outbox->token = joined("", token, token_len, "-", &outbox->token_len);
    if (outbox->block == MAP_FAILED || outbox->tickets == NULL || outbox->inbox == NULL || outbox->token == NULL) {
        if (outbox->block == MAP_FAILED)
            outbox->block = NULL;
        mcore_outbox_free(outbox);
        return NULL;
    }
    outbox->log = (struct mcore_log *)(void *)outbox->block;
    outbox->slots = (struct mcore_slot *)(void *)(outbox->block + slots_off);
    outbox->data = outbox->block + data_off;
    outbox->log->magic = MCORE_LOG_MAGIC;
    outbox->log->format = MCORE_LOG_FORMAT;
    outbox->log->max_bytes = max_bytes;
    outbox->log->max_messages = max_messages;
    outbox->log->slots_off = slots_off;
    outbox->log->data_off = data_off;
    outbox->window = window;
    outbox->pin_pos = UINT64_MAX;
    outbox->next_deadline_ns = MCORE_NEVER;
    outbox->room_wanted = UINT64_MAX;
    outbox->stats.max_bytes = max_bytes;
    outbox->stats.max_messages = max_messages;
    pthread_mutex_init(&outbox->lock, NULL);
    mcore_cond_init(&outbox->work);
    mcore_cond_init(&outbox->drained);
    mcore_cond_init(&outbox->room);
    mcore_cond_init(&outbox->reports);
    return outbox;
}

void mcore_outbox_free(struct mcore_outbox *outbox)
{
    if (outbox == NULL)
        return;
    if (outbox->log != NULL) {
        pthread_cond_destroy(&outbox->work);
        pthread_cond_destroy(&outbox->drained);
        pthread_cond_destroy(&outbox->room);
        pthread_cond_destroy(&outbox->reports);
        pthread_mutex_destroy(&outbox->lock);
    }
    if (outbox->block != NULL)
        munmap(outbox->block, outbox->block_len);
    free(outbox->tickets);
    free(outbox->inbox);
    free(outbox->token);
    free(outbox->owners);
    free(outbox->reported);
    free(outbox);
}

long mcore_outbox_owner_new(struct mcore_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    struct mcore_owner *owners = realloc(outbox->owners, (outbox->owner_count + 1) * sizeof(*owners));
    long owner = MCORE_E_MEMORY;
    if (owners != NULL) {
        outbox->owners = owners;
        owner = (long)outbox->owner_count++;
        owners[owner].outstanding = 0;
    }
    pthread_mutex_unlock(&outbox->lock);
    return owner;
}

/* ---- append ------------------------------------------------------------------------------------------------------- */

static const char version_line[] = "NATS/1.0\r\n";

static bool has_id(const struct mcore_route *route, const struct mcore_message *message)
{
    return route->id_name_len > 0 && (message->msg_id_len > 0 || route->auto_id);
}

/* Bytes of the header block for a slot number of `digits` digits. */
static size_t block_size(const struct mcore_outbox *outbox, const struct mcore_route *route,
                         const struct mcore_message *message, size_t digits)
{
    size_t size = sizeof(version_line) - 1 + route->fixed_len + message->headers_len + 2;
    if (has_id(route, message)) {
        size_t id_len = message->msg_id_len > 0 ? message->msg_id_len : outbox->token_len + digits;
        size += route->id_name_len + 2 + id_len + 2;
    }
    return size;
}

static size_t frame_size(const struct mcore_outbox *outbox, const struct mcore_route *route,
                         const struct mcore_message *message, size_t digits)
{
    size_t block = block_size(outbox, route, message, digits);
    size_t total = block + message->payload_len;
    return 5 + route->subject_len + 1 + outbox->inbox_len + digits + 1 + mcore_u64_size(block) + 1 +
           mcore_u64_size(total) + 2 + total + 2;
}

size_t mcore_outbox_frame_size(const struct mcore_outbox *outbox, const struct mcore_route *route,
                               const struct mcore_message *message)
{
    return frame_size(outbox, route, message, MCORE_MAX_U64_DIGITS);
}

static uint8_t *put(uint8_t *out, const void *bytes, size_t len)
{
    memcpy(out, bytes, len);
    return out + len;
}

static void frame_write(const struct mcore_outbox *outbox, uint8_t *out, const struct mcore_route *route,
                        const struct mcore_message *message, uint64_t slot)
{
    uint8_t digits[MCORE_MAX_U64_DIGITS];
    size_t digits_len = mcore_u64_write(digits, slot);
    size_t block = block_size(outbox, route, message, digits_len);
    out = put(out, "HPUB ", 5);
    out = put(out, route->subject, route->subject_len);
    *out++ = ' ';
    out = put(out, outbox->inbox, outbox->inbox_len);
    out = put(out, digits, digits_len);
    *out++ = ' ';
    out += mcore_u64_write(out, block);
    *out++ = ' ';
    out += mcore_u64_write(out, block + message->payload_len);
    out = put(out, "\r\n", 2);
    out = put(out, version_line, sizeof(version_line) - 1);
    if (has_id(route, message)) {
        /* First of all headers: a Memphis broker gives up on msg-id when an earlier header contains that text. */
        out = put(out, route->id_name, route->id_name_len);
        out = put(out, ": ", 2);
        if (message->msg_id_len > 0) {
            out = put(out, message->msg_id, message->msg_id_len);
        } else {
            out = put(out, outbox->token, outbox->token_len);
            out = put(out, digits, digits_len);
        }
        out = put(out, "\r\n", 2);
    }
    out = put(out, route->fixed, route->fixed_len);
    if (message->headers_len > 0)
        out = put(out, message->headers, message->headers_len);
    out = put(out, "\r\n", 2);
    if (message->payload_len > 0)
        out = put(out, message->payload, message->payload_len);
    put(out, "\r\n", 2);
}

/* Where a frame of len bytes would start if the tail were at pos. */
static uint64_t place_for(const struct mcore_log *log, uint64_t pos, size_t len)
{
    uint64_t off = pos % log->max_bytes;
    return off + len <= log->max_bytes ? pos : pos + (log->max_bytes - off);
}

/* The end of the log after all frames, or 0 when they do not fit. */
static uint64_t end_for(const struct mcore_outbox *outbox, const struct mcore_route *const *routes, size_t count,
                        const struct mcore_message *message)
{
    const struct mcore_log *log = outbox->log;
    uint64_t pos = log->tail_pos;
    for (size_t i = 0; i < count; i++) {
        size_t len = frame_size(outbox, routes[i], message, mcore_u64_size(log->tail_slot + i));
        pos = place_for(log, pos, len) + len;
        if (pos - log->head_pos > log->max_bytes)
            return 0;
    }
    return pos;
}

static int check_room(struct mcore_outbox *outbox, const struct mcore_route *const *routes, size_t count,
                      const struct mcore_message *message)
{
    const struct mcore_log *log = outbox->log;
    if (outbox->closed)
        return MCORE_E_CLOSED;
    size_t all = 0;
    for (size_t i = 0; i < count; i++)
        all += frame_size(outbox, routes[i], message, mcore_u64_size(log->tail_slot + i));
    if (all > log->max_bytes || count > log->max_messages)
        return MCORE_E_TOO_LARGE;
    if (log->tail_slot - log->head_slot + count > log->max_messages)
        return MCORE_E_FULL_MESSAGES;
    if (end_for(outbox, routes, count, message) == 0)
        return MCORE_E_FULL_BYTES;
    return MCORE_OK;
}

static void append_one(struct mcore_outbox *outbox, const struct mcore_route *route,
                       const struct mcore_message *message, struct mcore_ticket *ticket, int64_t deadline_ns)
{
    struct mcore_log *log = outbox->log;
    uint64_t slot = log->tail_slot;
    size_t len = frame_size(outbox, route, message, mcore_u64_size(slot));
    uint64_t pos = place_for(log, log->tail_pos, len);
    frame_write(outbox, outbox->data + pos % log->max_bytes, route, message, slot);
    struct mcore_slot *entry = slot_at(outbox, slot);
    entry->pos = pos;
    entry->len = (uint32_t)len;
    entry->owner = route->owner;
    entry->deadline_ns = deadline_ns;
    entry->state = MCORE_SLOT_QUEUED;
    entry->flags = message->report ? MCORE_FLAG_REPORT : 0;
    outbox->tickets[slot % log->max_messages] = ticket;
    if (ticket != NULL) {
        ticket->slot = slot;
        ticket->attached = 1;
    }
    log->tail_pos = pos + len;
    log->tail_slot = slot + 1;
    outbox->stats.accepted++;
    outbox->stats.queued++;
    outbox->stats.queued_bytes += len;
    if (route->owner < outbox->owner_count)
        outbox->owners[route->owner].outstanding++;
}

int64_t mcore_outbox_append(struct mcore_outbox *outbox, const struct mcore_route *const *routes, size_t count,
                            const struct mcore_message *message, struct mcore_ticket *const *tickets)
{
    if (count == 0)
        return MCORE_E_ARGUMENT;
    if (message->payload_len > UINT32_MAX / 2 || message->headers_len > UINT32_MAX / 4)
        return MCORE_E_TOO_LARGE;
    int64_t deadline_ns = mcore_deadline_after(message->timeout_ns);
    pthread_mutex_lock(&outbox->lock);
    int error = check_room(outbox, routes, count, message);
    if (error != MCORE_OK) {
        if (error == MCORE_E_FULL_BYTES || error == MCORE_E_FULL_MESSAGES)
            outbox->stats.buffer_full++;
        pthread_mutex_unlock(&outbox->lock);
        return error;
    }
    int64_t first = (int64_t)outbox->log->tail_slot;
    for (size_t i = 0; i < count; i++)
        append_one(outbox, routes[i], message, tickets == NULL ? NULL : tickets[i], deadline_ns);
    if (deadline_ns < outbox->next_deadline_ns)
        outbox->next_deadline_ns = deadline_ns;
    if (deadline_ns < outbox->sender_until_ns || mcore_outbox_has_run_locked(outbox))
        mcore_outbox_wake_sender_locked(outbox);
    pthread_mutex_unlock(&outbox->lock);
    return first;
}

/* ---- the sender's side -------------------------------------------------------------------------------------------- */

void mcore_outbox_wake_sender_locked(struct mcore_outbox *outbox)
{
    if (outbox->sender_sleeps) {
        outbox->sender_sleeps = false;
        outbox->sender_until_ns = 0;
        pthread_cond_signal(&outbox->work);
    }
}

/* Steps over slots that are settled without having been sent on this connection. */
static void skip_settled(struct mcore_outbox *outbox)
{
    struct mcore_log *log = outbox->log;
    while (log->sent_slot < log->tail_slot && slot_at(outbox, log->sent_slot)->state == MCORE_SLOT_SETTLED)
        log->sent_slot++;
}

bool mcore_outbox_has_run_locked(const struct mcore_outbox *outbox)
{
    if (outbox->stats.queued == 0 || outbox->stats.in_flight >= outbox->window)
        return false;
    /* After a full window a run for each ack would be a system call for each message: wait for an eighth. */
    return !outbox->window_was_full || outbox->stats.in_flight <= outbox->window - outbox->window / 8;
}

long mcore_outbox_run_take_locked(struct mcore_outbox *outbox, size_t max_bytes, const uint8_t **data, size_t *len)
{
    struct mcore_log *log = outbox->log;
    skip_settled(outbox);
    outbox->window_was_full = false;
    uint64_t slot = log->sent_slot;
    if (slot == log->tail_slot || outbox->stats.in_flight >= outbox->window)
        return 0;
    uint64_t start = slot_at(outbox, slot)->pos;
    uint64_t end = start;
    long count = 0;
    while (slot < log->tail_slot) {
        struct mcore_slot *entry = slot_at(outbox, slot);
        if (entry->state != MCORE_SLOT_QUEUED || entry->pos != end)
            break;
        if (count > 0 && end % log->max_bytes == 0)
            break; /* the frames before it end exactly with the ring; this one lies at its beginning */
        if (count > 0 && end + entry->len - start > max_bytes)
            break;
        if (outbox->stats.in_flight >= outbox->window) {
            outbox->window_was_full = true;
            break;
        }
        if (entry->flags & MCORE_FLAG_WRITTEN)
            outbox->stats.resent++;
        entry->state = MCORE_SLOT_IN_FLIGHT;
        entry->flags |= MCORE_FLAG_WRITTEN;
        outbox->stats.queued--;
        outbox->stats.queued_bytes -= entry->len;
        outbox->stats.in_flight++;
        end += entry->len;
        count++;
        slot++;
    }
    log->sent_slot = slot;
    outbox->pin_pos = start;
    *data = outbox->data + start % log->max_bytes;
    *len = (size_t)(end - start);
    return count;
}

/* Gives storage back from the head as far as everything is settled and nobody writes it. */
static void reclaim(struct mcore_outbox *outbox)
{
    struct mcore_log *log = outbox->log;
    while (log->head_slot < log->tail_slot) {
        const struct mcore_slot *entry = slot_at(outbox, log->head_slot);
        if (entry->state != MCORE_SLOT_SETTLED || entry->pos >= outbox->pin_pos)
            break;
        log->head_slot++;
        log->head_pos = entry->pos + entry->len;
    }
    if (log->sent_slot < log->head_slot)
        log->sent_slot = log->head_slot;
    if (log->head_slot == log->tail_slot && outbox->pin_pos == UINT64_MAX) {
        uint64_t start = (log->tail_pos + log->max_bytes - 1) / log->max_bytes * log->max_bytes;
        log->tail_pos = start;
        log->head_pos = start;
    }
}

void mcore_outbox_run_done_locked(struct mcore_outbox *outbox)
{
    outbox->pin_pos = UINT64_MAX;
    reclaim(outbox);
    mcore_outbox_after_settle_locked(outbox);
}

uint64_t mcore_outbox_rewind_locked(struct mcore_outbox *outbox)
{
    struct mcore_log *log = outbox->log;
    uint64_t count = 0;
    for (uint64_t slot = log->head_slot; slot < log->sent_slot; slot++) {
        struct mcore_slot *entry = slot_at(outbox, slot);
        if (entry->state != MCORE_SLOT_IN_FLIGHT)
            continue;
        entry->state = MCORE_SLOT_QUEUED;
        outbox->stats.in_flight--;
        outbox->stats.queued++;
        outbox->stats.queued_bytes += entry->len;
        count++;
    }
    log->sent_slot = log->head_slot;
    outbox->window_was_full = false;
    return count;
}

/* ---- settling ----------------------------------------------------------------------------------------------------- */

static int settle_locked(struct mcore_outbox *outbox, uint64_t slot, int outcome, uint64_t sequence, int duplicate,
                         int code, int err_code, const char *text, size_t text_len)
{
    struct mcore_log *log = outbox->log;
    if (slot < log->head_slot || slot >= log->tail_slot)
        return 0;
    struct mcore_slot *entry = slot_at(outbox, slot);
    if (entry->state == MCORE_SLOT_SETTLED)
        return 0;
    if (entry->state == MCORE_SLOT_QUEUED) {
        outbox->stats.queued--;
        outbox->stats.queued_bytes -= entry->len;
    } else {
        outbox->stats.in_flight--;
    }
    entry->state = MCORE_SLOT_SETTLED;
    if (outcome == MCORE_DELIVERED) {
        outbox->stats.delivered++;
        outbox->stats.duplicates += duplicate ? 1 : 0;
    } else if (outcome == MCORE_ABANDONED) {
        outbox->stats.abandoned++;
    } else {
        outbox->stats.failed++;
    }
    if (entry->owner < outbox->owner_count && --outbox->owners[entry->owner].outstanding == 0 &&
        outbox->drain_waiters > 0)
        pthread_cond_broadcast(&outbox->drained);
    mcore_outbox_tell_locked(outbox, slot, outcome, sequence, duplicate, code, err_code, text, text_len,
                             (entry->flags & MCORE_FLAG_WRITTEN) != 0, (entry->flags & MCORE_FLAG_REPORT) != 0);
    if (slot == log->head_slot)
        reclaim(outbox);
    mcore_outbox_after_settle_locked(outbox);
    return 1;
}

int mcore_outbox_settle(struct mcore_outbox *outbox, uint64_t slot, int outcome, uint64_t sequence, int duplicate,
                        int code, int err_code, const char *text, size_t text_len)
{
    pthread_mutex_lock(&outbox->lock);
    int settled = settle_locked(outbox, slot, outcome, sequence, duplicate, code, err_code, text, text_len);
    pthread_mutex_unlock(&outbox->lock);
    return settled;
}

int mcore_outbox_ack_locked(struct mcore_outbox *outbox, uint64_t slot, int status, const uint8_t *json, size_t len)
{
    if (status != 0)
        return settle_locked(outbox, slot, status == 503 ? MCORE_NO_RESPONDERS : MCORE_REFUSED, 0, 0, status, 0, NULL,
                             0);
    uint64_t sequence = 0;
    int duplicate = 0;
    int code = 0;
    int err_code = 0;
    const char *text = NULL;
    size_t text_len = 0;
    int outcome = mcore_puback_parse(json, len, &sequence, &duplicate, &code, &err_code, &text, &text_len);
    return settle_locked(outbox, slot, outcome, sequence, duplicate, code, err_code, text, text_len);
}

int mcore_outbox_ack(struct mcore_outbox *outbox, uint64_t slot, int status, const uint8_t *json, size_t len)
{
    pthread_mutex_lock(&outbox->lock);
    int settled = mcore_outbox_ack_locked(outbox, slot, status, json, len);
    pthread_mutex_unlock(&outbox->lock);
    return settled;
}

uint64_t mcore_outbox_expire_locked(struct mcore_outbox *outbox, int64_t now_ns)
{
    struct mcore_log *log = outbox->log;
    if (now_ns < outbox->next_deadline_ns)
        return 0;
    uint64_t expired = 0;
    int64_t next = MCORE_NEVER;
    uint64_t tail = log->tail_slot;
    for (uint64_t slot = log->head_slot; slot < tail; slot++) {
        struct mcore_slot *entry = slot_at(outbox, slot);
        if (entry->state == MCORE_SLOT_SETTLED)
            continue;
        if (entry->deadline_ns <= now_ns)
            expired += (uint64_t)settle_locked(outbox, slot, MCORE_EXPIRED, 0, 0, 0, 0, NULL, 0);
        else if (entry->deadline_ns < next)
            next = entry->deadline_ns;
    }
    outbox->next_deadline_ns = next;
    return expired;
}

uint64_t mcore_outbox_abandon(struct mcore_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    uint64_t count = 0;
    uint64_t tail = outbox->log->tail_slot;
    for (uint64_t slot = outbox->log->head_slot; slot < tail; slot++)
        count += (uint64_t)settle_locked(outbox, slot, MCORE_ABANDONED, 0, 0, 0, 0, NULL, 0);
    pthread_mutex_unlock(&outbox->lock);
    return count;
}
