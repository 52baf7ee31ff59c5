/*
 * What the outbox takes: how large a message is, which bounds it must keep, and whose thread it counts for.
 */
#include "core_internal.h"

struct mcore_sizes mcore_outbox_sizes(const struct mcore_outbox *outbox, const struct mcore_route *const *routes,
                                      size_t count, const struct mcore_message *message)
{
    struct mcore_sizes sizes = {0};
    struct mcore_message part = *message;
    for (size_t i = 0; i < count; i++) {
        if (message->parts != NULL)
            part.payload_len = message->parts[i];
        const struct mcore_send_log *lane = &outbox->lanes[MCORE_EXPRESS_LANE]; /* its numbers take a letter more */
        size_t block = mcore_send_log_block_size(lane, routes[i], &part, MCORE_MAX_U64_DIGITS);
        if (i == 0 || block + part.payload_len > sizes.block + sizes.payload) {
            sizes.block = block;
            sizes.payload = part.payload_len;
        }
        sizes.frames += mcore_send_log_frame_size(lane, routes[i], &part, MCORE_MAX_U64_DIGITS);
    }
    return sizes;
}

int mcore_outbox_check_size(const struct mcore_outbox *outbox, const struct mcore_route *const *routes, size_t count,
                            const struct mcore_message *message)
{
    if (count == 0 || count > MCORE_MAX_ROUTES)
        return MCORE_E_ARGUMENT;
    if (message->payload_len > UINT32_MAX / 2 || message->headers_len > UINT32_MAX / 4)
        return MCORE_E_TOO_LARGE;
    const struct mcore_send_log *lane = &outbox->lanes[MCORE_EXPRESS_LANE];
    uint64_t most = __atomic_load_n(&outbox->stats.max_payload, __ATOMIC_RELAXED);
    for (size_t i = 0; i < count; i++) {
        size_t payload_len = message->parts != NULL ? message->parts[i] : message->payload_len;
        if (payload_len + mcore_send_log_block_size(lane, routes[i], message, MCORE_MAX_U64_DIGITS) > most)
            return MCORE_E_PAYLOAD;
    }
    return MCORE_OK;
}

uint32_t mcore_thread_number(void)
{
    static uint32_t next;
    static _Thread_local uint32_t mine;
    if (mine == 0)
        mine = __atomic_add_fetch(&next, 1, __ATOMIC_RELAXED);
    return mine % MCORE_THREADS;
}

int mcore_outbox_room_beside_held_locked(const struct mcore_outbox *outbox, uint64_t bytes, uint64_t messages)
{
    const struct mcore_log *log = outbox->lanes[MCORE_BULK].log;
    if (log->tail_slot - log->head_slot + outbox->held_messages + messages > log->max_messages)
        return MCORE_E_FULL_MESSAGES;
    if (log->tail_pos - log->head_pos + outbox->held_bytes + bytes > log->max_bytes)
        return MCORE_E_FULL_BYTES;
    return MCORE_OK;
}

/* Room is asked for in the bulk lane: the express lane falls back to it. */
bool mcore_outbox_has_room_locked(const struct mcore_outbox *outbox, uint64_t bytes, uint64_t slots)
{
    const struct mcore_log *log = outbox->lanes[MCORE_BULK].log;
    if (log->head_slot == log->tail_slot && outbox->held_messages == 0)
        return true;
    if (outbox->held_messages > 0)
        return mcore_outbox_room_beside_held_locked(outbox, bytes, slots) == MCORE_OK;
    return log->max_bytes - (log->tail_pos - log->head_pos) >= bytes &&
           log->max_messages - (log->tail_slot - log->head_slot) >= slots;
}
