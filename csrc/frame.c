/*
 * Frames this side writes. A writer checks first and writes second, so that a refused frame leaves the buffer as it was.
 */
#include "memphis_core.h"

#include <string.h>

static const char DIGIT_PAIRS[] = "00010203040506070809101112131415161718192021222324"
                                  "25262728293031323334353637383940414243444546474849"
                                  "50515253545556575859606162636465666768697071727374"
                                  "75767778798081828384858687888990919293949596979899";

size_t mcore_u64_size(uint64_t value)
{
    size_t digits = 1;

    for (; value >= 10000; value /= 10000) {
        digits += 4;
    }
    return digits + (value >= 10) + (value >= 100) + (value >= 1000);
}

size_t mcore_u64_write(uint8_t *out, uint64_t value)
{
    size_t size = mcore_u64_size(value);
    uint8_t *p = out + size;

    for (; value >= 100; value /= 100) {
        p -= 2;
        memcpy(p, DIGIT_PAIRS + value % 100 * 2, 2);
    }
    if (value >= 10) {
        memcpy(p - 2, DIGIT_PAIRS + value * 2, 2);
    } else {
        p[-1] = (uint8_t)('0' + value);
    }
    return size;
}

/* memcpy that takes an absent part: NULL and 0. */
static uint8_t *put(uint8_t *p, const void *from, size_t len)
{
    if (len > 0) {
        memcpy(p, from, len);
    }
    return p + len;
}

static uint8_t *put_number(uint8_t *p, uint64_t value)
{
    return p + mcore_u64_write(p, value);
}

static uint8_t *put_line_end(uint8_t *p)
{
    return put(p, "\r\n", 2);
}

/* How many bytes the UTF-8 character at p takes; 0 when it is none (overlong, surrogate, above U+10FFFF, cut off). */
static size_t utf8_character(const uint8_t *p, size_t left)
{
    uint8_t first = p[0];
    uint8_t low = 0x80;
    uint8_t high = 0xbf;
    size_t len;

    if (first >= 0xc2 && first <= 0xdf) {
        len = 2;
    } else if (first >= 0xe0 && first <= 0xef) {
        len = 3;
        low = first == 0xe0 ? 0xa0 : 0x80;
        high = first == 0xed ? 0x9f : 0xbf;
    } else if (first >= 0xf0 && first <= 0xf4) {
        len = 4;
        low = first == 0xf0 ? 0x90 : 0x80;
        high = first == 0xf4 ? 0x8f : 0xbf;
    } else {
        return 0;
    }
    if (left < len || p[1] < low || p[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return len;
}

static int is_token(const uint8_t *p, size_t len)
{
    size_t i = 0;

    while (i < len) {
        if (p[i] >= 0x21 && p[i] <= 0x7e) {
            i++;
        } else {
            size_t width = p[i] >= 0x80 ? utf8_character(p + i, len - i) : 0;
            if (width == 0) {
                return 0;
            }
            i += width;
        }
    }
    return len > 0;
}

static int is_token_or_absent(const uint8_t *p, size_t len)
{
    return len == 0 || is_token(p, len);
}

size_t mcore_connect_size(size_t json_len)
{
    return sizeof("CONNECT \r\n") - 1 + json_len;
}

long mcore_connect_write(uint8_t *out, size_t cap, const uint8_t *json, size_t json_len)
{
    uint8_t *p = out;

    if (json_len == 0 || memchr(json, '\r', json_len) != NULL || memchr(json, '\n', json_len) != NULL) {
        return MCORE_E_ARGUMENT;
    }
    if (cap < mcore_connect_size(json_len)) {
        return MCORE_E_ROOM;
    }
    p = put(p, "CONNECT ", 8);
    p = put(p, json, json_len);
    p = put_line_end(p);
    return (long)(p - out);
}

size_t mcore_sub_size(size_t subject_len, size_t queue_len, uint64_t sid)
{
    return sizeof("SUB  \r\n") - 1 + subject_len + (queue_len > 0 ? queue_len + 1 : 0) + mcore_u64_size(sid);
}

long mcore_sub_write(uint8_t *out, size_t cap, const uint8_t *subject, size_t subject_len, const uint8_t *queue,
                     size_t queue_len, uint64_t sid)
{
    uint8_t *p = out;

    if (!is_token(subject, subject_len) || !is_token_or_absent(queue, queue_len)) {
        return MCORE_E_ARGUMENT;
    }
    if (cap < mcore_sub_size(subject_len, queue_len, sid)) {
        return MCORE_E_ROOM;
    }
    p = put(p, "SUB ", 4);
    p = put(p, subject, subject_len);
    *p++ = ' ';
    if (queue_len > 0) {
        p = put(p, queue, queue_len);
        *p++ = ' ';
    }
    p = put_number(p, sid);
    p = put_line_end(p);
    return (long)(p - out);
}

size_t mcore_unsub_size(uint64_t sid, uint64_t max_msgs)
{
    return sizeof("UNSUB \r\n") - 1 + mcore_u64_size(sid) + (max_msgs > 0 ? 1 + mcore_u64_size(max_msgs) : 0);
}

long mcore_unsub_write(uint8_t *out, size_t cap, uint64_t sid, uint64_t max_msgs)
{
    uint8_t *p = out;

    if (cap < mcore_unsub_size(sid, max_msgs)) {
        return MCORE_E_ROOM;
    }
    p = put(p, "UNSUB ", 6);
    p = put_number(p, sid);
    if (max_msgs > 0) {
        *p++ = ' ';
        p = put_number(p, max_msgs);
    }
    p = put_line_end(p);
    return (long)(p - out);
}

/* "<op><subject> [reply] ": what PUB and HPUB have in common */
static uint8_t *put_target(uint8_t *p, const char *op, size_t op_len, const uint8_t *subject, size_t subject_len,
                           const uint8_t *reply, size_t reply_len)
{
    p = put(p, op, op_len);
    p = put(p, subject, subject_len);
    *p++ = ' ';
    if (reply_len > 0) {
        p = put(p, reply, reply_len);
        *p++ = ' ';
    }
    return p;
}

size_t mcore_pub_size(size_t subject_len, size_t reply_len, size_t payload_len)
{
    return sizeof("PUB  \r\n\r\n") - 1 + subject_len + (reply_len > 0 ? reply_len + 1 : 0) +
           mcore_u64_size(payload_len) + payload_len;
}

long mcore_pub_write(uint8_t *out, size_t cap, const uint8_t *subject, size_t subject_len, const uint8_t *reply,
                     size_t reply_len, const uint8_t *payload, size_t payload_len)
{
    uint8_t *p;

    if (!is_token(subject, subject_len) || !is_token_or_absent(reply, reply_len)) {
        return MCORE_E_ARGUMENT;
    }
    if (cap < mcore_pub_size(subject_len, reply_len, payload_len)) {
        return MCORE_E_ROOM;
    }
    p = put_target(out, "PUB ", 4, subject, subject_len, reply, reply_len);
    p = put_number(p, payload_len);
    p = put_line_end(p);
    p = put(p, payload, payload_len);
    p = put_line_end(p);
    return (long)(p - out);
}
