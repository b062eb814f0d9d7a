#include "transport/ucx_blob.h"

#include <string.h>

static enum status put(struct buf *out, uint64_t value, unsigned bytes)
{
    uint8_t b[8];
    for (unsigned i = 0; i < bytes; i++)
        b[i] = (uint8_t)(value >> (8 * i));
    return buf_append(out, b, bytes);
}

static uint64_t get(const uint8_t *data, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)data[i] << (8 * i);
    return value;
}

enum status ucx_blob_write(const struct ucx_blob *blob, struct buf *out)
{
    enum status st = buf_reserve(out, UCX_BLOB_HEAD_BYTES + blob->address_bytes + blob->rkey_bytes);
    if (st != ST_OK)
        return st;
    put(out, UCX_BLOB_VERSION, 4);
    put(out, blob->pid, 4);
    put(out, blob->pid_start, 8);
    put(out, blob->pid_ns, 8);
    put(out, blob->address_bytes, 4);
    put(out, blob->rkey_bytes, 4);
    buf_append(out, blob->address, blob->address_bytes);
    return buf_append(out, blob->rkey, blob->rkey_bytes);
}

enum status ucx_blob_read(const uint8_t *data, uint32_t bytes, struct ucx_blob *out)
{
    if (bytes < UCX_BLOB_HEAD_BYTES)
        return ST_PARSE;
    if (get(data, 4) != UCX_BLOB_VERSION)
        return ST_VERSION;
    *out = (struct ucx_blob){.pid = (uint32_t)get(data + 4, 4),
                             .pid_start = get(data + 8, 8),
                             .pid_ns = get(data + 16, 8),
                             .address_bytes = (uint32_t)get(data + 24, 4),
                             .rkey_bytes = (uint32_t)get(data + 28, 4)};
    uint64_t total = (uint64_t)UCX_BLOB_HEAD_BYTES + out->address_bytes + out->rkey_bytes;
    if (out->address_bytes == 0 || out->rkey_bytes == 0 || total != bytes)
        return ST_PARSE;
    out->address = data + UCX_BLOB_HEAD_BYTES;
    out->rkey = out->address + out->address_bytes;
    return ST_OK;
}
