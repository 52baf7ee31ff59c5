/*
 * A small coverage-guided fuzzer that needs nothing but a compiler with -fsanitize-coverage=trace-pc, as gcc and clang have
 * it: an input that reaches an edge of the program which none before it reached, or reaches one more often, is kept and
 * changed further. libFuzzer does the same better; the harness, fuzz_core.c, works with both.
 *
 *   fuzz SECONDS SEED INPUT FOLDER     changes the files of FOLDER for so long
 *   fuzz FILE...                       runs these files, each once
 *
 * An input that takes longer than twice LIMIT_S ends the program, as a sanitizer's finding does. INPUT then holds what was run:
 * MAX_LEN bytes, and behind them how many of them, in eight digits.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_S 8u /* the machine is shared; an input takes well under a millisecond */
#define MAX_LEN 4096u
#define EDGES (1u << 14)
#define MAX_KEPT 20000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_cov_trace_pc(void);

struct input {
    uint8_t *data;
    size_t len;
};

static uint8_t hits[EDGES];    /* of the input that runs */
static uint8_t reached[EDGES]; /* by any: which orders of magnitude */
static uintptr_t before;
static struct input kept[MAX_KEPT];
static size_t kept_count;
static uint64_t random_state;

/* Called at the beginning of each block of the instrumented code, which this file is not part of. */
void __sanitizer_cov_trace_pc(void)
{
    uintptr_t here = (uintptr_t)__builtin_return_address(0);
    uint8_t *hit = &hits[(here * 31 ^ before) % EDGES];
    if (*hit < 255)
        (*hit)++;
    before = here * 17;
}

static uint32_t random_below(uint32_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 11) % limit);
}

/* 1, 2, 3, 4 to 7, 8 to 15 ...: a bit each */
static uint8_t magnitude(uint8_t count)
{
    if (count < 4)
        return (uint8_t)(1u << (count - 1));
    uint8_t bit = 3;
    for (; count >= 8 && bit < 7; count /= 2)
        bit++;
    return (uint8_t)(1u << bit);
}

static bool is_new(void)
{
    bool found = false;
    for (size_t i = 0; i < EDGES; i += 8) {
        uint64_t eight;
        memcpy(&eight, hits + i, 8);
        if (eight == 0)
            continue;
        for (size_t j = i; j < i + 8; j++) {
            if (hits[j] == 0)
                continue;
            uint8_t bit = magnitude(hits[j]);
            found = found || (reached[j] & bit) == 0;
            reached[j] |= bit;
        }
    }
    return found;
}

static volatile sig_atomic_t is_fresh; /* an input was begun since the last look */

/* Looks each LIMIT_S. */
static void look(int number)
{
    static const char text[] = "FAILED: an input takes longer than any may\n";
    (void)number;
    if (!is_fresh) {
        (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
        _exit(70);
    }
    is_fresh = 0;
    alarm(LIMIT_S);
}

static void run(const uint8_t *data, size_t len)
{
    memset(hits, 0, sizeof(hits));
    before = 0;
    is_fresh = 1;
    LLVMFuzzerTestOneInput(data, len);
}

static void run_shown(uint8_t *shown, size_t len)
{
    char digits[24];
    snprintf(digits, sizeof(digits), "%08zu", len);
    memcpy(shown + MAX_LEN, digits, 8);
    run(shown, len);
}

static void keep(const uint8_t *data, size_t len)
{
    if (kept_count == MAX_KEPT)
        return;
    uint8_t *copy = malloc(len > 0 ? len : 1);
    if (copy == NULL)
        exit(71);
    memcpy(copy, data, len);
    kept[kept_count++] = (struct input){copy, len};
}

static size_t read_file(const char *path, uint8_t *data)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(72);
    }
    size_t len = fread(data, 1, MAX_LEN, file);
    fclose(file);
    return len;
}

/* ---- changing ----------------------------------------------------------------------------------------------------- */

/* clang-format off: a line holds many of them */
static const char *const words[] = {
    "MSG ",
    "HMSG ",
    "PING\r\n",
    "PONG\r\n",
    "+OK\r\n",
    "-ERR 'x'\r\n",
    "INFO {\"ldm\":true}\r\n",
    "\r\n",
    "\r\n\r\n",
    "NATS/1.0",
    " 404",
    " 503",
    " 409 Consumer Deleted",
    "_INBOX.T.0 1 ",
    "_INBOX.T.e1 1 ",
    "_INBOX.T.5 1 ",
    "s 2 $JS.ACK.a ",
    "s 3 ",
    "{\"stream\":\"s\",\"seq\":1}",
    "\"seq\":",
    "\"error\":{",
    "\"duplicate\":true",
    "\"code\":503",
    "\"err_code\":",
    "\"description\":\"",
    "\"a\":[",
    "\"a\":{",
    "[[[[",
    "]}",
    ",",
    ":",
    "\\\"",
    "4611686018427387904",
    "18446744073709551615",
    "99999999999999999999",
    "-1",
    "0",
    "2048",
    "\xc3\xbc",
    "\xf4\x8f\xbf\xbf",
    "\xff",
    "k: v\r\n",
};
/* clang-format on */

static size_t insert(uint8_t *data, size_t len, size_t at, const void *what, size_t what_len)
{
    if (len + what_len > MAX_LEN)
        return len;
    memmove(data + at + what_len, data + at, len - at);
    memcpy(data + at, what, what_len);
    return len + what_len;
}

/* One change; data has room for MAX_LEN. The first byte says which part is meant, and mostly stays. */
static size_t change(uint8_t *data, size_t len)
{
    static const uint8_t odd[] = {0,   1,    0x7f, 0x80, 0xff, ' ', '\t', '\r', '\n',
                                  '"', '\\', '{',  '}',  '[',  ']', '0',  '9'};
    size_t first = random_below(50) == 0 ? 0 : 1;
    if (len <= first)
        return insert(data, len, len, "P", 1);
    size_t at = first + random_below((uint32_t)(len - first));
    size_t span = 1 + random_below(random_below(4) == 0 ? 64 : 4);
    if (span > len - at)
        span = len - at;
    switch (random_below(9)) {
    case 0: data[at] ^= (uint8_t)(1u << random_below(8)); return len;
    case 1: data[at] = odd[random_below(sizeof(odd))]; return len;
    case 2: data[at] = (uint8_t)random_below(256); return len;
    case 3: return insert(data, len, at, &odd[random_below(sizeof(odd))], 1);
    case 4: {
        const char *word = words[random_below(sizeof(words) / sizeof(words[0]))];
        return insert(data, len, at, word, strlen(word));
    }
    case 5: memmove(data + at, data + at + span, len - at - span); return len - span;
    case 6: {
        uint8_t copy[64];
        memcpy(copy, data + at, span);
        return insert(data, len, first + random_below((uint32_t)(len - first)), copy, span);
    }
    case 7: { /* a number */
        char digits[24];
        int count = snprintf(digits, sizeof(digits), "%u", random_below(random_below(2) == 0 ? 40 : 5000));
        return insert(data, len, at, digits, (size_t)count);
    }
    default: { /* a part of another one */
        const struct input *other = &kept[random_below((uint32_t)kept_count)];
        if (other->len < 3)
            return len;
        size_t from = 2 + random_below((uint32_t)(other->len - 2));
        size_t part = 1 + random_below((uint32_t)(other->len - from));
        return insert(data, len, at, other->data + from, part);
    }
    }
}

/* ---- the whole ---------------------------------------------------------------------------------------------------- */

static void load(const char *folder, uint8_t *shown)
{
    DIR *listing = opendir(folder);
    struct dirent *entry;
    char path[1024];
    if (listing == NULL) {
        perror(folder);
        exit(72);
    }
    while ((entry = readdir(listing)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        size_t len = read_file(path, shown);
        run_shown(shown, len);
        is_new();
        keep(shown, len);
    }
    closedir(listing);
    if (kept_count == 0) {
        fprintf(stderr, "%s: no inputs\n", folder);
        exit(72);
    }
}

/* Room for an input and its length, in the file whatever happens to this process. */
static uint8_t *shown_in(int file)
{
    uint8_t *shown = mmap(NULL, MAX_LEN + 8, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shown == MAP_FAILED) {
        perror("mmap");
        exit(72);
    }
    return shown;
}

int main(int count, char **arguments)
{
    signal(SIGALRM, look);
    alarm(LIMIT_S);
    if (count != 5 || strspn(arguments[1], "0123456789") != strlen(arguments[1])) {
        static uint8_t data[MAX_LEN];
        for (int i = 1; i < count; i++) {
            size_t len = read_file(arguments[i], data);
            run(data, len);
        }
        printf("fuzz: %d inputs, no failure\n", count - 1);
        return EXIT_SUCCESS;
    }
    random_state = strtoull(arguments[2], NULL, 10) * 2 + 1;
    int file = open(arguments[3], O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || ftruncate(file, MAX_LEN + 8) != 0) {
        perror(arguments[3]);
        return 72;
    }
    uint8_t *shown = shown_in(file);
    load(arguments[4], shown);
    size_t seeds = kept_count;
    time_t until = time(NULL) + strtol(arguments[1], NULL, 10);
    uint64_t runs = 0;
    while (time(NULL) < until) {
        for (int i = 0; i < 500; i++, runs++) {
            const struct input *from = &kept[random_below((uint32_t)kept_count)];
            size_t len = from->len;
            memcpy(shown, from->data, len);
            for (uint32_t changes = 1 + random_below(random_below(3) == 0 ? 16 : 3); changes > 0; changes--)
                len = change(shown, len);
            run_shown(shown, len);
            if (is_new())
                keep(shown, len);
        }
    }
    size_t edges = 0;
    for (size_t i = 0; i < EDGES; i++)
        edges += reached[i] != 0;
    printf("fuzz: %llu runs, %zu edges, %zu inputs of which %zu were given, no failure\n", (unsigned long long)runs,
           edges, kept_count, seeds);
    return EXIT_SUCCESS;
}
