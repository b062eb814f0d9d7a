#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CAP_BYTES_MIN = 256 };

void buf_init(struct buf *buf, size_t bytes_max)
{
    *buf = (struct buf){.max = bytes_max};
}

void buf_deinit(struct buf *buf)
{
    free(buf->data);
    *buf = (struct buf){.max = buf->max};
}

/* One byte more than `cap` is allocated, so that buf_printf has room for vsnprintf's NUL. */
enum status buf_reserve(struct buf *buf, size_t bytes)
{
    if (bytes > buf->max - buf->len)
        return ST_TOO_LARGE;
    size_t need = buf->len + bytes;
    if (need <= buf->cap && buf->data != NULL)
        return ST_OK;
    size_t cap = buf->cap > SIZE_MAX / 2 ? SIZE_MAX : buf->cap * 2;
    if (cap < CAP_BYTES_MIN)
        cap = CAP_BYTES_MIN;
    if (cap > buf->max)
        cap = buf->max;
    if (cap < need)
        cap = need;
    if (cap == SIZE_MAX)
        return ST_NO_MEMORY;
    uint8_t *data = realloc(buf->data, cap + 1);
    if (data == NULL)
        return ST_NO_MEMORY;
    buf->data = data;
    buf->cap = cap;
    return ST_OK;
}

enum status buf_append(struct buf *buf, const void *data, size_t bytes)
{
    if (bytes == 0)
        return ST_OK;
    enum status st = buf_reserve(buf, bytes);
    if (st != ST_OK)
        return st;
    memcpy(buf->data + buf->len, data, bytes);
    buf->len += bytes;
    return ST_OK;
}

enum status buf_append_str(struct buf *buf, const char *text)
{
    return buf_append(buf, text, strlen(text));
}

enum status buf_printf(struct buf *buf, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t room = buf->data != NULL ? buf->cap - buf->len + 1 : 0;
    int n = vsnprintf(room > 0 ? (char *)buf->data + buf->len : NULL, room, format, args);
    va_end(args);
    if (n < 0)
        return ST_INVALID;
    if ((size_t)n >= room) {
        enum status st = buf_reserve(buf, (size_t)n);
        if (st != ST_OK)
            return st;
        va_start(args, format);
        vsnprintf((char *)buf->data + buf->len, (size_t)n + 1, format, args);
        va_end(args);
    }
    buf->len += (size_t)n;
    return ST_OK;
}

void buf_consume(struct buf *buf, size_t bytes)
{
    if (bytes >= buf->len) {
        buf->len = 0;
        return;
    }
    if (bytes == 0)
        return;
    memmove(buf->data, buf->data + bytes, buf->len - bytes);
    buf->len -= bytes;
}
