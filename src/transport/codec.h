/* Little-endian fields of the transports' own formats. Any thread. */
#ifndef TRANSPORT_CODEC_H
#define TRANSPORT_CODEC_H

#include "base/buf.h"

#include <stdint.h>

/* bytes: 1 to 8. As buf_append. */
static inline enum status codec_put(struct buf *out, uint64_t value, unsigned bytes)
{
    uint8_t b[8];
    for (unsigned i = 0; i < bytes; i++)
        b[i] = (uint8_t)(value >> (8 * i));
    return buf_append(out, b, bytes);
}

static inline uint64_t codec_get(const uint8_t *data, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)data[i] << (8 * i);
    return value;
}

#endif
