/*
 * The streams that do not answer, and the messages of each: a list that is nearly always empty.
 */
#include <stdlib.h>
#include <string.h>

#include "outage.h"

bool mcore_outage_is_of(const struct mcore_outage *outage, const uint8_t *stream, size_t len)
{
    return outage->stream_len == len && memcmp(outage->stream, stream, len) == 0;
}

static bool has_slot(const struct mcore_outage *outage, const struct mcore_send_log *lane, uint64_t slot)
{
    const struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
    size_t len;
    if (entry->state == MCORE_SLOT_SETTLED)
        return false;
    const uint8_t *stream = mcore_send_log_stream(lane, entry, &len);
    return mcore_outage_is_of(outage, stream, len);
}

uint64_t mcore_outage_next_slot(const struct mcore_outage *outage, const struct mcore_send_log *lane, uint64_t slot)
{
    if (slot < lane->log->head_slot)
        slot = lane->log->head_slot;
    while (slot < lane->log->tail_slot && !has_slot(outage, lane, slot))
        slot++;
    return slot;
}

struct mcore_outage *mcore_outage_find(const struct mcore_outbox *outbox, const struct mcore_send_log *lane,
                                       const struct mcore_slot *entry)
{
    size_t len;
    const uint8_t *stream = mcore_send_log_stream(lane, entry, &len);
    for (size_t i = 0; i < outbox->outage_count; i++)
        if (mcore_outage_is_of(&outbox->outages[i], stream, len))
            return &outbox->outages[i];
    return NULL;
}

struct mcore_outage *mcore_outage_suspect(struct mcore_outbox *outbox, const struct mcore_send_log *lane,
                                          const struct mcore_slot *entry)
{
    if (outbox->outage_count == outbox->outage_cap) {
        size_t cap = outbox->outage_cap == 0 ? 8 : outbox->outage_cap * 2;
        struct mcore_outage *grown = realloc(outbox->outages, cap * sizeof(*grown));
        if (grown == NULL)
            return NULL;
        outbox->outages = grown;
        outbox->outage_cap = cap;
    }
    size_t len;
    const uint8_t *stream = mcore_send_log_stream(lane, entry, &len);
    uint8_t *copy = malloc(len + 1);
    if (copy == NULL)
        return NULL;
    memcpy(copy, stream, len);
    struct mcore_outage *outage = &outbox->outages[outbox->outage_count++];
    *outage =
        (struct mcore_outage){.stream = copy, .stream_len = len, .phase = MCORE_SUSPECTED, .probe = MCORE_NO_SLOT};
    for (int i = 0; i < MCORE_LANES; i++)
        outage->from[i] = mcore_outage_next_slot(outage, &outbox->lanes[i], 0);
    return outage;
}

void mcore_outage_end(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    free(outage->stream);
    *outage = outbox->outages[--outbox->outage_count];
}
