/* Bump allocator for request and step lifetimes. One thread at a time.
 * Memory comes in chunks from malloc, is bounded by `bytes_max`, and is given back all at once. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

struct arena_chunk;

struct arena {
    struct arena_chunk *head; /* chunk in use; older ones behind it */
    size_t bytes_used;        /* over all chunks, padding included */
    size_t bytes_max;
};

/* Takes no memory until the first allocation. */
void arena_init(struct arena *arena, size_t bytes_max);
void arena_deinit(
    struct arena *arena); /* an all-zero or used arena; leaves it initialised, empty */
/* Forgets all allocations and keeps one chunk, so that a steady state allocates nothing. */
void arena_reset(struct arena *arena);
/* 16-byte aligned, uninitialised. NULL: bytes_max would be passed, or malloc failed. */
void *arena_alloc(struct arena *arena, size_t bytes);
/* Zeroed; NULL also when count * bytes overflows. */
void *arena_calloc(struct arena *arena, size_t count, size_t bytes);
/* Copy of data[0..bytes) with a NUL behind it; NULL as arena_alloc. */
void *arena_dup(struct arena *arena, const void *data, size_t bytes);
/* printf into the arena; NULL as arena_alloc. */
char *arena_printf(struct arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
