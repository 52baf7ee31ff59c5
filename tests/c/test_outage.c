/*
 * Streams that do not answer for a while: their messages wait in their places, those of others go on, and nothing is lost,
 * doubled or out of order. The server is played: it takes frames from the outbox, and stores what its stream has a leader
 * for.
 */
#include <stdint.h>

#include "harness.h"
#include "memphis_core.h"

#define SECOND INT64_C(1000000000)
#define CALM (SECOND / 40) /* what came late has been answered by then */
#define BYTES_OF(text) (const uint8_t *)(text), strlen(text)

enum { STREAMS = 2, SLOTS = 4096 };
enum mode { SERVES, HAS_NO_LEADER, IS_SILENT };

static const char *const subjects[STREAMS] = {"a$1.final", "b$1.final"};

/* A server with two streams; what was sent to it, slot by slot, since the last reset. */
struct server {
    struct mcore_outbox *outbox;
    enum mode modes[STREAMS];
    uint64_t stored[STREAMS][SLOTS]; /* slots, in the order of storing */
    size_t stored_count[STREAMS];
    uint64_t sequence_of[SLOTS]; /* 0: not stored */
    uint64_t sent[SLOTS];        /* slots, in the order of sending */
    size_t sent_count;
};

static int64_t append(struct mcore_outbox *outbox, int stream, int has_id, int64_t timeout_ns,
                      struct mcore_ticket *ticket)
{
    struct mcore_route route = {BYTES_OF(subjects[stream]), BYTES_OF("Nats-Msg-Id"), BYTES_OF("k: v\r\n"), 0, has_id};
    const struct mcore_route *routes[] = {&route};
    struct mcore_message message = {.payload = (const uint8_t *)"m", .payload_len = 1, .timeout_ns = timeout_ns};
    return mcore_outbox_append(outbox, routes, 1, &message, &ticket);
}

static struct mcore_outbox *new_outbox(unsigned attempts)
{
    struct mcore_outbox *outbox = mcore_outbox_new(BYTES_OF("T"), 1 << 20, SLOTS, SLOTS);
    mcore_outbox_set_retry(outbox, attempts, SECOND / 4);
    return outbox;
}

static void check_counts(struct mcore_outbox *outbox)
{
    struct mcore_stats s;
    mcore_outbox_stats(outbox, &s);
    CHECK(s.accepted == s.delivered + s.failed + s.abandoned + s.queued + s.in_flight);
    CHECK(mcore_outbox_outstanding(outbox, -1) == s.queued + s.in_flight);
    CHECK((s.queued == 0) == (s.queued_bytes == 0));
}

/* The broker's answer to one frame, or none. */
static void answer(struct server *server, int stream, uint64_t slot)
{
    char json[64];
    if (server->modes[stream] == IS_SILENT)
        return;
    if (server->modes[stream] == HAS_NO_LEADER) {
        mcore_outbox_ack(server->outbox, slot, 503, (const uint8_t *)"", 0);
        return;
    }
    int is_duplicate = server->sequence_of[slot] != 0;
    if (!is_duplicate) {
        server->stored[stream][server->stored_count[stream]++] = slot;
        server->sequence_of[slot] = server->stored_count[stream];
    }
    int len = snprintf(json, sizeof(json), "{\"stream\":\"%.3s\",\"seq\":%u%s}", subjects[stream],
                       (unsigned)server->sequence_of[slot], is_duplicate ? ",\"duplicate\":true" : "");
    mcore_outbox_ack(server->outbox, slot, 0, (const uint8_t *)json, (size_t)len);
}

/* Takes all that the outbox sends now; the answers come when all of it was sent. Returns how many frames came. */
static size_t serve(struct server *server)
{
    static int streams[SLOTS];
    const uint8_t *data;
    size_t len;
    size_t first = server->sent_count;
    while (mcore_outbox_run_take(server->outbox, 4096, &data, &len) > 0) {
        for (size_t at = 0; at + 5 < len; at++) {
            if (memcmp(data + at, "HPUB ", 5) != 0)
                continue;
            const char *reply = (const char *)memchr(data + at + 5, ' ', len - at - 5) + sizeof(" _INBOX.T.") - 1;
            CHECK(server->sent_count < SLOTS);
            streams[server->sent_count] = data[at + 5] == 'b';
            server->sent[server->sent_count++] = strtoull(reply, NULL, 10);
        }
        mcore_outbox_run_done(server->outbox);
    }
    for (size_t i = first; i < server->sent_count; i++)
        answer(server, streams[i], server->sent[i]);
    check_counts(server->outbox);
    return server->sent_count - first;
}

/* As the sender's thread does it, this much later. */
static uint64_t pass(struct server *server, int64_t ns)
{
    clock_ahead_ns += ns;
    uint64_t ended = mcore_outbox_expire(server->outbox, mcore_now_ns());
    check_counts(server->outbox);
    return ended;
}

static int take_question(struct mcore_outbox *outbox, const char *stream)
{
    char text[64];
    size_t len = mcore_outbox_take_question(outbox, text, sizeof(text));
    return len == strlen(stream) && memcmp(text, stream, len) == 0;
}

static void tell(struct mcore_outbox *outbox, const char *stream, enum mcore_stream_answer what)
{
    mcore_outbox_answer_question(outbox, stream, strlen(stream), what);
}

static void end(struct server *server)
{
    mcore_outbox_abandon(server->outbox);
    mcore_outbox_free(server->outbox);
    clock_ahead_ns = 0;
}

/* ---- waiting and going on ----------------------------------------------------------------------------------------- */

static void test_messages_wait_in_their_places_and_others_go_on(void)
{
    static struct server server;
    server = (struct server){.outbox = new_outbox(2), .modes = {HAS_NO_LEADER, SERVES}};
    for (int i = 0; i < 6; i++)
        CHECK(append(server.outbox, i % 2, 1, 60 * SECOND, NULL) == i);
    CHECK(serve(&server) == 6 && server.stored_count[1] == 3);
    /* What comes now waits as well, that of the other stream does not. */
    for (int i = 6; i < 10; i++)
        CHECK(append(server.outbox, i % 2, 1, 60 * SECOND, NULL) == i);
    CHECK(serve(&server) == 2 && server.stored_count[1] == 5);
    pass(&server, SECOND / 8);
    CHECK(serve(&server) == 0);
    pass(&server, SECOND / 4);
    CHECK(serve(&server) == 1 && server.sent[8] == 0); /* the oldest alone finds out */
    server.modes[0] = SERVES;
    pass(&server, SECOND / 4 + 1);
    CHECK(serve(&server) == 1 && server.sent[9] == 0);
    CHECK(serve(&server) == 4);
    CHECK(mcore_outbox_outstanding(server.outbox, -1) == 0);
    for (size_t i = 0; i < 5; i++)
        CHECK(server.stored[0][i] == 2 * i);
    CHECK(append(server.outbox, 0, 1, 60 * SECOND, NULL) == 10);
    CHECK(serve(&server) == 1);
    end(&server);
}

static void test_what_is_queued_when_nobody_listens_is_kept_back(void)
{
    static struct server server;
    const uint8_t *data;
    size_t len;
    server = (struct server){.outbox = new_outbox(2), .modes = {HAS_NO_LEADER, SERVES}};
    CHECK(append(server.outbox, 0, 1, 60 * SECOND, NULL) == 0);
    CHECK(mcore_outbox_run_take(server.outbox, 4096, &data, &len) == 1);
    mcore_outbox_run_done(server.outbox);
    CHECK(append(server.outbox, 0, 1, 60 * SECOND, NULL) == 1 && append(server.outbox, 1, 1, 60 * SECOND, NULL) == 2);
    answer(&server, 0, 0);
    CHECK(serve(&server) == 1 && server.sent[0] == 2);
    server.modes[0] = SERVES;
    pass(&server, SECOND / 4);
    CHECK(serve(&server) == 1 && serve(&server) == 1);
    CHECK(server.stored[0][0] == 0 && server.stored[0][1] == 1);
    end(&server);
}

static void test_what_was_under_way_goes_again_in_its_place_if_it_has_an_id(void)
{
    for (int has_id = 0; has_id <= 1; has_id++) {
        static struct server server;
        server = (struct server){.outbox = new_outbox(2), .modes = {IS_SILENT, SERVES}};
        for (int i = 0; i < 2; i++)
            CHECK(append(server.outbox, 0, has_id, 60 * SECOND, NULL) == i);
        CHECK(serve(&server) == 2); /* these are lost with their leader */
        server.modes[0] = HAS_NO_LEADER;
        for (int i = 2; i < 4; i++)
            CHECK(append(server.outbox, 0, has_id, 60 * SECOND, NULL) == i);
        CHECK(serve(&server) == 2);
        server.modes[0] = SERVES;
        pass(&server, SECOND / 4);
        CHECK(serve(&server) == 1 && server.sent[4] == (has_id ? 0u : 2u));
        pass(&server, CALM);
        CHECK(serve(&server) == (has_id ? 3u : 1u));
        CHECK(mcore_outbox_outstanding(server.outbox, -1) == (has_id ? 0u : 2u));
        for (size_t i = 0; i < server.stored_count[0]; i++)
            CHECK(server.stored[0][i] == i + (has_id ? 0 : 2));
        end(&server);
    }
}

static void test_a_message_that_is_sent_to_find_out_may_have_no_answer(void)
{
    static struct server server;
    server = (struct server){.outbox = new_outbox(2), .modes = {HAS_NO_LEADER, SERVES}};
    for (int i = 0; i < 3; i++)
        CHECK(append(server.outbox, 0, i != 1, 60 * SECOND, NULL) == i);
    CHECK(serve(&server) == 3);
    server.modes[0] = IS_SILENT;
    for (int i = 0; i < 3; i++) {
        pass(&server, i == 0 ? SECOND / 4 : SECOND + 1);
        CHECK(serve(&server) == 1 && server.sent[3 + i] == 0); /* its id makes it safe to send it again and again */
    }
    server.modes[0] = SERVES;
    pass(&server, SECOND + 1);
    CHECK(serve(&server) == 1);
    pass(&server, CALM);
    CHECK(serve(&server) == 2 && mcore_outbox_outstanding(server.outbox, -1) == 0);

    /* One without an id has been sent: only another one can find out. */
    server.modes[0] = HAS_NO_LEADER;
    server.sent_count = 0;
    for (int i = 3; i < 5; i++)
        CHECK(append(server.outbox, 0, 0, 60 * SECOND, NULL) == i);
    CHECK(serve(&server) == 2);
    server.modes[0] = IS_SILENT;
    pass(&server, SECOND / 4);
    CHECK(serve(&server) == 1 && server.sent[2] == 3);
    server.modes[0] = SERVES;
    pass(&server, SECOND + 1);
    CHECK(serve(&server) == 1 && server.sent[3] == 4);
    CHECK(mcore_outbox_outstanding(server.outbox, -1) == 1);
    end(&server);
}

/* ---- silence ------------------------------------------------------------------------------------------------------ */

static uint64_t resent(struct mcore_outbox *outbox)
{
    struct mcore_stats stats;
    mcore_outbox_stats(outbox, &stats);
    return stats.resent;
}

static void test_a_stream_that_answers_nothing_is_looked_after_and_gets_all_again(void)
{
    static struct server server;
    server = (struct server){.outbox = new_outbox(2), .modes = {IS_SILENT, SERVES}};
    for (int i = 0; i < 3; i++)
        CHECK(append(server.outbox, 0, 1, 60 * SECOND, NULL) == i);
    CHECK(serve(&server) == 3);
    for (int i = 0; i < 2; i++) {
        pass(&server, SECOND);
        CHECK(serve(&server) == 0 && !take_question(server.outbox, "a$1"));
    }
    server.modes[0] = SERVES; /* there is a leader again, who knows nothing of them */
    for (int i = 0; i < 3 && server.sent_count == 3; i++) {
        pass(&server, SECOND);
        serve(&server);
    }
    CHECK(server.sent_count == 4 && server.sent[3] == 0 && take_question(server.outbox, "a$1"));
    CHECK(append(server.outbox, 0, 1, 60 * SECOND, NULL) == 3);
    pass(&server, CALM);
    CHECK(serve(&server) == 3 && mcore_outbox_outstanding(server.outbox, -1) == 0);
    for (size_t i = 0; i < 4; i++)
        CHECK(server.stored[0][i] == i);
    end(&server);
}

static void test_what_a_stream_has_skipped_is_sent_again_alone(void)
{
    for (int has_id = 0; has_id <= 1; has_id++) {
        static struct server server;
        server = (struct server){.outbox = new_outbox(2), .modes = {IS_SILENT, SERVES}};
        for (int i = 0; i < 3; i++)
            CHECK(append(server.outbox, 0, has_id, 60 * SECOND, NULL) == i);
        CHECK(serve(&server) == 3);
        server.modes[0] = SERVES;
        size_t sent = 0;
        for (int i = 0; i < 6; i++) { /* it answers what comes now */
            append(server.outbox, 0, has_id, 60 * SECOND, NULL);
            pass(&server, SECOND);
            sent += serve(&server);
        }
        CHECK(sent == (has_id ? 9u : 6u) && resent(server.outbox) == (has_id ? 3u : 0u));
        CHECK(mcore_outbox_outstanding(server.outbox, -1) == (has_id ? 0u : 3u));
        CHECK(!take_question(server.outbox, "a$1"));
        end(&server);
    }
}

/* Blocking producers have a lane of their own; what is skipped there is seen by what another lane's messages are told. */
static void test_a_message_skipped_in_one_lane_is_found_by_answers_to_the_other(void)
{
    static struct server server;
    server = (struct server){.outbox = new_outbox(2), .modes = {IS_SILENT, SERVES}};
    struct mcore_route route = {BYTES_OF(subjects[0]), BYTES_OF("Nats-Msg-Id"), BYTES_OF("k: v\r\n"), 0, 1};
    const struct mcore_route *routes[] = {&route};
    struct mcore_message message = {.payload = (const uint8_t *)"m", .payload_len = 1, .timeout_ns = 60 * SECOND};
    message.urgent = 1;
    struct mcore_ticket ticket;
    struct mcore_ticket *tickets[] = {&ticket};
    memset(&ticket, 0, sizeof(ticket));
    const uint8_t *data;
    size_t len;
    CHECK(mcore_outbox_append(server.outbox, routes, 1, &message, tickets) >= 0 &&
          ticket.slot >> MCORE_EXPRESS_BIT == 1);
    CHECK(mcore_outbox_run_take(server.outbox, 4096, &data, &len) == 1);
    mcore_outbox_run_done(server.outbox);
    server.modes[0] = SERVES;
    long again = 0;
    for (int i = 0; i < 6; i++) {
        append(server.outbox, 0, 1, 60 * SECOND, NULL);
        long count = mcore_outbox_run_take(server.outbox, 4096, &data, &len);
        again += count > 0 && memmem(data, len, "_INBOX.T.e0 ", 12) != NULL;
        mcore_outbox_run_done(server.outbox);
        serve(&server);
        mcore_outbox_ack(server.outbox, (uint64_t)i, 0, (const uint8_t *)"{\"stream\":\"a$1\",\"seq\":9}", 26);
        pass(&server, SECOND);
    }
    CHECK(again == 1 && mcore_ticket_outcome(&ticket) == MCORE_PENDING);
    mcore_outbox_abandon(server.outbox);
    mcore_ticket_release(server.outbox, &ticket);
    end(&server);
}

/* As before a slow disk: each answer takes three seconds, and they come in their turn. */
static void test_a_slow_stream_gets_nothing_twice(void)
{
    static struct server server;
    server = (struct server){.outbox = new_outbox(2), .modes = {IS_SILENT, SERVES}};
    for (uint64_t slot = 0; slot < 40; slot++) {
        CHECK(append(server.outbox, 0, 1, 600 * SECOND, NULL) == (int64_t)slot);
        CHECK(serve(&server) == 1);
        if (slot >= 3) {
            server.modes[0] = SERVES;
            answer(&server, 0, slot - 3);
            server.modes[0] = IS_SILENT;
        }
        pass(&server, SECOND);
    }
    CHECK(resent(server.outbox) == 0 && mcore_outbox_outstanding(server.outbox, -1) == 3);
    end(&server);
}

/* A network that stands still for a while brings all answers in the end. */
static void test_after_a_standstill_the_answers_come_first(void)
{
    static struct server server;
    server = (struct server){.outbox = new_outbox(2), .modes = {IS_SILENT, SERVES}};
    for (int i = 0; i < 50; i++)
        CHECK(append(server.outbox, 0, 1, 600 * SECOND, NULL) == i);
    CHECK(serve(&server) == 50);
    for (int i = 0; i < 8; i++) {
        pass(&server, SECOND);
        serve(&server);
    }
    size_t probes = server.sent_count - 50;
    CHECK(probes >= 1 && probes <= 8);
    server.modes[0] = SERVES;
    for (uint64_t slot = 0; slot < 50; slot++) {
        answer(&server, 0, slot);
        if (slot % 10 == 9)
            pass(&server, CALM / 2);
    }
    for (int i = 0; i < 5; i++) {
        pass(&server, CALM);
        serve(&server);
    }
    CHECK(resent(server.outbox) == probes && mcore_outbox_outstanding(server.outbox, -1) == 0);
    end(&server);
}

/* ---- how it ends -------------------------------------------------------------------------------------------------- */

static void test_a_stream_that_is_gone_ends_its_messages_after_the_attempts(void)
{
    static struct server server;
    struct mcore_ticket tickets[4];
    memset(tickets, 0, sizeof(tickets));
    server = (struct server){.outbox = new_outbox(2), .modes = {HAS_NO_LEADER, SERVES}};
    CHECK(append(server.outbox, 0, 1, 60 * SECOND, &tickets[0]) == 0);
    CHECK(append(server.outbox, 0, 0, 60 * SECOND, &tickets[1]) == 1);
    CHECK(serve(&server) == 2);
    CHECK(append(server.outbox, 0, 1, 60 * SECOND, &tickets[2]) == 2); /* it is never sent */
    CHECK(append(server.outbox, 1, 1, 60 * SECOND, &tickets[3]) == 3);
    CHECK(take_question(server.outbox, "a$1") && !take_question(server.outbox, "a$1"));
    tell(server.outbox, "a$1", MCORE_STREAM_GONE);
    for (int i = 0; i < 2; i++) {
        CHECK(pass(&server, SECOND / 4 + 1) == 0);
        CHECK(serve(&server) == (i == 0 ? 2u : 1u)); /* the other stream's message, too */
    }
    CHECK(pass(&server, 0) == 0); /* an ack may still follow, if an answer was false */
    CHECK(pass(&server, SECOND / 4) == 3);
    for (int i = 0; i < 3; i++)
        CHECK(mcore_ticket_outcome(&tickets[i]) == MCORE_NO_RESPONDERS && tickets[i].code == 503);
    CHECK(mcore_ticket_outcome(&tickets[3]) == MCORE_DELIVERED);
    for (int i = 0; i < 4; i++)
        mcore_ticket_release(server.outbox, &tickets[i]);

    /* It was created again: nothing remembers that it was gone. */
    server.modes[0] = SERVES;
    CHECK(append(server.outbox, 0, 1, 60 * SECOND, NULL) == 4);
    CHECK(serve(&server) == 1 && mcore_outbox_outstanding(server.outbox, -1) == 0);
    end(&server);
}

static void test_what_was_under_way_or_asked_in_vain_may_be_stored_all_the_same(void)
{
    for (int is_first = 0; is_first <= 1; is_first++) {
        static struct server server;
        struct mcore_ticket tickets[2];
        memset(tickets, 0, sizeof(tickets));
        server = (struct server){.outbox = new_outbox(2), .modes = {IS_SILENT, SERVES}};
        CHECK(append(server.outbox, 0, 1, 60 * SECOND, &tickets[0]) == 0);
        CHECK(serve(&server) == 1);
        if (!is_first)
            mcore_outbox_ack(server.outbox, 0, 503, (const uint8_t *)"", 0);
        server.modes[0] = is_first ? HAS_NO_LEADER : IS_SILENT;
        CHECK(append(server.outbox, 0, 1, 60 * SECOND, &tickets[1]) == 1);
        serve(&server);
        CHECK(take_question(server.outbox, "a$1"));
        tell(server.outbox, "a$1", MCORE_STREAM_GONE);
        for (int i = 0; i < 3; i++) { /* two attempts, with an answer that nobody listens, or with none */
            pass(&server, SECOND + 1);
            serve(&server);
        }
        CHECK(pass(&server, SECOND) == 2);
        CHECK(mcore_ticket_outcome(&tickets[0]) == (is_first ? MCORE_UNKNOWN : MCORE_EXPIRED));
        CHECK(mcore_ticket_outcome(&tickets[1]) == MCORE_NO_RESPONDERS);
        for (int i = 0; i < 2; i++)
            mcore_ticket_release(server.outbox, &tickets[i]);
        end(&server);
    }
}

static void test_a_stream_that_is_created_again_within_the_attempts_gets_all(void)
{
    static struct server server;
    server = (struct server){.outbox = new_outbox(3), .modes = {HAS_NO_LEADER, SERVES}};
    for (int i = 0; i < 5; i++)
        CHECK(append(server.outbox, 0, 1, 60 * SECOND, NULL) == i);
    CHECK(serve(&server) == 5 && take_question(server.outbox, "a$1"));
    tell(server.outbox, "a$1", MCORE_STREAM_GONE);
    pass(&server, SECOND / 4 + 1);
    CHECK(serve(&server) == 1);
    server.modes[0] = SERVES;
    pass(&server, SECOND / 4 + 1);
    CHECK(serve(&server) == 1 && serve(&server) == 4);
    CHECK(mcore_outbox_outstanding(server.outbox, -1) == 0);
    end(&server);
}

static void test_a_stream_that_exists_is_waited_for_until_the_deadlines(void)
{
    static struct server server;
    struct mcore_ticket tickets[3];
    memset(tickets, 0, sizeof(tickets));
    server = (struct server){.outbox = new_outbox(2), .modes = {HAS_NO_LEADER, SERVES}};
    CHECK(append(server.outbox, 0, 1, 60 * SECOND, &tickets[0]) == 0);
    CHECK(serve(&server) == 1);
    CHECK(append(server.outbox, 0, 1, 60 * SECOND, &tickets[1]) == 1);
    CHECK(append(server.outbox, 0, 1, 3 * SECOND, &tickets[2]) == 2);
    CHECK(take_question(server.outbox, "a$1"));
    tell(server.outbox, "a$1", MCORE_STREAM_EXISTS);
    for (int i = 0; i < 11; i++) {
        CHECK(pass(&server, SECOND / 4 + 1) == 0);
        CHECK(serve(&server) == 1);
    }
    CHECK(pass(&server, SECOND / 2) == 1);
    CHECK(mcore_ticket_outcome(&tickets[2]) == MCORE_EXPIRED && !tickets[2].was_written);
    CHECK(pass(&server, 60 * SECOND) == 2);
    CHECK(mcore_ticket_outcome(&tickets[0]) == MCORE_EXPIRED && tickets[0].code == 503 && tickets[0].was_written);
    CHECK(mcore_ticket_outcome(&tickets[1]) == MCORE_EXPIRED && tickets[1].code == 0 && !tickets[1].was_written);
    for (int i = 0; i < 3; i++)
        mcore_ticket_release(server.outbox, &tickets[i]);
    end(&server);
}

static void test_the_question_is_asked_again_as_the_answer_says(void)
{
    static const struct {
        enum mcore_stream_answer answer;
        int attempts;
    } cases[] = {{MCORE_STREAM_UNKNOWN, 4}, {MCORE_STREAM_EXISTS, 20}};
    for (size_t which = 0; which < 2; which++) {
        static struct server server;
        server = (struct server){.outbox = new_outbox(2), .modes = {HAS_NO_LEADER, SERVES}};
        append(server.outbox, 0, 1, 3600 * SECOND, NULL);
        CHECK(serve(&server) == 1 && take_question(server.outbox, "a$1"));
        for (int round = 0; round < 3; round++) {
            tell(server.outbox, "a$1", cases[which].answer);
            for (int i = 0; i < cases[which].attempts; i++) {
                CHECK(!take_question(server.outbox, "a$1"));
                pass(&server, SECOND / 4 + 1);
                CHECK(serve(&server) == 1);
            }
            CHECK(take_question(server.outbox, "a$1"));
        }
        tell(server.outbox, "a$1", MCORE_STREAM_GONE);
        CHECK(pass(&server, 0) == 0 && pass(&server, SECOND) == 1);
        tell(server.outbox, "a$1", MCORE_STREAM_GONE); /* to nothing */
        tell(server.outbox, "c$1", MCORE_STREAM_GONE);
        end(&server);
    }
}

static void test_a_new_connection_and_an_end_during_an_outage(void)
{
    static struct server server;
    struct mcore_ticket ticket;
    memset(&ticket, 0, sizeof(ticket));
    server = (struct server){.outbox = new_outbox(2), .modes = {HAS_NO_LEADER, HAS_NO_LEADER}};
    for (int i = 0; i < 8; i++)
        CHECK(append(server.outbox, i % 2, 1, 60 * SECOND, i == 0 ? &ticket : NULL) == i);
    CHECK(serve(&server) == 8);
    pass(&server, SECOND / 4);
    for (int i = 8; i < 10; i++)
        CHECK(append(server.outbox, i % 2, 1, 60 * SECOND, NULL) == i);
    CHECK(mcore_outbox_rewind(server.outbox) == 0);
    server.modes[1] = SERVES;
    CHECK(serve(&server) == 10 && server.stored_count[1] == 5);
    for (size_t i = 0; i < 5; i++)
        CHECK(server.stored[1][i] == 2 * i + 1);
    /* An ack behind the first answer may have been lost with the connection. */
    CHECK(pass(&server, 60 * SECOND) == 5 && mcore_ticket_outcome(&ticket) == MCORE_UNKNOWN);
    mcore_ticket_release(server.outbox, &ticket);
    pass(&server, 0); /* nothing waits any more, which ends it */
    for (int i = 10; i < 14; i++)
        append(server.outbox, 0, 1, 60 * SECOND, NULL);
    CHECK(serve(&server) == 4);
    pass(&server, SECOND / 4);
    CHECK(mcore_outbox_abandon(server.outbox) == 4);
    pass(&server, 5 * SECOND);
    CHECK(serve(&server) == 0);
    end(&server);
}

/* ---- any order of events ------------------------------------------------------------------------------------------ */

static uint32_t seed = 20261127;

static uint32_t random_below(uint32_t bound)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % bound;
}

static void test_whatever_happens_each_message_is_stored_once_and_in_order(void)
{
    for (int round = 0; round < 60; round++) {
        static struct server server;
        uint64_t tail = 0;
        int stream_of[SLOTS];
        server = (struct server){.outbox = new_outbox(2)};
        while (tail < 400 && test_failures == 0) {
            uint32_t action = random_below(100);
            server.sent_count = 0;
            if (action < 60) {
                stream_of[tail] = (int)random_below(STREAMS);
                CHECK(append(server.outbox, stream_of[tail], 1, 100000 * SECOND, NULL) == (int64_t)tail);
                tail++;
            } else if (action < 80) {
                serve(&server);
            } else if (action < 90) {
                pass(&server, (int64_t)random_below(1200) * 1000000);
            } else if (action < 92) {
                mcore_outbox_rewind(server.outbox);
            } else {
                /* A leader is lost, and with it what it did not answer; only then nobody listens; then there is a new one. */
                int stream = (int)random_below(STREAMS);
                if (server.modes[stream] == SERVES)
                    server.modes[stream] = IS_SILENT;
                else
                    server.modes[stream] = server.modes[stream] == IS_SILENT ? HAS_NO_LEADER : SERVES;
                /* What is silent and never says that nobody listens would be known by its deadlines only. */
                if (server.modes[stream] == HAS_NO_LEADER) {
                    stream_of[tail] = stream;
                    CHECK(append(server.outbox, stream, 1, 100000 * SECOND, NULL) == (int64_t)tail);
                    tail++;
                    serve(&server);
                }
            }
            char text[64];
            size_t len = mcore_outbox_take_question(server.outbox, text, sizeof(text));
            if (len > 0)
                mcore_outbox_answer_question(server.outbox, text, len, (int)random_below(2));
        }
        for (int i = 0; i < STREAMS; i++) {
            if (server.modes[i] == IS_SILENT) {
                server.modes[i] = HAS_NO_LEADER;
                append(server.outbox, i, 1, 100000 * SECOND, NULL);
                stream_of[tail++] = i;
                server.sent_count = 0;
                serve(&server);
            }
            server.modes[i] = SERVES;
        }
        for (int i = 0; i < 20; i++) {
            server.sent_count = 0;
            serve(&server);
            pass(&server, SECOND + 1);
        }
        CHECK(mcore_outbox_outstanding(server.outbox, -1) == 0);
        for (int i = 0; i < STREAMS; i++) {
            size_t count = 0;
            for (uint64_t slot = 0; slot < tail; slot++)
                if (stream_of[slot] == i && (count >= server.stored_count[i] || server.stored[i][count++] != slot)) {
                    CHECK(!"stored in the order of appending, and once");
                    break;
                }
            CHECK(count == server.stored_count[i]);
        }
        end(&server);
    }
}

int main(void)
{
    RUN(test_messages_wait_in_their_places_and_others_go_on);
    RUN(test_what_is_queued_when_nobody_listens_is_kept_back);
    RUN(test_what_was_under_way_goes_again_in_its_place_if_it_has_an_id);
    RUN(test_a_message_that_is_sent_to_find_out_may_have_no_answer);
    RUN(test_a_stream_that_answers_nothing_is_looked_after_and_gets_all_again);
    RUN(test_what_a_stream_has_skipped_is_sent_again_alone);
    RUN(test_a_message_skipped_in_one_lane_is_found_by_answers_to_the_other);
    RUN(test_a_slow_stream_gets_nothing_twice);
    RUN(test_after_a_standstill_the_answers_come_first);
    RUN(test_a_stream_that_is_gone_ends_its_messages_after_the_attempts);
    RUN(test_what_was_under_way_or_asked_in_vain_may_be_stored_all_the_same);
    RUN(test_a_stream_that_is_created_again_within_the_attempts_gets_all);
    RUN(test_a_stream_that_exists_is_waited_for_until_the_deadlines);
    RUN(test_the_question_is_asked_again_as_the_answer_says);
    RUN(test_a_new_connection_and_an_end_during_an_outage);
    RUN(test_whatever_happens_each_message_is_stored_once_and_in_order);
    return test_summary("test_outage");
}
