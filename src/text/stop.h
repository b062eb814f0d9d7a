/* Finds the first stop string in streamed text and holds back what may be the beginning of one, so
 * that no part of a stop string reaches the client. The answer does not depend on how the text is
 * cut into chunks: the match that ends first wins, and of those that end together the longest. Time
 * is linear: each byte costs O(1) amortised for each stop string. One thread. Source: Knuth,
 * Morris, Pratt 1977, doi:10.1137/0206024. */
#ifndef TEXT_STOP_H
#define TEXT_STOP_H

#include "base/buf.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum { STOP_STRINGS_MAX = 16, STOP_BYTES_MAX = 256 };

struct stop_string {
    const char *text; /* UTF-8 */
    size_t bytes;     /* 1 .. STOP_BYTES_MAX */
};

struct stop;

/* Copies the strings. n_strings may be 0: all text passes.
 * Errors   ST_INVALID: an empty string, or one that begins inside a UTF-8 character. ST_TOO_LARGE:
 * too many or too long. ST_NO_MEMORY */
enum status stop_create(const struct stop_string *strings, uint32_t n_strings,
                        struct stop **out_stop);
void stop_destroy(struct stop *stop); /* NULL is fine */
/* Appends to `out` the text that is now known not to belong to a stop string. Chunks hold whole
 * characters, and then so does what is written.
 * *out_match  index of the string found, or -1. After a match all text is ignored until stop_reset.
 * After an error (ST_TOO_LARGE, ST_NO_MEMORY) nothing has changed. */
enum status stop_feed(struct stop *stop, const char *text, size_t bytes, struct buf *out,
                      int32_t *out_match);
/* The text has ended: appends what was held back. Nothing after a match. */
enum status stop_flush(struct stop *stop, struct buf *out);
/* Bytes held back now. */
size_t stop_held_bytes(const struct stop *stop);
void stop_reset(struct stop *stop);

#endif
