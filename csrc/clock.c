/*
 * Time and conditions: the monotonic clock, deadlines on it, and conditions that wait until one.
 */
#include <errno.h>
#include <time.h>

#include "core_internal.h"

int64_t mcore_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t mcore_deadline_after(int64_t timeout_ns)
{
    int64_t now = mcore_now_ns();
    if (timeout_ns <= 0)
        return now;
    return timeout_ns < MCORE_NEVER - now ? now + timeout_ns : MCORE_NEVER - 1;
}

int64_t mcore_slice_until(int64_t until_ns)
{
    int64_t left = until_ns - mcore_now_ns();
    return left < 0 ? 0 : left < MCORE_SLICE_NS ? left : MCORE_SLICE_NS;
}

int mcore_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#if !defined(__APPLE__)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    int error = pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
    return error;
}

int mcore_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t until_ns)
{
    if (until_ns == MCORE_NEVER)
        return pthread_cond_wait(cond, lock);
#if defined(__APPLE__)
    int64_t left = until_ns - mcore_now_ns();
    if (left <= 0)
        return ETIMEDOUT;
    struct timespec span = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
    return pthread_cond_timedwait_relative_np(cond, lock, &span);
#else
    struct timespec at = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
    return pthread_cond_timedwait(cond, lock, &at);
#endif
}
