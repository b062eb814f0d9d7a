/* Growable byte buffer with a bound. One thread. After a failed append the buffer is unchanged. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *data;
    size_t len, cap, max; /* bytes */
};

void buf_init(struct buf *buf, size_t bytes_max);
void buf_deinit(struct buf *buf);
/* Makes room for `bytes` more. ST_TOO_LARGE: max would be passed. ST_NO_MEMORY. */
enum status buf_reserve(struct buf *buf, size_t bytes);
enum status buf_append(struct buf *buf, const void *data, size_t bytes);
enum status buf_append_str(struct buf *buf, const char *text);
enum status buf_printf(struct buf *buf, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Drops the first `bytes` (at most len). */
void buf_consume(struct buf *buf, size_t bytes);

#endif
