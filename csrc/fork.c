/*
 * The fork counter: how often this process and its ancestors were forked since somebody began to watch.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "core_internal.h"

/*
 * pthread_atfork and not os.register_at_fork: a fork made by a C library, or through ctypes, runs only the former.
 * The child's handler is the only writer and runs while the child has one thread; readers may be on any thread.
 */
static _Atomic uint64_t generation;
static pthread_once_t watching = PTHREAD_ONCE_INIT;
static int watch_result;

static void count_fork(void)
{
    atomic_fetch_add(&generation, 1);
    mcore_bell_after_fork();
}

static void start_watching(void)
{
    watch_result = pthread_atfork(NULL, NULL, count_fork) == 0 ? MCORE_OK : MCORE_E_MEMORY;
}

int mcore_fork_watch(void)
{
    if (pthread_once(&watching, start_watching) != 0) {
        return MCORE_E_MEMORY;
    }
    return watch_result;
}

uint64_t mcore_fork_generation(void)
{
    return atomic_load(&generation);
}
