#include "base/arena.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN_BYTES = 16, CHUNK_BYTES_MIN = 4096 };

struct arena_chunk {
    struct arena_chunk *older;
    size_t bytes; /* of data */
    size_t used;
    alignas(ALIGN_BYTES) uint8_t data[];
};

void arena_init(struct arena *arena, size_t bytes_max)
{
    *arena = (struct arena){.bytes_max = bytes_max};
}

static void chunks_free(struct arena_chunk *chunk)
{
    while (chunk != NULL) {
        struct arena_chunk *older = chunk->older;
        free(chunk);
        chunk = older;
    }
}

void arena_deinit(struct arena *arena)
{
    chunks_free(arena->head);
    arena->head = NULL;
    arena->bytes_used = 0;
}

/* The head is the largest chunk, because each one doubles the one before. */
void arena_reset(struct arena *arena)
{
    arena->bytes_used = 0;
    if (arena->head == NULL)
        return;
    chunks_free(arena->head->older);
    arena->head->older = NULL;
    arena->head->used = 0;
}

static struct arena_chunk *chunk_add(struct arena *arena, size_t bytes)
{
    size_t room = arena->bytes_max - arena->bytes_used;
    size_t chunk_bytes = CHUNK_BYTES_MIN;
    if (arena->head != NULL && arena->head->bytes <= SIZE_MAX / 4)
        chunk_bytes = arena->head->bytes * 2;
    if (chunk_bytes > room)
        chunk_bytes = room;
    if (chunk_bytes < bytes)
        chunk_bytes = bytes;
    if (chunk_bytes > SIZE_MAX - sizeof(struct arena_chunk))
        return NULL;
    struct arena_chunk *chunk = malloc(sizeof(*chunk) + chunk_bytes);
    if (chunk == NULL)
        return NULL;
    chunk->older = arena->head;
    chunk->bytes = chunk_bytes;
    chunk->used = 0;
    arena->head = chunk;
    return chunk;
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX - ALIGN_BYTES)
        return NULL;
    size_t padded = (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    if (padded == 0)
        padded = ALIGN_BYTES; /* distinct addresses for empty objects */
    if (padded > arena->bytes_max - arena->bytes_used)
        return NULL;
    struct arena_chunk *chunk = arena->head;
    if (chunk == NULL || chunk->bytes - chunk->used < padded) {
        chunk = chunk_add(arena, padded);
        if (chunk == NULL)
            return NULL;
    }
    void *memory = chunk->data + chunk->used;
    chunk->used += padded;
    arena->bytes_used += padded;
    return memory;
}

void *arena_calloc(struct arena *arena, size_t count, size_t bytes)
{
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total))
        return NULL;
    void *memory = arena_alloc(arena, total);
    if (memory != NULL)
        memset(memory, 0, total);
    return memory;
}

void *arena_dup(struct arena *arena, const void *data, size_t bytes)
{
    if (bytes == SIZE_MAX)
        return NULL;
    uint8_t *copy = arena_alloc(arena, bytes + 1);
    if (copy == NULL)
        return NULL;
    if (bytes > 0)
        memcpy(copy, data, bytes);
    copy[bytes] = 0;
    return copy;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0)
        return NULL;
    char *text = arena_alloc(arena, (size_t)n + 1);
    if (text == NULL)
        return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)n + 1, format, args);
    va_end(args);
    return text;
}
