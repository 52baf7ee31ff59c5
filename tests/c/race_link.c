/*
 * Every thread that a link has, at once: appenders of both lanes, sender, reader, a server whose connections end after a
 * random number of frames, waiters, wait sets, reports, somebody who asks for counts all the time, and one who forks. What
 * it is for is ThreadSanitizer (tests/c/tsan.sh); that each message ends once and the counters add up is checked as well.
 * The sanitizer looks for races in the parent only: a child checks what it has inherited, and uses an outbox of its own.
 *
 *   race_link [messages of each appender]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core_internal.h"
#include "harness.h"

#define SECOND INT64_C(1000000000)
#define MILLISECOND INT64_C(1000000)
#define BYTES_OF(text) (const uint8_t *)(text), strlen(text)

enum { APPENDERS = 4, KEPT = 64, GROUP = 32 };

static struct mcore_outbox *outbox;
static struct mcore_link *the_link;
static int messages = 5000;
static int is_over;     /* the bystanders' sign to end */
static int has_drained; /* the connector's */
static uint64_t reports_got;
static uint64_t reports_wanted;
static uint64_t connections;
static int outbox_fd;
static int forks; /* whose child has found all as it should be */

static uint32_t random_below(uint32_t *seed, uint32_t bound)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) % bound;
}

static int flag(int *place)
{
    return __atomic_load_n(place, __ATOMIC_ACQUIRE);
}

/* ---- appenders ---------------------------------------------------------------------------------------------------- */

static int append(const struct mcore_route *route, const struct mcore_message *message, struct mcore_ticket *ticket)
{
    for (;;) {
        if (ticket != NULL)
            memset(ticket, 0, sizeof(*ticket));
        int64_t slot = mcore_outbox_append(outbox, &route, 1, message, ticket == NULL ? NULL : &ticket);
        if (slot >= 0)
            return 1;
        if (slot != MCORE_E_FULL_BYTES && slot != MCORE_E_FULL_MESSAGES) {
            fprintf(stderr, "append: %lld\n", (long long)slot);
            abort();
        }
        mcore_outbox_wait_room(outbox, 400, 10 * MILLISECOND);
    }
}

/* Waits for a full set of tickets, one settled place after the other. */
static void wait_for_all(struct mcore_ticket *tickets)
{
    struct mcore_wait_set *set = mcore_wait_set_new(GROUP);
    uint32_t places[GROUP];
    for (int i = 0; i < GROUP; i++)
        mcore_wait_set_add(set, outbox, &tickets[i]);
    for (int left = GROUP; left > 0;)
        left -= (int)mcore_wait_set_wait(set, places, GROUP, SECOND);
    mcore_wait_set_free(set);
    for (int i = 0; i < GROUP; i++) {
        if (mcore_ticket_outcome(&tickets[i]) == MCORE_PENDING)
            abort();
        mcore_ticket_release(outbox, &tickets[i]);
    }
}

static void *run_appender(void *argument)
{
    uint32_t seed = 1 + (uint32_t)(intptr_t)argument;
    static const char fixed[] = "$memphis_producedBy: p\r\n";
    struct mcore_route route = {BYTES_OF("st$1.final"), BYTES_OF("Nats-Msg-Id"), BYTES_OF(fixed), 0, 1};
    route.owner = (uint32_t)mcore_outbox_owner_new(outbox);
    uint8_t payload[300];
    memset(payload, 'x', sizeof(payload));
    struct mcore_ticket kept[KEPT], together[GROUP];
    memset(kept, 0, sizeof(kept));
    int grouped = 0;
    for (int i = 0; i < messages; i++) {
        struct mcore_message message;
        memset(&message, 0, sizeof(message));
        message.payload = payload;
        message.payload_len = random_below(&seed, sizeof(payload));
        message.timeout_ns = random_below(&seed, 50) == 0 ? MILLISECOND : 60 * SECOND;
        struct mcore_ticket *ticket = &kept[i % KEPT];
        switch (random_below(&seed, 8)) {
        case 0: { /* blocking */
            struct mcore_ticket mine;
            message.urgent = 1;
            append(&route, &message, &mine);
            mcore_link_push(the_link);
            while (mcore_ticket_wait(outbox, &mine, 20 * MILLISECOND) == MCORE_PENDING)
                ;
            mcore_ticket_release(outbox, &mine);
            break;
        }
        case 1: /* nobody will ask */ append(&route, &message, NULL); break;
        case 2:   /* watched from the start */
        case 3: { /* watched later, perhaps too late; whoever is told of the end releases it */
            struct mcore_ticket *watched = calloc(1, sizeof(*watched));
            bool is_late = random_below(&seed, 2) == 1;
            message.watcher = is_late ? NULL : watched;
            append(&route, &message, watched);
            if (!is_late || mcore_outbox_watch(outbox, watched, watched) == 1) {
                __atomic_add_fetch(&reports_wanted, 1, __ATOMIC_RELAXED);
            } else {
                mcore_ticket_release(outbox, watched);
                free(watched);
            }
            break;
        }
        case 4:
            append(&route, &message, &together[grouped++]);
            if (grouped == GROUP) {
                wait_for_all(together);
                grouped = 0;
            }
            break;
        default: /* kept for a while, looked at, then let go: settled or not */
            mcore_ticket_release(outbox, ticket);
            append(&route, &message, ticket);
            (void)mcore_ticket_outcome(&kept[random_below(&seed, KEPT)]);
        }
    }
    for (int i = 0; i < KEPT; i++)
        mcore_ticket_release(outbox, &kept[i]);
    for (int i = 0; i < grouped; i++)
        mcore_ticket_release(outbox, &together[i]);
    return NULL;
}

/* ---- the link's threads and the server ---------------------------------------------------------------------------- */

static void *run_sender(void *unused)
{
    char text[64];
    while (mcore_link_send_loop(the_link))
        mcore_outbox_take_unseen(outbox, text, sizeof(text));
    return unused;
}

struct server {
    int fd;
    uint32_t seed;
    uint32_t frames; /* then it closes; 0: never */
};

static void say(const struct server *server, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t sent = send(server->fd, text, len, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        text += sent;
        len -= (size_t)sent;
    }
}

/* One frame at the start of data; its length, or 0 while it is not whole. */
static size_t serve_one(struct server *server, const uint8_t *data, size_t len)
{
    uint8_t *end = memmem(data, len, "\r\n", 2);
    if (end == NULL)
        return 0;
    size_t line = (size_t)(end - data) + 2;
    char head[256], reply[64], out[256];
    size_t head_len = line < sizeof(head) ? line : sizeof(head) - 1;
    memcpy(head, data, head_len);
    head[head_len] = '\0';
    size_t header, total;
    if (sscanf(head, "HPUB %*s %63s %zu %zu", reply, &header, &total) == 3) {
        if (len < line + total + 2)
            return 0;
        static const char *const bodies[] = {
            "{\"stream\":\"st$1\",\"seq\":1}", "{\"stream\":\"st$1\",\"seq\":2,\"duplicate\":true}",
            "{\"error\":{\"code\":503,\"err_code\":10077,\"description\":\"full\"},\"stream\":\"st$1\"}"};
        uint32_t kind = random_below(&server->seed, 40);
        int out_len;
        if (kind == 0)
            out_len = snprintf(out, sizeof(out), "HMSG %s 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", reply);
        else
            out_len = snprintf(out, sizeof(out), "MSG %s 1 %zu\r\n%s\r\n%s", reply, strlen(bodies[kind < 3 ? kind : 0]),
                               bodies[kind < 3 ? kind : 0], kind == 5 ? "PING\r\n" : "");
        say(server, out, (size_t)out_len);
        if (server->frames > 0 && --server->frames == 0)
            shutdown(server->fd, SHUT_RDWR);
        return line + total + 2;
    }
    if (sscanf(head, "PUB %*s %zu", &total) == 1) {
        if (len < line + total + 2)
            return 0;
        say(server, "MSG st$1.final 7 $JS.ACK.x 2\r\nhi\r\n", 34);
        return line + total + 2;
    }
    if (strncmp(head, "PING", 4) == 0)
        say(server, "PONG\r\n", 6);
    return line;
}

static void *run_server(void *argument)
{
    struct server *server = argument;
    enum { ROOM = 1 << 20 };
    uint8_t *data = malloc(ROOM);
    size_t len = 0;
    ssize_t got;
    while ((got = recv(server->fd, data + len, ROOM - len, 0)) > 0) {
        len += (size_t)got;
        size_t used = 0, frame;
        while ((frame = serve_one(server, data + used, len - used)) > 0)
            used += frame;
        memmove(data, data + used, len - used);
        len -= used;
    }
    free(data);
    return NULL;
}

/* The reader, which also connects, as in the client; the last connection stays until everything is settled. */
static void *run_connector(void *unused)
{
    uint32_t seed = 7;
    while (!flag(&has_drained)) {
        int fds[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
            abort();
        struct server server = {fds[1], seed, flag(&is_over) ? 0 : 1 + random_below(&seed, 400)};
        pthread_t thread;
        pthread_create(&thread, NULL, run_server, &server);
        if (mcore_link_attach(the_link, fds[0], BYTES_OF("SUB _INBOX.T.* 1\r\n"), NULL, 0) == MCORE_OK)
            mcore_link_read_loop(the_link);
        mcore_link_detach(the_link);
        shutdown(fds[0], SHUT_RDWR);
        pthread_join(thread, NULL);
        close(fds[0]);
        close(fds[1]);
        connections++;
    }
    return unused;
}

/* ---- bystanders --------------------------------------------------------------------------------------------------- */

static void *run_reports(void *unused)
{
    void *cookies[64];
    for (;;) {
        int last = flag(&has_drained);
        long count = mcore_outbox_wait_reports(outbox, cookies, 64, last ? 0 : 20 * MILLISECOND);
        reports_got += (uint64_t)count;
        for (long i = 0; i < count; i++) {
            mcore_ticket_release(outbox, cookies[i]);
            free(cookies[i]);
        }
        if (last && count == 0)
            return unused;
    }
}

static void *run_asker(void *unused)
{
    uint32_t seed = 3;
    char text[128];
    while (!flag(&has_drained)) {
        struct mcore_stats s;
        mcore_outbox_stats(outbox, &s);
        if (s.accepted != s.delivered + s.failed + s.abandoned + s.queued + s.in_flight)
            abort();
        (void)mcore_outbox_outstanding(outbox, (long)random_below(&seed, APPENDERS));
        mcore_outbox_wait_drained(outbox, (long)random_below(&seed, APPENDERS), random_below(&seed, 4), MILLISECOND);
        (void)mcore_link_is_up(the_link);
        (void)mcore_link_errno(the_link);
        mcore_link_text(the_link, text, sizeof(text));
        int64_t ping = mcore_link_ping(the_link);
        if (ping > 0)
            mcore_link_wait_pong(the_link, ping, 5 * MILLISECOND);
        struct mcore_receive_buffer *buffer = mcore_receive_buffer_new(the_link, 7, 0);
        mcore_link_publish(the_link, BYTES_OF("$JS.API.x"), BYTES_OF("{}"));
        mcore_link_write(the_link, BYTES_OF("PUB x 0\r\n\r\n"));
        mcore_receive_buffer_wait(buffer, 1, 1, 2 * MILLISECOND);
        mcore_receive_buffer_wake(buffer);
        uint8_t *data = NULL;
        size_t len = 0;
        mcore_receive_buffer_take(buffer, &data, &len);
        mcore_free(data);
        mcore_receive_buffer_free(buffer);
    }
    return unused;
}

/* ---- forks -------------------------------------------------------------------------------------------------------- */

static bool is_mapped(void *base)
{
    unsigned char page;
    return base != NULL && (mincore(base, 1, &page) == 0 || errno != ENOMEM);
}

/* What is wrong in a child of a fork at any moment; 0: nothing. */
static int look_around_in_child(uint64_t generation)
{
    if (mcore_fork_generation() != generation + 1)
        return 1;
    for (int i = 0; i < MCORE_LANES; i++)
        if (is_mapped(outbox->lanes[i].block))
            return 2;
    if (is_mapped(outbox->file))
        return 3;
    if (fcntl(outbox_fd, F_GETFD) != -1)
        return 4;
    struct mcore_outbox *mine = mcore_outbox_new(BYTES_OF("C"), 64 * 1024, 300, 32);
    struct mcore_route route = {BYTES_OF("st$1.final"), BYTES_OF("Nats-Msg-Id"), NULL, 0, 0, 1};
    const struct mcore_route *routes = &route;
    const struct mcore_message message = {.payload = (const uint8_t *)"x", .payload_len = 1, .timeout_ns = SECOND};
    if (mine == NULL || mcore_outbox_append(mine, &routes, 1, &message, NULL) != 0 || mcore_outbox_abandon(mine) != 1)
        return 5;
    mcore_outbox_free(mine);
    return 0;
}

static void *run_forker(void *unused)
{
    while (!flag(&is_over)) {
        uint64_t generation = mcore_fork_generation();
        pid_t child = fork();
        if (child == 0) {
            alarm(60); /* one that hangs is a failure, too */
            _exit(look_around_in_child(generation));
        }
        int status = -1;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
            fprintf(stderr, "child %d ended with status %#x\n", (int)child, (unsigned)status);
            abort();
        }
        forks++;
        usleep(1000);
    }
    return unused;
}

static void test_all_threads_at_once(void)
{
    outbox = mcore_outbox_new(BYTES_OF("T"), 64 * 1024, 300, 32);
    int fd = outbox_fd = memfd_create("outbox", MFD_CLOEXEC);
    CHECK(posix_fallocate(fd, 0, (off_t)mcore_outbox_file_size(64 * 1024, 300)) == 0);
    CHECK(mcore_outbox_use_file(outbox, fd, 1, NULL, 0) == MCORE_OK);
    mcore_outbox_set_retry(outbox, 3, 2 * MILLISECOND);
    the_link = mcore_link_new(outbox, 1 << 20, 200 * MILLISECOND, 0);
    pthread_t appenders[APPENDERS], sender, connector, reporter, asker, forker;
    pthread_create(&sender, NULL, run_sender, NULL);
    pthread_create(&connector, NULL, run_connector, NULL);
    pthread_create(&reporter, NULL, run_reports, NULL);
    pthread_create(&asker, NULL, run_asker, NULL);
    pthread_create(&forker, NULL, run_forker, NULL);
    for (intptr_t i = 0; i < APPENDERS; i++)
        pthread_create(&appenders[i], NULL, run_appender, (void *)i);
    for (int i = 0; i < APPENDERS; i++)
        pthread_join(appenders[i], NULL);
    __atomic_store_n(&is_over, 1, __ATOMIC_RELEASE);
    CHECK(mcore_outbox_wait_drained(outbox, -1, 0, 60 * SECOND) == 0);
    __atomic_store_n(&has_drained, 1, __ATOMIC_RELEASE);
    mcore_outbox_close(outbox);
    CHECK(mcore_outbox_abandon(outbox) == 0);
    mcore_link_stop(the_link);
    mcore_outbox_wake_reports(outbox);
    pthread_join(sender, NULL);
    pthread_join(connector, NULL);
    pthread_join(reporter, NULL);
    pthread_join(asker, NULL);
    pthread_join(forker, NULL);
    struct mcore_stats s;
    mcore_outbox_stats(outbox, &s);
    CHECK(s.accepted == (uint64_t)(APPENDERS * messages));
    CHECK(s.accepted == s.delivered + s.failed && s.delivered > s.accepted / 2);
    CHECK(reports_got == reports_wanted);
    CHECK(connections > 1 && s.resent > 0 && forks > 1);
    printf("%llu messages over %llu connections, %llu sent again, %llu failed, %d forks\n",
           (unsigned long long)s.accepted, (unsigned long long)connections, (unsigned long long)s.resent,
           (unsigned long long)s.failed, forks);
    mcore_link_free(the_link);
    mcore_outbox_free(outbox);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        messages = atoi(argv[1]);
    RUN(test_all_threads_at_once);
    return test_summary("race_link");
}
