/* A test is a function that checks; the harness counts, prints each failure with its line, and ends in one summary. */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAY_BE_UNUSED __attribute__((unused)) /* by a program that is no test */

static MAY_BE_UNUSED int test_failures; /* of the test that runs now */
static MAY_BE_UNUSED int tests_passed;
static MAY_BE_UNUSED int tests_failed;

/* How far ahead of the machine's the clock of the core is (settable_clock.c); a test sets it back to 0. */
extern int64_t clock_ahead_ns;

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            test_failures++;                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                   \
    } while (0)

#define RUN(test)                                  \
    do {                                           \
        test_failures = 0;                         \
        test();                                    \
        if (test_failures > 0) {                   \
            fprintf(stderr, "FAILED %s\n", #test); \
            tests_failed++;                        \
        } else {                                   \
            tests_passed++;                        \
        }                                          \
    } while (0)

static inline int test_summary(const char *name)
{
    printf("%s: %d passed, %d failed\n", name, tests_passed, tests_failed);
    return tests_failed > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* A copy of exactly `len` bytes on the heap, so that AddressSanitizer sees one byte too many; free() it. */
static inline void *exactly(const void *data, size_t len)
{
    void *copy = malloc(len > 0 ? len : 1);
    if (copy == NULL) {
        abort();
    }
    if (len > 0) {
        memcpy(copy, data, len);
    }
    return copy;
}

#endif
