/*
 * The clock of the tests: the machine's, and as far ahead of it as a test says, so that none has to wait for a deadline.
 *
 * run.sh links with --wrap, and the core's calls come here. A wait that is under way does not see that the clock is set.
 */
#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include "harness.h"

#define SECOND INT64_C(1000000000)

int64_t clock_ahead_ns;

int __real_clock_gettime(clockid_t id, struct timespec *now);
int __wrap_clock_gettime(clockid_t id, struct timespec *now);
int __real_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until);

static struct timespec later_by(const struct timespec *time, int64_t span_ns)
{
    int64_t at_ns = (int64_t)time->tv_sec * SECOND + time->tv_nsec + span_ns;
    return (struct timespec){(time_t)(at_ns / SECOND), (long)(at_ns % SECOND)};
}

int __wrap_clock_gettime(clockid_t id, struct timespec *now)
{
    int error = __real_clock_gettime(id, now);
    *now = later_by(now, clock_ahead_ns);
    return error;
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until)
{
    struct timespec real = later_by(until, -clock_ahead_ns);
    return __real_pthread_cond_timedwait(cond, lock, &real);
}
