/*
 * Waiting for many tickets at once. Each ticket has a list of the sets it is in; when it is settled it leaves them and
 * puts its place into their lists, so that a thread which waits for a hundred thousand is woken with those that are new.
 *
 * A node is linked to its ticket under the outbox's lock, and leaves it there: by mcore_wait_set_settled(), or when the
 * set is freed. `is_linked` changes under the set's lock too, which lets the freeing thread tell the two apart.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core_internal.h"

struct mcore_wait_set {
    pthread_mutex_t lock;
    pthread_cond_t settled;
    struct mcore_wait_set_node *nodes;
    bool *is_linked;
    uint32_t *ready; /* places in the order of settling, handed out up to `taken` */
    size_t capacity;
    size_t count;
    size_t ready_len;
    size_t taken;
};

struct mcore_wait_set *mcore_wait_set_new(size_t count)
{
    if (count > UINT32_MAX)
        return NULL;
    struct mcore_wait_set *set = calloc(1, sizeof(*set));
    if (set == NULL)
        return NULL;
    size_t room = count > 0 ? count : 1;
    set->nodes = calloc(room, sizeof(*set->nodes));
    set->is_linked = calloc(room, sizeof(*set->is_linked));
    set->ready = calloc(room, sizeof(*set->ready));
    set->capacity = count;
    pthread_mutex_init(&set->lock, NULL);
    mcore_cond_init(&set->settled);
    if (set->nodes == NULL || set->is_linked == NULL || set->ready == NULL) {
        mcore_wait_set_free(set);
        return NULL;
    }
    return set;
}

static void unlink_node(struct mcore_wait_set_node *node)
{
    void **place = &node->ticket->wait_sets;
    struct mcore_wait_set_node *other = *place;
    if (other == node) {
        *place = node->next;
        return;
    }
    while (other->next != node)
        other = other->next;
    other->next = node->next;
}

void mcore_wait_set_free(struct mcore_wait_set *set)
{
    if (set == NULL)
        return;
    for (size_t i = 0; i < set->count; i++) {
        struct mcore_wait_set_node *node = &set->nodes[i];
        pthread_mutex_lock(&set->lock);
        bool is_linked = set->is_linked[i];
        pthread_mutex_unlock(&set->lock); /* before the outbox's, which comes first in the lock order */
        if (!is_linked)
            continue;
        pthread_mutex_lock(&node->outbox->lock);
        if (set->is_linked[i])
            unlink_node(node);
        pthread_mutex_unlock(&node->outbox->lock);
    }
    pthread_cond_destroy(&set->settled);
    pthread_mutex_destroy(&set->lock);
    free(set->nodes);
    free(set->is_linked);
    free(set->ready);
    free(set);
}

static void is_ready(struct mcore_wait_set *set, uint32_t place)
{
    pthread_mutex_lock(&set->lock);
    set->is_linked[place] = false;
    set->ready[set->ready_len++] = place;
    pthread_cond_signal(&set->settled);
    pthread_mutex_unlock(&set->lock);
}

void mcore_wait_set_settled(struct mcore_wait_set_node *node)
{
    is_ready(node->set, node->place);
}

int mcore_wait_set_add(struct mcore_wait_set *set, struct mcore_outbox *outbox, struct mcore_ticket *ticket)
{
    if (set->count == set->capacity)
        return MCORE_E_ROOM;
    uint32_t place = (uint32_t)set->count++;
    pthread_mutex_lock(&outbox->lock);
    bool is_settled = ticket->outcome != MCORE_PENDING;
    if (!is_settled) {
        set->nodes[place] = (struct mcore_wait_set_node){
            .next = ticket->wait_sets, .set = set, .outbox = outbox, .ticket = ticket, .place = place};
        ticket->wait_sets = &set->nodes[place];
        set->is_linked[place] = true; /* nobody else looks at this place yet */
    }
    pthread_mutex_unlock(&outbox->lock);
    if (is_settled)
        is_ready(set, place);
    return MCORE_OK;
}

long mcore_wait_set_wait(struct mcore_wait_set *set, uint32_t *out, size_t max, int64_t timeout_ns)
{
    int64_t until = mcore_deadline_after(timeout_ns);
    pthread_mutex_lock(&set->lock);
    while (set->taken == set->ready_len)
        if (mcore_cond_wait_until(&set->settled, &set->lock, until) == ETIMEDOUT)
            break;
    size_t count = set->ready_len - set->taken;
    if (count > max)
        count = max;
    if (count > 0)
        memcpy(out, set->ready + set->taken, count * sizeof(*out));
    set->taken += count;
    pthread_mutex_unlock(&set->lock);
    return (long)count;
}
