/*
 * The parser. What it decides depends on the stream alone, never on how the stream was split:
 *   1. the first byte of a frame says at once whether it can be one, and which limit its line has;
 *   2. a control line is judged when its LF is there, or when it is longer than its limit without one;
 *   3. a payload is judged when all its bytes and the two behind it are there.
 */
#include "memphis_core.h"

#include <string.h>

enum { WAIT = 1 }; /* the frame is right so far; more bytes are needed */

void mcore_parser_init(struct mcore_parser *parser, size_t max_control_line, size_t max_payload)
{
    memset(parser, 0, sizeof(*parser));
    parser->max_control_line = max_control_line > 0 ? max_control_line : MCORE_MAX_CONTROL_LINE;
    /* So that line + payload + CRLF cannot overflow; no buffer is that large. */
    parser->max_payload = max_payload < SIZE_MAX / 4 ? max_payload : SIZE_MAX / 4;
    if (parser->max_control_line > SIZE_MAX / 4) {
        parser->max_control_line = SIZE_MAX / 4;
    }
}

void mcore_parser_reset(struct mcore_parser *parser)
{
    mcore_parser_init(parser, parser->max_control_line, parser->max_payload);
}

static int is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t';
}

static int parse_u64(const uint8_t *p, size_t len, uint64_t *value)
{
    uint64_t v = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned digit = (unsigned)p[i] - '0';
        if (digit > 9) {
            return 0;
        }
        if (i >= MCORE_MAX_U64_DIGITS - 1 && v > (UINT64_MAX - digit) / 10) {
            return 0;
        }
        v = v * 10 + digit;
    }
    *value = v;
    return len > 0;
}

/* As for a server: whoever publishes may have put any byte into a subject that parts no words and ends no line. */
static int is_word(uint8_t byte)
{
    return byte > ' ' || (byte != ' ' && byte != '\t' && byte != '\r');
}

/*
 * Splits line[0:len] at blanks into at most max tokens and returns how many there are, or -1 for more tokens or a CR
 * within. line[len] is the CR: the scan needs no other end, for no token and no blank runs over it.
 */
static int split_tokens(const uint8_t *line, size_t len, struct mcore_span *tokens, int max)
{
    const uint8_t *p = line;
    const uint8_t *end = line + len;
    int count = 0;

    for (;;) {
        const uint8_t *start;

        while (is_blank(*p)) {
            p++;
        }
        if (p == end) {
            return count;
        }
        start = p;
        while (is_word(*p)) {
            p++;
        }
        if (p == start || count == max) {
            return -1;
        }
        tokens[count].off = (size_t)(start - line);
        tokens[count].len = (size_t)(p - start);
        count++;
    }
}

/*
 * MSG <subject> <sid> [reply] <total>, HMSG <subject> <sid> [reply] <header_len> <total>; args follow the name.
 * Offsets in `event` are from the frame's start, where the line starts too. Returns MCORE_OK with *total set.
 */
static int parse_message_line(const struct mcore_parser *parser, const uint8_t *line, size_t name_len, size_t line_len,
                              struct mcore_event *event, uint64_t *total)
{
    struct mcore_span tokens[5];
    const uint8_t *args = line + name_len;
    int lengths = event->kind == MCORE_EV_HMSG ? 2 : 1;
    int count = split_tokens(args, line_len - name_len, tokens, 3 + lengths);
    uint64_t header_len = 0;

    if (count < 2 + lengths || !parse_u64(args + tokens[1].off, tokens[1].len, &event->sid)) {
        return MCORE_E_SYNTAX;
    }
    if (!parse_u64(args + tokens[count - 1].off, tokens[count - 1].len, total) || *total > parser->max_payload) {
        return MCORE_E_PAYLOAD;
    }
    if (lengths == 2) {
        if (!parse_u64(args + tokens[count - 2].off, tokens[count - 2].len, &header_len)) {
            return MCORE_E_PAYLOAD;
        }
        if (header_len > *total) {
            return MCORE_E_SYNTAX;
        }
    }
    event->subject.off = tokens[0].off + name_len;
    event->subject.len = tokens[0].len;
    if (count == 3 + lengths) {
        event->reply.off = tokens[2].off + name_len;
        event->reply.len = tokens[2].len;
    } else {
        event->reply.off = 0;
        event->reply.len = 0;
    }
    event->headers.off = line_len + 2;
    event->headers.len = (size_t)header_len;
    event->payload.off = line_len + 2 + (size_t)header_len;
    event->payload.len = (size_t)(*total - header_len);
    event->frame.len = line_len + 2 + (size_t)*total + 2;
    return MCORE_OK;
}

/* PING, PONG, +OK: nothing but blanks may follow. INFO, -ERR: text. */
static int parse_other_line(const uint8_t *line, size_t name_len, size_t line_len, struct mcore_event *event)
{
    size_t from = name_len;
    size_t to = line_len;
    int kind = event->kind;

    while (from < to && is_blank(line[from])) {
        from++;
    }
    while (to > from && is_blank(line[to - 1])) {
        to--;
    }
    if (kind == MCORE_EV_INFO || kind == MCORE_EV_ERR) {
        if (from == name_len && from < to) { /* INFO{...}: the name goes on */
            return MCORE_E_SYNTAX;
        }
        if (kind == MCORE_EV_INFO && from == to) {
            return MCORE_E_SYNTAX;
        }
        if (kind == MCORE_EV_ERR && to - from >= 2 && line[from] == '\'' && line[to - 1] == '\'') {
            from++;
            to--;
        }
    } else if (from < to) {
        return MCORE_E_SYNTAX;
    }
    memset(event, 0, sizeof(*event));
    event->kind = kind;
    event->payload.off = from;
    event->payload.len = to - from;
    event->frame.len = line_len + 2;
    return MCORE_OK;
}

/* name is lower case; the bytes compared are letters, whose case is bit 0x20, but for the first of "+ok" and "-err". */
static int has_name(const uint8_t *line, size_t line_len, const char *name, size_t name_len)
{
    if (line_len < name_len) {
        return 0;
    }
    for (size_t i = 0; i < name_len; i++) {
        uint8_t byte = name[i] >= 'a' ? (uint8_t)(line[i] | 0x20) : line[i];
        if (byte != (uint8_t)name[i]) {
            return 0;
        }
    }
    return 1;
}

/* Sets event->kind and returns the length of the operation's name, 0 when it is none. */
static size_t parse_name(const uint8_t *line, size_t line_len, struct mcore_event *event)
{
    static const struct {
        char name[5];
        uint8_t len;
        uint8_t kind;
    } OPS[] = {
        {"msg", 3, MCORE_EV_MSG}, {"hmsg", 4, MCORE_EV_HMSG}, {"ping", 4, MCORE_EV_PING}, {"pong", 4, MCORE_EV_PONG},
        {"+ok", 3, MCORE_EV_OK},  {"-err", 4, MCORE_EV_ERR},  {"info", 4, MCORE_EV_INFO},
    };

    for (size_t i = 0; i < sizeof(OPS) / sizeof(OPS[0]); i++) {
        if (has_name(line, line_len, OPS[i].name, OPS[i].len)) {
            event->kind = OPS[i].kind;
            return OPS[i].len;
        }
    }
    return 0;
}

/* The longest control line that may start with this byte; 0 when no frame starts with it. */
static size_t line_limit(const struct mcore_parser *parser, uint8_t first)
{
    switch (first) {
    case 'M':
    case 'm':
    case 'H':
    case 'h':
    case 'P':
    case 'p':
    case '+': return parser->max_control_line;
    case 'I':
    case 'i':
    case '-': return parser->max_control_line > MCORE_MAX_INFO_LINE ? parser->max_control_line : MCORE_MAX_INFO_LINE;
    default: return 0;
    }
}

/* MCORE_OK with *line_len, WAIT, or an error. */
static int find_line(struct mcore_parser *parser, const uint8_t *data, size_t len, size_t *line_len)
{
    size_t limit = line_limit(parser, data[0]);
    size_t from = parser->scanned < len ? parser->scanned : len;
    size_t window = len < limit + 2 ? len : limit + 2; /* an LF further on is too late anyway */
    const uint8_t *lf;
    size_t line;

    if (limit == 0) {
        return MCORE_E_SYNTAX;
    }
    lf = from < window ? memchr(data + from, '\n', window - from) : NULL;
    line = lf != NULL ? (size_t)(lf - data) : window;
    if (line > 0 && data[line - 1] == '\r') {
        line--;
    }
    if (line > limit) {
        return MCORE_E_CONTROL_LINE;
    }
    if (lf == NULL) {
        parser->scanned = len;
        return WAIT;
    }
    if (data[line] != '\r') {
        return MCORE_E_SYNTAX;
    }
    parser->scanned = 0;
    *line_len = line;
    return MCORE_OK;
}

/* One frame at the start of data[0:len], len > 0. MCORE_OK with *event, WAIT, or an error. */
static int parse_frame(struct mcore_parser *parser, const uint8_t *data, size_t len, struct mcore_event *event)
{
    uint64_t total = 0;

    if (parser->need > 0) {
        if (len < parser->need) {
            return WAIT;
        }
        *event = parser->pending;
        parser->need = 0;
    } else {
        size_t line_len = 0;
        size_t name_len;
        int result = find_line(parser, data, len, &line_len);

        if (result != MCORE_OK) {
            return result;
        }
        name_len = parse_name(data, line_len, event);
        if (name_len == 0) {
            return MCORE_E_SYNTAX;
        }
        event->frame.off = 0;
        if (event->kind != MCORE_EV_MSG && event->kind != MCORE_EV_HMSG) {
            return parse_other_line(data, name_len, line_len, event);
        }
        if (!is_blank(data[name_len])) { /* MSGX, or the line ends here */
            return MCORE_E_SYNTAX;
        }
        result = parse_message_line(parser, data, name_len, line_len, event, &total);
        if (result != MCORE_OK) {
            return result;
        }
        if (len < event->frame.len) {
            parser->pending = *event;
            parser->need = event->frame.len;
            return WAIT;
        }
    }
    if (data[event->frame.len - 2] != '\r' || data[event->frame.len - 1] != '\n') {
        return MCORE_E_SYNTAX;
    }
    return MCORE_OK;
}

long mcore_parse(struct mcore_parser *parser, const uint8_t *data, size_t len, struct mcore_event *events,
                 size_t max_events, size_t *consumed)
{
    size_t at = 0;
    size_t count = 0;

    *consumed = 0;
    if (parser->error != MCORE_OK) {
        return MCORE_E_POISONED;
    }
    while (count < max_events && at < len) {
        struct mcore_event *event = &events[count];
        int result = parse_frame(parser, data + at, len - at, event);

        if (result == WAIT) {
            break;
        }
        if (result != MCORE_OK) {
            parser->scanned = 0;
            parser->need = 0;
            if (count > 0) { /* the good frames first; the next call meets the same bytes again */
                break;
            }
            parser->error = result;
            return result;
        }
        event->frame.off = at;
        event->subject.off += at;
        event->reply.off += at;
        event->headers.off += at;
        event->payload.off += at;
        at += event->frame.len;
        count++;
    }
    *consumed = at;
    return (long)count;
}
