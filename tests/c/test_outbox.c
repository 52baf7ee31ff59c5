/*
 * The outbox and the link's loops: frames, bounds, window, settling, rewind, expiry; a random run against a model; and
 * a link over a socket pair whose other end plays the server.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"
#include "memphis_core.h"

#define SECOND INT64_C(1000000000)
#define BYTES_OF(text) (const uint8_t *)(text), strlen(text)

static const char FIXED[] = "$memphis_producedBy: p\r\n";

static struct mcore_route route_of(int auto_id)
{
    struct mcore_route route = {BYTES_OF("st$1.final"), BYTES_OF("Nats-Msg-Id"), BYTES_OF(FIXED), 0, auto_id};
    return route;
}

static struct mcore_message message_of(const char *payload)
{
    struct mcore_message message;
    memset(&message, 0, sizeof(message));
    message.payload = (const uint8_t *)payload;
    message.payload_len = strlen(payload);
    message.timeout_ns = 60 * SECOND;
    return message;
}

static int64_t append(struct mcore_outbox *outbox, const char *payload, int auto_id, struct mcore_ticket *ticket)
{
    struct mcore_route route = route_of(auto_id);
    const struct mcore_route *routes[] = {&route};
    struct mcore_message message = message_of(payload);
    return mcore_outbox_append(outbox, routes, 1, &message, &ticket);
}

static int is_consistent(struct mcore_outbox *outbox)
{
    struct mcore_stats s;
    mcore_outbox_stats(outbox, &s);
    return s.accepted == s.delivered + s.failed + s.abandoned + s.queued + s.in_flight &&
           mcore_outbox_outstanding(outbox, -1) == s.queued + s.in_flight;
}

static void ack(struct mcore_outbox *outbox, uint64_t slot, const char *json)
{
    mcore_outbox_ack(outbox, slot, 0, (const uint8_t *)json, strlen(json));
}

/* ---- frames ------------------------------------------------------------------------------------------------------- */

static void test_frames_are_exact(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("Tok"), 65536, 16, 16);
    CHECK(mcore_outbox_owner_new(outbox) == 0);
    CHECK(append(outbox, "hello", 0, NULL) == 0);
    CHECK(append(outbox, "", 1, NULL) == 1);
    const uint8_t *data;
    size_t len;
    CHECK(mcore_outbox_run_take(outbox, 65536, &data, &len) == 2);
    const char *expected = "HPUB st$1.final _INBOX.Tok.0 36 41\r\nNATS/1.0\r\n$memphis_producedBy: p\r\n\r\nhello\r\n"
                           "HPUB st$1.final _INBOX.Tok.1 56 56\r\nNATS/1.0\r\nNats-Msg-Id: Tok-1\r\n"
                           "$memphis_producedBy: p\r\n\r\n\r\n";
    CHECK(len == strlen(expected) && memcmp(data, expected, len) == 0);
    mcore_outbox_run_done(outbox);
    mcore_outbox_free(outbox);
}

static void test_a_users_id_and_headers_are_written(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("Tok"), 65536, 16, 16);
    struct mcore_route route = route_of(1);
    const struct mcore_route *routes[] = {&route};
    struct mcore_message message = message_of("x");
    message.msg_id = (const uint8_t *)"mine";
    message.msg_id_len = 4;
    message.headers = (const uint8_t *)"k: v\r\n";
    message.headers_len = 6;
    CHECK(mcore_outbox_append(outbox, routes, 1, &message, NULL) == 0);
    const uint8_t *data;
    size_t len;
    CHECK(mcore_outbox_run_take(outbox, 65536, &data, &len) == 1);
    const char *expected = "HPUB st$1.final _INBOX.Tok.0 61 62\r\nNATS/1.0\r\nNats-Msg-Id: mine\r\n"
                           "$memphis_producedBy: p\r\nk: v\r\n\r\nx\r\n";
    CHECK(len == strlen(expected) && memcmp(data, expected, len) == 0);
    CHECK(mcore_outbox_sizes(outbox, routes, 1, &message).frames >= len);
    mcore_outbox_run_done(outbox);
    mcore_outbox_free(outbox);
}

/* ---- bounds ------------------------------------------------------------------------------------------------------- */

static void test_bounds_are_kept_and_leave_everything_accepted(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 4096, 3, 16);
    CHECK(append(outbox, "a", 0, NULL) == 0);
    CHECK(append(outbox, "b", 0, NULL) == 1);
    CHECK(append(outbox, "c", 0, NULL) == 2);
    CHECK(append(outbox, "d", 0, NULL) == MCORE_E_FULL_MESSAGES);
    struct mcore_stats stats;
    mcore_outbox_stats(outbox, &stats);
    CHECK(stats.accepted == 3 && stats.queued == 3 && stats.buffer_full == 1);
    mcore_outbox_free(outbox);

    outbox = mcore_outbox_new(BYTES_OF("T"), 300, 100, 16);
    char large[400];
    memset(large, 'x', sizeof(large));
    large[sizeof(large) - 1] = '\0';
    CHECK(append(outbox, large, 0, NULL) == MCORE_E_TOO_LARGE);
    int accepted = 0;
    int64_t slot;
    while ((slot = append(outbox, "0123456789", 0, NULL)) >= 0)
        accepted++;
    CHECK(slot == MCORE_E_FULL_BYTES && accepted == 3);
    mcore_outbox_close(outbox);
    CHECK(append(outbox, "x", 0, NULL) == MCORE_E_CLOSED);
    CHECK(is_consistent(outbox));
    mcore_outbox_free(outbox);
}

static void test_several_routes_are_all_or_none(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 65536, 3, 16);
    struct mcore_route route = route_of(0);
    const struct mcore_route *two[] = {&route, &route};
    struct mcore_message message = message_of("m");
    struct mcore_ticket tickets[2];
    struct mcore_ticket *places[] = {&tickets[0], &tickets[1]};
    memset(tickets, 0, sizeof(tickets));
    CHECK(mcore_outbox_append(outbox, two, 2, &message, places) == 0);
    CHECK(tickets[0].slot == 0 && tickets[1].slot == 1);
    CHECK(mcore_outbox_append(outbox, two, 2, &message, NULL) == MCORE_E_FULL_MESSAGES);
    CHECK(mcore_outbox_outstanding(outbox, -1) == 2);
    mcore_ticket_release(outbox, &tickets[0]);
    mcore_ticket_release(outbox, &tickets[1]);
    mcore_outbox_free(outbox);
}

static void test_each_route_may_have_a_part_of_the_payload(void)
{
    static const size_t sizes[] = {1, 0, 3};
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 65536, 3, 16);
    struct mcore_route route = route_of(0);
    const struct mcore_route *three[] = {&route, &route, &route};
    struct mcore_message message = message_of("abcd");
    const uint8_t *data;
    size_t len;
    message.parts = sizes;
    CHECK(mcore_outbox_append(outbox, three, 3, &message, NULL) == 0);
    CHECK(mcore_outbox_run_take(outbox, SIZE_MAX, &data, &len) == 3);
    const uint8_t *second = memmem(data, len, BYTES_OF("\r\n\r\na\r\nHPUB "));
    CHECK(second != NULL);
    const uint8_t *third = memmem(second, len - (size_t)(second - data), BYTES_OF("\r\n\r\n\r\nHPUB "));
    CHECK(third != NULL);
    CHECK(len > 9 && memcmp(data + len - 9, "\r\n\r\nbcd\r\n", 9) == 0);
    mcore_outbox_run_done(outbox);
    mcore_outbox_free(outbox);
}

/* Takes all that may be sent; returns how many frames that were. */
static long send_all(struct mcore_outbox *outbox)
{
    const uint8_t *data;
    size_t len;
    long count = 0;
    long more;
    while ((more = mcore_outbox_run_take(outbox, 65536, &data, &len)) > 0) {
        mcore_outbox_run_done(outbox);
        count += more;
    }
    return count;
}

/* ---- settling ----------------------------------------------------------------------------------------------------- */

static void test_each_kind_of_answer(void)
{
    static const struct {
        const char *json;
        int outcome;
        uint64_t sequence;
        int duplicate;
        int err_code;
        const char *text;
    } cases[] = {
        {"{\"stream\":\"st$1\",\"seq\":12}", MCORE_DELIVERED, 12, 0, 0, NULL},
        {"{\"stream\":\"st$1\", \"seq\":12}", MCORE_DELIVERED, 12, 0, 0, NULL},
        {"{\"stream\":\"st$1\", \"seq\":7,\"duplicate\": true}", MCORE_DELIVERED, 7, 1, 0, NULL},
        {"{\"domain\":\"d\",\"stream\":\"st$1\",\"seq\":18446744073709551615}", MCORE_DELIVERED, UINT64_MAX, 0, 0,
         NULL},
        {"{\"stream\":\"st$1\",\"x\":{\"seq\":[1,{}]},\"seq\":3}", MCORE_DELIVERED, 3, 0, 0, NULL},
        {"{\"error\":{\"code\":400,\"err_code\":10071,\"description\":\"wrong \\\"seq\\\":9 it\"},\"stream\":\"st$1\",\"seq\":0}",
         MCORE_REFUSED, 0, 0, 10071, "wrong \\\"seq\\\":9 it"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 65536, 16, 16);
        struct mcore_ticket ticket;
        memset(&ticket, 0, sizeof(ticket));
        append(outbox, "m", 0, &ticket);
        CHECK(send_all(outbox) == 1);
        uint8_t *json = exactly(cases[i].json, strlen(cases[i].json));
        CHECK(mcore_outbox_ack(outbox, 0, 0, json, strlen(cases[i].json)) == 1);
        CHECK(mcore_outbox_ack(outbox, 0, 0, json, strlen(cases[i].json)) == 0);
        free(json);
        CHECK(mcore_ticket_outcome(&ticket) == cases[i].outcome);
        CHECK(ticket.sequence == cases[i].sequence && ticket.duplicate == cases[i].duplicate);
        CHECK(ticket.err_code == cases[i].err_code);
        if (cases[i].text != NULL)
            CHECK(ticket.text != NULL && strcmp(ticket.text, cases[i].text) == 0);
        CHECK(is_consistent(outbox));
        mcore_ticket_release(outbox, &ticket);
        mcore_outbox_free(outbox);
    }
}

/* An answer that is read for ever holds the lock for ever: the alarm ends the program then. */
static void test_every_answer_is_read_to_its_end(void)
{
    static const char *const samples[] = {
        "{\"stream\":\"st$1\",\"seq\":12,\"duplicate\": true}",
        "{\"error\":{\"code\":400,\"err_code\":1,\"x\":[n,{}],\"description\":\"no\"},\"stream\":\"st$1\",\"seq\":0}",
        "{\"a\":[x,{\"b\":-1.5e3},null],\"seq\":3}",
        "{\"a\":[x",
        "{\"a\":{\"error\":{\"a\":[ ",
        "{\"error\":{\"a\":{x",
    };
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 65536, 16, 16);
    int64_t slot = append(outbox, "m", 0, NULL);
    send_all(outbox);
    alarm(60);
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++) {
        size_t len = strlen(samples[i]);
        for (size_t at = 0; at < len; at++) {
            for (unsigned byte = 0; byte < 256; byte++) {
                uint8_t *json = exactly(samples[i], len);
                json[at] = (uint8_t)byte;
                uint8_t *cut = exactly(json, at + 1);
                int settled = mcore_outbox_ack(outbox, (uint64_t)slot, 0, cut, at + 1);
                if (!settled)
                    settled = mcore_outbox_ack(outbox, (uint64_t)slot, 0, json, len);
                if (settled) { /* it was still a good one: the next answers another message */
                    slot = append(outbox, "m", 0, NULL);
                    send_all(outbox);
                }
                free(cut);
                free(json);
            }
        }
    }
    alarm(0);
    CHECK(is_consistent(outbox));
    mcore_outbox_free(outbox);
}

static void no_responders(struct mcore_outbox *outbox, uint64_t slot)
{
    CHECK(mcore_outbox_ack(outbox, slot, 503, (const uint8_t *)"", 0) == 0 || is_consistent(outbox));
    CHECK(is_consistent(outbox));
}

static void test_no_responders_and_unknown_slots(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 65536, 16, 16);
    struct mcore_ticket ticket;
    memset(&ticket, 0, sizeof(ticket));
    append(outbox, "m", 0, &ticket);
    CHECK(send_all(outbox) == 1);
    ack(outbox, 1, "{\"stream\":\"st$1\",\"seq\":1}");
    ack(outbox, UINT64_MAX, "{\"stream\":\"st$1\",\"seq\":1}");
    CHECK(mcore_ticket_outcome(&ticket) == MCORE_PENDING);
    no_responders(outbox, 0);
    CHECK(mcore_ticket_outcome(&ticket) == MCORE_PENDING); /* an ack may still follow, if the answer is false */
    CHECK(mcore_outbox_expire(outbox, mcore_now_ns() + SECOND) == 1);
    CHECK(mcore_ticket_outcome(&ticket) == MCORE_NO_RESPONDERS && ticket.code == 503);
    mcore_ticket_release(outbox, &ticket);
    mcore_outbox_free(outbox);
}

/* The ack behind a false "nobody listens" is lost with the connection: that answer is no longer the only one there was. */
static void test_a_cut_behind_no_responders_leaves_it_unknown(void)
{
    for (int attempts = 0; attempts <= 1; attempts++) {
        struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 65536, 16, 16);
        struct mcore_ticket tickets[2];
        memset(tickets, 0, sizeof(tickets));
        mcore_outbox_set_retry(outbox, (unsigned)attempts, SECOND);
        append(outbox, "m", 0, &tickets[0]);
        append(outbox, "m", 0, &tickets[1]);
        CHECK(send_all(outbox) == 2);
        no_responders(outbox, 0);
        ack(outbox, 1, "{\"stream\":\"st$1\",\"seq\":1}");
        CHECK(mcore_outbox_rewind(outbox) == 0);
        CHECK(send_all(outbox) == attempts);
        if (attempts > 0)
            no_responders(outbox, 0);
        mcore_outbox_expire(outbox, mcore_now_ns() + 70 * SECOND);
        CHECK(mcore_ticket_outcome(&tickets[0]) == MCORE_UNKNOWN);
        CHECK(mcore_ticket_outcome(&tickets[1]) == MCORE_DELIVERED && is_consistent(outbox));
        mcore_ticket_release(outbox, &tickets[0]);
        mcore_ticket_release(outbox, &tickets[1]);
        mcore_outbox_free(outbox);
    }
}

/* Everything that no broker can have given to that message leaves it waiting. */
static void test_answers_that_cannot_be_true_are_ignored(void)
{
    static const char *const bodies[] = {
        "",
        "{}",
        "not json",
        "{\"stream\":\"st$1\"}",
        "{\"stream\":\"st$1\",\"seq\":0}",
        "{\"stream\":\"st$1\",\"seq\":99999999999999999999}",
        "{\"stream\":\"st$1\",\"seq",
        "{\"stream\":\"st$1\",\"a\":\"\\",
        "{\"seq\": 1}",
        "{\"stream\":\"st$2\",\"seq\":1}",
        "{\"stream\":\"st\",\"seq\":1}",
        "{\"stream\":\"st$1.final\",\"seq\":1}",
        "{\"stream\":\"st$1\",\"seq\":1,\"stream\":\"other\"}",
        "{\"error\":{\"code\":400,\"err_code\":10071,\"description\":\"no\"}}",
        "{\"error\":{\"code\":400},\"stream\":\"other\",\"seq\":0}",
    };
    enum { COUNT = sizeof(bodies) / sizeof(bodies[0]) };
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 65536, 16, 16);
    struct mcore_ticket ticket;
    char text[64];
    memset(&ticket, 0, sizeof(ticket));
    append(outbox, "m", 0, &ticket);
    ack(outbox, 0, "{\"stream\":\"st$1\",\"seq\":1}");
    mcore_outbox_ack(outbox, 0, 503, (const uint8_t *)"", 0);
    CHECK(mcore_outbox_take_disbelieved(outbox, text, sizeof(text)) == 2);
    CHECK(strcmp(text, "it came before the message was sent") == 0);
    CHECK(send_all(outbox) == 1);
    for (size_t i = 0; i < COUNT; i++)
        ack(outbox, 0, bodies[i]);
    mcore_outbox_ack(outbox, 0, 408, (const uint8_t *)"", 0);
    CHECK(mcore_outbox_take_disbelieved(outbox, text, sizeof(text)) == COUNT + 1);
    CHECK(mcore_ticket_outcome(&ticket) == MCORE_PENDING && is_consistent(outbox));
    ack(outbox, 0, "{\"stream\":\"st$1\",\"seq\":4}");
    CHECK(mcore_ticket_outcome(&ticket) == MCORE_DELIVERED && ticket.sequence == 4);
    mcore_ticket_release(outbox, &ticket);
    mcore_outbox_free(outbox);
}

/* Once a writing of it may have been stored, no later answer says that the message is not. */
static void test_what_was_written_and_not_answered_is_never_known_to_be_missing(void)
{
    enum { REFUSED_AGAIN, NOBODY, NOBODY_THEN_ACK, EXPIRED, ANSWERED_FIRST, TWO_ANSWERS, CASES };
    static const int outcomes[CASES] = {MCORE_UNKNOWN, MCORE_UNKNOWN, MCORE_DELIVERED,
                                        MCORE_EXPIRED, MCORE_UNKNOWN, MCORE_UNKNOWN};
    for (int which = 0; which < CASES; which++) {
        struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 65536, 16, 16);
        struct mcore_ticket ticket;
        memset(&ticket, 0, sizeof(ticket));
        mcore_outbox_set_retry(outbox, 1, SECOND);
        append(outbox, "m", 0, &ticket);
        CHECK(send_all(outbox) == 1);
        if (which == ANSWERED_FIRST || which == TWO_ANSWERS) {
            no_responders(outbox, 0);
            if (which == TWO_ANSWERS)
                no_responders(outbox, 0);
            mcore_outbox_rewind(outbox); /* it pauses; an ack behind a false answer is lost with the connection */
        } else {
            CHECK(mcore_outbox_rewind(outbox) == 1);
            CHECK(send_all(outbox) == 1);
            if (which == REFUSED_AGAIN)
                ack(outbox, 0,
                    "{\"error\":{\"code\":503,\"err_code\":10077,\"description\":\"full\"},\"stream\":\"st$1\"}");
            else if (which != EXPIRED)
                no_responders(outbox, 0);
        }
        if (which != REFUSED_AGAIN && which != EXPIRED) {
            mcore_outbox_expire(outbox, mcore_now_ns() + 2 * SECOND);
            CHECK(send_all(outbox) == 1);
            no_responders(outbox, 0);
            if (which == NOBODY_THEN_ACK)
                ack(outbox, 0, "{\"stream\":\"st$1\",\"seq\":4,\"duplicate\":true}");
        }
        mcore_outbox_expire(outbox, mcore_now_ns() + 70 * SECOND);
        CHECK(mcore_ticket_outcome(&ticket) == outcomes[which] && ticket.was_written);
        CHECK(is_consistent(outbox));
        mcore_ticket_release(outbox, &ticket);
        mcore_outbox_free(outbox);
    }
}

/* ---- wait sets ---------------------------------------------------------------------------------------------------- */

static void test_a_group_hands_out_each_settled_ticket_once(void)
{
    struct mcore_outbox *outboxes[2] = {mcore_outbox_new(BYTES_OF("T"), 65536, 16, 16),
                                        mcore_outbox_new(BYTES_OF("U"), 65536, 16, 16)};
    struct mcore_ticket tickets[4];
    uint32_t places[8];
    memset(tickets, 0, sizeof(tickets));
    for (int i = 0; i < 4; i++)
        CHECK(append(outboxes[i % 2], "m", 0, &tickets[i]) == i / 2);
    CHECK(send_all(outboxes[0]) == 2 && send_all(outboxes[1]) == 2);
    ack(outboxes[0], 0, "{\"stream\":\"st$1\",\"seq\":1}");
    struct mcore_wait_set *set = mcore_wait_set_new(5);
    struct mcore_wait_set *other = mcore_wait_set_new(1);
    for (int i = 0; i < 4; i++)
        CHECK(mcore_wait_set_add(set, outboxes[i % 2], &tickets[i]) == MCORE_OK);
    CHECK(mcore_wait_set_add(set, outboxes[1], &tickets[3]) == MCORE_OK); /* twice: handed out twice */
    CHECK(mcore_wait_set_add(set, outboxes[1], &tickets[3]) == MCORE_E_ROOM);
    CHECK(mcore_wait_set_add(other, outboxes[1], &tickets[3]) == MCORE_OK);
    CHECK(mcore_wait_set_wait(set, places, 8, 0) == 1 && places[0] == 0);
    CHECK(mcore_wait_set_wait(set, places, 8, SECOND / 100) == 0);
    ack(outboxes[1], 1, "{\"stream\":\"st$1\",\"seq\":1}");
    ack(outboxes[0], 1, "{\"stream\":\"st$1\",\"seq\":2}");
    CHECK(mcore_wait_set_wait(set, places, 2, 0) == 2 && places[0] + places[1] == 3 + 4);
    CHECK(mcore_wait_set_wait(set, places, 8, 0) == 1 && places[0] == 2);
    mcore_wait_set_free(set); /* ticket 1 is still pending */
    CHECK(tickets[1].wait_sets == NULL);
    CHECK(mcore_wait_set_wait(other, places, 8, 0) == 1 && places[0] == 0);
    mcore_wait_set_free(other);
    for (int i = 0; i < 4; i++)
        mcore_ticket_release(outboxes[i % 2], &tickets[i]);
    mcore_outbox_free(outboxes[0]);
    mcore_outbox_free(outboxes[1]);
}

struct settler {
    struct mcore_outbox *outbox;
    int count;
};

static void *settle_all(void *argument)
{
    struct settler *settler = argument;
    for (int i = 0; i < settler->count; i++)
        ack(settler->outbox, (uint64_t)i, "{\"stream\":\"st$1\",\"seq\":1}");
    return NULL;
}

static void test_groups_come_and_go_while_tickets_are_settled(void)
{
    enum { ALL = 2000 };
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, ALL, ALL);
    static struct mcore_ticket tickets[ALL];
    static uint32_t places[ALL];
    memset(tickets, 0, sizeof(tickets));
    for (int i = 0; i < ALL; i++)
        CHECK(append(outbox, "m", 0, &tickets[i]) == i);
    CHECK(send_all(outbox) == ALL);
    struct settler settler = {outbox, ALL};
    pthread_t thread;
    pthread_create(&thread, NULL, settle_all, &settler);
    int pending = ALL;
    while (pending > 0) {
        struct mcore_wait_set *set = mcore_wait_set_new(ALL);
        pending = 0;
        for (int i = 0; i < ALL; i++)
            if (mcore_ticket_outcome(&tickets[i]) == MCORE_PENDING) {
                mcore_wait_set_add(set, outbox, &tickets[i]);
                pending++;
            }
        if (pending > 0)
            CHECK(mcore_wait_set_wait(set, places, ALL, 5 * SECOND) > 0);
        mcore_wait_set_free(set);
    }
    pthread_join(thread, NULL);
    for (int i = 0; i < ALL; i++)
        mcore_ticket_release(outbox, &tickets[i]);
    mcore_outbox_free(outbox);
}

static void test_unseen_failures_are_counted_once(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 65536, 16, 16);
    struct mcore_ticket ignored, looked;
    memset(&ignored, 0, sizeof(ignored));
    memset(&looked, 0, sizeof(looked));
    append(outbox, "m", 0, NULL);
    append(outbox, "m", 0, &ignored);
    append(outbox, "m", 0, &looked);
    append(outbox, "m", 0, NULL);
    for (uint64_t slot = 0; slot < 3; slot++)
        mcore_outbox_settle(outbox, slot, MCORE_REFUSED, 0, 0, 500, 1, "stream full", 11);
    CHECK(send_all(outbox) == 1);
    ack(outbox, 3, "{\"stream\":\"st$1\",\"seq\":1}");
    looked.observed = 1;
    mcore_ticket_release(outbox, &ignored);
    mcore_ticket_release(outbox, &looked);
    char text[32];
    CHECK(mcore_outbox_take_unseen(outbox, text, sizeof(text)) == 2);
    CHECK(strcmp(text, "stream full") == 0);
    CHECK(mcore_outbox_take_unseen(outbox, text, sizeof(text)) == 0);
    mcore_outbox_free(outbox);
}

struct marks_wait {
    struct mcore_outbox *outbox;
    uint64_t marks[2];
    long owner;
    uint64_t left;
};

static int64_t append_urgent(struct mcore_outbox *outbox, const char *payload, struct mcore_ticket *ticket);

static void *wait_for_marks(void *given)
{
    struct marks_wait *wait = given;
    wait->left = mcore_outbox_wait_marks(wait->outbox, wait->owner, wait->marks, 60 * SECOND);
    return NULL;
}

static void test_held_messages_count_expire_and_become_frames(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 4096, 8, 8);
    struct mcore_ticket tickets[9];
    struct mcore_ticket *each[9];
    struct mcore_route route = route_of(1);
    const struct mcore_route *routes[] = {&route, &route};
    struct mcore_message message = message_of("held");
    struct mcore_stats stats;
    memset(tickets, 0, sizeof(tickets));
    for (int i = 0; i < 9; i++)
        each[i] = &tickets[i];
    route.owner = (uint32_t)mcore_outbox_owner_new(outbox);
    uint32_t owner = (uint32_t)mcore_outbox_owner_new(outbox);
    CHECK(mcore_outbox_hold(outbox, owner, 9, 10, SECOND, each) == MCORE_E_TOO_MANY);
    CHECK(mcore_outbox_hold(outbox, owner, 1, 5000, SECOND, each) == MCORE_E_TOO_LARGE);
    for (int i = 0; i < 9; i++) {
        mcore_ticket_release(outbox, &tickets[i]);
        memset(&tickets[i], 0, sizeof(tickets[i]));
    }
    CHECK(mcore_outbox_hold(outbox, owner, 2, 100, 60 * SECOND, each) == MCORE_OK);
    CHECK(mcore_outbox_hold(outbox, owner, 1, 100, SECOND, each + 2) == MCORE_OK);
    CHECK(mcore_outbox_hold(outbox, owner, 1, 100, 60 * SECOND, each + 3) == MCORE_OK);
    CHECK(mcore_outbox_hold(outbox, owner, 1, 100, 60 * SECOND, each + 4) == MCORE_OK);
    mcore_outbox_stats(outbox, &stats);
    CHECK(stats.accepted == 5 && stats.queued == 5 && stats.queued_bytes == 500 && is_consistent(outbox));
    CHECK(mcore_outbox_outstanding(outbox, owner) == 5 && mcore_outbox_end_holding(outbox, owner) == 0);
    CHECK(mcore_outbox_wait_held(outbox, mcore_outbox_held_mark(outbox), 0) == 5);
    for (int i = 0; i < 3; i++)
        CHECK(append(outbox, "m", 0, NULL) == i);
    CHECK(append(outbox, "m", 0, NULL) == MCORE_E_FULL_MESSAGES); /* what is held has its room */
    CHECK(mcore_outbox_expire_held(outbox, mcore_now_ns()) == 0);
    CHECK(mcore_outbox_expire_held(outbox, mcore_now_ns() + 2 * SECOND) == 1);
    CHECK(mcore_ticket_outcome(&tickets[2]) == MCORE_EXPIRED && !tickets[2].was_written);
    CHECK(mcore_outbox_unhold(outbox, routes, 1, &message, each + 2) == MCORE_E_ENDED);
    CHECK(mcore_outbox_watch(outbox, &tickets[0], &tickets[1]) == 1);
    CHECK(mcore_outbox_watch(outbox, &tickets[0], &tickets[2]) == 1);
    CHECK(mcore_outbox_unhold(outbox, routes, 2, &message, each) == 3);
    CHECK(tickets[0].slot == 3 && tickets[1].slot == 4);
    CHECK(is_consistent(outbox) && mcore_outbox_outstanding(outbox, route.owner) == 5);
    CHECK(send_all(outbox) == 5);
    ack(outbox, 3, "{\"stream\":\"st$1\",\"seq\":7}");
    void *reported[4];
    CHECK(mcore_ticket_outcome(&tickets[0]) == MCORE_DELIVERED && tickets[0].sequence == 7);
    CHECK(mcore_outbox_wait_reports(outbox, reported, 1, 0) == 1 && reported[0] == &tickets[1]);
    CHECK(mcore_outbox_wait_reports(outbox, reported, 4, 0) == 1 && reported[0] == &tickets[2]);
    CHECK(mcore_outbox_watch(outbox, &tickets[0], &tickets[1]) == 0);
    CHECK(mcore_outbox_settle_held(outbox, &tickets[3], MCORE_UNSENT, "why", 3) == 1);
    CHECK(mcore_outbox_settle_held(outbox, &tickets[3], MCORE_UNSENT, "again", 5) == 0);
    CHECK(mcore_ticket_outcome(&tickets[3]) == MCORE_UNSENT && strcmp(tickets[3].text, "why") == 0);
    mcore_ticket_release(outbox, &tickets[4]); /* nobody has it in hand: it cannot be sent any more */
    mcore_outbox_stats(outbox, &stats);
    CHECK(stats.abandoned == 1 && stats.failed == 2 && is_consistent(outbox));
    CHECK(mcore_outbox_end_holding(outbox, owner) == 1);
    CHECK(mcore_outbox_hold(outbox, owner, 1, 100, SECOND, each + 5) == MCORE_E_ENDED);
    uint32_t second = (uint32_t)mcore_outbox_owner_new(outbox);
    CHECK(mcore_outbox_hold(outbox, second, 1, 100, INT64_MAX, each + 6) == MCORE_OK);
    mcore_outbox_close(outbox);
    CHECK(mcore_outbox_hold(outbox, second, 1, 100, SECOND, each + 7) == MCORE_E_CLOSED);
    CHECK(mcore_outbox_abandon(outbox) == 5 && mcore_ticket_outcome(&tickets[6]) == MCORE_ABANDONED);
    CHECK(mcore_outbox_outstanding(outbox, -1) == 0 && is_consistent(outbox));
    for (int i = 0; i < 9; i++)
        if (i != 4)
            mcore_ticket_release(outbox, &tickets[i]);
    CHECK(mcore_outbox_release(outbox) == 1);
    mcore_outbox_free(outbox);
}

static void test_a_flush_waits_for_what_was_accepted_before_it(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 65536, 64, 64);
    append(outbox, "m", 0, NULL);
    append_urgent(outbox, "m", NULL); /* of a thread with a backlog: into the bulk lane as well */
    append(outbox, "m", 0, NULL);
    struct marks_wait waits[3];
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        waits[i].outbox = outbox;
        waits[i].owner = i - 1; /* of all, of owner 0 whose messages these are, of one that has none */
        waits[i].left = 99;
        mcore_outbox_marks(outbox, waits[i].marks);
        CHECK(waits[i].marks[0] == 3 && waits[i].marks[1] == 0);
    }
    for (int i = 0; i < 10; i++)
        append(outbox, "later", 0, NULL);
    CHECK(mcore_outbox_wait_marks(outbox, -1, waits[0].marks, 0) == 3);
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, wait_for_marks, &waits[i]);
    pthread_join(threads[2], NULL);
    CHECK(waits[2].left == 0);
    CHECK(send_all(outbox) == 13);
    ack(outbox, 5, "{\"stream\":\"st$1\",\"seq\":1}");
    ack(outbox, 1, "{\"stream\":\"st$1\",\"seq\":2}");
    ack(outbox, 0, "{\"stream\":\"st$1\",\"seq\":3}");
    CHECK(mcore_outbox_wait_marks(outbox, -1, waits[0].marks, 0) == 1);
    mcore_outbox_settle(outbox, 2, MCORE_REFUSED, 0, 0, 500, 1, "", 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        CHECK(waits[i].left == 0);
    }
    CHECK(mcore_outbox_outstanding(outbox, -1) == 9);
    CHECK(mcore_outbox_take_failed(outbox, -1) == 1);
    CHECK(mcore_outbox_take_failed(outbox, -1) == 0);
    CHECK(mcore_outbox_release(outbox) == 0); /* not closed, and not empty */
    mcore_outbox_close(outbox);
    CHECK(mcore_outbox_release(outbox) == 0);
    CHECK(mcore_outbox_abandon(outbox) == 9);
    CHECK(mcore_outbox_take_failed(outbox, -1) == 9);
    CHECK(mcore_outbox_release(outbox) == 1);
    CHECK(mcore_outbox_release(outbox) == 1); /* again: nothing is left to give back */
    CHECK(append(outbox, "m", 0, NULL) == MCORE_E_CLOSED);
    CHECK(mcore_outbox_settle(outbox, 7, MCORE_DELIVERED, 1, 0, 0, 0, NULL, 0) == 0);
    CHECK(mcore_outbox_abandon(outbox) == 0);
    CHECK(mcore_outbox_expire(outbox, INT64_MAX - 1) == 0);
    CHECK(mcore_outbox_rewind(outbox) == 0);
    CHECK(mcore_outbox_wait_marks(outbox, -1, waits[0].marks, SECOND) == 0);
    CHECK(mcore_outbox_wait_drained(outbox, -1, 0, SECOND) == 0);
    CHECK(mcore_outbox_wait_room(outbox, 100, SECOND) == MCORE_E_CLOSED);
    struct mcore_stats stats;
    mcore_outbox_stats(outbox, &stats);
    CHECK(stats.accepted == 13 && stats.delivered == 3 && stats.failed == 1 && stats.abandoned == 9);
    mcore_outbox_free(outbox);
}

static void test_deadlines_end_only_what_is_due(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 65536, 16, 1);
    struct mcore_ticket first, second;
    memset(&first, 0, sizeof(first));
    memset(&second, 0, sizeof(second));
    struct mcore_route route = route_of(0);
    const struct mcore_route *routes[] = {&route};
    struct mcore_message message = message_of("m");
    struct mcore_ticket *place = &first;
    message.timeout_ns = SECOND;
    mcore_outbox_append(outbox, routes, 1, &message, &place);
    place = &second;
    message.timeout_ns = 3 * SECOND;
    mcore_outbox_append(outbox, routes, 1, &message, &place);
    const uint8_t *data;
    size_t len;
    CHECK(mcore_outbox_run_take(outbox, 65536, &data, &len) == 1);
    mcore_outbox_run_done(outbox);
    int64_t now = mcore_now_ns();
    CHECK(mcore_outbox_expire(outbox, now) == 0);
    CHECK(mcore_outbox_expire(outbox, now + 2 * SECOND) == 1);
    CHECK(mcore_ticket_outcome(&first) == MCORE_EXPIRED && first.was_written == 1);
    CHECK(mcore_ticket_outcome(&second) == MCORE_PENDING);
    CHECK(mcore_outbox_expire(outbox, now + 4 * SECOND) == 1);
    CHECK(mcore_ticket_outcome(&second) == MCORE_EXPIRED && second.was_written == 0);
    CHECK(mcore_outbox_run_take(outbox, 65536, &data, &len) == 0);
    CHECK(is_consistent(outbox));
    mcore_ticket_release(outbox, &first);
    mcore_ticket_release(outbox, &second);
    mcore_outbox_free(outbox);
}

static void test_rewind_sends_the_unsettled_again_in_order(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 65536, 16, 16);
    for (int i = 0; i < 4; i++) {
        char payload[2] = {(char)('a' + i), '\0'};
        append(outbox, payload, 0, NULL);
    }
    const uint8_t *data;
    size_t len;
    CHECK(mcore_outbox_run_take(outbox, 65536, &data, &len) == 4);
    mcore_outbox_run_done(outbox);
    ack(outbox, 1, "{\"stream\":\"st$1\",\"seq\":1}");
    CHECK(mcore_outbox_rewind(outbox) == 3);
    CHECK(mcore_outbox_run_take(outbox, 65536, &data, &len) == 1); /* a; b is settled, so the run ends there */
    CHECK(memchr(data, 'a', len) != NULL && data[len - 3] == 'a');
    mcore_outbox_run_done(outbox);
    CHECK(mcore_outbox_run_take(outbox, 65536, &data, &len) == 2);
    CHECK(data[len - 3] == 'd');
    mcore_outbox_run_done(outbox);
    struct mcore_stats stats;
    mcore_outbox_stats(outbox, &stats);
    CHECK(stats.resent == 3 && stats.in_flight == 3 && stats.delivered == 1);
    CHECK(mcore_outbox_abandon(outbox) == 3 && is_consistent(outbox));
    mcore_outbox_free(outbox);
}

static void test_bytes_being_written_are_not_overwritten(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 400, 100, 100);
    append(outbox, "aaaaaaaaaa", 0, NULL);
    append(outbox, "bbbbbbbbbb", 0, NULL);
    const uint8_t *data;
    size_t len;
    CHECK(mcore_outbox_run_take(outbox, 65536, &data, &len) == 2);
    uint8_t *before = exactly(data, len);
    ack(outbox, 0, "{\"stream\":\"st$1\",\"seq\":1}");
    ack(outbox, 1, "{\"stream\":\"st$1\",\"seq\":2}");
    while (append(outbox, "cccccccccc", 0, NULL) >= 0)
        ;
    CHECK(memcmp(before, data, len) == 0);
    mcore_outbox_run_done(outbox);
    int more = 0;
    while (append(outbox, "dddddddddd", 0, NULL) >= 0)
        more++;
    CHECK(more > 0 && is_consistent(outbox));
    free(before);
    mcore_outbox_free(outbox);
}

enum { RACES = 2000, WAITERS = 4 };

struct race {
    struct mcore_outbox *outbox;
    struct mcore_ticket *tickets;
    int settled; /* outcomes seen */
};

static void *wait_briefly(void *argument)
{
    struct race *race = argument;
    for (int i = 0; i < RACES; i++) {
        while (mcore_ticket_wait(race->outbox, &race->tickets[i], 20000) == MCORE_PENDING)
            ;
        race->settled++;
    }
    return NULL;
}

/* Waiters whose time is over just as their ticket is settled: each sees the outcome, and none is posted after it left. */
static void test_waiters_race_with_acks(void)
{
    static struct mcore_ticket tickets[RACES];
    memset(tickets, 0, sizeof(tickets));
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, RACES, RACES);
    struct race races[WAITERS];
    pthread_t threads[WAITERS];
    for (int i = 0; i < RACES; i++)
        append(outbox, "m", 0, &tickets[i]);
    send_all(outbox);
    for (int i = 0; i < WAITERS; i++) {
        races[i] = (struct race){outbox, tickets, 0};
        pthread_create(&threads[i], NULL, wait_briefly, &races[i]);
    }
    for (uint64_t slot = 0; slot < RACES; slot++) {
        struct timespec pause = {0, (long)(slot % 40) * 1000};
        nanosleep(&pause, NULL);
        ack(outbox, slot, "{\"stream\":\"st$1\",\"seq\":1}");
    }
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(races[i].settled == RACES);
    }
    for (int i = 0; i < RACES; i++)
        mcore_ticket_release(outbox, &tickets[i]);
    mcore_outbox_free(outbox);
}

/* ---- lanes -------------------------------------------------------------------------------------------------------- */

static int64_t append_urgent(struct mcore_outbox *outbox, const char *payload, struct mcore_ticket *ticket)
{
    struct mcore_route route = route_of(1);
    const struct mcore_route *routes[] = {&route};
    struct mcore_message message = message_of(payload);
    message.urgent = 1;
    return mcore_outbox_append(outbox, routes, 1, &message, &ticket);
}

struct other_thread {
    struct mcore_outbox *outbox;
    struct mcore_ticket ticket;
    int64_t slot;
};

static void *produce_urgently(void *argument)
{
    struct other_thread *other = argument;
    other->slot = append_urgent(other->outbox, "urgent", &other->ticket);
    return NULL;
}

static void test_an_urgent_message_passes_other_threads_backlog(void)
{
    static const int64_t express = INT64_C(1) << MCORE_EXPRESS_BIT;
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("Tok"), 65536, 16, 16);
    for (int i = 0; i < 3; i++)
        CHECK(append(outbox, "bulk", 1, NULL) == i);
    /* Its own backlog it does not pass: the thread's order is kept. */
    CHECK(append_urgent(outbox, "mine", NULL) == 3);
    struct other_thread other;
    memset(&other, 0, sizeof(other));
    other.outbox = outbox;
    pthread_t thread;
    pthread_create(&thread, NULL, produce_urgently, &other);
    pthread_join(thread, NULL);
    CHECK(other.slot == express);
    const uint8_t *data;
    size_t len;
    CHECK(mcore_outbox_run_take(outbox, 65536, &data, &len) == 1);
    static const char start[] = "HPUB st$1.final _INBOX.Tok.e0 ";
    CHECK(len > sizeof(start) && memcmp(data, start, sizeof(start) - 1) == 0);
    CHECK(memmem(data, len, "Nats-Msg-Id: Tok-e0\r\n", 21) != NULL);
    mcore_outbox_run_done(outbox);
    CHECK(mcore_outbox_run_take(outbox, 65536, &data, &len) == 4);
    mcore_outbox_run_done(outbox);
    CHECK(mcore_outbox_rewind(outbox) == 5 && is_consistent(outbox));
    ack(outbox, (uint64_t)express, "{\"stream\":\"st$1\",\"seq\":5}");
    CHECK(mcore_ticket_outcome(&other.ticket) == MCORE_DELIVERED && other.ticket.sequence == 5);
    for (uint64_t slot = 0; slot < 4; slot++)
        ack(outbox, slot, "{\"stream\":\"st$1\",\"seq\":1}");
    CHECK(append_urgent(outbox, "now free to pass", NULL) == express + 1);
    CHECK(is_consistent(outbox));
    mcore_ticket_release(outbox, &other.ticket);
    mcore_outbox_free(outbox);
}

/* ---- a random run against a model --------------------------------------------------------------------------------- */

static uint32_t seed = 20261123;

static uint32_t random_below(uint32_t bound)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % bound;
}

enum { MODEL = 4096 };

static void test_fuzz_against_a_model(void)
{
    for (int round = 0; round < 40; round++) {
        static int state[MODEL]; /* 0 queued, 1 in flight, 2 settled, 3 without responders */
        struct mcore_outbox *outbox =
            mcore_outbox_new(BYTES_OF("T"), 1500 + random_below(1500), 24, 1 + random_below(20));
        uint64_t tail = 0, next = 0;
        char payload[200];
        while (tail < MODEL - 1) {
            uint32_t action = random_below(100);
            if (action < 50) {
                size_t len = random_below(sizeof(payload) - 1);
                memset(payload, 'a' + (int)(tail % 26), len);
                payload[len] = '\0';
                int64_t slot = append(outbox, payload, 1, NULL);
                if (slot >= 0) {
                    CHECK((uint64_t)slot == tail);
                    state[tail++] = 0;
                }
            } else if (action < 70) {
                const uint8_t *data;
                size_t len;
                long count = mcore_outbox_run_take(outbox, 64 + random_below(800), &data, &len);
                /* Whole frames, of the next unsettled slots in order. */
                struct mcore_parser parser;
                mcore_parser_init(&parser, 0, 1 << 20);
                while (count-- > 0) {
                    while (next < tail && state[next] != 0)
                        next++;
                    char reply[48];
                    snprintf(reply, sizeof(reply), " _INBOX.T.%llu ", (unsigned long long)next);
                    CHECK(memmem(data, len, reply, strlen(reply)) != NULL);
                    CHECK(state[next] == 0);
                    state[next++] = 1;
                }
                mcore_outbox_run_done(outbox);
            } else if (action < 75 && tail > 0) {
                uint64_t slot = tail - 1 - random_below((uint32_t)(tail < 30 ? tail : 30));
                CHECK(mcore_outbox_ack(outbox, slot, 503, (const uint8_t *)"", 0) == 0);
                if (state[slot] == 1)
                    state[slot] = 3;
            } else if (action < 80) {
                mcore_outbox_expire(outbox, mcore_now_ns() + SECOND);
                for (uint64_t slot = 0; slot < tail; slot++)
                    state[slot] = state[slot] == 3 ? 2 : state[slot];
            } else if (action < 95 && tail > 0) {
                uint64_t slot = tail - 1 - random_below((uint32_t)(tail < 30 ? tail : 30));
                int settled = mcore_outbox_settle(outbox, slot, random_below(5) ? MCORE_DELIVERED : MCORE_REFUSED, 1, 0,
                                                  0, 0, NULL, 0);
                CHECK(settled == (state[slot] != 2));
                state[slot] = 2;
            } else {
                mcore_outbox_rewind(outbox);
                for (uint64_t slot = 0; slot < tail; slot++)
                    state[slot] = state[slot] == 1 ? 0 : state[slot];
                next = 0;
            }
            CHECK(is_consistent(outbox));
            if (test_failures > 0)
                break;
        }
        uint64_t unsettled = 0;
        for (uint64_t slot = 0; slot < tail; slot++)
            unsettled += state[slot] != 2;
        CHECK(mcore_outbox_outstanding(outbox, -1) == unsettled);
        mcore_outbox_free(outbox);
    }
}

/* Deadlines in no order, in a ring of two whole blocks and a part of one, that wraps many times. */
static void test_deadlines_fall_due_at_their_time_wherever_they_lie(void)
{
    enum { MESSAGES = 2 * 256 + 100, ALL = 20000 };
    static int64_t due[ALL]; /* units; 0: settled */
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, MESSAGES, 64);
    struct mcore_route route = route_of(0);
    const struct mcore_route *routes[] = {&route};
    struct mcore_message message = message_of("x");
    const int64_t unit = 100 * SECOND; /* so that the time of the test itself does not count */
    int64_t base = mcore_now_ns() + unit / 2;
    int64_t clock = 0;
    uint64_t tail = 0;
    while (tail < ALL) {
        uint32_t action = random_below(20);
        if (action < 15) {
            int64_t wait = 1 + random_below(random_below(8) == 0 ? 2000 : 40);
            message.timeout_ns = (clock + wait) * unit;
            int64_t slot = mcore_outbox_append(outbox, routes, 1, &message, NULL);
            if (slot >= 0)
                due[tail++] = clock + wait;
            else
                action = 19;
        }
        if (action >= 15 && action < 18 && tail > 0) {
            uint64_t slot = tail - 1 - random_below((uint32_t)(tail < MESSAGES ? tail : MESSAGES));
            int settled = mcore_outbox_settle(outbox, slot, MCORE_DELIVERED, 1, 0, 0, 0, NULL, 0);
            CHECK(settled == (due[slot] > 0));
            due[slot] = 0;
        } else if (action >= 18) {
            clock += random_below(30);
            uint64_t expected = 0;
            for (uint64_t slot = tail < MESSAGES ? 0 : tail - MESSAGES; slot < tail; slot++)
                if (due[slot] > 0 && due[slot] <= clock) {
                    due[slot] = 0;
                    expected++;
                }
            CHECK(mcore_outbox_expire(outbox, base + clock * unit) == expected);
        }
        if (test_failures > 0)
            break;
    }
    CHECK(tail > 5 * MESSAGES && is_consistent(outbox));
    mcore_outbox_free(outbox);
}

/* ---- the loops over a socket pair --------------------------------------------------------------------------------- */

struct peer {
    int fd;
    int count; /* frames to answer, then the peer closes */
};

/* Plays the server: answers each HPUB with a PubAck, in pieces of odd sizes. */
static void *play_server(void *argument)
{
    struct peer *peer = argument;
    struct mcore_parser parser;
    static uint8_t data[1 << 20];
    size_t len = 0;
    int answered = 0;
    mcore_parser_init(&parser, 0, 1 << 20);
    while (answered < peer->count) {
        ssize_t got = recv(peer->fd, data + len, sizeof(data) - len, 0);
        if (got <= 0)
            break;
        len += (size_t)got;
        while (answered < peer->count) {
            uint8_t *end = memmem(data, len, "\r\n", 2);
            if (end == NULL)
                break;
            size_t line = (size_t)(end - data) + 2;
            unsigned long long slot;
            size_t header, total;
            if (sscanf((char *)data, "HPUB %*s _INBOX.T.%llu %zu %zu", &slot, &header, &total) == 3) {
                if (len < line + total + 2)
                    break;
                line += total + 2;
                char body[64], reply[160];
                int body_len = snprintf(body, sizeof(body), "{\"stream\":\"st$1\",\"seq\":%llu}", slot + 1);
                int reply_len = snprintf(reply, sizeof(reply), "MSG _INBOX.T.%llu 1 %d\r\n%s\r\n%s", slot, body_len,
                                         body, slot % 7 == 0 ? "PING\r\n" : "");
                for (int sent = 0; sent < reply_len;) {
                    int piece = reply_len - sent < 11 ? reply_len - sent : 11;
                    sent += (int)send(peer->fd, reply + sent, (size_t)piece, MSG_NOSIGNAL);
                }
                answered++;
            }
            memmove(data, data + line, len - line);
            len -= line;
        }
    }
    shutdown(peer->fd, SHUT_RDWR);
    return NULL;
}

static void *run_sender(void *link)
{
    while (mcore_link_send_loop(link))
        ;
    return NULL;
}

static void *run_reader(void *link)
{
    return (void *)(intptr_t)mcore_link_read_loop(link);
}

static void test_a_cut_link_loses_nothing(void)
{
    enum { ALL = 500, FIRST = 137 };
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, 1024, 64);
    struct mcore_link *link = mcore_link_new(outbox, 1 << 20, 0, 0);
    static struct mcore_ticket tickets[ALL];
    memset(tickets, 0, sizeof(tickets));
    pthread_t sender, reader, server;
    pthread_create(&sender, NULL, run_sender, link);
    for (int i = 0; i < ALL; i++)
        CHECK(append(outbox, "payload", 1, &tickets[i]) == i);
    for (int part = 0; part < 2; part++) {
        int fds[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
        struct peer peer = {fds[1], part == 0 ? FIRST : ALL - FIRST};
        pthread_create(&server, NULL, play_server, &peer);
        CHECK(mcore_link_attach(link, fds[0], BYTES_OF("SUB _INBOX.T.* 1\r\n"), NULL, 0) == MCORE_OK);
        pthread_create(&reader, NULL, run_reader, link);
        void *end;
        pthread_join(reader, &end);
        CHECK((intptr_t)end == MCORE_LINK_EOF || (intptr_t)end == MCORE_LINK_ERRNO);
        mcore_link_detach(link);
        pthread_join(server, NULL);
        close(fds[0]);
        close(fds[1]);
        CHECK(is_consistent(outbox));
    }
    CHECK(mcore_outbox_wait_drained(outbox, -1, 0, 5 * SECOND) == 0);
    for (int i = 0; i < ALL; i++) {
        CHECK(mcore_ticket_wait(outbox, &tickets[i], SECOND) == MCORE_DELIVERED);
        CHECK(tickets[i].sequence == (uint64_t)i + 1);
        mcore_ticket_release(outbox, &tickets[i]);
    }
    mcore_link_stop(link);
    pthread_join(sender, NULL);
    mcore_link_free(link);
    mcore_outbox_free(outbox);
}

/* A link whose bytes go through the caller's hands; they are kept here as a TLS layer would. */
struct hands {
    struct mcore_outbox *outbox;
    struct mcore_link *link;
    int fds[2];
};

static struct hands open_hands(int64_t ping_interval_ns, const char *first, const char *rest)
{
    struct hands hands = {.outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, 64, 64)};
    hands.link = mcore_link_new(hands.outbox, 1 << 20, ping_interval_ns, 1);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, hands.fds) == 0);
    CHECK(mcore_link_attach(hands.link, hands.fds[0], BYTES_OF(first), BYTES_OF(rest)) == MCORE_OK);
    return hands;
}

static void close_hands(struct hands *hands)
{
    mcore_link_detach(hands->link);
    mcore_link_free(hands->link);
    mcore_outbox_free(hands->outbox);
    close(hands->fds[0]);
    close(hands->fds[1]);
}

/* Takes what is to be written within a second; MCORE_NEXT_BYTES and exactly this text. */
static int next_is(struct mcore_link *link, const char *text)
{
    const uint8_t *data;
    size_t len;
    return mcore_link_next(link, SECOND, &data, &len) == MCORE_NEXT_BYTES && len == strlen(text) &&
           (len == 0 || memcmp(data, text, len) == 0);
}

static void test_bytes_pass_through_the_callers_hands(void)
{
    struct hands hands = open_hands(0, "SUB _INBOX.T.* 1\r\n", "PI");
    struct mcore_ticket ticket;
    const uint8_t *data;
    size_t len;
    memset(&ticket, 0, sizeof(ticket));
    CHECK(next_is(hands.link, "SUB _INBOX.T.* 1\r\n"));
    mcore_link_written(hands.link, 4, 0);
    CHECK(next_is(hands.link, "_INBOX.T.* 1\r\n"));
    mcore_link_written(hands.link, 14, 0);
    CHECK(mcore_link_next(hands.link, 0, &data, &len) == MCORE_NEXT_NOTHING && len == 0);
    CHECK(mcore_link_feed(hands.link, NULL, 0) == MCORE_LINK_GOES_ON);
    CHECK(mcore_link_feed(hands.link, BYTES_OF("NG\r\n")) == MCORE_LINK_GOES_ON);
    CHECK(next_is(hands.link, "PONG\r\n"));
    mcore_link_written(hands.link, 6, 0);
    CHECK(append(hands.outbox, "payload", 0, &ticket) == 0);
    CHECK(mcore_link_next(hands.link, SECOND, &data, &len) == MCORE_NEXT_BYTES &&
          memmem(data, len, "payload", 7) != NULL);
    mcore_link_push(hands.link); /* neither writes it a second time nor to the socket */
    mcore_link_written(hands.link, len, 0);
    mcore_link_push(hands.link);
    char nothing[8];
    CHECK(recv(hands.fds[1], nothing, sizeof(nothing), MSG_DONTWAIT) == -1 && errno == EAGAIN);
    const char *ack_text = "MSG _INBOX.T.0 1 28\r\n{\"stream\":\"st$1\",\"seq\":4711}\r\n";
    for (size_t i = 0; i < strlen(ack_text); i++)
        CHECK(mcore_link_feed(hands.link, (const uint8_t *)ack_text + i, 1) == MCORE_LINK_GOES_ON);
    CHECK(mcore_ticket_wait(hands.outbox, &ticket, 0) == MCORE_DELIVERED && ticket.sequence == 4711);
    CHECK(mcore_link_feed(hands.link, BYTES_OF("-ERR 'Stale Connection'\r\n")) == MCORE_LINK_GOES_ON);
    CHECK(mcore_link_ended(hands.link, 0) == MCORE_LINK_SERVER);
    CHECK(!mcore_link_is_up(hands.link));
    mcore_ticket_release(hands.outbox, &ticket);
    mcore_link_stop(hands.link);
    CHECK(mcore_link_next(hands.link, SECOND, &data, &len) == MCORE_NEXT_STOPPED);
    CHECK(mcore_link_feed(hands.link, BYTES_OF("PING\r\n")) == MCORE_LINK_STOPPED);
    close_hands(&hands);
}

static void test_a_sender_is_woken_without_bytes_and_expires_deadlines(void)
{
    struct hands hands = open_hands(0, "", "");
    struct mcore_ticket ticket;
    const uint8_t *data;
    size_t len;
    memset(&ticket, 0, sizeof(ticket));
    mcore_link_wake(hands.link);
    CHECK(next_is(hands.link, ""));
    mcore_link_written(hands.link, 0, 0);
    CHECK(mcore_link_next(hands.link, 0, &data, &len) == MCORE_NEXT_NOTHING);
    struct mcore_route route = route_of(0);
    const struct mcore_route *routes[] = {&route};
    struct mcore_ticket *tickets[] = {&ticket};
    struct mcore_message message = message_of("late");
    message.timeout_ns = 60 * SECOND;
    CHECK(mcore_outbox_append(hands.outbox, routes, 1, &message, tickets) == 0);
    CHECK(mcore_link_next(hands.link, 0, &data, &len) == MCORE_NEXT_BYTES);
    int64_t left = mcore_link_run_timers(hands.link); /* as a sender does whose socket is full */
    CHECK(left > 0 && left <= 60 * SECOND);
    clock_ahead_ns = 60 * SECOND;
    mcore_link_run_timers(hands.link);
    CHECK(mcore_ticket_wait(hands.outbox, &ticket, 0) == MCORE_EXPIRED);
    mcore_link_written(hands.link, len, 0);
    mcore_ticket_release(hands.outbox, &ticket);
    CHECK(mcore_link_next(hands.link, SECOND, &data, &len) == MCORE_NEXT_UNSEEN || ticket.observed);
    close_hands(&hands);
    clock_ahead_ns = 0;
}

static void test_a_failed_write_ends_the_connection_and_loses_nothing(void)
{
    struct hands hands = open_hands(0, "", "");
    struct mcore_ticket ticket;
    const uint8_t *data;
    size_t len;
    memset(&ticket, 0, sizeof(ticket));
    CHECK(append(hands.outbox, "again", 1, &ticket) == 0);
    CHECK(mcore_link_next(hands.link, SECOND, &data, &len) == MCORE_NEXT_BYTES);
    mcore_link_written(hands.link, 0, EPIPE);
    CHECK(!mcore_link_is_up(hands.link));
    CHECK(mcore_link_ended(hands.link, ECONNRESET) == MCORE_LINK_ERRNO && mcore_link_errno(hands.link) == EPIPE);
    CHECK(mcore_link_detach(hands.link) == 1);
    CHECK(is_consistent(hands.outbox));
    CHECK(mcore_link_attach(hands.link, hands.fds[0], BYTES_OF(""), BYTES_OF("")) == MCORE_OK);
    CHECK(mcore_link_next(hands.link, SECOND, &data, &len) == MCORE_NEXT_BYTES &&
          memmem(data, len, "again", 5) != NULL);
    mcore_link_written(hands.link, len, 0);
    CHECK(mcore_link_feed(hands.link, BYTES_OF("nonsense\r\n")) == MCORE_LINK_PROTOCOL);
    mcore_ticket_release(hands.outbox, &ticket);
    close_hands(&hands);
}

static void *detach_soon(void *link)
{
    mcore_link_detach(link);
    return NULL;
}

static void test_detach_waits_for_the_bytes_in_the_callers_hands(void)
{
    struct hands hands = open_hands(30 * SECOND, "SUB x 1\r\n", "");
    const uint8_t *data;
    size_t len;
    char copy[16];
    pthread_t detacher;
    CHECK(mcore_link_next(hands.link, SECOND, &data, &len) == MCORE_NEXT_BYTES && len == 9);
    pthread_create(&detacher, NULL, detach_soon, hands.link);
    usleep(20000);
    memcpy(copy, data, len); /* AddressSanitizer looks */
    CHECK(memcmp(copy, "SUB x 1\r\n", 9) == 0);
    mcore_link_written(hands.link, len, 0);
    pthread_join(detacher, NULL);
    CHECK(mcore_link_attach(hands.link, hands.fds[0], BYTES_OF(""), BYTES_OF("")) == MCORE_OK);
    CHECK(mcore_link_next(hands.link, 0, &data, &len) == MCORE_NEXT_NOTHING);
    clock_ahead_ns = 30 * SECOND;
    CHECK(next_is(hands.link, "PING\r\n")); /* the silent peer is asked here too, and given up */
    mcore_link_written(hands.link, 6, 0);
    clock_ahead_ns = 60 * SECOND;
    CHECK(mcore_link_next(hands.link, 0, &data, &len) == MCORE_NEXT_NOTHING);
    CHECK(mcore_link_ended(hands.link, 0) == MCORE_LINK_ERRNO && mcore_link_errno(hands.link) == ETIMEDOUT);
    close_hands(&hands);
    clock_ahead_ns = 0;
}

static void test_a_full_socket_does_not_hide_a_silent_peer(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 4 << 20, 16, 16);
    struct mcore_link *link = mcore_link_new(outbox, 1 << 20, SECOND / 10, 0);
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    static uint8_t large[1 << 20];
    struct mcore_route route = route_of(0);
    const struct mcore_route *routes[] = {&route};
    struct mcore_ticket *tickets[] = {NULL};
    struct mcore_message message = message_of("");
    message.payload = large;
    message.payload_len = sizeof(large);
    CHECK(mcore_outbox_append(outbox, routes, 1, &message, tickets) == 0);
    CHECK(mcore_outbox_append(outbox, routes, 1, &message, tickets) == 1);
    pthread_t sender;
    pthread_create(&sender, NULL, run_sender, link);
    CHECK(mcore_link_attach(link, fds[0], (const uint8_t *)"", 0, (const uint8_t *)"", 0) == MCORE_OK);
    CHECK(mcore_link_read_loop(link) == MCORE_LINK_ERRNO && mcore_link_errno(link) == ETIMEDOUT);
    CHECK(mcore_link_detach(link) >= 1);
    mcore_link_stop(link);
    pthread_join(sender, NULL);
    close(fds[0]);
    close(fds[1]);
    mcore_link_free(link);
    mcore_outbox_free(outbox);
}

static void test_a_peer_that_breaks_the_protocol_ends_the_link(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, 16, 16);
    struct mcore_link *link = mcore_link_new(outbox, 1 << 20, 0, 0);
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    CHECK(mcore_link_attach(link, fds[0], (const uint8_t *)"", 0, BYTES_OF("PING\r\nHELLO \x01 WORLD\r\n")) ==
          MCORE_OK);
    CHECK(mcore_link_read_loop(link) == MCORE_LINK_PROTOCOL);
    char text[128];
    mcore_link_text(link, text, sizeof(text));
    CHECK(strcmp(text, "HELLO \\x01 WORLD\\x0d\\x0a") == 0);
    CHECK(!mcore_link_is_up(link));
    mcore_link_detach(link);
    close(fds[0]);
    close(fds[1]);
    mcore_link_free(link);
    mcore_outbox_free(outbox);
}

static void test_a_silent_peer_is_asked_then_given_up(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, 16, 16);
    struct mcore_link *link = mcore_link_new(outbox, 1 << 20, SECOND / 10, 0);
    int fds[2];
    char asked[16] = "";
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    pthread_t sender;
    pthread_create(&sender, NULL, run_sender, link);
    int64_t start = mcore_now_ns();
    CHECK(mcore_link_attach(link, fds[0], (const uint8_t *)"", 0, (const uint8_t *)"", 0) == MCORE_OK);
    CHECK(mcore_link_read_loop(link) == MCORE_LINK_ERRNO && mcore_link_errno(link) == ETIMEDOUT);
    CHECK(mcore_now_ns() - start >= SECOND / 5);
    CHECK(recv(fds[1], asked, sizeof(asked) - 1, MSG_DONTWAIT) == 6 && strcmp(asked, "PING\r\n") == 0);
    mcore_link_detach(link);
    mcore_link_stop(link);
    pthread_join(sender, NULL);
    close(fds[0]);
    close(fds[1]);
    mcore_link_free(link);
    mcore_outbox_free(outbox);
}

/* Says "no responders" to the first `count` messages, and confirms the next. */
static void *play_absent_station(void *argument)
{
    struct peer *peer = argument;
    char line[256], reply[128];
    for (int i = 0; i <= peer->count; i++) {
        size_t len = 0;
        /* A frame ends with the line of its payload, "m"; none of the others is that short. */
        while (len < 5 || memcmp(line + len - 5, "\r\nm\r\n", 5) != 0) {
            if (len == sizeof(line) || recv(peer->fd, line + len, 1, 0) != 1)
                return NULL;
            len++;
        }
        int size = i < peer->count
                       ? snprintf(reply, sizeof(reply), "HMSG _INBOX.T.0 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n")
                       : snprintf(reply, sizeof(reply), "MSG _INBOX.T.0 1 25\r\n{\"stream\":\"st$1\",\"seq\":7}\r\n");
        if (send(peer->fd, reply, (size_t)size, MSG_NOSIGNAL) != size)
            return NULL;
    }
    return argument;
}

static void test_the_sender_wakes_for_the_end_of_a_pause(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, 16, 16);
    struct mcore_link *link = mcore_link_new(outbox, 1 << 20, 0, 0);
    struct mcore_ticket ticket;
    memset(&ticket, 0, sizeof(ticket));
    mcore_outbox_set_retry(outbox, 2, SECOND / 10);
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    struct peer peer = {fds[1], 2};
    pthread_t sender, reader, server;
    void *answered;
    pthread_create(&server, NULL, play_absent_station, &peer);
    CHECK(mcore_link_attach(link, fds[0], (const uint8_t *)"", 0, (const uint8_t *)"", 0) == MCORE_OK);
    pthread_create(&sender, NULL, run_sender, link);
    pthread_create(&reader, NULL, run_reader, link);
    int64_t start = mcore_now_ns();
    CHECK(append(outbox, "m", 0, &ticket) == 0);
    CHECK(mcore_ticket_wait(outbox, &ticket, 10 * SECOND) == MCORE_DELIVERED && ticket.sequence == 7);
    int64_t took = mcore_now_ns() - start;
    CHECK(took >= SECOND / 5 && took < 5 * SECOND);
    pthread_join(server, &answered);
    CHECK(answered == &peer);
    mcore_ticket_release(outbox, &ticket);
    mcore_link_stop(link);
    pthread_join(reader, NULL);
    pthread_join(sender, NULL);
    mcore_link_detach(link);
    close(fds[0]);
    close(fds[1]);
    mcore_link_free(link);
    mcore_outbox_free(outbox);
}

/* Answers `count` PINGs, then falls silent. */
static void *answer_pings(void *argument)
{
    struct peer *peer = argument;
    char ping[7] = "";
    for (int i = 0; i < peer->count; i++)
        if (recv(peer->fd, ping, 6, MSG_WAITALL) != 6 || strcmp(ping, "PING\r\n") != 0 ||
            send(peer->fd, "PONG\r\n", 6, MSG_NOSIGNAL) != 6)
            return NULL;
    return argument;
}

static void test_a_quiet_peer_that_answers_is_kept(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, 16, 16);
    struct mcore_link *link = mcore_link_new(outbox, 1 << 20, SECOND / 10, 0);
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    pthread_t sender, server;
    struct peer peer = {fds[1], 5};
    void *answered;
    pthread_create(&server, NULL, answer_pings, &peer);
    pthread_create(&sender, NULL, run_sender, link);
    int64_t start = mcore_now_ns();
    CHECK(mcore_link_attach(link, fds[0], (const uint8_t *)"", 0, (const uint8_t *)"", 0) == MCORE_OK);
    CHECK(mcore_link_read_loop(link) == MCORE_LINK_ERRNO && mcore_link_errno(link) == ETIMEDOUT);
    CHECK(mcore_now_ns() - start >= 7 * SECOND / 10);
    pthread_join(server, &answered);
    CHECK(answered == &peer);
    mcore_link_detach(link);
    mcore_link_stop(link);
    pthread_join(sender, NULL);
    close(fds[0]);
    close(fds[1]);
    mcore_link_free(link);
    mcore_outbox_free(outbox);
}

static void test_a_server_in_lame_duck_mode_is_left(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, 16, 16);
    struct mcore_link *link = mcore_link_new(outbox, 1 << 20, 0, 0);
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    CHECK(mcore_link_attach(link, fds[0], (const uint8_t *)"", 0, BYTES_OF("INFO {\"x\":1,\"ldm\":true}\r\n")) ==
          MCORE_OK);
    CHECK(mcore_link_read_loop(link) == MCORE_LINK_LAME);
    mcore_link_detach(link);
    close(fds[0]);
    close(fds[1]);
    mcore_link_free(link);
    mcore_outbox_free(outbox);
}

static void test_inbox_keeps_messages_and_statuses(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, 16, 16);
    struct mcore_link *link = mcore_link_new(outbox, 1 << 20, 0, 0);
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    CHECK(mcore_link_attach(link, fds[0], (const uint8_t *)"", 0, (const uint8_t *)"", 0) == MCORE_OK);
    struct mcore_receive_buffer *inbox = mcore_receive_buffer_new(link, 7, 0);
    const char *stream = "MSG s$1.final 7 $JS.ACK.x 3\r\nabc\r\nMSG other 8 1\r\nz\r\n"
                         "HMSG _INBOX.T.7.1 7 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n";
    CHECK(send(fds[1], stream, strlen(stream), 0) == (ssize_t)strlen(stream));
    shutdown(fds[1], SHUT_WR);
    CHECK(mcore_link_read_loop(link) == MCORE_LINK_EOF);
    CHECK(mcore_receive_buffer_wait(inbox, 1, 1, 0) == MCORE_OK);
    uint8_t *data;
    size_t len;
    CHECK(mcore_receive_buffer_take(inbox, &data, &len) == 2);
    struct mcore_record record;
    memcpy(&record, data, sizeof(record));
    CHECK(record.status == 0 && record.payload_len == 3 && record.reply_len == 9);
    CHECK(record.received_ns > 0 && record.received_ns <= mcore_now_ns());
    memcpy(&record, data + record.size, sizeof(record));
    CHECK(record.status == 404 && record.payload_len == 0);
    mcore_free(data);
    mcore_receive_buffer_wake(inbox);
    CHECK(mcore_receive_buffer_wait(inbox, 5, 5, SECOND) == MCORE_OK);
    CHECK(mcore_receive_buffer_wait(inbox, 5, 5, 0) == MCORE_E_TIMEOUT);
    CHECK(!mcore_receive_buffer_is_closed(inbox));
    mcore_link_detach(link);
    CHECK(mcore_receive_buffer_is_closed(inbox));
    CHECK(mcore_receive_buffer_wait(inbox, 5, 5, SECOND) == MCORE_E_CLOSED);
    mcore_receive_buffer_free(inbox);
    close(fds[0]);
    close(fds[1]);
    mcore_link_free(link);
    mcore_outbox_free(outbox);
}

/* Reads what has come without waiting. */
static size_t written(int fd, char *out, size_t cap)
{
    ssize_t count = recv(fd, out, cap, MSG_DONTWAIT);
    return count > 0 ? (size_t)count : 0;
}

static void test_acks_gather_and_go_out_behind_what_is_urgent(void)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, 16, 16);
    struct mcore_link *link = mcore_link_new(outbox, 1 << 20, 0, 0);
    int fds[2];
    char seen[256];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    CHECK(mcore_link_publish(link, BYTES_OF("a"), BYTES_OF("")) == MCORE_E_CLOSED);
    CHECK(mcore_link_write(link, BYTES_OF("x")) == MCORE_E_CLOSED);
    CHECK(mcore_link_attach(link, fds[0], (const uint8_t *)"", 0, (const uint8_t *)"", 0) == MCORE_OK);
    CHECK(mcore_link_publish(link, BYTES_OF("a"), BYTES_OF("")) == MCORE_OK);
    CHECK(written(fds[1], seen, sizeof(seen)) == 0); /* no sender runs here: what is written was asked for */
    CHECK(mcore_link_write(link, BYTES_OF("SUB s 1\r\n")) == MCORE_OK);
    CHECK(written(fds[1], seen, sizeof(seen)) == 20 && memcmp(seen, "SUB s 1\r\nPUB a 0\r\n\r\n", 20) == 0);
    CHECK(mcore_link_publish(link, BYTES_OF("b"), BYTES_OF("")) == MCORE_OK);
    CHECK(mcore_link_ping(link) == 1);
    mcore_link_push(link);
    CHECK(written(fds[1], seen, sizeof(seen)) == 17 && memcmp(seen, "PUB b 0\r\n\r\nPING\r\n", 17) == 0);
    CHECK(mcore_link_publish(link, BYTES_OF("c"), BYTES_OF("")) == MCORE_OK);
    mcore_link_detach(link);
    int next[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, next) == 0);
    CHECK(mcore_link_attach(link, next[0], (const uint8_t *)"", 0, (const uint8_t *)"", 0) == MCORE_OK);
    mcore_link_push(link);
    CHECK(written(next[1], seen, sizeof(seen)) == 0); /* an ack belongs to the connection that its message came over */
    mcore_link_detach(link);
    close(fds[0]);
    close(fds[1]);
    close(next[0]);
    close(next[1]);
    mcore_link_free(link);
    mcore_outbox_free(outbox);
}

/* ---- a hostile peer ----------------------------------------------------------------------------------------------- */

static int is_fed(struct mcore_link *link, const char *text)
{
    return mcore_link_feed(link, BYTES_OF(text)) == MCORE_LINK_GOES_ON;
}

static void test_a_slot_that_its_lane_has_not_given_is_none(void)
{
    static const char *const places[] = {"4611686018427387904",
                                         "4611686018427387905",
                                         "e4611686018427387904",
                                         "18446744073709551615",
                                         "18446744073709551616",
                                         "e18446744073709551616",
                                         "23058430092136939520",
                                         "99999999999999999999",
                                         "e99999999999999999999",
                                         "1",
                                         "e1",
                                         "e",
                                         "e0x",
                                         "ee0",
                                         "-1",
                                         "000000000000000000000"};
    static const char stored[] = "{\"stream\":\"st$1\",\"seq\":1}";
    struct hands hands = open_hands(0, "", "");
    struct mcore_ticket bulk, express;
    memset(&bulk, 0, sizeof(bulk));
    memset(&express, 0, sizeof(express));
    struct mcore_route route = route_of(0);
    const struct mcore_route *routes[] = {&route};
    struct mcore_ticket *tickets[] = {&express};
    struct mcore_message message = message_of("x");
    const uint8_t *data;
    size_t len;
    message.urgent = 1;
    CHECK(mcore_outbox_append(hands.outbox, routes, 1, &message, tickets) == INT64_C(1) << MCORE_EXPRESS_BIT);
    CHECK(append(hands.outbox, "y", 0, &bulk) == 0);
    while (mcore_link_next(hands.link, 0, &data, &len) == MCORE_NEXT_BYTES)
        mcore_link_written(hands.link, len, 0);
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        char text[160];
        snprintf(text, sizeof(text), "MSG _INBOX.T.%s 1 %zu\r\n%s\r\n", places[i], strlen(stored), stored);
        CHECK(is_fed(hands.link, text));
        CHECK(mcore_ticket_outcome(&bulk) == MCORE_PENDING && mcore_ticket_outcome(&express) == MCORE_PENDING);
    }
    CHECK(is_fed(hands.link, "MSG _INBOX.T.e0 1 25\r\n{\"stream\":\"st$1\",\"seq\":1}\r\n"));
    CHECK(mcore_ticket_outcome(&express) == MCORE_DELIVERED && mcore_ticket_outcome(&bulk) == MCORE_PENDING);
    CHECK(is_fed(hands.link, "MSG _INBOX.T.0 1 25\r\n{\"stream\":\"st$1\",\"seq\":1}\r\n"));
    CHECK(mcore_ticket_outcome(&bulk) == MCORE_DELIVERED);
    CHECK(is_consistent(hands.outbox));
    mcore_ticket_release(hands.outbox, &bulk);
    mcore_ticket_release(hands.outbox, &express);
    close_hands(&hands);
}

static void test_pings_without_end_are_answered_by_few_pongs(void)
{
    struct hands hands = open_hands(0, "", "");
    const uint8_t *data;
    size_t len;
    static char pings[6 * 1000 + 1];
    for (int i = 0; i < 1000; i++)
        memcpy(pings + 6 * i, "PING\r\n", 7);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 100; i++)
            CHECK(is_fed(hands.link, pings));
        CHECK(mcore_link_next(hands.link, SECOND, &data, &len) == MCORE_NEXT_BYTES && len == 6 * MCORE_MAX_PONGS);
        CHECK(is_fed(hands.link, pings)); /* while those are being written */
        mcore_link_written(hands.link, len, 0);
        CHECK(mcore_link_next(hands.link, SECOND, &data, &len) == MCORE_NEXT_BYTES && len == 6 * MCORE_MAX_PONGS);
        mcore_link_written(hands.link, len, 0);
        CHECK(is_fed(hands.link, "PING\r\n") && next_is(hands.link, "PONG\r\n"));
        mcore_link_written(hands.link, 6, 0);
    }
    for (int i = 0; i < 20; i++)
        CHECK(is_fed(hands.link, "PING\r\n"));
    mcore_link_detach(hands.link); /* what one connection owes is not the next one's */
    CHECK(mcore_link_attach(hands.link, hands.fds[0], BYTES_OF(""), BYTES_OF("")) == MCORE_OK);
    CHECK(is_fed(hands.link, "PING\r\n") && next_is(hands.link, "PONG\r\n"));
    mcore_link_written(hands.link, 6, 0);
    close_hands(&hands);
}

/* Queues a frame, or an ack when `is_ack`. */
static int queue(struct mcore_link *link, const uint8_t *bytes, size_t len, int is_ack)
{
    return is_ack ? mcore_link_publish(link, BYTES_OF("a"), bytes, len) : mcore_link_control(link, bytes, len);
}

static void test_a_peer_that_takes_nothing_is_left(void)
{
    static uint8_t frame[1 << 20];
    for (int is_ack = 0; is_ack < 2; is_ack++) {
        struct hands hands = open_hands(0, "", "");
        int count = 0;
        while (count < 1000 && queue(hands.link, frame, sizeof(frame), is_ack) == MCORE_OK)
            count++;
        CHECK(count >= 63 && count <= MCORE_CONTROL_BYTES / (1 << 20));
        CHECK(!mcore_link_is_up(hands.link));
        CHECK(mcore_link_write(hands.link, frame, 1) == MCORE_E_CLOSED &&
              mcore_link_ping(hands.link) == MCORE_E_CLOSED);
        CHECK(queue(hands.link, frame, 1, !is_ack) == MCORE_E_CLOSED);
        CHECK(mcore_link_ended(hands.link, 0) == MCORE_LINK_ERRNO && mcore_link_errno(hands.link) == ENOBUFS);
        mcore_link_detach(hands.link);
        int next[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, next) == 0);
        CHECK(mcore_link_attach(hands.link, next[0], BYTES_OF(""), BYTES_OF("")) == MCORE_OK);
        CHECK(queue(hands.link, frame, 1, is_ack) == MCORE_OK);
        close_hands(&hands);
        close(next[0]);
        close(next[1]);
    }
}

static void send_messages(struct mcore_link *link, int count, size_t payload_len)
{
    char *frame = malloc(payload_len + 64);
    int line = snprintf(frame, 64, "MSG s 7 %zu\r\n", payload_len);
    memset(frame + line, 'x', payload_len);
    memcpy(frame + (size_t)line + payload_len, "\r\n", 2);
    for (int i = 0; i < count; i++)
        CHECK(mcore_link_feed(link, (uint8_t *)frame, (size_t)line + payload_len + 2) == MCORE_LINK_GOES_ON);
    free(frame);
}

static long taken(struct mcore_receive_buffer *inbox)
{
    uint8_t *data;
    size_t len;
    long count = mcore_receive_buffer_take(inbox, &data, &len);
    mcore_free(data);
    return count;
}

static void test_an_inbox_holds_no_more_than_was_asked_for(void)
{
    struct hands hands = open_hands(0, "", "");
    struct mcore_receive_buffer *inbox = mcore_receive_buffer_new(hands.link, 7, 0);
    mcore_receive_buffer_expect(inbox, 0, 1000);
    send_messages(hands.link, 5, 10);
    CHECK(taken(inbox) == 0 && mcore_receive_buffer_dropped(inbox) == 5);
    mcore_receive_buffer_expect(inbox, 3, 1000);
    send_messages(hands.link, 5, 10);
    CHECK(mcore_receive_buffer_wait(inbox, 3, UINT64_MAX, 0) == MCORE_OK);
    CHECK(taken(inbox) == 3 && mcore_receive_buffer_dropped(inbox) == 7);
    send_messages(hands.link, 5, 10);
    CHECK(taken(inbox) == 0 && mcore_receive_buffer_dropped(inbox) == 12); /* they were asked for once */
    mcore_receive_buffer_expect(inbox, 100, 1000);
    send_messages(hands.link, 11, 99); /* with their subject 100 bytes each */
    CHECK(taken(inbox) == 10 && mcore_receive_buffer_dropped(inbox) == 13);
    send_messages(hands.link, 1, 1000);
    CHECK(taken(inbox) == 0 && mcore_receive_buffer_dropped(inbox) == 14);
    send_messages(hands.link, 1, 999);
    CHECK(taken(inbox) == 1);
    /* The end of a request comes through a full inbox; without end that is bounded too. */
    send_messages(hands.link, 1, 999);
    for (int i = 0; i < 10 * MCORE_RECEIVE_BUFFER_STATUSES; i++)
        CHECK(is_fed(hands.link, "HMSG _INBOX.T.7.1 7 16 16\r\nNATS/1.0 404\r\n\r\n\r\n"));
    CHECK(mcore_receive_buffer_wait(inbox, UINT64_MAX, 1, 0) == MCORE_OK);
    CHECK(taken(inbox) == 1 + MCORE_RECEIVE_BUFFER_STATUSES);
    CHECK(mcore_receive_buffer_dropped(inbox) == 14 + 9 * MCORE_RECEIVE_BUFFER_STATUSES);
    mcore_receive_buffer_free(inbox);
    /* Nobody has said what is expected. */
    inbox = mcore_receive_buffer_new(hands.link, 7, 0);
    send_messages(hands.link, 1000, 100000);
    CHECK(taken(inbox) == MCORE_RECEIVE_BUFFER_BYTES / 100001);
    CHECK(mcore_receive_buffer_dropped(inbox) == 1000 - MCORE_RECEIVE_BUFFER_BYTES / 100001);
    mcore_receive_buffer_free(inbox);
    close_hands(&hands);
}

static void test_an_inbox_of_jetstream_takes_only_its_messages(void)
{
    struct hands hands = open_hands(0, "", "");
    struct mcore_receive_buffer *inbox = mcore_receive_buffer_new(hands.link, 7, 1);
    mcore_receive_buffer_expect(inbox, 2, 1000);
    CHECK(is_fed(hands.link,
                 "MSG s 7 1\r\nx\r\nMSG s 7 JS.ACK.a 1\r\nx\r\nMSG s 7 $JS.ACK 1\r\nx\r\nMSG s 7 r 1\r\nx\r\n"));
    CHECK(taken(inbox) == 0 && mcore_receive_buffer_dropped(inbox) == 4);
    CHECK(is_fed(hands.link, "MSG s 7 $JS.ACK.a 1\r\nx\r\nHMSG s 7 $JS.ACK.b 12 12\r\nNATS/1.0\r\n\r\n\r\n"));
    CHECK(is_fed(hands.link, "HMSG _INBOX.T.7.1 7 16 16\r\nNATS/1.0 404\r\n\r\n\r\n"));
    CHECK(taken(inbox) == 3 && mcore_receive_buffer_dropped(inbox) == 4);
    mcore_receive_buffer_free(inbox);
    close_hands(&hands);
}

int main(void)
{
    RUN(test_frames_are_exact);
    RUN(test_a_users_id_and_headers_are_written);
    RUN(test_bounds_are_kept_and_leave_everything_accepted);
    RUN(test_several_routes_are_all_or_none);
    RUN(test_each_route_may_have_a_part_of_the_payload);
    RUN(test_each_kind_of_answer);
    RUN(test_every_answer_is_read_to_its_end);
    RUN(test_no_responders_and_unknown_slots);
    RUN(test_a_cut_behind_no_responders_leaves_it_unknown);
    RUN(test_answers_that_cannot_be_true_are_ignored);
    RUN(test_what_was_written_and_not_answered_is_never_known_to_be_missing);
    RUN(test_a_group_hands_out_each_settled_ticket_once);
    RUN(test_groups_come_and_go_while_tickets_are_settled);
    RUN(test_unseen_failures_are_counted_once);
    RUN(test_held_messages_count_expire_and_become_frames);
    RUN(test_a_flush_waits_for_what_was_accepted_before_it);
    RUN(test_deadlines_end_only_what_is_due);
    RUN(test_rewind_sends_the_unsettled_again_in_order);
    RUN(test_bytes_being_written_are_not_overwritten);
    RUN(test_waiters_race_with_acks);
    RUN(test_an_urgent_message_passes_other_threads_backlog);
    RUN(test_fuzz_against_a_model);
    RUN(test_deadlines_fall_due_at_their_time_wherever_they_lie);
    RUN(test_a_cut_link_loses_nothing);
    RUN(test_bytes_pass_through_the_callers_hands);
    RUN(test_a_sender_is_woken_without_bytes_and_expires_deadlines);
    RUN(test_a_failed_write_ends_the_connection_and_loses_nothing);
    RUN(test_detach_waits_for_the_bytes_in_the_callers_hands);
    RUN(test_a_full_socket_does_not_hide_a_silent_peer);
    RUN(test_a_peer_that_breaks_the_protocol_ends_the_link);
    RUN(test_a_silent_peer_is_asked_then_given_up);
    RUN(test_the_sender_wakes_for_the_end_of_a_pause);
    RUN(test_a_quiet_peer_that_answers_is_kept);
    RUN(test_a_server_in_lame_duck_mode_is_left);
    RUN(test_inbox_keeps_messages_and_statuses);
    RUN(test_a_slot_that_its_lane_has_not_given_is_none);
    RUN(test_pings_without_end_are_answered_by_few_pongs);
    RUN(test_a_peer_that_takes_nothing_is_left);
    RUN(test_an_inbox_holds_no_more_than_was_asked_for);
    RUN(test_an_inbox_of_jetstream_takes_only_its_messages);
    RUN(test_acks_gather_and_go_out_behind_what_is_urgent);
    return test_summary("test_outbox");
}
