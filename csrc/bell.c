/*
 * The bell: rung whenever something has happened that a wait may be for. A thread that runs greenlets must not wait in
 * the core, where it would hold up all of them: they look again whenever the bell rings, and one thread waits for it on
 * behalf of the whole process. Without such a thread a ring costs one load.
 *
 * Its lock is the innermost of all, and nothing is called under it.
 */
#include <errno.h>

#include "core_internal.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t rung;
static pthread_once_t made = PTHREAD_ONCE_INIT;
static uint64_t count;
static bool is_heard; /* somebody has waited, in this process */

static void make(void)
{
    mcore_cond_init(&rung);
}

void mcore_bell_ring(void)
{
    if (!__atomic_load_n(&is_heard, __ATOMIC_RELAXED))
        return;
    pthread_mutex_lock(&lock);
    __atomic_store_n(&count, count + 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&rung);
    pthread_mutex_unlock(&lock);
}

uint64_t mcore_bell_count(void)
{
    return __atomic_load_n(&count, __ATOMIC_ACQUIRE);
}

uint64_t mcore_bell_wait(uint64_t seen, int64_t timeout_ns)
{
    int64_t until = mcore_deadline_after(timeout_ns);
    pthread_once(&made, make);
    pthread_mutex_lock(&lock);
    __atomic_store_n(&is_heard, true, __ATOMIC_RELAXED);
    while (count == seen)
        if (mcore_cond_wait_until(&rung, &lock, until) == ETIMEDOUT)
            break;
    uint64_t now = count;
    pthread_mutex_unlock(&lock);
    return now;
}

void mcore_bell_after_fork(void)
{
    pthread_mutex_init(&lock, NULL);
    mcore_cond_init(&rung);
    is_heard = false;
}
