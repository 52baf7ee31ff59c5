/* Sections 1 to 5 of memphis_core.h. Whatever goes in lies in a heap block of its exact size: see exactly(). */
#include "harness.h"
#include "memphis_core.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#define U8(text) ((const uint8_t *)(text))
#define LEN(literal) (sizeof(literal) - 1)

/* ---- hash and fork counter ---- */

static uint32_t hash(const char *text, uint32_t seed)
{
    size_t len = strlen(text);
    uint8_t *copy = exactly(text, len);
    uint32_t h = mcore_murmur3_x86_32(copy, len, seed);
    free(copy);
    return h;
}

static void test_murmur3_vectors(void)
{
    CHECK(hash("", 0) == 0);
    CHECK(hash("", 1) == 0x514E28B7u);
    CHECK(hash("", 0xffffffffu) == 0x81F16F39u);
    CHECK(hash("aaaa", 0x9747b28cu) == 0x5A97808Au);
    CHECK(hash("abc", 0x9747b28cu) == 0xC84A62DDu);
    CHECK(hash("Hello, world!", 0x9747b28cu) == 0x24884CBAu);
    CHECK(hash("order-17", 31) == 1907528989u);
    CHECK(mcore_murmur3_x86_32(NULL, 0, 31) == 1257683291u);
}

static void test_forks_are_counted(void)
{
    pid_t child;
    int status = 0;

    CHECK(mcore_fork_watch() == MCORE_OK);
    CHECK(mcore_fork_watch() == MCORE_OK);
    CHECK(mcore_fork_generation() == 0);
    child = fork();
    if (child == 0) {
        pid_t grandchild = mcore_fork_generation() == 1 ? fork() : -1;
        if (grandchild == 0) {
            _exit(mcore_fork_generation() == 2 ? 0 : 1);
        }
        _exit(grandchild > 0 && waitpid(grandchild, &status, 0) == grandchild && status == 0 ? 0 : 1);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    CHECK(mcore_fork_generation() == 0);
}

/* ---- frames ---- */

static void check_number(uint64_t value, const char *text)
{
    size_t len = strlen(text);
    uint8_t *out = malloc(len);

    CHECK(mcore_u64_size(value) == len);
    CHECK(mcore_u64_write(out, value) == len);
    CHECK(memcmp(out, text, len) == 0);
    free(out);
}

static void test_numbers(void)
{
    uint64_t power = 1;

    check_number(0, "0");
    check_number(UINT64_MAX, "18446744073709551615");
    for (int digits = 1; digits <= 20; digits++) {
        char text[24];
        snprintf(text, sizeof(text), "%llu", (unsigned long long)power);
        check_number(power, text);
        snprintf(text, sizeof(text), "%llu", (unsigned long long)(power - 1));
        check_number(power - 1, text);
        power *= 10;
    }
}

static uint8_t out[256];

static void check_written(long written, size_t size, const char *expected)
{
    CHECK(written == (long)strlen(expected));
    CHECK(size == strlen(expected));
    CHECK(written > 0 && memcmp(out, expected, strlen(expected)) == 0);
}

static void test_frames_are_written(void)
{
    check_written(mcore_connect_write(out, 12, U8("{}"), 2), mcore_connect_size(2), "CONNECT {}\r\n");
    check_written(mcore_sub_write(out, 256, U8("a.>"), 3, NULL, 0, 7), mcore_sub_size(3, 0, 7), "SUB a.> 7\r\n");
    check_written(mcore_sub_write(out, 256, U8("a"), 1, U8("q"), 1, 12), mcore_sub_size(1, 1, 12), "SUB a q 12\r\n");
    check_written(mcore_unsub_write(out, 256, 3, 0), mcore_unsub_size(3, 0), "UNSUB 3\r\n");
    check_written(mcore_unsub_write(out, 256, 3, 10), mcore_unsub_size(3, 10), "UNSUB 3 10\r\n");
    check_written(mcore_pub_write(out, 256, U8("a"), 1, NULL, 0, NULL, 0), mcore_pub_size(1, 0, 0), "PUB a 0\r\n\r\n");
    check_written(mcore_pub_write(out, 256, U8("a"), 1, U8("r"), 1, U8("x\r\ny"), 4), mcore_pub_size(1, 1, 4),
                  "PUB a r 4\r\nx\r\ny\r\n");
    check_written(mcore_pub_write(out, 256, U8("\xd0\xba"), 2, U8("r"), 1, U8("hi"), 2), mcore_pub_size(2, 1, 2),
                  "PUB \xd0\xba r 2\r\nhi\r\n");
}

static void test_bad_frames_are_refused_and_leave_the_buffer(void)
{
    static const char *const BAD[] = {"",
                                      "a b",
                                      "a\t",
                                      "\r",
                                      "a\n",
                                      "\x7f",
                                      "\x1f",
                                      "\x80",
                                      "\xc3",
                                      "\xc0\x80",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xe2\x82",
                                      "a\xff"};

    memset(out, 0xaa, sizeof(out));
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        size_t len = strlen(BAD[i]);
        uint8_t *bad = exactly(BAD[i], len);
        CHECK(mcore_sub_write(out, 256, bad, len, NULL, 0, 1) == MCORE_E_ARGUMENT);
        CHECK(mcore_pub_write(out, 256, bad, len, NULL, 0, NULL, 0) == MCORE_E_ARGUMENT);
        if (len > 0) { /* length 0 is an absent one */
            CHECK(mcore_sub_write(out, 256, U8("a"), 1, bad, len, 1) == MCORE_E_ARGUMENT);
            CHECK(mcore_pub_write(out, 256, U8("a"), 1, bad, len, NULL, 0) == MCORE_E_ARGUMENT);
        }
        free(bad);
    }
    CHECK(mcore_connect_write(out, 256, NULL, 0) == MCORE_E_ARGUMENT);
    CHECK(mcore_connect_write(out, 256, U8("{\n}"), 3) == MCORE_E_ARGUMENT);
    CHECK(mcore_connect_write(out, 256, U8("{}\r"), 3) == MCORE_E_ARGUMENT);
    CHECK(mcore_connect_write(out, 11, U8("{}"), 2) == MCORE_E_ROOM);
    CHECK(mcore_sub_write(out, 8, U8("a"), 1, NULL, 0, 1) == MCORE_E_ROOM);
    CHECK(mcore_unsub_write(out, 8, 1, 0) == MCORE_E_ROOM);
    CHECK(mcore_pub_write(out, 10, U8("a"), 1, NULL, 0, NULL, 0) == MCORE_E_ROOM);
    for (size_t i = 0; i < sizeof(out); i++) {
        CHECK(out[i] == 0xaa);
    }
}

/* ---- headers ---- */

static void test_headers_are_written(void)
{
    check_written(mcore_header_write(out, 256, U8("k"), 1, U8("v w"), 3), mcore_header_size(1, 3), "k: v w\r\n");
    check_written(mcore_header_write(out, 5, U8("k"), 1, NULL, 0), mcore_header_size(1, 0), "k: \r\n");
    CHECK(mcore_header_write(out, 4, U8("k"), 1, NULL, 0) == MCORE_E_ROOM);
    CHECK(mcore_header_write(out, 256, NULL, 0, U8("v"), 1) == MCORE_E_HEADER);
    for (int byte = 0; byte < 256; byte++) {
        uint8_t one = (uint8_t)byte;
        int good_name = byte >= 0x21 && byte <= 0x7e && byte != ':';
        int good_value = byte != '\r' && byte != '\n' && byte != 0;
        CHECK(mcore_header_name_check(&one, 1) == (good_name ? MCORE_OK : MCORE_E_HEADER));
        CHECK(mcore_header_value_check(&one, 1) == (good_value ? MCORE_OK : MCORE_E_HEADER));
    }
}

static int status;
static struct mcore_span description;
static struct mcore_header found[4];

static long read_block(const char *block, size_t len)
{
    uint8_t *copy = exactly(block, len);
    long count = mcore_headers_parse(copy, len, &status, &description, found, 4);
    free(copy);
    return count;
}

static int span_is(const char *base, struct mcore_span span, const char *text)
{
    return span.len == strlen(text) && memcmp(base + span.off, text, span.len) == 0;
}

static void test_blocks_are_read(void)
{
    static const char BLOCK[] = "NATS/1.0\r\na:1\r\nmy name : x: y \t\r\nempty:\r\n\r\n";
    static const char FULL[] = "NATS/1.0  409\tConsumer Deleted \r\n\r\n";

    CHECK(read_block(BLOCK, LEN(BLOCK)) == 3);
    CHECK(status == 0 && description.len == 0);
    CHECK(span_is(BLOCK, found[0].name, "a") && span_is(BLOCK, found[0].value, "1"));
    CHECK(span_is(BLOCK, found[1].name, "my name") && span_is(BLOCK, found[1].value, "x: y"));
    CHECK(span_is(BLOCK, found[2].name, "empty") && found[2].value.len == 0);
    CHECK(read_block(FULL, LEN(FULL)) == 0);
    CHECK(status == 409 && span_is(FULL, description, "Consumer Deleted"));
    CHECK(read_block("NATS/1.0 503\r\n\r\n", 16) == 0);
    CHECK(status == 503 && description.len == 0);
    CHECK(mcore_headers_parse(U8(BLOCK), LEN(BLOCK), &status, &description, found, 1) == 3);
    CHECK(mcore_headers_parse(U8(BLOCK), LEN(BLOCK), &status, &description, NULL, 0) == 3);
    CHECK(mcore_headers_parse(U8(BLOCK), LEN(BLOCK), NULL, &description, NULL, 0) == MCORE_E_ARGUMENT);
}

static void test_bad_blocks_are_refused(void)
{
    static const char *const BAD[] = {
        "",
        "NATS/1.0\r\n",
        "NATS/1.1\r\n\r\n",
        "nats/1.0\r\n\r\n",
        "NATS/1.0\n\n\n\n\n",
        "NATS/1.0503\r\n\r\n",
        "NATS/1.0 50\r\n\r\n",
        "NATS/1.0 5o3\r\n\r\n",
        "NATS/1.0 5033\r\n\r\n",
        "NATS/1.0\r\nno colon\r\n\r\n",
        "NATS/1.0\r\n: no name\r\n\r\n",
        "NATS/1.0\r\n a: folded\r\n\r\n",
        "NATS/1.0\r\na: b\n\r\n",
        "NATS/1.0\r\na: b\rc\r\n\r\n",
        "NATS/1.0\r\na: b\r\n",
        "NATS/1.0\r\n\r\nmore",
        "NATS/1.0\r\n\r\n\r\n",
    };
    static const char GOOD[] = "NATS/1.0 100 Idle\r\nname: value\r\n\r\n";

    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        CHECK(read_block(BAD[i], strlen(BAD[i])) == MCORE_E_HEADER);
    }
    for (size_t len = 0; len < LEN(GOOD); len++) {
        CHECK(read_block(GOOD, len) == MCORE_E_HEADER);
    }
}

/* ---- parser ---- */

struct expected {
    const char *bytes;
    int kind;
    uint64_t sid;
    const char *subject;
    const char *reply;
    const char *headers;
    const char *payload;
};

static const struct expected TABLE[] = {
    {"INFO {\"a\":1}\r\n", MCORE_EV_INFO, 0, "", "", "", "{\"a\":1}"},
    {"info \t {} \r\n", MCORE_EV_INFO, 0, "", "", "", "{}"},
    {"PING\r\n", MCORE_EV_PING, 0, "", "", "", ""},
    {"pInG \t\r\n", MCORE_EV_PING, 0, "", "", "", ""},
    {"PONG\r\n", MCORE_EV_PONG, 0, "", "", "", ""},
    {"+OK\r\n", MCORE_EV_OK, 0, "", "", "", ""},
    {"+ok\r\n", MCORE_EV_OK, 0, "", "", "", ""},
    {"-ERR 'Authorization Violation'\r\n", MCORE_EV_ERR, 0, "", "", "", "Authorization Violation"},
    {"-err 'it''s' \r\n", MCORE_EV_ERR, 0, "", "", "", "it''s"},
    {"-ERR '\r\n", MCORE_EV_ERR, 0, "", "", "", "'"},
    {"-ERR\r\n", MCORE_EV_ERR, 0, "", "", "", ""},
    {"MSG a 1 0\r\n\r\n", MCORE_EV_MSG, 1, "a", "", "", ""},
    {"MSG a.b 18446744073709551615 r.s 5\r\nh\r\nyo\r\n", MCORE_EV_MSG, UINT64_MAX, "a.b", "r.s", "", "h\r\nyo"},
    {"msg\t a  007 \t 02 \r\nhi\r\n", MCORE_EV_MSG, 7, "a", "", "", "hi"},
    {"HMSG a 1 12 12\r\nNATS/1.0\r\n\r\n\r\n", MCORE_EV_HMSG, 1, "a", "", "NATS/1.0\r\n\r\n", ""},
    {"hmsg a 1 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", MCORE_EV_HMSG, 1, "a", "r", "NATS/1.0\r\n\r\n", "hi"},
};
enum { TABLE_SIZE = sizeof(TABLE) / sizeof(TABLE[0]) };

static void check_event(const struct expected *row, const struct mcore_event *event, const char *base, size_t at)
{
    CHECK(event->kind == row->kind);
    CHECK(event->sid == row->sid);
    CHECK(event->frame.off == at && event->frame.len == strlen(row->bytes));
    CHECK(span_is(base, event->subject, row->subject));
    CHECK(span_is(base, event->reply, row->reply));
    CHECK(span_is(base, event->headers, row->headers));
    CHECK(span_is(base, event->payload, row->payload));
}

static void test_each_frame_whole_and_with_more_behind_it(void)
{
    for (int i = 0; i < TABLE_SIZE; i++) {
        struct mcore_parser parser;
        struct mcore_event event;
        size_t consumed = 99;
        size_t len = strlen(TABLE[i].bytes);
        char more[128];
        char *copy = exactly(TABLE[i].bytes, len);

        mcore_parser_init(&parser, 0, 1024);
        CHECK(mcore_parse(&parser, U8(copy), len, &event, 1, &consumed) == 1);
        CHECK(consumed == len);
        check_event(&TABLE[i], &event, copy, 0);
        free(copy);

        snprintf(more, sizeof(more), "%sPIN", TABLE[i].bytes);
        CHECK(mcore_parse(&parser, U8(more), len + 3, &event, 1, &consumed) == 1);
        CHECK(consumed == len);
        check_event(&TABLE[i], &event, more, 0);
    }
}

static void test_each_frame_byte_by_byte(void)
{
    for (int i = 0; i < TABLE_SIZE; i++) {
        struct mcore_parser parser;
        struct mcore_event event;
        size_t consumed = 99;
        size_t len = strlen(TABLE[i].bytes);

        mcore_parser_init(&parser, 0, 1024);
        for (size_t have = 0; have <= len; have++) {
            char *copy = exactly(TABLE[i].bytes, have);
            CHECK(mcore_parse(&parser, U8(copy), have, &event, 1, &consumed) == (have == len));
            CHECK(consumed == (have == len ? len : 0));
            if (have == len) {
                check_event(&TABLE[i], &event, copy, 0);
            }
            free(copy);
        }
    }
}

static void test_many_frames_few_events(void)
{
    char stream[2048] = "";
    size_t len;

    for (int i = 0; i < TABLE_SIZE; i++) {
        strcat(stream, TABLE[i].bytes);
    }
    len = strlen(stream);
    for (size_t max = 1; max <= TABLE_SIZE + 1; max++) {
        struct mcore_parser parser;
        struct mcore_event events[TABLE_SIZE + 1];
        size_t at = 0;
        size_t row = 0;
        size_t row_at = 0;
        long count;

        mcore_parser_init(&parser, 0, 1024);
        do {
            size_t consumed;
            count = mcore_parse(&parser, U8(stream) + at, len - at, events, max, &consumed);
            for (long i = 0; i < count; i++, row++) {
                check_event(&TABLE[row], &events[i], stream + at, row_at - at);
                row_at += strlen(TABLE[row].bytes);
            }
            at += consumed;
        } while (count > 0);
        CHECK(count == 0 && row == TABLE_SIZE && at == len);
    }
}

struct refused {
    const char *bytes;
    int error;
};

static const struct refused REFUSED[] = {
    {"HTTP/1.1 400 Bad Request\r\n", MCORE_E_SYNTAX},
    {"\r\n", MCORE_E_SYNTAX},
    {" PING\r\n", MCORE_E_SYNTAX},
    {"PING\n", MCORE_E_SYNTAX},
    {"PINGX\r\n", MCORE_E_SYNTAX},
    {"PING x\r\n", MCORE_E_SYNTAX},
    {"P\r\n", MCORE_E_SYNTAX},
    {"+OKAY\r\n", MCORE_E_SYNTAX},
    {"\x0bOK\r\n", MCORE_E_SYNTAX},
    {"-ERRx\r\n", MCORE_E_SYNTAX},
    {"\x0d"
     "ERR\r\n",
     MCORE_E_SYNTAX},
    {"INFO\r\n", MCORE_E_SYNTAX},
    {"INFO  \r\n", MCORE_E_SYNTAX},
    {"INFO{}\r\n", MCORE_E_SYNTAX},
    {"PUB a 0\r\n\r\n", MCORE_E_SYNTAX},
    {"MSG\r\n", MCORE_E_SYNTAX},
    {"MSGa 1 0\r\n\r\n", MCORE_E_SYNTAX},
    {"MSG a 1\r\n", MCORE_E_SYNTAX},
    {"MSG a 1 r 0 9\r\n\r\n", MCORE_E_SYNTAX},
    {"MSG a x 0\r\n\r\n", MCORE_E_SYNTAX},
    {"MSG a -1 0\r\n\r\n", MCORE_E_SYNTAX},
    {"MSG a 18446744073709551616 0\r\n\r\n", MCORE_E_SYNTAX},
    {"MSG a\rb 1 0\r\n\r\n", MCORE_E_SYNTAX},
    {"MSG a 1 2\r\nhiX\n", MCORE_E_SYNTAX},
    {"MSG a 1 2\r\nhi\r\r", MCORE_E_SYNTAX},
    {"MSG a 1 1\r\nhi\r\n", MCORE_E_SYNTAX},
    {"MSG a 1 x\r\n", MCORE_E_PAYLOAD},
    {"MSG a 1 +2\r\nhi\r\n", MCORE_E_PAYLOAD},
    {"MSG a 1 1025\r\n", MCORE_E_PAYLOAD},
    {"MSG a 1 18446744073709551617\r\n", MCORE_E_PAYLOAD},
    {"MSG a 1 99999999999999999999999999999999\r\n", MCORE_E_PAYLOAD},
    {"HMSG a 1 0\r\n\r\n", MCORE_E_SYNTAX},
    {"HMSG a 1 13 12\r\n", MCORE_E_SYNTAX},
    {"HMSG a 1 x 12\r\n", MCORE_E_PAYLOAD},
    {"HMSG a 1 18446744073709551616 12\r\n", MCORE_E_PAYLOAD},
    {"HMSG a 1 r s 12 12\r\n", MCORE_E_SYNTAX},
};

/* The stream, `step` bytes more at a time, to the first error; *events counts the frames before it. */
static long parse_in_steps(const char *stream, size_t len, size_t step, size_t limit, int *events)
{
    struct mcore_parser parser;
    size_t at = 0;

    *events = 0;
    mcore_parser_init(&parser, limit, 1024);
    for (size_t have = step < len ? step : len;; have = have + step < len ? have + step : len) {
        long count;
        do {
            struct mcore_event event[2];
            size_t consumed;
            char *copy = exactly(stream + at, have - at);
            count = mcore_parse(&parser, U8(copy), have - at, event, 2, &consumed);
            free(copy);
            if (count < 0) {
                CHECK(consumed == 0);
                CHECK(mcore_parse(&parser, U8("PING\r\n"), 6, event, 2, &consumed) == MCORE_E_POISONED);
                mcore_parser_reset(&parser);
                CHECK(mcore_parse(&parser, U8("PING\r\n"), 6, event, 2, &consumed) == 1);
                return count;
            }
            at += consumed;
            *events += (int)count;
        } while (count > 0);
        if (have == len) {
            return 0;
        }
    }
}

static void test_garbage_is_refused_however_it_is_split(void)
{
    for (size_t i = 0; i < sizeof(REFUSED) / sizeof(REFUSED[0]); i++) {
        char stream[256];
        size_t len;

        snprintf(stream, sizeof(stream), "PING\r\nMSG a 1 2\r\nhi\r\n%s", REFUSED[i].bytes);
        len = strlen(stream);
        for (size_t step = 1; step <= len; step++) {
            int events;
            CHECK(parse_in_steps(stream, len, step, 0, &events) == REFUSED[i].error);
            CHECK(events == 2);
        }
    }
}

/* `start`, then so many 'x', then `end`, in steps: the error, or the number of events. */
static long parse_line(const char *start, size_t fill, const char *end, size_t step, size_t limit)
{
    size_t len = strlen(start) + fill + strlen(end);
    char *stream = malloc(len + 1);
    int events;
    long result;

    strcpy(stream, start);
    memset(stream + strlen(start), 'x', fill);
    strcpy(stream + strlen(start) + fill, end);
    result = parse_in_steps(stream, len, step, limit, &events);
    free(stream);
    return result < 0 ? result : events;
}

static void test_limits_of_lines(void)
{
    for (size_t step = 1; step <= 60; step += 7) {
        CHECK(parse_line("MSG ", 40 - 8, " 1 0\r\n\r\n", step, 40) == 1);
        CHECK(parse_line("MSG ", 41 - 8, " 1 0\r\n\r\n", step, 40) == MCORE_E_CONTROL_LINE);
        CHECK(parse_line("PING", 36, "", step, 40) == 0);
        CHECK(parse_line("PING", 36, "\r", step, 40) == 0);
        CHECK(parse_line("PING", 36, "\n", step, 40) == MCORE_E_SYNTAX);
        CHECK(parse_line("PING", 37, "", step, 40) == MCORE_E_CONTROL_LINE);
        CHECK(parse_line("PING", 37, "\n", step, 40) == MCORE_E_CONTROL_LINE);
        CHECK(parse_line("PING", 36, "\rx", step, 40) == MCORE_E_CONTROL_LINE);
        CHECK(parse_line("PING", 36, "\r\r\n", step, 40) == MCORE_E_CONTROL_LINE);
    }
    CHECK(parse_line("MSG ", MCORE_MAX_CONTROL_LINE - 8, " 1 0\r\n\r\n", 4096, 0) == 1);
    CHECK(parse_line("MSG ", MCORE_MAX_CONTROL_LINE - 7, " 1 0\r\n\r\n", 4096, 0) == MCORE_E_CONTROL_LINE);
    CHECK(parse_line("INFO ", MCORE_MAX_INFO_LINE - 5, "\r\n", 65536, 40) == 1);
    CHECK(parse_line("INFO ", MCORE_MAX_INFO_LINE - 4, "\r\n", 65536, 40) == MCORE_E_CONTROL_LINE);
    CHECK(parse_line("-ERR ", MCORE_MAX_INFO_LINE - 5, "\r\n", 65536, 40) == 1);
    CHECK(parse_line("-ERR ", MCORE_MAX_INFO_LINE - 4, "", 65536, 40) == MCORE_E_CONTROL_LINE);
    CHECK(parse_line("INFO ", MCORE_MAX_INFO_LINE, "\r\n", 65536, MCORE_MAX_INFO_LINE * 2) == 1);
}

static void test_limit_of_payloads(void)
{
    struct mcore_parser parser;
    struct mcore_event event;
    size_t consumed;

    mcore_parser_init(&parser, 0, 10);
    CHECK(mcore_parse(&parser, U8("MSG a 1 10\r\n"), 12, &event, 1, &consumed) == 0);
    mcore_parser_reset(&parser);
    CHECK(mcore_parse(&parser, U8("MSG a 1 11\r\n"), 12, &event, 1, &consumed) == MCORE_E_PAYLOAD);
    mcore_parser_init(&parser, SIZE_MAX, SIZE_MAX);
    CHECK(mcore_parse(&parser, U8("MSG a 1 18446744073709551615\r\n"), 30, &event, 1, &consumed) == MCORE_E_PAYLOAD);
    mcore_parser_reset(&parser);
    CHECK(mcore_parse(&parser, U8("HMSG a 1 1 4611686018427387903\r\n"), 32, &event, 1, &consumed) == 0);
    CHECK(mcore_parse(&parser, U8("HMSG a 1 1 4611686018427387903\r\nxx"), 34, &event, 1, &consumed) == 0);
}

/* ---- fuzz: deterministic, so that a failure comes back ---- */

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static uint32_t random_below(uint32_t bound)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32) % bound;
}

/* Frames of the table, some with a byte changed, dropped or put in; sometimes bytes alone. */
static size_t random_stream(char *stream, size_t cap)
{
    static const char BYTES[] = "\r\n \t'+-0199amsghpinfoerkHMSG{}\x01\x7f\x80\xff";
    size_t len = 0;

    while (len + 80 < cap && random_below(8) > 0) {
        if (random_below(5) == 0) {
            stream[len++] = random_below(2) ? BYTES[random_below(LEN(BYTES))] : (char)random_below(256);
        } else {
            const char *frame = TABLE[random_below(TABLE_SIZE)].bytes;
            memcpy(stream + len, frame, strlen(frame));
            if (random_below(6) == 0) {
                stream[len + random_below((uint32_t)strlen(frame))] = BYTES[random_below(LEN(BYTES))];
            }
            len += strlen(frame);
        }
    }
    return len;
}

static void test_fuzz_parser_depends_on_the_stream_alone(void)
{
    for (int round = 0; round < 40000; round++) {
        char stream[512];
        size_t len = random_stream(stream, sizeof(stream));
        size_t limit = random_below(3) ? 0 : 4 + random_below(30); /* PING always fits */
        int whole_events;
        int split_events;
        long whole = parse_in_steps(stream, len, len > 0 ? len : 1, limit, &whole_events);
        long split = parse_in_steps(stream, len, 1 + random_below(9), limit, &split_events);

        CHECK(whole == split);
        CHECK(whole_events == split_events);
        if (test_failures > 0) {
            fprintf(stderr, "round %d\n", round);
            return;
        }
    }
}

static void test_fuzz_header_blocks(void)
{
    static const char BYTES[] = "\r\n: \t0159aNATS/1.0\x01\x80";

    for (int round = 0; round < 40000; round++) {
        char block[128] = "NATS/1.0 100 x\r\na: b\r\nc d:e\r\n\r\n";
        size_t len = strlen(block);
        long count;

        for (uint32_t changes = random_below(4); changes > 0; changes--) {
            block[random_below((uint32_t)len)] = BYTES[random_below(LEN(BYTES))];
        }
        len -= random_below(4) == 0 ? random_below((uint32_t)len) : 0;
        count = read_block(block, len);
        CHECK(count == MCORE_E_HEADER || (count >= 0 && count <= 4));
        CHECK(status >= 0 && status <= 999);
        for (long i = 0; i < count; i++) {
            CHECK(found[i].name.len > 0 && found[i].name.off + found[i].name.len <= len);
            CHECK(found[i].value.off + found[i].value.len <= len);
        }
    }
}

int main(void)
{
    RUN(test_murmur3_vectors);
    RUN(test_forks_are_counted);
    RUN(test_numbers);
    RUN(test_frames_are_written);
    RUN(test_bad_frames_are_refused_and_leave_the_buffer);
    RUN(test_headers_are_written);
    RUN(test_blocks_are_read);
    RUN(test_bad_blocks_are_refused);
    RUN(test_each_frame_whole_and_with_more_behind_it);
    RUN(test_each_frame_byte_by_byte);
    RUN(test_many_frames_few_events);
    RUN(test_garbage_is_refused_however_it_is_split);
    RUN(test_limits_of_lines);
    RUN(test_limit_of_payloads);
    RUN(test_fuzz_parser_depends_on_the_stream_alone);
    RUN(test_fuzz_header_blocks);
    return test_summary("test_codec");
}
