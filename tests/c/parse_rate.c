/* How many small frames a second one thread parses, from a stream like the one that a consumer or the ack table sees. */
#include "memphis_core.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FRAMES = 20000, ROUNDS = 200, EVENTS = 256 };

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* MSG without a header block, HMSG with one; `payload_len` bytes of payload. */
static int rate(const char *name, const char *target, const char *header, size_t payload_len)
{
    char frame[1024];
    static struct mcore_event events[EVENTS];
    struct mcore_parser parser;
    size_t header_len = strlen(header);
    int line = header_len > 0 ? snprintf(frame, sizeof(frame), "HMSG %s %zu %zu\r\n%s", target, header_len,
                                         header_len + payload_len, header)
                              : snprintf(frame, sizeof(frame), "MSG %s %zu\r\n", target, payload_len);
    size_t size = (size_t)line + payload_len + 2;
    size_t len = size * FRAMES;
    uint8_t *stream = malloc(len);
    uint64_t parsed = 0;
    uint64_t payload = 0; /* looked at, so that nothing of the work can be left out */
    double started;
    double seconds;

    if (stream == NULL || size > sizeof(frame)) {
        return EXIT_FAILURE;
    }
    memset(frame + line, 'x', payload_len);
    memcpy(frame + size - 2, "\r\n", 2);
    for (size_t i = 0; i < FRAMES; i++) {
        memcpy(stream + i * size, frame, size);
    }
    mcore_parser_init(&parser, 0, 1 << 20);
    started = now_s();
    for (int round = 0; round < ROUNDS; round++) {
        size_t consumed = 0;
        long count;
        for (size_t at = 0; at < len; at += consumed) {
            count = mcore_parse(&parser, stream + at, len - at, events, EVENTS, &consumed);
            if (count <= 0) {
                return EXIT_FAILURE;
            }
            parsed += (uint64_t)count;
            for (long i = 0; i < count; i++) {
                payload += events[i].payload.len;
            }
        }
    }
    seconds = now_s() - started;
    printf("%-28s %6.1f million frames/s %8.0f MB/s (%" PRIu64 " payload bytes)\n", name,
           (double)parsed / seconds / 1e6, (double)len * ROUNDS / seconds / 1e6, payload);
    free(stream);
    return EXIT_SUCCESS;
}

int main(void)
{
    return rate("MSG, 16-byte payload", "orders$1.final 7", "", 16) |
           rate("MSG, a PubAck", "_INBOX.Vx8Qb2kd.1048576 1", "", 33) |
           rate("HMSG, 128-byte payload", "orders$1.final 7 $JS.ACK.orders$1.cg.1.17.17.1700000000000000000.3",
                "NATS/1.0\r\n$memphis_producedBy: p\r\n$memphis_connectionId: 123e4567-e89b-12d3-a456\r\n\r\n", 128);
}
