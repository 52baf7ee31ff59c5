/*
 * The outbox in a file: the frames of both lanes lie in a mapping that the kernel writes back, so they outlive a process
 * that is killed. What only this process needs (deadlines, tickets, who waits) stays in memory; see outbox_file.h.
 *
 * Fork: the mapping does not exist in a child, and its descriptor is closed there, by any fork(): it carries the lock of the
 * file, which would otherwise outlive the parent.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "outbox_file.h"

/* ---- descriptors of this process ----------------------------------------------------------------------------------- */

#define MOST_FILES 256

/* 0: free, else a descriptor + 1. The child's handler runs while it has one thread. */
static int open_files[MOST_FILES];
static pthread_once_t watching = PTHREAD_ONCE_INIT;

static void close_in_child(void)
{
    for (size_t i = 0; i < MOST_FILES; i++)
        if (open_files[i] != 0) {
            close(open_files[i] - 1);
            open_files[i] = 0;
        }
}

static void watch(void)
{
    pthread_atfork(NULL, NULL, close_in_child);
}

static bool remember(int fd)
{
    pthread_once(&watching, watch);
    for (size_t i = 0; i < MOST_FILES; i++) {
        int none = 0;
        if (__atomic_compare_exchange_n(&open_files[i], &none, fd + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return true;
    }
    return false;
}

static void forget(int fd)
{
    for (size_t i = 0; i < MOST_FILES; i++) {
        int mine = fd + 1;
        if (__atomic_compare_exchange_n(&open_files[i], &mine, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return;
    }
}

/* ---- layout and seals --------------------------------------------------------------------------------------------- */

/* Room for the messages that producers wait for: each waiting thread has one, so this many is many threads. */
#define EXPRESS_MESSAGES 4096u
#define EXPRESS_BYTES (16u * 1024u * 1024u)

void mcore_express_bounds(uint64_t *max_bytes, uint64_t *max_messages)
{
    if (*max_bytes > EXPRESS_BYTES)
        *max_bytes = EXPRESS_BYTES;
    if (*max_messages > EXPRESS_MESSAGES)
        *max_messages = EXPRESS_MESSAGES;
}

static uint64_t pages(uint64_t size)
{
    return (size + MCORE_FILE_PAGE - 1) / MCORE_FILE_PAGE * MCORE_FILE_PAGE;
}

uint64_t mcore_file_layout(uint64_t max_bytes, uint64_t max_messages, struct mcore_file_lane *lanes)
{
    uint64_t off = MCORE_FILE_PAGE;
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_file_lane *lane = &lanes[i];
        lane->max_bytes = max_bytes;
        lane->max_messages = max_messages;
        if (i == MCORE_EXPRESS_LANE)
            mcore_express_bounds(&lane->max_bytes, &lane->max_messages);
        lane->entries_off = off;
        lane->data_off = off + pages(lane->max_messages * sizeof(struct mcore_file_entry));
        off = lane->data_off + pages(lane->max_bytes);
    }
    return off;
}

uint64_t mcore_outbox_file_size(uint64_t max_bytes, uint64_t max_messages)
{
    struct mcore_file_lane lanes[MCORE_LANES];
    return mcore_file_layout(max_bytes, max_messages, lanes);
}

uint64_t mcore_file_header_check(const struct mcore_file_header *header)
{
    struct mcore_file_header copy = *header;
    copy.check = 0;
    return mcore_xxh64((const uint8_t *)&copy, offsetof(struct mcore_file_header, written), 0);
}

static uint64_t seal_of(const struct mcore_file_entry *entry, uint64_t salt, const uint8_t *bytes, size_t len)
{
    uint64_t seed = salt ^ entry->slot * UINT64_C(0x9e3779b97f4a7c15);
    seed = (seed ^ seed >> 29 ^ entry->off) * UINT64_C(0xbf58476d1ce4e5b9);
    seed = (seed ^ seed >> 31 ^ entry->len ^ (uint64_t)entry->accepted_s << 32) * UINT64_C(0x94d049bb133111eb);
    uint64_t seal = mcore_xxh64(bytes, len, seed);
    return seal == 0 ? 1 : seal;
}

uint64_t mcore_file_live_seal(const struct mcore_file_entry *entry, uint64_t salt, const uint8_t *frame)
{
    return seal_of(entry, salt, frame, entry->len);
}

uint64_t mcore_file_settled_seal(const struct mcore_file_entry *entry, uint64_t salt)
{
    return seal_of(entry, salt, (const uint8_t *)"settled", 7);
}

/* ---- the log's side; outbox->lock held ------------------------------------------------------------------------------ */

/*
 * Keeps the compiler from moving stores over this place. The processor needs no fence: a thread that is killed has done all
 * its stores up to some instruction, and who reads the file comes after that.
 */
static void in_order(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

void mcore_file_begin(struct mcore_send_log *send_log, uint64_t slot)
{
    struct mcore_file_entry *entry = &send_log->entries[slot % send_log->log->max_messages];
    __atomic_store_n(&entry->seal, 0, __ATOMIC_RELAXED);
    in_order(); /* before anything of the message is written */
}

void mcore_file_accept(struct mcore_send_log *send_log, uint64_t slot, bool was_written, uint32_t accepted_s)
{
    struct mcore_file_entry *entry = &send_log->entries[slot % send_log->log->max_messages];
    const struct mcore_slot *place = &send_log->slots[slot % send_log->log->max_messages];
    entry->slot = slot | (was_written ? MCORE_FILE_WRITTEN : 0);
    entry->off = place->pos % send_log->log->max_bytes;
    entry->len = place->len;
    entry->accepted_s = accepted_s != 0 ? accepted_s : (uint32_t)time(NULL);
    uint64_t seal = mcore_file_live_seal(entry, send_log->salt, send_log->data + entry->off);
    __atomic_store_n(&entry->seal, seal, __ATOMIC_RELEASE);
}

void mcore_file_settle(struct mcore_send_log *send_log, uint64_t slot)
{
    struct mcore_file_entry *entry = &send_log->entries[slot % send_log->log->max_messages];
    __atomic_store_n(&entry->seal, mcore_file_settled_seal(entry, send_log->salt), __ATOMIC_RELEASE);
    in_order(); /* before the frame's bytes are given to another message */
}

/* ---- the file ----------------------------------------------------------------------------------------------------- */

int mcore_outbox_use_file(struct mcore_outbox *outbox, int fd, uint64_t salt, const uint8_t *boot, size_t boot_len)
{
    struct mcore_file_header made = {.byte_order = MCORE_FILE_BYTE_ORDER, .format = MCORE_FILE_FORMAT, .salt = salt};
    made.size = mcore_file_layout(outbox->stats.max_bytes, outbox->stats.max_messages, made.lanes);
    struct stat stat;
    if (outbox->file != NULL || boot_len > MCORE_FILE_BOOT || fstat(fd, &stat) != 0 ||
        (uint64_t)stat.st_size != made.size)
        return MCORE_E_ARGUMENT;
    uint8_t *base = mmap(NULL, made.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return MCORE_E_MEMORY;
    if (!remember(fd)) {
        munmap(base, made.size);
        return MCORE_E_TOO_MANY;
    }
#ifdef MADV_DONTFORK
    madvise(base, made.size, MADV_DONTFORK);
#endif
    memcpy(made.magic, MCORE_FILE_MAGIC, sizeof(made.magic));
    if (boot_len > 0)
        memcpy(made.boot, boot, boot_len);
    made.pid = (uint64_t)getpid();
    made.created_s = (int64_t)time(NULL);
    made.check = mcore_file_header_check(&made);
    struct mcore_file_header *header = (struct mcore_file_header *)(void *)base;
    memcpy(header, &made, sizeof(made));
    pthread_mutex_lock(&outbox->lock);
    for (int i = 0; i < MCORE_LANES; i++) {
        struct mcore_send_log *lane = &outbox->lanes[i];
        lane->entries = (struct mcore_file_entry *)(void *)(base + made.lanes[i].entries_off);
        lane->data = base + made.lanes[i].data_off;
        lane->written = &header->written[i];
        lane->salt = salt;
    }
    outbox->file = base;
    outbox->file_len = made.size;
    outbox->file_fd = fd;
    pthread_mutex_unlock(&outbox->lock);
    return MCORE_OK;
}

void mcore_outbox_leave_file(struct mcore_outbox *outbox)
{
    if (outbox->file == NULL)
        return;
    munmap(outbox->file, outbox->file_len);
    forget(outbox->file_fd);
    close(outbox->file_fd); /* and with it the lock */
    outbox->file = NULL;
}

int mcore_outbox_sync(struct mcore_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    int fd = outbox->file == NULL ? -1 : outbox->file_fd;
    pthread_mutex_unlock(&outbox->lock);
    return fd < 0 || fdatasync(fd) == 0 ? 0 : errno;
}
