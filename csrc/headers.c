/*
 * Header blocks. Writing is strict, reading is not: other SDKs put names with blanks and in UTF-8 on the wire, and a
 * message that cannot be read would block its consumer group for ever. What the reader insists on is the lines.
 */
#include "memphis_core.h"

#include <string.h>

int mcore_header_name_check(const uint8_t *name, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (name[i] < 0x21 || name[i] > 0x7e || name[i] == ':') {
            return MCORE_E_HEADER;
        }
    }
    return len > 0 ? MCORE_OK : MCORE_E_HEADER;
}

int mcore_header_value_check(const uint8_t *value, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (value[i] == '\r' || value[i] == '\n' || value[i] == '\0') {
            return MCORE_E_HEADER;
        }
    }
    return MCORE_OK;
}

size_t mcore_header_size(size_t name_len, size_t value_len)
{
    return name_len + value_len + sizeof(": \r\n") - 1;
}

long mcore_header_write(uint8_t *out, size_t cap, const uint8_t *name, size_t name_len, const uint8_t *value,
                        size_t value_len)
{
    uint8_t *p = out;

    if (mcore_header_name_check(name, name_len) != MCORE_OK || mcore_header_value_check(value, value_len) != MCORE_OK) {
        return MCORE_E_HEADER;
    }
    if (cap < mcore_header_size(name_len, value_len)) {
        return MCORE_E_ROOM;
    }
    memcpy(p, name, name_len);
    p += name_len;
    memcpy(p, ": ", 2);
    p += 2;
    if (value_len > 0) {
        memcpy(p, value, value_len);
        p += value_len;
    }
    memcpy(p, "\r\n", 2);
    return (long)(p + 2 - out);
}

static int is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t';
}

/* data[from:to] without the blanks around it */
static struct mcore_span trimmed(const uint8_t *data, size_t from, size_t to)
{
    while (from < to && is_blank(data[from])) {
        from++;
    }
    while (to > from && is_blank(data[to - 1])) {
        to--;
    }
    return (struct mcore_span){from, to - from};
}

/* Where the line that starts at `from` ends (its CR), or len when it has no CRLF, or a CR or LF of its own. */
static size_t line_end(const uint8_t *data, size_t len, size_t from)
{
    const uint8_t *lf = memchr(data + from, '\n', len - from);
    size_t end;

    if (lf == NULL || lf == data + from || lf[-1] != '\r') {
        return len;
    }
    end = (size_t)(lf - data) - 1;
    return memchr(data + from, '\r', end - from) == NULL ? end : len;
}

/* data[from:end] is what follows NATS/1.0: nothing, or blanks and three digits, or those and a description. */
static int read_status(const uint8_t *data, size_t from, size_t end, int *status, struct mcore_span *description)
{
    struct mcore_span rest = trimmed(data, from, end);
    int value = 0;

    *status = 0;
    *description = (struct mcore_span){rest.off, 0};
    if (rest.len == 0) {
        return MCORE_OK;
    }
    if (rest.off == from || rest.len < 3 || (rest.len > 3 && !is_blank(data[rest.off + 3]))) {
        return MCORE_E_HEADER;
    }
    for (size_t i = rest.off; i < rest.off + 3; i++) {
        if (data[i] < '0' || data[i] > '9') {
            return MCORE_E_HEADER;
        }
        value = value * 10 + (data[i] - '0');
    }
    *status = value;
    *description = trimmed(data, rest.off + 3, end);
    return MCORE_OK;
}

long mcore_headers_parse(const uint8_t *data, size_t len, int *status, struct mcore_span *description,
                         struct mcore_header *out, size_t max)
{
    size_t end;
    size_t count = 0;

    if (status == NULL || description == NULL || (out == NULL && max > 0)) {
        return MCORE_E_ARGUMENT;
    }
    if (len < 12 || memcmp(data, "NATS/1.0", 8) != 0) {
        return MCORE_E_HEADER;
    }
    end = line_end(data, len, 8);
    if (end == len || read_status(data, 8, end, status, description) != MCORE_OK) {
        return MCORE_E_HEADER;
    }
    for (size_t from = end + 2; from < len; from = end + 2) {
        const uint8_t *colon;
        struct mcore_header header;

        end = line_end(data, len, from);
        if (end == len) {
            return MCORE_E_HEADER;
        }
        if (end == from) { /* the empty line: nothing may follow it */
            return end + 2 == len ? (long)count : MCORE_E_HEADER;
        }
        colon = memchr(data + from, ':', end - from);
        if (colon == NULL || is_blank(data[from])) { /* a blank in front would be a folded line */
            return MCORE_E_HEADER;
        }
        header.name = trimmed(data, from, (size_t)(colon - data));
        header.value = trimmed(data, (size_t)(colon - data) + 1, end);
        if (header.name.len == 0) {
            return MCORE_E_HEADER;
        }
        if (count < max) {
            out[count] = header;
        }
        count++;
    }
    return MCORE_E_HEADER;
}
