/*
 * Reads an outbox file that an earlier process has left, and takes its messages over. Nothing in a file is believed that
 * its seal does not vouch for, and no offset is followed that leads out of it.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "outbox_file.h"

struct found {
    uint64_t slot; /* with the lane's place in the order of sending above it */
    const struct mcore_file_entry *entry;
    const uint8_t *frame;
};

struct mcore_outbox_file {
    uint8_t *base;
    size_t len;
    struct mcore_file_info info;
    struct found *found;
    size_t found_cap;
};

/* ---- frames ------------------------------------------------------------------------------------------------------- */

/* The bytes up to `stop`, which is stepped over; false when it does not come. */
static bool take_until(const uint8_t **at, const uint8_t *end, uint8_t stop, const uint8_t **part, size_t *len)
{
    const uint8_t *found = memchr(*at, stop, (size_t)(end - *at));
    if (found == NULL)
        return false;
    *part = *at;
    *len = (size_t)(found - *at);
    *at = found + 1;
    return true;
}

static bool take_number(const uint8_t **at, const uint8_t *end, uint8_t stop, size_t *value)
{
    const uint8_t *digits;
    size_t len;
    if (!take_until(at, end, stop, &digits, &len) || len == 0 || len > 10)
        return false;
    *value = 0;
    for (size_t i = 0; i < len; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return false;
        *value = *value * 10 + (size_t)(digits[i] - '0');
    }
    return true;
}

static bool is_id_name(const uint8_t *line, size_t len)
{
    static const char *const names[] = {"msg-id", "Nats-Msg-Id"};
    for (size_t i = 0; i < 2; i++)
        if (len == strlen(names[i]) && memcmp(line, names[i], len) == 0)
            return true;
    return false;
}

/* HPUB <subject> <reply> <block> <total>\r\nNATS/1.0\r\n[<id name>: <id>\r\n]<headers>\r\n<payload>\r\n */
static bool read_frame(const uint8_t *frame, size_t len, struct mcore_file_message *message)
{
    static const char start[] = "NATS/1.0\r\n";
    const uint8_t *at = frame;
    const uint8_t *end = frame + len;
    const uint8_t *part;
    size_t part_len;
    size_t block;
    size_t total;
    if (!take_until(&at, end, ' ', &part, &part_len) || part_len != 4 || memcmp(part, "HPUB", 4) != 0 ||
        !take_until(&at, end, ' ', &message->subject, &message->subject_len) || message->subject_len == 0 ||
        !take_until(&at, end, ' ', &part, &part_len) || !take_number(&at, end, ' ', &block) ||
        !take_number(&at, end, '\r', &total) || at == end || *at++ != '\n')
        return false;
    if (block > total || total > (size_t)(end - at) || (size_t)(end - at) - total != 2 ||
        block < sizeof(start) - 1 + 2 || memcmp(at, start, sizeof(start) - 1) != 0)
        return false;
    message->payload = at + block;
    message->payload_len = total - block;
    const uint8_t *block_end = at + block - 2;
    at += sizeof(start) - 1;
    const uint8_t *lines = at;
    message->id_name_len = message->msg_id_len = 0;
    if (take_until(&at, block_end, ':', &part, &part_len) && is_id_name(part, part_len) && at < block_end) {
        message->id_name = part;
        message->id_name_len = part_len;
        at++; /* the blank */
        if (!take_until(&at, block_end, '\r', &message->msg_id, &message->msg_id_len) || at == block_end)
            return false;
        lines = at + 1;
    }
    message->headers = lines;
    message->headers_len = (size_t)(block_end - lines);
    return true;
}

/* ---- the file ----------------------------------------------------------------------------------------------------- */

static int by_slot(const void *one, const void *other)
{
    uint64_t a = ((const struct found *)one)->slot;
    uint64_t b = ((const struct found *)other)->slot;
    return a < b ? -1 : a > b;
}

/* Whether the lanes are where a file of these bounds has them; the header's sum has been checked. */
static bool is_laid_out(const struct mcore_file_header *header)
{
    struct mcore_file_lane lanes[MCORE_LANES];
    const struct mcore_file_lane *bulk = &header->lanes[MCORE_BULK];
    if (bulk->max_bytes == 0 || bulk->max_messages == 0 || bulk->max_bytes > header->size ||
        bulk->max_messages > header->size / sizeof(struct mcore_file_entry))
        return false;
    return mcore_file_layout(bulk->max_bytes, bulk->max_messages, lanes) == header->size &&
           memcmp(lanes, header->lanes, sizeof(lanes)) == 0;
}

static bool add(struct mcore_outbox_file *file, uint64_t order, const struct mcore_file_entry *entry,
                const uint8_t *frame)
{
    if (file->info.messages == file->found_cap) {
        size_t cap = file->found_cap < 32 ? 64 : file->found_cap * 2;
        struct found *grown = realloc(file->found, cap * sizeof(*grown));
        if (grown == NULL)
            return false;
        file->found = grown;
        file->found_cap = cap;
    }
    file->found[file->info.messages++] = (struct found){order, entry, frame};
    file->info.bytes += entry->len;
    return true;
}

static bool read_lane(struct mcore_outbox_file *file, const struct mcore_file_header *header, int number)
{
    const struct mcore_file_lane *lane = &header->lanes[number];
    const struct mcore_file_entry *entries = (const struct mcore_file_entry *)(void *)(file->base + lane->entries_off);
    for (uint64_t i = 0; i < lane->max_messages; i++) {
        const struct mcore_file_entry *entry = &entries[i];
        uint64_t seal = __atomic_load_n(&entry->seal, __ATOMIC_ACQUIRE);
        if (seal == 0 || seal == mcore_file_settled_seal(entry, header->salt))
            continue;
        uint64_t slot = entry->slot & ~MCORE_FILE_WRITTEN;
        bool is_inside = entry->len <= lane->max_bytes && entry->off <= lane->max_bytes - entry->len;
        const uint8_t *frame = file->base + lane->data_off + (is_inside ? entry->off : 0);
        struct mcore_file_message message;
        if (!is_inside || slot % lane->max_messages != i || slot >= MCORE_EXPRESS_TAG ||
            mcore_file_live_seal(entry, header->salt, frame) != seal || !read_frame(frame, entry->len, &message))
            file->info.damaged++;
        else if (!add(file, slot | (number == MCORE_BULK ? MCORE_EXPRESS_TAG : 0), entry, frame))
            return false; /* the express lane goes first */
    }
    return true;
}

static int fault_of(struct mcore_outbox_file *file, int fd)
{
    struct mcore_file_info *info = &file->info;
    struct stat stat;
    if (fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode))
        return MCORE_FILE_UNREADABLE;
    info->actual_size = (uint64_t)stat.st_size;
    if (info->actual_size < 8)
        return MCORE_FILE_FOREIGN;
    file->len = (size_t)info->actual_size;
    file->base = mmap(NULL, file->len, PROT_READ, MAP_SHARED, fd, 0);
    if (file->base == MAP_FAILED) {
        file->base = NULL;
        return MCORE_FILE_UNREADABLE;
    }
    const struct mcore_file_header *header = (const struct mcore_file_header *)(void *)file->base;
    if (memcmp(header->magic, MCORE_FILE_MAGIC, sizeof(header->magic)) != 0)
        return MCORE_FILE_FOREIGN;
    if (file->len < sizeof(*header))
        return MCORE_FILE_CUT;
    if (header->byte_order != MCORE_FILE_BYTE_ORDER)
        return header->byte_order == __builtin_bswap32(MCORE_FILE_BYTE_ORDER) ? MCORE_FILE_OTHER_ORDER
                                                                              : MCORE_FILE_HEADER;
    info->format = header->format;
    if (header->format > MCORE_FILE_FORMAT)
        return MCORE_FILE_NEWER;
    if (header->format != MCORE_FILE_FORMAT || header->check != mcore_file_header_check(header))
        return MCORE_FILE_HEADER;
    info->size = header->size;
    if (header->size != info->actual_size)
        return MCORE_FILE_CUT;
    return is_laid_out(header) ? MCORE_FILE_WHOLE : MCORE_FILE_HEADER;
}

struct mcore_outbox_file *mcore_outbox_file_read(int fd)
{
    struct mcore_outbox_file *file = calloc(1, sizeof(*file));
    if (file == NULL)
        return NULL;
    file->info.fault = fault_of(file, fd);
    if (file->info.fault != MCORE_FILE_WHOLE)
        return file;
    const struct mcore_file_header *header = (const struct mcore_file_header *)(void *)file->base;
    file->info.pid = header->pid;
    file->info.created_s = header->created_s;
    file->info.max_bytes = header->lanes[MCORE_BULK].max_bytes;
    file->info.max_messages = header->lanes[MCORE_BULK].max_messages;
    memcpy(file->info.boot, header->boot, MCORE_FILE_BOOT);
    for (int i = 0; i < MCORE_LANES; i++)
        if (!read_lane(file, header, i)) {
            mcore_outbox_file_free(file);
            return NULL;
        }
    if (file->info.messages > 1)
        qsort(file->found, file->info.messages, sizeof(*file->found), by_slot);
    return file;
}

void mcore_outbox_file_free(struct mcore_outbox_file *file)
{
    if (file == NULL)
        return;
    if (file->base != NULL)
        munmap(file->base, file->len);
    free(file->found);
    free(file);
}

void mcore_outbox_file_info(const struct mcore_outbox_file *file, struct mcore_file_info *info)
{
    *info = file->info;
}

int mcore_outbox_file_message(const struct mcore_outbox_file *file, uint64_t index, struct mcore_file_message *message)
{
    *message = (struct mcore_file_message){0};
    if (index >= file->info.messages)
        return MCORE_E_ARGUMENT;
    const struct found *found = &file->found[index];
    if (!read_frame(found->frame, found->entry->len, message))
        return MCORE_E_ARGUMENT; /* somebody has changed it since */
    const struct mcore_file_header *header = (const struct mcore_file_header *)(void *)file->base;
    int lane = found->slot & MCORE_EXPRESS_TAG ? MCORE_BULK : MCORE_EXPRESS_LANE;
    message->accepted_s = found->entry->accepted_s;
    message->was_written =
        (found->entry->slot & MCORE_FILE_WRITTEN) != 0 || (found->slot & ~MCORE_EXPRESS_TAG) < header->written[lane];
    return MCORE_OK;
}

/* ---- taking over -------------------------------------------------------------------------------------------------- */

int64_t mcore_outbox_adopt(struct mcore_outbox *outbox, const struct mcore_outbox_file *file, const uint8_t *id_name,
                           size_t id_name_len)
{
    long owner = outbox->recovered_owner >= 0 ? outbox->recovered_owner : mcore_outbox_owner_new(outbox);
    if (owner < 0)
        return owner;
    struct mcore_send_log *lane = &outbox->lanes[MCORE_BULK];
    int error = MCORE_OK;
    uint64_t count = 0;
    pthread_mutex_lock(&outbox->lock);
    outbox->recovered_owner = owner;
    uint64_t first = lane->log->tail_slot;
    uint64_t first_pos = lane->log->tail_pos;
    for (; count < file->info.messages; count++) {
        struct mcore_file_message from;
        error = mcore_outbox_file_message(file, count, &from);
        if (error != MCORE_OK)
            break;
        const struct mcore_route route = {.subject = from.subject,
                                          .subject_len = from.subject_len,
                                          .id_name = id_name,
                                          .id_name_len = id_name_len,
                                          .fixed = from.headers,
                                          .owner = (uint32_t)owner};
        const struct mcore_route *routes = &route;
        const struct mcore_message message = {.payload = from.payload,
                                              .payload_len = from.payload_len,
                                              .headers = from.headers,
                                              .headers_len = from.headers_len,
                                              .msg_id = from.msg_id,
                                              .msg_id_len = from.msg_id_len};
        error = mcore_send_log_check(lane, &routes, 1, &message);
        if (error != MCORE_OK)
            break;
        struct mcore_slot *entry = mcore_send_log_append(lane, &route, &message, NULL);
        mcore_send_log_set_deadline(lane, MCORE_NEVER);
        entry->thread = mcore_thread_number();
        if (from.was_written)
            entry->flags = MCORE_FLAG_UNSURE;
        if (lane->entries != NULL)
            mcore_file_accept(lane, lane->log->tail_slot - 1, from.was_written != 0, (uint32_t)from.accepted_s);
    }
    for (uint64_t slot = first; slot < lane->log->tail_slot; slot++) {
        struct mcore_slot *entry = mcore_send_log_slot(lane, slot);
        if (error == MCORE_OK) {
            outbox->stats.accepted++;
            outbox->stats.queued++;
            outbox->stats.queued_bytes += entry->len;
            outbox->owners[owner].outstanding++;
            outbox->thread_backlog[entry->thread]++;
        } else { /* all or none */
            entry->state = MCORE_SLOT_SETTLED;
            if (lane->entries != NULL)
                mcore_file_settle(lane, slot);
            lane->queued--;
        }
    }
    if (error != MCORE_OK) {
        lane->log->tail_slot = first;
        lane->log->tail_pos = first_pos;
    }
    if (mcore_outbox_has_run_locked(outbox))
        mcore_outbox_wake_sender_locked(outbox);
    pthread_mutex_unlock(&outbox->lock);
    return error != MCORE_OK ? error : (int64_t)count;
}

void mcore_outbox_recovered(struct mcore_outbox *outbox, uint64_t *left, uint64_t *failed)
{
    pthread_mutex_lock(&outbox->lock);
    *left = *failed = 0;
    if (outbox->recovered_owner >= 0) {
        *left = outbox->owners[outbox->recovered_owner].outstanding;
        *failed = outbox->owners[outbox->recovered_owner].failed;
    }
    pthread_mutex_unlock(&outbox->lock);
}
