/*
 * The outbox in a file: what is found in it at any moment, in what order, as what; files that were cut or changed at every
 * byte; forked children; and taking over what an earlier process has left. A file is read while its outbox is still there:
 * what a killed process leaves is what stands in it at that moment.
 */
#include <fcntl.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "outbox_file.h"

#define SECOND INT64_C(1000000000)
#define BYTES_OF(text) (const uint8_t *)(text), strlen(text)
#define SALT UINT64_C(0x1234567890abcdef)
#define BYTES 4096u
#define MESSAGES 16u

static const char FIXED[] = "$memphis_producedBy: p\r\n";

static int new_file(uint64_t max_bytes, uint64_t max_messages)
{
    int fd = memfd_create("outbox", MFD_CLOEXEC);
    CHECK(fd >= 0 && posix_fallocate(fd, 0, (off_t)mcore_outbox_file_size(max_bytes, max_messages)) == 0);
    return fd;
}

/* An outbox in a file; *fd is a descriptor of the file's that is the caller's. */
static struct mcore_outbox *outbox_in(int *fd, const char *token, uint64_t max_bytes, uint64_t max_messages)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF(token), max_bytes, max_messages, 16384);
    CHECK(mcore_outbox_owner_new(outbox) == 0);
    int its = new_file(max_bytes, max_messages);
    *fd = fcntl(its, F_DUPFD_CLOEXEC, 0);
    CHECK(mcore_outbox_use_file(outbox, its, SALT, BYTES_OF("boot-1")) == MCORE_OK);
    return outbox;
}

static int64_t append(struct mcore_outbox *outbox, const char *payload, const char *msg_id, int urgent)
{
    struct mcore_route route = {BYTES_OF("st$1.final"), BYTES_OF("Nats-Msg-Id"), BYTES_OF(FIXED), 0, 1};
    const struct mcore_route *routes[] = {&route};
    struct mcore_message message = {.payload = (const uint8_t *)payload,
                                    .payload_len = strlen(payload),
                                    .msg_id = (const uint8_t *)msg_id,
                                    .msg_id_len = strlen(msg_id),
                                    .timeout_ns = 60 * SECOND,
                                    .urgent = urgent};
    struct mcore_ticket *none = NULL;
    return mcore_outbox_append(outbox, routes, 1, &message, &none);
}

static int settle(struct mcore_outbox *outbox, int64_t slot, int outcome)
{
    return mcore_outbox_settle(outbox, (uint64_t)slot, outcome, 7, 0, 0, 0, NULL, 0);
}

static struct mcore_file_info info_of(int fd)
{
    struct mcore_outbox_file *file = mcore_outbox_file_read(fd);
    struct mcore_file_info info;
    mcore_outbox_file_info(file, &info);
    mcore_outbox_file_free(file);
    return info;
}

/* The payloads of what is found, with a blank behind each. */
static const char *found_in(int fd)
{
    static char text[4096];
    struct mcore_outbox_file *file = mcore_outbox_file_read(fd);
    struct mcore_file_message message;
    size_t used = 0;
    for (uint64_t i = 0; mcore_outbox_file_message(file, i, &message) == MCORE_OK; i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%.*s ", (int)message.payload_len, message.payload);
    text[used] = '\0';
    mcore_outbox_file_free(file);
    return text;
}

static void test_the_hash_is_xxh64(void)
{
    CHECK(mcore_xxh64(BYTES_OF(""), 0) == UINT64_C(0xef46db3751d8e999));
    CHECK(mcore_xxh64(BYTES_OF("abc"), 0) == UINT64_C(0x44bc2cf5ad770999));
    CHECK(mcore_xxh64(BYTES_OF("Nobody inspects the spammish repetition"), 0) == UINT64_C(0xfbcea83c8a378bf1));
}

static void test_what_is_accepted_is_in_the_file_until_it_is_settled(void)
{
    int fd;
    struct mcore_outbox *outbox = outbox_in(&fd, "Tok", BYTES, MESSAGES);
    CHECK(info_of(fd).fault == MCORE_FILE_WHOLE && info_of(fd).messages == 0);
    CHECK(append(outbox, "a", "", 0) == 0 && append(outbox, "b", "mine", 0) == 1 && append(outbox, "c", "", 0) == 2);
    CHECK(strcmp(found_in(fd), "a b c ") == 0);
    settle(outbox, 1, MCORE_DELIVERED);
    CHECK(strcmp(found_in(fd), "a c ") == 0);
    settle(outbox, 0, MCORE_EXPIRED);
    CHECK(strcmp(found_in(fd), "c ") == 0);
    settle(outbox, 2, MCORE_REFUSED);
    CHECK(strcmp(found_in(fd), "") == 0 && info_of(fd).damaged == 0);
    mcore_outbox_free(outbox);
    close(fd);
}

static void test_a_message_is_found_as_it_was_sent(void)
{
    int fd;
    struct mcore_outbox *outbox = outbox_in(&fd, "Tok", BYTES, MESSAGES);
    append(outbox, "hello", "", 0);
    append(outbox, "", "mine", 0);
    const uint8_t *data;
    size_t len;
    CHECK(mcore_outbox_run_take(outbox, 1, &data, &len) == 1);
    struct mcore_outbox_file *file = mcore_outbox_file_read(fd);
    struct mcore_file_message m;
    CHECK(mcore_outbox_file_message(file, 0, &m) == MCORE_OK);
    CHECK(m.subject_len == 10 && memcmp(m.subject, "st$1.final", 10) == 0);
    CHECK(m.msg_id_len == 5 && memcmp(m.msg_id, "Tok-0", 5) == 0);
    CHECK(m.id_name_len == 11 && memcmp(m.id_name, "Nats-Msg-Id", 11) == 0);
    CHECK(m.headers_len == strlen(FIXED) && memcmp(m.headers, FIXED, m.headers_len) == 0);
    CHECK(m.payload_len == 5 && memcmp(m.payload, "hello", 5) == 0);
    CHECK(m.was_written && m.accepted_s > 0);
    CHECK(mcore_outbox_file_message(file, 1, &m) == MCORE_OK);
    CHECK(m.msg_id_len == 4 && memcmp(m.msg_id, "mine", 4) == 0 && m.payload_len == 0 && !m.was_written);
    CHECK(mcore_outbox_file_message(file, 2, &m) == MCORE_E_ARGUMENT);
    mcore_outbox_file_free(file);
    struct mcore_file_info info = info_of(fd);
    CHECK(info.pid == (uint64_t)getpid() && strcmp(info.boot, "boot-1") == 0 && info.max_messages == MESSAGES);
    CHECK(info.max_bytes == BYTES && info.size == info.actual_size && info.messages == 2 && info.damaged == 0);
    mcore_outbox_run_done(outbox);
    mcore_outbox_free(outbox);
    close(fd);
}

static void test_what_is_abandoned_stays_in_the_file(void)
{
    int fd;
    struct mcore_outbox *outbox = outbox_in(&fd, "Tok", BYTES, MESSAGES);
    append(outbox, "a", "", 0);
    append(outbox, "b", "", 0);
    settle(outbox, 0, MCORE_DELIVERED);
    mcore_outbox_close(outbox);
    CHECK(mcore_outbox_abandon(outbox) == 1);
    CHECK(mcore_outbox_release(outbox) == 1);
    CHECK(strcmp(found_in(fd), "b ") == 0);
    struct mcore_stats stats;
    mcore_outbox_stats(outbox, &stats);
    CHECK(stats.accepted == 2 && stats.delivered == 1 && stats.abandoned == 1);
    mcore_outbox_free(outbox);
    close(fd);
}

/* At every step of a long random run over many rounds of both rings the file holds what the model does, in its order. */
static void test_reuse_leaves_no_trace(void)
{
    int fd;
    struct mcore_outbox *outbox = outbox_in(&fd, "Tok", BYTES, MESSAGES);
    static int64_t live[MESSAGES * 2];
    size_t count = 0;
    int number = 0;
    uint32_t random = 1;
    for (int step = 0; step < 6000; step++) {
        random = random * 1664525u + 1013904223u;
        if (random >> 31) {
            char payload[400];
            snprintf(payload, sizeof(payload), "%d%*s", number, (int)(random >> 8) % 300, "");
            int64_t slot = append(outbox, payload, "", 0);
            if (slot >= 0)
                live[count++] = slot;
            number += slot >= 0;
        } else if (count > 0) {
            size_t i = (random >> 8) % count;
            CHECK(settle(outbox, live[i], MCORE_DELIVERED) == 1);
            memmove(live + i, live + i + 1, (--count - i) * sizeof(*live));
        }
        struct mcore_outbox_file *file = mcore_outbox_file_read(fd);
        struct mcore_file_info info;
        mcore_outbox_file_info(file, &info);
        CHECK(info.fault == MCORE_FILE_WHOLE && info.damaged == 0 && info.messages == count);
        for (size_t i = 0; i < count; i++) {
            struct mcore_file_message m;
            CHECK(mcore_outbox_file_message(file, i, &m) == MCORE_OK);
            char text[24];
            memcpy(text, m.payload, m.payload_len < 23 ? m.payload_len : 23);
            text[m.payload_len < 23 ? m.payload_len : 23] = '\0';
            CHECK(atoll(text) == live[i]); /* the slots are the numbers */
        }
        mcore_outbox_file_free(file);
    }
    CHECK(number > 500);
    mcore_outbox_free(outbox);
    close(fd);
}

/* ---- files that were cut or changed --------------------------------------------------------------------------------- */

static uint8_t *image_of(int fd, size_t *len)
{
    struct stat stat;
    CHECK(fstat(fd, &stat) == 0);
    *len = (size_t)stat.st_size;
    uint8_t *image = malloc(*len);
    CHECK(pread(fd, image, *len, 0) == (ssize_t)*len);
    return image;
}

/* A small file with two messages in each lane, one settled one, and some that were overwritten. */
static uint8_t *small_image(size_t *len)
{
    int fd;
    struct mcore_outbox *outbox = outbox_in(&fd, "Tok", 2048, 4);
    for (int i = 0; i < 21; i++)
        settle(outbox, append(outbox, "overwritten again and again", "", 0), MCORE_DELIVERED);
    append(outbox, "x1", "", 1);
    append(outbox, "x2", "", 1);
    append(outbox, "b1", "", 0);
    settle(outbox, append(outbox, "gone", "", 0), MCORE_DELIVERED);
    append(outbox, "b2", "", 0);
    CHECK(strcmp(found_in(fd), "x1 x2 b1 b2 ") == 0);
    uint8_t *image = image_of(fd, len);
    mcore_outbox_free(outbox);
    close(fd);
    return image;
}

static int file_of(const uint8_t *image, size_t len)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, image, len) == (ssize_t)len);
    return fd;
}

static void test_a_file_that_was_cut_is_never_taken_for_a_whole_one(void)
{
    size_t len;
    uint8_t *image = small_image(&len);
    int fd = file_of(image, len);
    CHECK(info_of(fd).fault == MCORE_FILE_WHOLE);
    for (size_t cut = len; cut-- > 0;) {
        CHECK(ftruncate(fd, (off_t)cut) == 0);
        struct mcore_file_info info = info_of(fd);
        CHECK(info.fault == (cut < 8 ? MCORE_FILE_FOREIGN : MCORE_FILE_CUT) && info.messages == 0);
    }
    CHECK(ftruncate(fd, (off_t)len + 1) == 0 && pwrite(fd, image, len, 0) == (ssize_t)len);
    CHECK(info_of(fd).fault == MCORE_FILE_CUT); /* longer than it was is as wrong */
    close(fd);
    free(image);
}

static void test_a_byte_that_was_changed_makes_no_message_and_hides_none(void)
{
    static const uint8_t changes[] = {0x01, 0x80, 0xff};
    size_t len;
    uint8_t *image = small_image(&len);
    size_t noticed = 0;
    int fd = file_of(image, len);
    for (size_t at = 0; at < len; at++)
        for (size_t c = 0; c < sizeof(changes); c++) {
            uint8_t changed = image[at] ^ changes[c];
            CHECK(pwrite(fd, &changed, 1, (off_t)at) == 1);
            struct mcore_file_info info = info_of(fd);
            const char *found = found_in(fd);
            noticed += info.fault != MCORE_FILE_WHOLE || info.damaged > 0;
            if (info.fault == MCORE_FILE_WHOLE && info.damaged == 0) {
                CHECK(strcmp(found, "x1 x2 b1 b2 ") == 0);
            } else { /* what is left is true, and in order */
                const char *all = "x1 x2 b1 b2 ";
                for (const char *one = found; *one != '\0'; one += 3) {
                    const char *its = strstr(all, (char[]){one[0], one[1], one[2], '\0'});
                    CHECK(its != NULL);
                    all = its + 3;
                }
                CHECK(info.fault != MCORE_FILE_WHOLE || info.messages + info.damaged >= 4);
            }
            CHECK(pwrite(fd, &image[at], 1, (off_t)at) == 1);
        }
    CHECK(noticed > 3 * (120 + 6 * 32)); /* the header, and every entry in use with the frames of the live ones */
    close(fd);
    free(image);
}

/* Whatever of an append was written when the process died, without the seal there is no message, and nothing is damaged. */
static void test_a_message_without_its_seal_was_never_accepted(void)
{
    size_t len;
    uint8_t *image = small_image(&len);
    struct mcore_file_header *header = (struct mcore_file_header *)(void *)image;
    struct mcore_file_lane *bulk = &header->lanes[MCORE_BULK];
    struct mcore_file_entry *entries = (struct mcore_file_entry *)(void *)(image + bulk->entries_off);
    struct mcore_file_entry *last = &entries[(21 + 2) % 4];
    CHECK((last->slot & ~MCORE_FILE_WRITTEN) == 23 && last->seal != 0);
    last->seal = 0;
    int fd = file_of(image, len);
    CHECK(strcmp(found_in(fd), "x1 x2 b1 ") == 0 && info_of(fd).damaged == 0);
    for (uint32_t i = 0; i < last->len; i++) {
        uint8_t other = 0xa5;
        CHECK(pwrite(fd, &other, 1, (off_t)(bulk->data_off + last->off + i)) == 1);
        if (i % 16 == 0)
            CHECK(strcmp(found_in(fd), "x1 x2 b1 ") == 0 && info_of(fd).damaged == 0);
    }
    close(fd);
    free(image);
}

static void check_fault(uint8_t *image, size_t len, int fault)
{
    int fd = file_of(image, len);
    CHECK(info_of(fd).fault == fault);
    close(fd);
}

static void test_foreign_files_are_told_apart(void)
{
    size_t len;
    uint8_t *image = small_image(&len);
    struct mcore_file_header *header = (struct mcore_file_header *)(void *)image;
    header->format = 2;
    check_fault(image, len, MCORE_FILE_NEWER);
    header->format = 0;
    check_fault(image, len, MCORE_FILE_HEADER);
    header->format = 1;
    header->byte_order = 0x04030201;
    check_fault(image, len, MCORE_FILE_OTHER_ORDER);
    header->byte_order = MCORE_FILE_BYTE_ORDER;
    header->lanes[0].data_off += 4096;
    header->check = mcore_file_header_check(header);
    check_fault(image, len, MCORE_FILE_HEADER);
    image[0] = 'm';
    check_fault(image, len, MCORE_FILE_FOREIGN);
    memset(image, 0, len);
    check_fault(image, len, MCORE_FILE_FOREIGN);
    int fd = open("/", O_RDONLY | O_CLOEXEC);
    CHECK(info_of(fd).fault == MCORE_FILE_UNREADABLE);
    close(fd);
    free(image);
}

/* ---- taking over -------------------------------------------------------------------------------------------------- */

static void test_recovered_messages_go_first_with_their_ids(void)
{
    int old_fd;
    int fd;
    struct mcore_outbox *old = outbox_in(&old_fd, "Old", BYTES, MESSAGES);
    append(old, "now", "", 1);
    append(old, "a", "", 0);
    append(old, "b", "mine", 0);
    const uint8_t *data;
    size_t len;
    CHECK(mcore_outbox_run_take(old, 65536, &data, &len) == 1); /* the express lane */
    mcore_outbox_run_done(old);
    struct mcore_outbox_file *file = mcore_outbox_file_read(old_fd);
    struct mcore_outbox *outbox = outbox_in(&fd, "New", BYTES, MESSAGES);
    CHECK(mcore_outbox_adopt(outbox, file, BYTES_OF("msg-id")) == 3);
    mcore_outbox_file_free(file);
    int64_t urgent = append(outbox, "new", "", 1);
    CHECK(urgent == 3); /* not in the express lane: it would overtake what was recovered */
    CHECK(strcmp(found_in(fd), "now a b new ") == 0);
    CHECK(mcore_outbox_run_take(outbox, 65536, &data, &len) == 4);
    const char *expected =
        "HPUB st$1.final _INBOX.New.0 52 55\r\nNATS/1.0\r\nmsg-id: Old-e0\r\n$memphis_producedBy: p\r\n\r\nnow\r\n"
        "HPUB st$1.final _INBOX.New.1 51 52\r\nNATS/1.0\r\nmsg-id: Old-0\r\n$memphis_producedBy: p\r\n\r\na\r\n"
        "HPUB st$1.final _INBOX.New.2 50 51\r\nNATS/1.0\r\nmsg-id: mine\r\n$memphis_producedBy: p\r\n\r\nb\r\n";
    CHECK(len > strlen(expected) && memcmp(data, expected, strlen(expected)) == 0);
    mcore_outbox_run_done(outbox);
    uint64_t left;
    uint64_t failed;
    mcore_outbox_recovered(outbox, &left, &failed);
    CHECK(left == 3 && failed == 0);
    CHECK(mcore_outbox_expire(outbox, mcore_now_ns() + 30 * SECOND) == 0); /* theirs never comes */
    CHECK(mcore_outbox_expire(outbox, mcore_now_ns() + 3600 * SECOND) == 1);
    settle(outbox, 0, MCORE_DELIVERED);
    settle(outbox, 1, MCORE_REFUSED);
    settle(outbox, 2, MCORE_DELIVERED);
    mcore_outbox_recovered(outbox, &left, &failed);
    CHECK(left == 0 && failed == 1);
    CHECK(mcore_outbox_outstanding(outbox, -1) == 0);
    mcore_outbox_free(outbox);
    mcore_outbox_free(old);
    close(old_fd);
    close(fd);
}

static void test_times_and_marks_are_taken_over(void)
{
    size_t len;
    uint8_t *image = small_image(&len);
    struct mcore_file_header *header = (struct mcore_file_header *)(void *)image;
    struct mcore_file_lane *bulk = &header->lanes[MCORE_BULK];
    struct mcore_file_entry *entry = (struct mcore_file_entry *)(void *)(image + bulk->entries_off) + 21 % 4;
    entry->accepted_s = 1234;
    entry->seal = mcore_file_live_seal(entry, header->salt, image + bulk->data_off + entry->off);
    header->written[MCORE_BULK] = 22; /* b1 is slot 21 */
    int old_fd = file_of(image, len);
    int fd = -1;
    for (int round = 0; round < 2; round++) { /* a second process dies before it has sent anything */
        struct mcore_outbox *outbox = outbox_in(&fd, "New", BYTES, MESSAGES);
        struct mcore_outbox_file *file = mcore_outbox_file_read(old_fd);
        CHECK(mcore_outbox_adopt(outbox, file, BYTES_OF("Nats-Msg-Id")) == 4);
        mcore_outbox_file_free(file);
        mcore_outbox_free(outbox);
        close(old_fd);
        old_fd = fd;
    }
    struct mcore_outbox_file *file = mcore_outbox_file_read(fd);
    struct mcore_file_message m;
    CHECK(mcore_outbox_file_message(file, 2, &m) == MCORE_OK && m.accepted_s == 1234 && m.was_written);
    CHECK(mcore_outbox_file_message(file, 3, &m) == MCORE_OK && m.accepted_s > 1234 && !m.was_written);
    mcore_outbox_file_free(file);
    close(fd);
    free(image);
}

static void test_all_messages_are_taken_over_or_none(void)
{
    int old_fd;
    int fd;
    struct mcore_outbox *old = outbox_in(&old_fd, "Old", BYTES, MESSAGES);
    for (int i = 0; i < 5; i++)
        append(old, "message", "", 0);
    struct mcore_outbox *outbox = outbox_in(&fd, "New", BYTES, 4);
    struct mcore_outbox_file *file = mcore_outbox_file_read(old_fd);
    CHECK(mcore_outbox_adopt(outbox, file, BYTES_OF("msg-id")) == MCORE_E_FULL_MESSAGES);
    mcore_outbox_file_free(file);
    CHECK(mcore_outbox_outstanding(outbox, -1) == 0 && strcmp(found_in(fd), "") == 0 && info_of(fd).damaged == 0);
    CHECK(append(outbox, "new", "", 0) == 0 && strcmp(found_in(fd), "new ") == 0);
    mcore_outbox_free(outbox);
    mcore_outbox_free(old);
    close(old_fd);
    close(fd);
}

/* ---- the descriptor ------------------------------------------------------------------------------------------------- */

static void test_a_file_of_another_size_is_not_used(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("Tok"), BYTES, MESSAGES, 16);
    int fd = new_file(BYTES, MESSAGES * 1024);
    CHECK(mcore_outbox_use_file(outbox, fd, SALT, NULL, 0) == MCORE_E_ARGUMENT);
    CHECK(close(fd) == 0); /* still the caller's */
    CHECK(append(outbox, "in memory", "", 0) == 0);
    CHECK(mcore_outbox_sync(outbox) == 0);
    mcore_outbox_free(outbox);
}

static void test_a_child_holds_neither_mapping_nor_lock(void)
{
    char path[] = "/tmp/mcore-outbox-XXXXXX";
    int its = mkostemp(path, O_CLOEXEC);
    CHECK(posix_fallocate(its, 0, (off_t)mcore_outbox_file_size(BYTES, MESSAGES)) == 0);
    CHECK(flock(its, LOCK_EX | LOCK_NB) == 0);
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("Tok"), BYTES, MESSAGES, 16);
    CHECK(mcore_outbox_use_file(outbox, its, SALT, NULL, 0) == MCORE_OK);
    append(outbox, "a", "", 0);
    int to_child[2];
    int to_parent[2];
    CHECK(pipe(to_child) == 0 && pipe(to_parent) == 0);
    pid_t child = fork();
    if (child == 0) {
        unsigned char page;
        char result = 'y';
        if (fcntl(its, F_GETFD) != -1 || mincore(outbox->file, 4096, &page) == 0)
            result = 'n';
        _exit(write(to_parent[1], &result, 1) == 1 && read(to_child[0], &result, 1) == 1 ? 0 : 1);
    }
    char result = '?';
    CHECK(read(to_parent[0], &result, 1) == 1 && result == 'y');
    int other = open(path, O_RDWR | O_CLOEXEC);
    CHECK(flock(other, LOCK_EX | LOCK_NB) == -1);
    CHECK(append(outbox, "b", "", 0) == 1 && mcore_outbox_sync(outbox) == 0);
    mcore_outbox_free(outbox);
    CHECK(flock(other, LOCK_EX | LOCK_NB) == 0); /* although the child lives on */
    CHECK(strcmp(found_in(other), "a b ") == 0);
    CHECK(write(to_child[1], &result, 1) == 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(other);
    unlink(path);
    for (int i = 0; i < 2; i++) {
        close(to_child[i]);
        close(to_parent[i]);
    }
}

int main(void)
{
    RUN(test_the_hash_is_xxh64);
    RUN(test_what_is_accepted_is_in_the_file_until_it_is_settled);
    RUN(test_a_message_is_found_as_it_was_sent);
    RUN(test_what_is_abandoned_stays_in_the_file);
    RUN(test_reuse_leaves_no_trace);
    RUN(test_a_file_that_was_cut_is_never_taken_for_a_whole_one);
    RUN(test_a_byte_that_was_changed_makes_no_message_and_hides_none);
    RUN(test_a_message_without_its_seal_was_never_accepted);
    RUN(test_foreign_files_are_told_apart);
    RUN(test_recovered_messages_go_first_with_their_ids);
    RUN(test_times_and_marks_are_taken_over);
    RUN(test_all_messages_are_taken_over_or_none);
    RUN(test_a_file_of_another_size_is_not_used);
    RUN(test_a_child_holds_neither_mapping_nor_lock);
    return test_summary("test_outbox_file");
}
