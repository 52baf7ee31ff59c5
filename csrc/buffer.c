/*
 * Bytes that grow: what a link has to write and has read, and the records of a receive buffer.
 */
#include <stdlib.h>
#include <string.h>

#include "core_internal.h"

bool mcore_buffer_reserve(struct mcore_buffer *buffer, size_t more)
{
    if (buffer->cap - buffer->len >= more)
        return true;
    size_t cap = buffer->cap == 0 ? 4096 : buffer->cap;
    while (cap - buffer->len < more) {
        if (cap > SIZE_MAX / 2)
            return false;
        cap *= 2;
    }
    uint8_t *grown = realloc(buffer->data, cap);
    if (grown == NULL)
        return false;
    buffer->data = grown;
    buffer->cap = cap;
    return true;
}

void mcore_buffer_free(struct mcore_buffer *buffer)
{
    free(buffer->data);
    memset(buffer, 0, sizeof(*buffer));
}

void mcore_free(void *memory)
{
    free(memory);
}
