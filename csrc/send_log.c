/*
 * One log: where frames lie, and what gives their storage back. No locks, no waiting: outbox.c does that around it.
 *
 * Bytes of the log form a ring of max_bytes; a frame is always contiguous, so one that does not fit before the end of
 * the ring starts at its beginning and the bytes between are left out. When the log becomes empty it starts again at
 * the ring's beginning, which keeps the memory that a modest producer touches small and warm.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core_internal.h"

static size_t round_up(size_t value, size_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static uint8_t *joined(const char *front, const uint8_t *token, size_t token_len, const char *middle, const char *back,
                       size_t *len)
{
    size_t front_len = strlen(front);
    size_t middle_len = strlen(middle);
    size_t back_len = strlen(back);
    uint8_t *out = malloc(front_len + token_len + middle_len + back_len + 1);
    if (out == NULL)
        return NULL;
    memcpy(out, front, front_len);
    memcpy(out + front_len, token, token_len);
    memcpy(out + front_len + token_len, middle, middle_len);
    memcpy(out + front_len + token_len + middle_len, back, back_len);
    *len = front_len + token_len + middle_len + back_len;
    return out;
}

bool mcore_send_log_init(struct mcore_send_log *lane, const uint8_t *token, size_t token_len, const char *mark,
                         uint64_t tag, uint64_t max_bytes, uint64_t max_messages)
{
    size_t slots_off = round_up(sizeof(struct mcore_log), 64);
    size_t data_off = round_up(slots_off + max_messages * sizeof(struct mcore_slot), 4096);
    lane->block_len = data_off + max_bytes;
    lane->block = mmap(NULL, lane->block_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (lane->block == MAP_FAILED)
        lane->block = NULL;
    lane->tickets = calloc(max_messages, sizeof(*lane->tickets));
    lane->due_ns = calloc(max_messages / MCORE_DUE_BLOCK + 1, sizeof(*lane->due_ns));
    lane->inbox = joined("_INBOX.", token, token_len, ".", mark, &lane->inbox_len);
    lane->id = joined("", token, token_len, "-", mark, &lane->id_len);
    if (lane->block == NULL || lane->tickets == NULL || lane->due_ns == NULL || lane->inbox == NULL || lane->id == NULL)
        return false;
    lane->log = (struct mcore_log *)(void *)lane->block;
    lane->slots = (struct mcore_slot *)(void *)(lane->block + slots_off);
    lane->data = lane->block + data_off;
    lane->log->magic = MCORE_LOG_MAGIC;
    lane->log->format = MCORE_LOG_FORMAT;
    lane->log->max_bytes = max_bytes;
    lane->log->max_messages = max_messages;
    lane->log->slots_off = slots_off;
    lane->log->data_off = data_off;
    lane->tag = tag;
    lane->pin_pos = UINT64_MAX;
    return true;
}

void mcore_send_log_release(struct mcore_send_log *lane)
{
    lane->released = *lane->log;
    lane->released.head_slot = lane->released.sent_slot = lane->released.tail_slot;
    lane->log = &lane->released;
    munmap(lane->block, lane->block_len);
    free(lane->tickets);
    free(lane->due_ns);
    lane->block = NULL;
    lane->slots = NULL;
    lane->data = NULL;
    lane->tickets = NULL;
    lane->due_ns = NULL;
}

void mcore_send_log_free(struct mcore_send_log *lane)
{
    if (lane->block != NULL)
        munmap(lane->block, lane->block_len);
    free(lane->tickets);
    free(lane->due_ns);
    free(lane->inbox);
    free(lane->id);
}

struct mcore_slot *mcore_send_log_slot(const struct mcore_send_log *lane, uint64_t slot)
{
    return &lane->slots[slot % lane->log->max_messages];
}

/* ---- frames ------------------------------------------------------------------------------------------------------- */

static const char version_line[] = "NATS/1.0\r\n";

static bool has_id(const struct mcore_route *route, const struct mcore_message *message)
{
    return route->id_name_len > 0 && (message->msg_id_len > 0 || route->auto_id);
}

size_t mcore_send_log_block_size(const struct mcore_send_log *lane, const struct mcore_route *route,
                                 const struct mcore_message *message, size_t digits)
{
    size_t size = sizeof(version_line) - 1 + route->fixed_len + message->headers_len + 2;
    if (has_id(route, message)) {
        size_t id_len = message->msg_id_len > 0 ? message->msg_id_len : lane->id_len + digits;
        size += route->id_name_len + 2 + id_len + 2;
    }
    return size;
}

size_t mcore_send_log_frame_size(const struct mcore_send_log *lane, const struct mcore_route *route,
                                 const struct mcore_message *message, size_t digits)
{
    size_t block = mcore_send_log_block_size(lane, route, message, digits);
    size_t total = block + message->payload_len;
    return 5 + route->subject_len + 1 + lane->inbox_len + digits + 1 + mcore_u64_size(block) + 1 +
           mcore_u64_size(total) + 2 + total + 2;
}

static uint8_t *put(uint8_t *out, const void *bytes, size_t len)
{
    memcpy(out, bytes, len);
    return out + len;
}

static void frame_write(const struct mcore_send_log *lane, uint8_t *out, const struct mcore_route *route,
                        const struct mcore_message *message, uint64_t slot)
{
    uint8_t digits[MCORE_MAX_U64_DIGITS];
    size_t digits_len = mcore_u64_write(digits, slot);
    size_t block = mcore_send_log_block_size(lane, route, message, digits_len);
    out = put(out, "HPUB ", 5);
    out = put(out, route->subject, route->subject_len);
    *out++ = ' ';
    out = put(out, lane->inbox, lane->inbox_len);
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
            out = put(out, lane->id, lane->id_len);
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

/* ---- append ------------------------------------------------------------------------------------------------------- */

/* Where a frame of len bytes would start if the tail were at pos. */
static uint64_t place_for(const struct mcore_log *log, uint64_t pos, size_t len)
{
    uint64_t off = pos % log->max_bytes;
    return off + len <= log->max_bytes ? pos : pos + (log->max_bytes - off);
}

int mcore_send_log_check(const struct mcore_send_log *lane, const struct mcore_route *const *routes, size_t count,
                         const struct mcore_message *message)
{
    const struct mcore_log *log = lane->log;
    uint64_t pos = log->tail_pos;
    size_t all = 0;
    bool fits = true;
    struct mcore_message part = *message;
    for (size_t i = 0; i < count; i++) {
        if (message->parts != NULL)
            part.payload_len = message->parts[i];
        size_t len = mcore_send_log_frame_size(lane, routes[i], &part, mcore_u64_size(log->tail_slot + i));
        all += len;
        pos = place_for(log, pos, len) + len;
        fits = fits && pos - log->head_pos <= log->max_bytes;
    }
    if (all > log->max_bytes)
        return MCORE_E_TOO_LARGE;
    if (count > log->max_messages)
        return MCORE_E_TOO_MANY;
    if (log->tail_slot - log->head_slot + count > log->max_messages)
        return MCORE_E_FULL_MESSAGES;
    return fits ? MCORE_OK : MCORE_E_FULL_BYTES;
}

struct mcore_slot *mcore_send_log_append(struct mcore_send_log *lane, const struct mcore_route *route,
                                         const struct mcore_message *message, struct mcore_ticket *ticket)
{
    struct mcore_log *log = lane->log;
    uint64_t slot = log->tail_slot;
    size_t len = mcore_send_log_frame_size(lane, route, message, mcore_u64_size(slot));
    uint64_t pos = place_for(log, log->tail_pos, len);
    frame_write(lane, lane->data + pos % log->max_bytes, route, message, slot);
    struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
    entry->pos = pos;
    entry->len = (uint32_t)len;
    entry->owner = route->owner;
    entry->state = MCORE_SLOT_QUEUED;
    entry->flags = 0;
    entry->retried = 0;
    lane->tickets[slot % log->max_messages] = ticket;
    if (ticket != NULL) {
        ticket->slot = slot | lane->tag;
        ticket->attached = 1;
    }
    log->tail_pos = pos + len;
    log->tail_slot = slot + 1;
    lane->queued++;
    return entry;
}

void mcore_send_log_set_deadline(struct mcore_send_log *lane, int64_t deadline_ns)
{
    const struct mcore_log *log = lane->log;
    uint64_t slot = log->tail_slot - 1;
    uint64_t place = slot % log->max_messages;
    int64_t *due_ns = &lane->due_ns[place / MCORE_DUE_BLOCK];
    mcore_send_log_slot(lane, slot)->deadline_ns = deadline_ns;
    /* The first of a block forgets what the last round left there, unless its oldest are still kept at the block's end. */
    bool is_first = place % MCORE_DUE_BLOCK == 0 && log->head_slot + log->max_messages >= slot + MCORE_DUE_BLOCK;
    if (is_first || deadline_ns < *due_ns)
        *due_ns = deadline_ns;
}

void mcore_send_log_advance_deadline(struct mcore_send_log *lane, uint64_t slot, int64_t deadline_ns)
{
    int64_t *due_ns = &lane->due_ns[slot % lane->log->max_messages / MCORE_DUE_BLOCK];
    mcore_send_log_slot(lane, slot)->deadline_ns = deadline_ns;
    if (deadline_ns < *due_ns)
        *due_ns = deadline_ns;
}

const uint8_t *mcore_send_log_stream(const struct mcore_send_log *lane, const struct mcore_slot *entry, size_t *len)
{
    const uint8_t *subject = lane->data + entry->pos % lane->log->max_bytes + 5; /* behind "HPUB " */
    size_t end = 0;
    while (subject[end] != '.' && subject[end] != ' ')
        end++;
    *len = end;
    return subject;
}

/* ---- the sender's side -------------------------------------------------------------------------------------------- */

bool mcore_send_log_has_run(const struct mcore_send_log *lane, uint64_t window)
{
    if (lane->queued == 0 || lane->in_flight >= window)
        return false;
    /* After a full window a run for each ack would be a system call for each message: wait for an eighth. */
    return !lane->window_was_full || lane->in_flight <= window - window / 8;
}

long mcore_send_log_run_take(struct mcore_send_log *lane, uint64_t window, size_t max_bytes, struct mcore_stats *stats,
                             const uint8_t **data, size_t *len)
{
    struct mcore_log *log = lane->log;
    /* Behind a slot that is sent again lie others that are on their way, or pausing. */
    while (log->sent_slot < log->tail_slot && mcore_send_log_slot(lane, log->sent_slot)->state != MCORE_SLOT_QUEUED)
        log->sent_slot++;
    lane->window_was_full = false;
    uint64_t slot = log->sent_slot;
    if (slot == log->tail_slot || lane->in_flight >= window)
        return 0;
    uint64_t start = mcore_send_log_slot(lane, slot)->pos;
    uint64_t end = start;
    long count = 0;
    for (; slot < log->tail_slot; slot++) {
        struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
        if (entry->state != MCORE_SLOT_QUEUED || entry->pos != end)
            break;
        if (count > 0 && end % log->max_bytes == 0)
            break; /* the frames before it end exactly with the ring; this one lies at its beginning */
        if (count > 0 && end + entry->len - start > max_bytes)
            break;
        if (lane->in_flight >= window) {
            lane->window_was_full = true;
            break;
        }
        if (entry->flags & MCORE_FLAG_WRITTEN)
            stats->resent++;
        entry->state = MCORE_SLOT_IN_FLIGHT;
        entry->flags = (uint8_t)((entry->flags & ~MCORE_FLAG_NO_RESPONDERS) | MCORE_FLAG_WRITTEN);
        stats->queued--;
        stats->queued_bytes -= entry->len;
        stats->in_flight++;
        lane->queued--;
        lane->in_flight++;
        end += entry->len;
        count++;
    }
    log->sent_slot = slot;
    lane->pin_pos = start;
    *data = lane->data + start % log->max_bytes;
    *len = (size_t)(end - start);
    return count;
}

void mcore_send_log_queue_again(struct mcore_send_log *lane, uint64_t slot)
{
    mcore_send_log_slot(lane, slot)->state = MCORE_SLOT_QUEUED;
    lane->queued++;
    if (slot < lane->log->sent_slot)
        lane->log->sent_slot = slot;
}

void mcore_send_log_reclaim(struct mcore_send_log *lane)
{
    struct mcore_log *log = lane->log;
    while (log->head_slot < log->tail_slot) {
        const struct mcore_slot *entry = mcore_send_log_slot(lane, log->head_slot);
        if (entry->state != MCORE_SLOT_SETTLED || entry->pos >= lane->pin_pos)
            break;
        log->head_slot++;
        log->head_pos = entry->pos + entry->len;
    }
    if (log->sent_slot < log->head_slot)
        log->sent_slot = log->head_slot;
    if (log->head_slot == log->tail_slot && lane->pin_pos == UINT64_MAX) {
        uint64_t start = (log->tail_pos + log->max_bytes - 1) / log->max_bytes * log->max_bytes;
        log->tail_pos = start;
        log->head_pos = start;
    }
}

uint64_t mcore_send_log_rewind(struct mcore_send_log *lane, struct mcore_stats *stats)
{
    struct mcore_log *log = lane->log;
    uint64_t count = 0;
    for (uint64_t slot = log->head_slot; slot < log->tail_slot; slot++) {
        struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
        if (entry->state == MCORE_SLOT_IN_FLIGHT || entry->state == MCORE_SLOT_PAUSED)
            entry->flags |= MCORE_FLAG_UNSURE; /* its answer, or one behind it, is lost with the connection */
        if (entry->state != MCORE_SLOT_IN_FLIGHT)
            continue;
        entry->state = MCORE_SLOT_QUEUED;
        stats->in_flight--;
        stats->queued++;
        stats->queued_bytes += entry->len;
        lane->in_flight--;
        lane->queued++;
        count++;
    }
    log->sent_slot = log->head_slot;
    lane->window_was_full = false;
    return count;
}
