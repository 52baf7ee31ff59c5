/*
 * Waiting for many tickets at once. Each ticket has a list of the groups it is in; when it is settled it leaves them and
 * puts its place into their lists, so that a thread which waits for a hundred thousand is woken with those that are new.
 *
 * A node is linked to its ticket under the outbox's lock, and leaves it there: by mcore_group_settled(), or when the group
 * is freed. `is_linked` changes under the group's lock too, which lets the freeing thread tell the two apart.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core_internal.h"

struct mcore_group {
    pthread_mutex_t lock;
    pthread_cond_t settled;
    struct mcore_group_node *nodes;
    bool *is_linked;
    uint32_t *ready; /* places in the order of settling, handed out up to `taken` */
    size_t capacity;
    size_t count;
    size_t ready_len;
    size_t taken;
};

struct mcore_group *mcore_group_new(size_t count)
{
    if (count > UINT32_MAX)
        return NULL;
    struct mcore_group *group = calloc(1, sizeof(*group));
    if (group == NULL)
        return NULL;
    size_t room = count > 0 ? count : 1;
    group->nodes = calloc(room, sizeof(*group->nodes));
    group->is_linked = calloc(room, sizeof(*group->is_linked));
    group->ready = calloc(room, sizeof(*group->ready));
    group->capacity = count;
    pthread_mutex_init(&group->lock, NULL);
    mcore_cond_init(&group->settled);
    if (group->nodes == NULL || group->is_linked == NULL || group->ready == NULL) {
        mcore_group_free(group);
        return NULL;
    }
    return group;
}

static void unlink_node(struct mcore_group_node *node)
{
    void **place = &node->ticket->groups;
    struct mcore_group_node *other = *place;
    if (other == node) {
        *place = node->next;
        return;
    }
    while (other->next != node)
        other = other->next;
    other->next = node->next;
}

void mcore_group_free(struct mcore_group *group)
{
    if (group == NULL)
        return;
    for (size_t i = 0; i < group->count; i++) {
        struct mcore_group_node *node = &group->nodes[i];
        pthread_mutex_lock(&group->lock);
        bool is_linked = group->is_linked[i];
        pthread_mutex_unlock(&group->lock); /* before the outbox's, which comes first in the lock order */
        if (!is_linked)
            continue;
        pthread_mutex_lock(&node->outbox->lock);
        if (group->is_linked[i])
            unlink_node(node);
        pthread_mutex_unlock(&node->outbox->lock);
    }
    pthread_cond_destroy(&group->settled);
    pthread_mutex_destroy(&group->lock);
    free(group->nodes);
    free(group->is_linked);
    free(group->ready);
    free(group);
}

static void is_ready(struct mcore_group *group, uint32_t place)
{
    pthread_mutex_lock(&group->lock);
    group->is_linked[place] = false;
    group->ready[group->ready_len++] = place;
    pthread_cond_signal(&group->settled);
    pthread_mutex_unlock(&group->lock);
}

void mcore_group_settled(struct mcore_group_node *node)
{
    is_ready(node->group, node->place);
}

int mcore_group_add(struct mcore_group *group, struct mcore_outbox *outbox, struct mcore_ticket *ticket)
{
    if (group->count == group->capacity)
        return MCORE_E_ROOM;
    uint32_t place = (uint32_t)group->count++;
    if (mcore_ticket_outcome(ticket) != MCORE_PENDING) {
        is_ready(group, place);
        return MCORE_OK;
    }
    pthread_mutex_lock(&outbox->lock);
    bool is_settled = mcore_ticket_outcome(ticket) != MCORE_PENDING;
    if (!is_settled) {
        group->nodes[place] = (struct mcore_group_node){.next = ticket->groups, .group = group, .outbox = outbox,
                                                    .ticket = ticket, .place = place};
        ticket->groups = &group->nodes[place];
        group->is_linked[place] = true; /* nobody else looks at this place yet */
    }
    pthread_mutex_unlock(&outbox->lock);
    if (is_settled)
        is_ready(group, place);
    return MCORE_OK;
}

long mcore_group_wait(struct mcore_group *group, uint32_t *out, size_t max, int64_t timeout_ns)
{
    int64_t until = mcore_deadline_after(timeout_ns);
    pthread_mutex_lock(&group->lock);
    while (group->taken == group->ready_len)
        if (mcore_cond_wait_until(&group->settled, &group->lock, until) == ETIMEDOUT)
            break;
    size_t count = group->ready_len - group->taken;
    if (count > max)
        count = max;
    if (count > 0)
        memcpy(out, group->ready + group->taken, count * sizeof(*out));
    group->taken += count;
    pthread_mutex_unlock(&group->lock);
    return (long)count;
}
