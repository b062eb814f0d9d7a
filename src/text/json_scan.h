/* Pull reader over one JSON text. The vocabulary and the merges of a tokenizer.json are a million
 * small values: a tree of them would cost more time and memory than the tables built from them. One
 * thread.
 *
 * The text must be valid UTF-8. Values that are skipped are only checked for balanced brackets and
 * well-formed strings; sections that matter are parsed strictly by whoever reads them. */
#ifndef TEXT_JSON_SCAN_H
#define TEXT_JSON_SCAN_H

#include "base/buf.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct json_scan {
    const uint8_t *text;
    size_t bytes, at;
    const char *message; /* set with ST_PARSE; the offset is `at` */
    struct buf scratch;  /* of the last string that held escapes */
};

struct json_span {
    const uint8_t *data;
    size_t bytes;
};

void json_scan_init(struct json_scan *scan, const void *text, size_t bytes);
void json_scan_deinit(struct json_scan *scan);
/* Next token's first byte after white space, not consumed; 0 at the end. */
uint8_t json_scan_peek(struct json_scan *scan);
/* Consumes `byte` or fails. */
enum status json_scan_expect(struct json_scan *scan, uint8_t byte);
/* Decoded string; it lives until the next string is read, or as long as the text. */
enum status json_scan_string(struct json_scan *scan, struct json_span *out);
enum status json_scan_u32(struct json_scan *scan, uint32_t max, uint32_t *out);
/* Consumes one value of any kind, nested at most 64 deep. */
enum status json_scan_skip(struct json_scan *scan);
/* After '{' or '[' was consumed: steps to the next member. *io_n counts members (start at 0).
 * *out_more is false once the closing byte was consumed. */
enum status json_scan_next(struct json_scan *scan, uint8_t close, size_t *io_n, bool *out_more);
/* Fails unless only white space is left. */
enum status json_scan_end(struct json_scan *scan);

#endif
