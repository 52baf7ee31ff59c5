/* Messages of streams that do not answer; outbox->lock held. */
#ifndef OUTAGE_H
#define OUTAGE_H

#include "core_internal.h"

/* One was appended: it waits, when its stream does not answer. */
void mcore_outage_appended_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, struct mcore_slot *entry);
/* Nobody listened to one, which has been paused. False: it is not sent again. */
bool mcore_outage_unheard_locked(struct mcore_outbox *outbox, struct mcore_send_log *lane, uint64_t number);
void mcore_outage_settled_locked(struct mcore_outbox *outbox, uint64_t number, int outcome);
/* Sends what is due to be sent again, one message a stream. */
void mcore_outage_run_due_locked(struct mcore_outbox *outbox, int64_t now_ns);
int64_t mcore_outage_next_due_locked(const struct mcore_outbox *outbox);
/* The connection is another one: all that waits is queued. */
void mcore_outage_end_all_locked(struct mcore_outbox *outbox);
/* Whether its stream does not answer, and is not known to be gone. */
bool mcore_outage_is_waited_out_locked(const struct mcore_outbox *outbox, const struct mcore_send_log *lane,
                                       const struct mcore_slot *entry);
void mcore_outages_free(struct mcore_outbox *outbox);

#endif
