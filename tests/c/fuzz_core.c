/*
 * What a peer can send, into everything that reads it: parser, header blocks, answers to messages, a link with its outbox
 * and buffers; what a caller can give, into the writers of frames; and what can stand in an outbox file, into its reader. The first byte of an input says which, the second
 * how the rest is cut into pieces: the same bytes in any pieces must have the same effect.
 *
 * One entry, LLVMFuzzerTestOneInput(): for tests/c/fuzz_driver.c, which needs nothing but a compiler, and for libFuzzer.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"
#include "outbox_file.h"

#define MUST(condition)                                                                   \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

#define MAX_PAYLOAD 2048u
#define SECOND INT64_C(1000000000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The lengths of pieces, the same for the same seed; seed 0 is one piece. */
struct cut {
    uint32_t state;
    bool whole;
};

static struct cut cut_of(uint8_t seed)
{
    return (struct cut){seed * 2654435761u + 1, seed == 0};
}

static size_t next_piece(struct cut *cut, size_t left)
{
    if (cut->whole)
        return left;
    cut->state = cut->state * 1664525u + 1013904223u;
    uint32_t random = cut->state >> 16;
    size_t piece = random % 4 == 0 ? 1 + random / 4 % 64 : 1 + random / 4 % 3;
    return piece < left ? piece : left;
}

/* A growing record of what was seen, compared at the end. */
struct seen {
    uint8_t *data;
    size_t len;
    size_t cap;
    bool is_lame_duck; /* the server said it ends: what stands behind that in the same piece is still looked at */
};

static void see(struct seen *seen, const void *bytes, size_t len)
{
    if (seen->cap - seen->len < len) {
        seen->cap = (seen->len + len) * 2 + 256;
        seen->data = realloc(seen->data, seen->cap);
        MUST(seen->data != NULL);
    }
    if (len > 0)
        memcpy(seen->data + seen->len, bytes, len);
    seen->len += len;
}

static void see_number(struct seen *seen, int64_t number)
{
    see(seen, &number, sizeof(number));
}

static void see_bytes(struct seen *seen, const uint8_t *bytes, size_t len)
{
    see_number(seen, (int64_t)len);
    see(seen, bytes, len);
}

static void must_be_equal(struct seen *one, struct seen *other)
{
    MUST(one->is_lame_duck || other->is_lame_duck || one->len == other->len);
    MUST(one->is_lame_duck || other->is_lame_duck || one->len == 0 || memcmp(one->data, other->data, one->len) == 0);
    free(one->data);
    free(other->data);
}

/* ---- the parser --------------------------------------------------------------------------------------------------- */

static void see_span(struct seen *seen, const uint8_t *data, size_t len, struct mcore_span span)
{
    MUST(span.len <= len && (span.len == 0 || span.off <= len - span.len));
    see_bytes(seen, data + (span.len > 0 ? span.off : 0), span.len);
}

static struct seen parse_in_pieces(const uint8_t *data, size_t size, uint8_t seed)
{
    struct seen seen = {0};
    struct mcore_parser parser;
    struct cut cut = cut_of(seed);
    struct mcore_event events[3];
    size_t start = 0;
    size_t end = 0;
    long count = 0;
    mcore_parser_init(&parser, seed == 0 ? 0 : MCORE_MAX_CONTROL_LINE, MAX_PAYLOAD);
    while (count >= 0 && end < size) {
        end += next_piece(&cut, size - end);
        for (;;) {
            size_t consumed = 0;
            uint8_t *piece = exactly(data + start, end - start);
            count = mcore_parse(&parser, piece, end - start, events, 1 + seed % 3, &consumed);
            MUST(consumed <= end - start && count <= 3 && (count > 0) == (consumed > 0));
            for (long i = 0; i < count; i++) {
                see_number(&seen, events[i].kind);
                see_number(&seen, (int64_t)events[i].sid);
                see_span(&seen, piece, end - start, events[i].frame);
                see_span(&seen, piece, end - start, events[i].subject);
                see_span(&seen, piece, end - start, events[i].reply);
                see_span(&seen, piece, end - start, events[i].headers);
                see_span(&seen, piece, end - start, events[i].payload);
            }
            free(piece);
            start += consumed;
            if (count <= 0)
                break;
        }
    }
    see_number(&seen, count < 0 ? count : 0);
    return seen;
}

static void fuzz_parser(const uint8_t *data, size_t size, uint8_t seed)
{
    struct seen whole = parse_in_pieces(data, size, 0);
    struct seen pieces = parse_in_pieces(data, size, seed);
    must_be_equal(&whole, &pieces);
}

/* ---- header blocks ------------------------------------------------------------------------------------------------ */

static void fuzz_headers(const uint8_t *data, size_t size)
{
    struct mcore_header some[2];
    struct mcore_span description;
    int status = 0;
    uint8_t *block = exactly(data, size);
    long count = mcore_headers_parse(block, size, &status, &description, some, 2);
    MUST(mcore_headers_parse(block, size, &status, &description, NULL, 0) == count);
    if (count >= 0) {
        struct mcore_header *all = exactly(NULL, 0);
        all = realloc(all, ((size_t)count + 1) * sizeof(*all));
        MUST(all != NULL && mcore_headers_parse(block, size, &status, &description, all, (size_t)count) == count);
        MUST(status >= 0 && status <= 999 && description.off <= size && description.len <= size - description.off);
        for (long i = 0; i < count; i++) {
            struct mcore_span name = all[i].name;
            struct mcore_span value = all[i].value;
            MUST(name.len > 0 && name.off < size && name.len <= size - name.off && value.off <= size &&
                 value.len <= size - value.off);
            /* What the writer takes is read back as it was, the blanks around it aside, of which there are none now. */
            size_t room = mcore_header_size(name.len, value.len);
            uint8_t *line = exactly(NULL, 0);
            line = realloc(line, room);
            long written = mcore_header_write(line, room, block + name.off, name.len, block + value.off, value.len);
            MUST(written == MCORE_E_HEADER || written == (long)room);
            MUST(written < 0 || (memcmp(line, block + name.off, name.len) == 0 && line[room - 1] == '\n'));
            free(line);
        }
        free(all);
    }
    free(block);
}

/* ---- answers to messages ------------------------------------------------------------------------------------------ */

static void fuzz_puback(const uint8_t *data, size_t size)
{
    struct mcore_outbox *outbox = mcore_outbox_new((const uint8_t *)"T", 1, 4096, 4, 4);
    struct mcore_route route = {(const uint8_t *)"s", 1, (const uint8_t *)"i", 1, (const uint8_t *)"", 0, 0, 1};
    const struct mcore_route *routes[] = {&route};
    struct mcore_message message = {.payload = (const uint8_t *)"x", .payload_len = 1, .timeout_ns = 60 * SECOND};
    struct mcore_ticket ticket;
    struct mcore_ticket *tickets[] = {&ticket};
    memset(&ticket, 0, sizeof(ticket));
    const uint8_t *frame;
    size_t frame_len;
    MUST(mcore_outbox_append(outbox, routes, 1, &message, tickets) == 0);
    MUST(mcore_outbox_run_take(outbox, 4096, &frame, &frame_len) == 1);
    mcore_outbox_run_done(outbox);
    struct mcore_puback ack;
    uint8_t *json = exactly(data, size);
    int outcome = mcore_puback_parse(json, size, &ack);
    MUST(ack.stream == NULL || (ack.stream >= json && ack.stream_len <= size - (size_t)(ack.stream - json)));
    MUST(ack.text == NULL ||
         ((const uint8_t *)ack.text >= json && ack.text_len <= size - (size_t)((const uint8_t *)ack.text - json)));
    bool is_for_it = ack.stream != NULL && ack.stream_len == 1 && ack.stream[0] == 's';
    int settled = mcore_outbox_ack(outbox, 0, 0, json, size);
    MUST(settled == (outcome != MCORE_PENDING && is_for_it));
    MUST(mcore_ticket_outcome(&ticket) == (settled ? outcome : MCORE_PENDING));
    free(json);
    MUST(ticket.text == NULL || strlen(ticket.text) <= size);
    mcore_ticket_release(outbox, &ticket);
    mcore_outbox_free(outbox);
}

/* ---- frames that are written -------------------------------------------------------------------------------------- */

struct piece {
    const uint8_t *data;
    size_t len;
};

/* The next part of an input, up to a byte 0xff, which no UTF-8 has. */
static struct piece take_piece(const uint8_t **data, const uint8_t *end)
{
    struct piece piece = {*data, 0};
    while (*data < end && **data != 0xff) {
        (*data)++;
        piece.len++;
    }
    if (*data < end)
        (*data)++;
    return piece;
}

/* A frame that the writer took: a server sends it on with its subscription number, and the parser reads the same. */
static void must_come_back(const uint8_t *frame, size_t len, struct piece subject, struct piece reply,
                           struct piece payload)
{
    struct mcore_parser parser;
    struct mcore_event event;
    size_t consumed;
    size_t name_len = 4; /* PUB and MSG are as long, with their blank */
    uint8_t *sent = malloc(len + 3);
    MUST(sent != NULL);
    memcpy(sent, "MSG ", name_len);
    memcpy(sent + name_len, subject.data, subject.len);
    memcpy(sent + name_len + subject.len, " 7 ", 3);
    memcpy(sent + name_len + subject.len + 3, frame + name_len + subject.len + 1, len - name_len - subject.len - 1);
    mcore_parser_init(&parser, 1 << 20, 1 << 20);
    MUST(mcore_parse(&parser, sent, len + 2, &event, 1, &consumed) == 1 && consumed == len + 2 && event.sid == 7);
    MUST(event.subject.len == subject.len && memcmp(sent + event.subject.off, subject.data, subject.len) == 0);
    MUST(event.reply.len == reply.len &&
         (reply.len == 0 || memcmp(sent + event.reply.off, reply.data, reply.len) == 0));
    MUST(event.payload.len == payload.len &&
         (payload.len == 0 || memcmp(sent + event.payload.off, payload.data, payload.len) == 0));
    free(sent);
}

static void fuzz_frames(const uint8_t *data, size_t size)
{
    const uint8_t *end = data + size;
    struct piece subject = take_piece(&data, end);
    struct piece reply = take_piece(&data, end);
    struct piece payload = {data, (size_t)(end - data)};
    size_t sizes[] = {mcore_pub_size(subject.len, reply.len, payload.len), mcore_sub_size(subject.len, reply.len, size),
                      mcore_connect_size(payload.len)};
    for (size_t kind = 0; kind < 3; kind++) {
        for (size_t less = 0; less < 2; less++) { /* a byte too little is refused */
            size_t cap = sizes[kind] - less;
            uint8_t *out = malloc(cap);
            long written;
            MUST(out != NULL);
            if (kind == 0)
                written = mcore_pub_write(out, cap, subject.data, subject.len, reply.data, reply.len, payload.data,
                                          payload.len);
            else if (kind == 1)
                written = mcore_sub_write(out, cap, subject.data, subject.len, reply.data, reply.len, size);
            else
                written = mcore_connect_write(out, cap, payload.data, payload.len);
            MUST(written == (long)sizes[kind] || written < 0);
            MUST(less == 0 || written < 0);
            if (kind == 0 && written > 0)
                must_come_back(out, cap, subject, reply, payload);
            free(out);
        }
    }
}

/* ---- a link ------------------------------------------------------------------------------------------------------- */

enum { MESSAGES = 6, URGENT = 3 }; /* the first of them go to the express lane */

static void see_inbox(struct seen *seen, struct mcore_receive_buffer *buffer)
{
    uint8_t *data;
    size_t len;
    see_number(seen, mcore_receive_buffer_take(buffer, &data, &len));
    for (size_t at = 0; at < len;) {
        struct mcore_record record;
        memcpy(&record, data + at, sizeof(record));
        size_t bytes = (size_t)record.subject_len + record.reply_len + record.header_len + record.payload_len;
        MUST(record.size >= sizeof(record) + bytes && record.size % 8 == 0 && record.size <= len - at);
        see_number(seen, record.status);
        see_number(seen, record.subject_len);
        see_number(seen, record.reply_len);
        see_number(seen, record.header_len);
        see_bytes(seen, data + at + sizeof(record), bytes);
        at += record.size;
    }
    mcore_free(data);
    see_number(seen, (int64_t)mcore_receive_buffer_dropped(buffer));
}

static struct seen feed_in_pieces(const uint8_t *data, size_t size, uint8_t seed)
{
    static int fd = -1;
    struct seen seen = {0};
    struct cut cut = cut_of(seed);
    if (fd < 0)
        fd = open("/dev/null", O_RDWR);
    MUST(fd >= 0);
    struct mcore_outbox *outbox = mcore_outbox_new((const uint8_t *)"T", 1, 4096, 16, 16);
    struct mcore_link *link = mcore_link_new(outbox, MAX_PAYLOAD, 0, 1);
    struct mcore_route route = {(const uint8_t *)"s", 1, (const uint8_t *)"i", 1, (const uint8_t *)"", 0, 0, 0};
    const struct mcore_route *routes[] = {&route};
    struct mcore_ticket tickets[MESSAGES];
    memset(tickets, 0, sizeof(tickets));
    mcore_outbox_owner_new(outbox);
    mcore_outbox_set_retry(outbox, 1, 0);
    for (int i = 0; i < MESSAGES; i++) {
        struct mcore_ticket *ticket[] = {&tickets[i]};
        struct mcore_message message = {.payload = (const uint8_t *)"x",
                                        .payload_len = 1,
                                        .timeout_ns = 60 * SECOND,
                                        .urgent = i < URGENT,
                                        .watcher = i % 2 ? &tickets[i] : NULL};
        MUST(mcore_outbox_append(outbox, routes, 1, &message, ticket) >= 0);
    }
    /* What was read too far by the handshake is the first piece. */
    size_t at = next_piece(&cut, size);
    MUST(mcore_link_attach(link, fd, (const uint8_t *)"SUB _INBOX.T.* 1\r\n", 18, data, at) == MCORE_OK);
    struct mcore_receive_buffer *buffers[] = {mcore_receive_buffer_new(link, 2, 1),
                                              mcore_receive_buffer_new(link, 3, 0)};
    mcore_receive_buffer_expect(buffers[0], 3, 400);
    mcore_receive_buffer_expect(buffers[1], 2, 1000);
    const uint8_t *out;
    size_t out_len;
    while (mcore_link_next(link, 0, &out, &out_len) == MCORE_NEXT_BYTES) /* all is on its way before anything comes */
        mcore_link_written(link, out_len, 0);
    int end = mcore_link_feed(link, NULL, 0);
    while (at < size && end == MCORE_LINK_GOES_ON) {
        size_t piece = next_piece(&cut, size - at);
        uint8_t *copy = exactly(data + at, piece);
        end = mcore_link_feed(link, copy, piece);
        free(copy);
        at += piece;
    }
    if (end == MCORE_LINK_GOES_ON)
        end = mcore_link_ended(link, 0);
    seen.is_lame_duck = link->is_lame_duck;
    see_number(&seen, end);
    if (end != MCORE_LINK_PROTOCOL) { /* then it is what has come of the offending bytes */
        char text[600];
        see_bytes(&seen, (uint8_t *)text, mcore_link_text(link, text, sizeof(text)));
    }
    see_inbox(&seen, buffers[0]);
    see_inbox(&seen, buffers[1]);
    see_number(&seen, link->pongs);
    see_bytes(&seen, link->control.data, link->control.len);
    struct mcore_stats stats;
    mcore_outbox_stats(outbox, &stats);
    MUST(stats.accepted == stats.delivered + stats.failed + stats.abandoned + stats.queued + stats.in_flight);
    MUST(mcore_outbox_outstanding(outbox, 0) == stats.queued + stats.in_flight);
    for (int i = 0; i < MESSAGES; i++) {
        see_number(&seen, mcore_ticket_outcome(&tickets[i]));
        see_number(&seen, (int64_t)tickets[i].sequence);
        see_number(&seen, tickets[i].duplicate);
        see_number(&seen, tickets[i].code);
        see_number(&seen, tickets[i].err_code);
        if (tickets[i].text != NULL)
            see_bytes(&seen, (uint8_t *)tickets[i].text, strlen(tickets[i].text));
    }
    mcore_receive_buffer_free(buffers[0]);
    mcore_receive_buffer_free(buffers[1]);
    mcore_link_detach(link);
    mcore_outbox_expire(outbox, MCORE_NEVER - 1);
    MUST(mcore_outbox_outstanding(outbox, -1) == 0);
    for (int i = 0; i < MESSAGES; i++)
        mcore_ticket_release(outbox, &tickets[i]);
    mcore_link_free(link);
    mcore_outbox_free(outbox);
    return seen;
}

static void fuzz_link(const uint8_t *data, size_t size, uint8_t seed)
{
    struct seen whole = feed_in_pieces(data, size, 0);
    struct seen pieces = feed_in_pieces(data, size, seed);
    must_be_equal(&whole, &pieces);
}

/* ---- outbox files ------------------------------------------------------------------------------------------------- */

static int file_with_three(struct mcore_outbox **outbox)
{
    int fd = memfd_create("outbox", MFD_CLOEXEC);
    *outbox = mcore_outbox_new((const uint8_t *)"T", 1, 1024, 4, 16);
    MUST(fd >= 0 && posix_fallocate(fd, 0, (off_t)mcore_outbox_file_size(1024, 4)) == 0);
    MUST(mcore_outbox_use_file(*outbox, fd, 1, NULL, 0) == MCORE_OK);
    struct mcore_route route = {(const uint8_t *)"s.f", 3, (const uint8_t *)"msg-id", 6, (const uint8_t *)"", 0, 0, 1};
    const struct mcore_route *routes[] = {&route};
    struct mcore_message message = {.payload = (const uint8_t *)"x", .payload_len = 1, .timeout_ns = 60 * SECOND};
    struct mcore_ticket *none = NULL;
    for (int i = 0; i < 3; i++)
        MUST(mcore_outbox_append(*outbox, routes, 1, &message, &none) == i);
    return fd;
}

/*
 * A file in which bytes were changed: triples of an offset and a byte; bit 0 of the seed makes the header's sum right again,
 * bit 1 the seals of the first lane, so that what they vouch for is nonsense.
 */
static void fuzz_file(const uint8_t *data, size_t size, uint8_t seed)
{
    struct mcore_outbox *from;
    struct mcore_outbox *to;
    int fd = file_with_three(&from);
    int other = file_with_three(&to);
    MUST(other >= 0);
    for (; size >= 3; data += 3, size -= 3)
        from->file[(size_t)(data[0] << 8 | data[1]) % from->file_len] = data[2];
    struct mcore_file_header *header = (struct mcore_file_header *)(void *)from->file;
    if (seed & 1)
        header->check = mcore_file_header_check(header);
    for (size_t i = 0; (seed & 2) && i < 4; i++) {
        struct mcore_file_entry *entry = &from->lanes[MCORE_BULK].entries[i];
        if (entry->off <= 1024 && entry->len <= 1024 - entry->off)
            entry->seal = mcore_file_live_seal(entry, header->salt, from->lanes[MCORE_BULK].data + entry->off);
    }
    struct mcore_outbox_file *file = mcore_outbox_file_read(fd);
    struct mcore_file_info info;
    struct mcore_file_message m;
    struct seen seen = {0};
    MUST(file != NULL);
    mcore_outbox_file_info(file, &info);
    for (uint64_t i = 0; mcore_outbox_file_message(file, i, &m) == MCORE_OK; i++) {
        MUST(i < info.messages);
        see_bytes(&seen, m.subject, m.subject_len);
        see_bytes(&seen, m.msg_id, m.msg_id_len);
        see_bytes(&seen, m.headers, m.headers_len);
        see_bytes(&seen, m.payload, m.payload_len);
    }
    free(seen.data);
    int64_t count = mcore_outbox_adopt(to, file, (const uint8_t *)"Nats-Msg-Id", 11);
    MUST(count < 0 || (uint64_t)count == info.messages);
    MUST(mcore_outbox_outstanding(to, -1) == 3 + (count < 0 ? 0 : info.messages));
    mcore_outbox_file_free(file);
    mcore_outbox_free(from);
    mcore_outbox_free(to);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    uint8_t seed = data[1];
    switch (data[0]) {
    case 'P': fuzz_parser(data + 2, size - 2, seed); break;
    case 'H': fuzz_headers(data + 2, size - 2); break;
    case 'A': fuzz_puback(data + 2, size - 2); break;
    case 'F': fuzz_frames(data + 2, size - 2); break;
    case 'O': fuzz_file(data + 2, size - 2, seed); break;
    case 'L': fuzz_link(data + 2, size - 2, seed); break;
    default: break;
    }
    return 0;
}
