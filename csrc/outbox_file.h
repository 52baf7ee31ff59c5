/*
 * How the outbox lies in a file: what outbox_file.c writes, outbox_read.c reads, and no binding sees.
 *
 *   header             one page; what it says of the file does not change while the file is in use
 *   for each lane      its entries, one for each slot number modulo max_messages; then the ring of its frames
 *
 * All numbers have the size that is written here and the byte order of the machine, which the header names; everything is
 * addressed by offsets. Nothing but the entries says which messages there are: an entry is
 *   empty              seal 0: never used, or being written when the process died, so that its message was never accepted
 *   live               seal of entry and frame: accepted, and not settled
 *   settled            seal of the entry alone: its frame may be overwritten
 *   damaged            anything else
 * A message is accepted with one store, that of its seal, and settled with another, so a process may die between any two
 * instructions. Seals are salted with a random number of the file: what is left of an older file's entries is no message.
 */
#ifndef MEMPHIS_OUTBOX_FILE_H
#define MEMPHIS_OUTBOX_FILE_H

#include "core_internal.h"

#define MCORE_FILE_MAGIC "MMPHSOBX"
#define MCORE_FILE_BYTE_ORDER UINT32_C(0x01020304)
#define MCORE_FILE_PAGE 4096u
#define MCORE_FILE_WRITTEN (UINT64_C(1) << 63) /* in an entry's slot: an earlier process may have sent it */

struct mcore_file_lane {
    uint64_t max_bytes;
    uint64_t max_messages;
    uint64_t entries_off; /* from the start of the file */
    uint64_t data_off;
};

struct mcore_file_header {
    uint8_t magic[8];
    uint32_t byte_order;
    uint32_t format; /* MCORE_FILE_FORMAT; stands here in every format to come */
    uint64_t check;  /* XXH64 of all up to `written`, with 0 here */
    uint64_t size;
    uint64_t salt;
    uint64_t pid;
    int64_t created_s;
    uint8_t boot[MCORE_FILE_BOOT]; /* which start of the machine wrote it; NUL-padded */
    struct mcore_file_lane lanes[MCORE_LANES];
    uint64_t written[MCORE_LANES]; /* slots from here on were never given to a socket; a hint, it is not checked */
};

struct mcore_file_entry {
    uint64_t seal;
    uint64_t slot; /* with MCORE_FILE_WRITTEN */
    uint64_t off;  /* of the frame in the ring */
    uint32_t len;
    uint32_t accepted_s; /* seconds since 1970 */
};

/* Where everything lies in a file of these bounds. Returns the file's size. */
uint64_t mcore_file_layout(uint64_t max_bytes, uint64_t max_messages, struct mcore_file_lane *lanes);
uint64_t mcore_file_header_check(const struct mcore_file_header *header);
/* The seal of a live entry, and of a settled one; neither is ever 0. */
uint64_t mcore_file_live_seal(const struct mcore_file_entry *entry, uint64_t salt, const uint8_t *frame);
uint64_t mcore_file_settled_seal(const struct mcore_file_entry *entry, uint64_t salt);

#endif
