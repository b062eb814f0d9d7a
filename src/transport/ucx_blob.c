#include "transport/ucx_blob.h"

#include "base/hash.h"
#include "transport/codec.h"

enum status ucx_blob_write(const struct ucx_blob *blob, struct buf *out)
{
    size_t start = out->len;
    enum status st = buf_reserve(out, (size_t)UCX_BLOB_HEAD_BYTES + blob->address_bytes +
                                          blob->rkey_bytes + UCX_BLOB_SUM_BYTES);
    if (st != ST_OK)
        return st;
    codec_put(out, UCX_BLOB_VERSION, 4);
    codec_put(out, blob->pid, 4);
    codec_put(out, blob->pid_start, 8);
    codec_put(out, blob->pid_ns, 8);
    codec_put(out, blob->address_bytes, 4);
    codec_put(out, blob->rkey_bytes, 4);
    buf_append(out, blob->address, blob->address_bytes);
    buf_append(out, blob->rkey, blob->rkey_bytes);
    return codec_put(out, hash_bytes(out->data + start, out->len - start), UCX_BLOB_SUM_BYTES);
}

enum status ucx_blob_read(const uint8_t *data, uint32_t bytes, struct ucx_blob *out)
{
    if (bytes < UCX_BLOB_HEAD_BYTES + UCX_BLOB_SUM_BYTES)
        return ST_PARSE;
    if (codec_get(data, 4) != UCX_BLOB_VERSION)
        return ST_VERSION;
    uint32_t sum_at = bytes - UCX_BLOB_SUM_BYTES;
    struct ucx_blob blob = {.pid = (uint32_t)codec_get(data + 4, 4),
                            .pid_start = codec_get(data + 8, 8),
                            .pid_ns = codec_get(data + 16, 8),
                            .address_bytes = (uint32_t)codec_get(data + 24, 4),
                            .rkey_bytes = (uint32_t)codec_get(data + 28, 4)};
    uint64_t total = (uint64_t)UCX_BLOB_HEAD_BYTES + blob.address_bytes + blob.rkey_bytes;
    if (blob.address_bytes == 0 || blob.rkey_bytes == 0 || total != sum_at)
        return ST_PARSE;
    if (codec_get(data + sum_at, UCX_BLOB_SUM_BYTES) != hash_bytes(data, sum_at))
        return ST_MISMATCH;
    blob.address = data + UCX_BLOB_HEAD_BYTES;
    blob.rkey = blob.address + blob.address_bytes;
    *out = blob;
    return ST_OK;
}
