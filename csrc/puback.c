/*
 * JetStream's answer to a publish, read without a JSON library: the shape is fixed and there is one for each message.
 *
 *   {"stream":"orders$1","seq":12}                      stock nats-server
 *   {"stream":"orders$1", "seq":12,"duplicate": true}   a Memphis broker writes a blank before "seq"
 *   {"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 17"},"stream":"orders$1","seq":0}
 *
 * Keys are looked for only outside of strings, so a description cannot be mistaken for an answer.
 */
#include <string.h>

#include "core_internal.h"

struct cursor {
    const uint8_t *at;
    const uint8_t *end;
};

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

static void skip_blanks(struct cursor *c)
{
    while (c->at < c->end && is_blank(*c->at))
        c->at++;
}

static bool take(struct cursor *c, uint8_t byte)
{
    skip_blanks(c);
    if (c->at == c->end || *c->at != byte)
        return false;
    c->at++;
    return true;
}

/* A JSON string; the span is what stands between its quotes, still escaped. */
static bool take_string(struct cursor *c, const uint8_t **text, size_t *len)
{
    if (!take(c, '"'))
        return false;
    *text = c->at;
    while (c->at < c->end && *c->at != '"')
        c->at += (*c->at == '\\' && c->end - c->at > 1) ? 2 : 1;
    if (c->at >= c->end)
        return false;
    *len = (size_t)(c->at - *text);
    c->at++;
    return true;
}

static bool take_number(struct cursor *c, uint64_t *value)
{
    skip_blanks(c);
    const uint8_t *start = c->at;
    uint64_t sum = 0;
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9') {
        uint64_t digit = (uint64_t)(*c->at - '0');
        if (sum > (UINT64_MAX - digit) / 10)
            return false;
        sum = sum * 10 + digit;
        c->at++;
    }
    *value = sum;
    return c->at > start;
}

/* Whether a number or a literal ends before this byte. Any byte may come, NUL among them: no search in a C string. */
static bool ends_literal(uint8_t byte)
{
    switch (byte) {
    case ',':
    case ':':
    case ']':
    case '}':
    case '"':
    case '[':
    case '{': return true;
    default: return is_blank(byte);
    }
}

/* Steps over any value; nesting is bounded by the input's length, not by the stack. Each round takes a byte or ends. */
static bool skip_value(struct cursor *c)
{
    size_t depth = 0;
    do {
        skip_blanks(c);
        if (c->at == c->end)
            return false;
        const uint8_t *text;
        size_t len;
        switch (*c->at) {
        case '"':
            if (!take_string(c, &text, &len))
                return false;
            break;
        case '{':
        case '[':
            depth++;
            c->at++;
            continue;
        case '}':
        case ']':
            if (depth == 0)
                return false;
            depth--;
            c->at++;
            break;
        case ',':
        case ':':
            if (depth == 0)
                return false;
            c->at++;
            continue;
        default:
            do
                c->at++;
            while (c->at < c->end && !ends_literal(*c->at));
        }
    } while (depth > 0);
    return true;
}

static bool is_key(const uint8_t *key, size_t len, const char *name)
{
    return len == strlen(name) && memcmp(key, name, len) == 0;
}

static bool read_error(struct cursor *c, struct mcore_puback *ack)
{
    if (!take(c, '{'))
        return false;
    while (!take(c, '}')) {
        const uint8_t *key;
        const uint8_t *value;
        size_t len;
        uint64_t number = 0;
        if (!take_string(c, &key, &len) || !take(c, ':'))
            return false;
        if (is_key(key, len, "description")) {
            if (!take_string(c, &value, &ack->text_len))
                return false;
            ack->text = (const char *)value;
        } else if (is_key(key, len, "code") || is_key(key, len, "err_code")) {
            if (!take_number(c, &number) || number > 1000000)
                return false;
            *(len == 4 ? &ack->code : &ack->err_code) = (int)number;
        } else if (!skip_value(c)) {
            return false;
        }
        take(c, ',');
    }
    return true;
}

int mcore_puback_parse(const uint8_t *json, size_t len, struct mcore_puback *ack)
{
    struct cursor c = {json, json + len};
    bool refused = false;
    *ack = (struct mcore_puback){0};
    if (len > MCORE_MAX_PUBACK)
        return MCORE_PENDING;
    if (!take(&c, '{'))
        return MCORE_PENDING;
    while (!take(&c, '}')) {
        const uint8_t *key;
        size_t key_len;
        if (!take_string(&c, &key, &key_len) || !take(&c, ':'))
            return MCORE_PENDING;
        skip_blanks(&c);
        bool ok;
        if (is_key(key, key_len, "seq")) {
            ok = take_number(&c, &ack->sequence);
        } else if (is_key(key, key_len, "stream")) {
            ok = take_string(&c, &ack->stream, &ack->stream_len);
        } else if (is_key(key, key_len, "duplicate")) {
            ack->duplicate = c.at < c.end && *c.at == 't';
            ok = skip_value(&c);
        } else if (is_key(key, key_len, "error") && c.at < c.end && *c.at == '{') {
            ok = refused = read_error(&c, ack);
        } else {
            ok = skip_value(&c);
        }
        if (!ok)
            return MCORE_PENDING;
        take(&c, ',');
    }
    if (refused)
        return MCORE_REFUSED;
    return ack->sequence > 0 ? MCORE_DELIVERED : MCORE_PENDING; /* streams count from 1 */
}
