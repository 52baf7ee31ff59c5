/*
 * A leader that is lost takes along what it had and did not answer, and nobody says so. A stream is suspected when a
 * message of it has had no answer for some seconds: outage.c waits a moment then for any answer at all.
 */
#include "outage.h"

/* A message is old that was written so many rounds ago: two to three seconds, longer than any answer takes. */
#define OLD_ROUNDS 3

static bool is_old(const struct mcore_send_log *lane, const struct mcore_slot *entry)
{
    return (uint8_t)(lane->round - entry->round) >= OLD_ROUNDS;
}

void mcore_outage_look_for_silence(struct mcore_outbox *outbox)
{
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        uint64_t left = lane->in_flight;
        lane->round++;
        for (uint64_t slot = lane->log->head_slot; left > 0 && slot < lane->log->tail_slot; slot++) {
            const struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
            if (entry->state != MCORE_SLOT_IN_FLIGHT)
                continue;
            left--;
            if (!is_old(lane, entry) || mcore_outage_find(outbox, lane, entry) != NULL ||
                !mcore_send_log_has_id(lane, entry))
                continue;
            struct mcore_outage *outage = mcore_outage_suspect(outbox, lane, entry);
            if (outage == NULL)
                return;
            outage->due_ns = mcore_deadline_after(MCORE_ROUND_NS);
        }
    }
}

void mcore_outage_send_skipped(struct mcore_outbox *outbox, struct mcore_outage *outage)
{
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        for (uint64_t slot = mcore_outage_next_slot(outage, lane, outage->from[i]); slot < lane->log->tail_slot;
             slot = mcore_outage_next_slot(outage, lane, slot + 1)) {
            struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
            bool is_skipped = is_old(lane, entry) && (int8_t)(outage->newest - entry->round) > 0;
            if (entry->state == MCORE_SLOT_IN_FLIGHT && is_skipped && mcore_send_log_has_id(lane, entry)) {
                entry->flags |= MCORE_FLAG_UNSURE;
                mcore_outbox_pause_slot_locked(outbox, lane, entry);
                mcore_send_log_queue_again(lane, slot);
            }
        }
    }
}
