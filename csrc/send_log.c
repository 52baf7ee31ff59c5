/*
 * One log: where frames lie, and what gives their storage back. No locks, no waiting: the outbox does that around it.
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

bool mcore_send_log_init(struct mcore_send_log *send_log, const uint8_t *token, size_t token_len, const char *mark,
                         uint64_t tag, uint64_t max_bytes, uint64_t max_messages)
{
    size_t a_message = sizeof(struct mcore_slot) + sizeof(*send_log->tickets) + sizeof(*send_log->due_ns);
    if (max_bytes > SIZE_MAX / 4 || max_messages > SIZE_MAX / 4 / a_message)
        return false;
    size_t slots_off = round_up(sizeof(struct mcore_log), 64);
    size_t tickets_off = slots_off + max_messages * sizeof(struct mcore_slot);
    size_t due_off = tickets_off + max_messages * sizeof(*send_log->tickets);
    size_t data_off = round_up(due_off + (max_messages / MCORE_DUE_BLOCK + 1) * sizeof(*send_log->due_ns), 4096);
    send_log->block_len = data_off + max_bytes;
    send_log->block = mmap(NULL, send_log->block_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (send_log->block == MAP_FAILED)
        send_log->block = NULL;
    send_log->inbox = joined("_INBOX.", token, token_len, ".", mark, &send_log->inbox_len);
    send_log->id = joined("", token, token_len, "-", mark, &send_log->id_len);
    if (send_log->block == NULL || send_log->inbox == NULL || send_log->id == NULL)
        return false;
#ifdef MADV_DONTFORK
    madvise(send_log->block, send_log->block_len, MADV_DONTFORK); /* a fork neither copies it nor pays for it */
#endif
    send_log->log = (struct mcore_log *)(void *)send_log->block;
    send_log->slots = (struct mcore_slot *)(void *)(send_log->block + slots_off);
    send_log->tickets = (struct mcore_ticket **)(void *)(send_log->block + tickets_off);
    send_log->due_ns = (int64_t *)(void *)(send_log->block + due_off);
    send_log->data = send_log->block + data_off;
    send_log->log->magic = MCORE_LOG_MAGIC;
    send_log->log->format = MCORE_LOG_FORMAT;
    send_log->log->max_bytes = max_bytes;
    send_log->log->max_messages = max_messages;
    send_log->log->slots_off = slots_off;
    send_log->log->data_off = data_off;
    send_log->tag = tag;
    send_log->pin_pos = UINT64_MAX;
    return true;
}

void mcore_send_log_release(struct mcore_send_log *send_log)
{
    send_log->released = *send_log->log;
    send_log->released.head_slot = send_log->released.sent_slot = send_log->released.tail_slot;
    send_log->log = &send_log->released;
    munmap(send_log->block, send_log->block_len);
    send_log->entries = NULL;
    send_log->written = NULL;
    send_log->block = NULL;
    send_log->slots = NULL;
    send_log->data = NULL;
    send_log->tickets = NULL;
    send_log->due_ns = NULL;
}

void mcore_send_log_free(struct mcore_send_log *send_log)
{
    if (send_log->block != NULL)
        munmap(send_log->block, send_log->block_len);
    free(send_log->inbox);
    free(send_log->id);
}

struct mcore_slot *mcore_send_log_slot(const struct mcore_send_log *send_log, uint64_t slot)
{
    return &send_log->slots[slot % send_log->log->max_messages];
}

/* ---- frames ------------------------------------------------------------------------------------------------------- */

static const char version_line[] = "NATS/1.0\r\n";

static bool has_id(const struct mcore_route *route, const struct mcore_message *message)
{
    return route->id_name_len > 0 && (message->msg_id_len > 0 || route->auto_id);
}

size_t mcore_send_log_block_size(const struct mcore_send_log *send_log, const struct mcore_route *route,
                                 const struct mcore_message *message, size_t digits)
{
    size_t size = sizeof(version_line) - 1 + route->fixed_len + message->headers_len + 2;
    if (has_id(route, message)) {
        size_t id_len = message->msg_id_len > 0 ? message->msg_id_len : send_log->id_len + digits;
        size += route->id_name_len + 2 + id_len + 2;
    }
    return size;
}

size_t mcore_send_log_frame_size(const struct mcore_send_log *send_log, const struct mcore_route *route,
                                 const struct mcore_message *message, size_t digits)
{
    size_t block = mcore_send_log_block_size(send_log, route, message, digits);
    size_t total = block + message->payload_len;
    return 5 + route->subject_len + 1 + send_log->inbox_len + digits + 1 + mcore_u64_size(block) + 1 +
           mcore_u64_size(total) + 2 + total + 2;
}

static uint8_t *put(uint8_t *out, const void *bytes, size_t len)
{
    memcpy(out, bytes, len);
    return out + len;
}

static void frame_write(const struct mcore_send_log *send_log, uint8_t *out, const struct mcore_route *route,
                        const struct mcore_message *message, uint64_t slot)
{
    uint8_t digits[MCORE_MAX_U64_DIGITS];
    size_t digits_len = mcore_u64_write(digits, slot);
    size_t block = mcore_send_log_block_size(send_log, route, message, digits_len);
    out = put(out, "HPUB ", 5);
    out = put(out, route->subject, route->subject_len);
    *out++ = ' ';
    out = put(out, send_log->inbox, send_log->inbox_len);
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
            out = put(out, send_log->id, send_log->id_len);
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

int mcore_send_log_check(const struct mcore_send_log *send_log, const struct mcore_route *const *routes, size_t count,
                         const struct mcore_message *message)
{
    const struct mcore_log *log = send_log->log;
    uint64_t pos = log->tail_pos;
    size_t all = 0;
    bool fits = true;
    struct mcore_message part = *message;
    for (size_t i = 0; i < count; i++) {
        if (message->parts != NULL)
            part.payload_len = message->parts[i];
        size_t len = mcore_send_log_frame_size(send_log, routes[i], &part, mcore_u64_size(log->tail_slot + i));
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

struct mcore_slot *mcore_send_log_append(struct mcore_send_log *send_log, const struct mcore_route *route,
                                         const struct mcore_message *message, struct mcore_ticket *ticket)
{
    struct mcore_log *log = send_log->log;
    uint64_t slot = log->tail_slot;
    size_t len = mcore_send_log_frame_size(send_log, route, message, mcore_u64_size(slot));
    uint64_t pos = place_for(log, log->tail_pos, len);
    if (send_log->entries != NULL)
        mcore_file_begin(send_log, slot);
    frame_write(send_log, send_log->data + pos % log->max_bytes, route, message, slot);
    struct mcore_slot *entry = mcore_send_log_slot(send_log, slot);
    entry->pos = pos;
    entry->len = (uint32_t)len;
    entry->owner = route->owner;
    entry->state = MCORE_SLOT_QUEUED;
    entry->flags = 0;
    send_log->tickets[slot % log->max_messages] = ticket;
    if (ticket != NULL) {
        ticket->slot = slot | send_log->tag;
        ticket->attached = 1;
    }
    log->tail_pos = pos + len;
    log->tail_slot = slot + 1;
    send_log->queued++;
    if (send_log->entries != NULL)
        mcore_file_accept(send_log, slot, false, 0);
    return entry;
}

void mcore_send_log_set_deadline(struct mcore_send_log *send_log, int64_t deadline_ns)
{
    const struct mcore_log *log = send_log->log;
    uint64_t slot = log->tail_slot - 1;
    uint64_t place = slot % log->max_messages;
    int64_t *due_ns = &send_log->due_ns[place / MCORE_DUE_BLOCK];
    mcore_send_log_slot(send_log, slot)->deadline_ns = deadline_ns;
    /* The first of a block forgets what the last round left there, unless its oldest are still kept at the block's end. */
    bool is_first = place % MCORE_DUE_BLOCK == 0 && log->head_slot + log->max_messages >= slot + MCORE_DUE_BLOCK;
    if (is_first || deadline_ns < *due_ns)
        *due_ns = deadline_ns;
}

void mcore_send_log_advance_deadline(struct mcore_send_log *send_log, uint64_t slot, int64_t deadline_ns)
{
    int64_t *due_ns = &send_log->due_ns[slot % send_log->log->max_messages / MCORE_DUE_BLOCK];
    mcore_send_log_slot(send_log, slot)->deadline_ns = deadline_ns;
    if (deadline_ns < *due_ns)
        *due_ns = deadline_ns;
}

const uint8_t *mcore_send_log_stream(const struct mcore_send_log *send_log, const struct mcore_slot *entry, size_t *len)
{
    const uint8_t *subject = send_log->data + entry->pos % send_log->log->max_bytes + 5; /* behind "HPUB " */
    size_t end = 0;
    while (subject[end] != '.' && subject[end] != ' ')
        end++;
    *len = end;
    return subject;
}

size_t mcore_send_log_message_size(const struct mcore_send_log *send_log, const struct mcore_slot *entry)
{
    const uint8_t *frame = send_log->data + entry->pos % send_log->log->max_bytes;
    const uint8_t *line_end = memchr(frame, '\n', entry->len);
    return line_end == NULL ? entry->len : (size_t)(frame + entry->len - 2 - (line_end + 1));
}

bool mcore_send_log_has_id(const struct mcore_send_log *send_log, const struct mcore_slot *entry)
{
    static const char *const names[] = {"Nats-Msg-Id:", "msg-id:"}; /* first of all headers, see frame_write() */
    const uint8_t *frame = send_log->data + entry->pos % send_log->log->max_bytes;
    const uint8_t *end = frame + entry->len;
    const uint8_t *line_end = memchr(frame, '\n', entry->len);
    if (line_end == NULL)
        return false;
    const uint8_t *headers = line_end + sizeof(version_line); /* behind the line's end and the version's line */
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t len = strlen(names[i]);
        if (headers < end && (size_t)(end - headers) > len && memcmp(headers, names[i], len) == 0)
            return true;
    }
    return false;
}

/* ---- the sender's side -------------------------------------------------------------------------------------------- */

bool mcore_send_log_has_run(const struct mcore_send_log *send_log, uint64_t window)
{
    if (send_log->queued == 0 || send_log->in_flight >= window)
        return false;
    /* After a full window a run for each ack would be a system call for each message: wait for an eighth. */
    return !send_log->window_was_full || send_log->in_flight <= window - window / 8;
}

long mcore_send_log_run_take(struct mcore_send_log *send_log, uint64_t window, size_t max_bytes,
                             struct mcore_stats *stats, const uint8_t **data, size_t *len)
{
    struct mcore_log *log = send_log->log;
    /* Behind a slot that is sent again lie others that are on their way, or pausing. */
    while (log->sent_slot < log->tail_slot && mcore_send_log_slot(send_log, log->sent_slot)->state != MCORE_SLOT_QUEUED)
        log->sent_slot++;
    send_log->window_was_full = false;
    uint64_t slot = log->sent_slot;
    if (slot == log->tail_slot || send_log->in_flight >= window)
        return 0;
    uint64_t start = mcore_send_log_slot(send_log, slot)->pos;
    uint64_t end = start;
    long count = 0;
    for (; slot < log->tail_slot; slot++) {
        struct mcore_slot *entry = mcore_send_log_slot(send_log, slot);
        if (entry->state != MCORE_SLOT_QUEUED || entry->pos != end)
            break;
        if (count > 0 && end % log->max_bytes == 0)
            break; /* the frames before it end exactly with the ring; this one lies at its beginning */
        if (count > 0 && end + entry->len - start > max_bytes)
            break;
        if (send_log->in_flight >= window) {
            send_log->window_was_full = true;
            break;
        }
        if (entry->flags & MCORE_FLAG_WRITTEN)
            stats->resent++;
        entry->state = MCORE_SLOT_IN_FLIGHT;
        entry->round = send_log->round;
        entry->flags = (uint8_t)((entry->flags & ~MCORE_FLAG_NO_RESPONDERS) | MCORE_FLAG_WRITTEN);
        stats->queued--;
        stats->queued_bytes -= entry->len;
        stats->in_flight++;
        send_log->queued--;
        send_log->in_flight++;
        end += entry->len;
        count++;
    }
    log->sent_slot = slot;
    if (send_log->written != NULL && *send_log->written < slot)
        *send_log->written = slot;
    send_log->pin_pos = start;
    *data = send_log->data + start % log->max_bytes;
    *len = (size_t)(end - start);
    return count;
}

void mcore_send_log_queue_again(struct mcore_send_log *send_log, uint64_t slot)
{
    mcore_send_log_slot(send_log, slot)->state = MCORE_SLOT_QUEUED;
    send_log->queued++;
    if (slot < send_log->log->sent_slot)
        send_log->log->sent_slot = slot;
}

void mcore_send_log_reclaim(struct mcore_send_log *send_log)
{
    struct mcore_log *log = send_log->log;
    while (log->head_slot < log->tail_slot) {
        const struct mcore_slot *entry = mcore_send_log_slot(send_log, log->head_slot);
        if (entry->state != MCORE_SLOT_SETTLED || entry->pos >= send_log->pin_pos)
            break;
        log->head_slot++;
        log->head_pos = entry->pos + entry->len;
    }
    if (log->sent_slot < log->head_slot)
        log->sent_slot = log->head_slot;
    if (log->head_slot == log->tail_slot && send_log->pin_pos == UINT64_MAX) {
        uint64_t start = (log->tail_pos + log->max_bytes - 1) / log->max_bytes * log->max_bytes;
        log->tail_pos = start;
        log->head_pos = start;
    }
}

uint64_t mcore_send_log_rewind(struct mcore_send_log *send_log, struct mcore_stats *stats)
{
    struct mcore_log *log = send_log->log;
    uint64_t count = 0;
    for (uint64_t slot = log->head_slot; slot < log->tail_slot; slot++) {
        struct mcore_slot *entry = mcore_send_log_slot(send_log, slot);
        if (entry->state != MCORE_SLOT_SETTLED && (entry->flags & MCORE_FLAG_WRITTEN) != 0)
            entry->flags |= MCORE_FLAG_UNSURE; /* its answer, or one behind it, is lost with the connection */
        if (entry->state != MCORE_SLOT_IN_FLIGHT)
            continue;
        entry->state = MCORE_SLOT_QUEUED;
        stats->in_flight--;
        stats->queued++;
        stats->queued_bytes += entry->len;
        send_log->in_flight--;
        send_log->queued++;
        count++;
    }
    log->sent_slot = log->head_slot;
    send_log->window_was_full = false;
    return count;
}
