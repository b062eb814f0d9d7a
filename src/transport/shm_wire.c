#include "transport/shm_wire.h"

#include "base/hash.h"
#include "transport/codec.h"

#include <string.h>

#define HELLO_MAGIC 0x6b76646du
#define SUM_BYTES   8u

static enum status sum_put(struct buf *out, size_t start)
{
    return codec_put(out, hash_bytes(out->data + start, out->len - start), SUM_BYTES);
}

static enum status sum_check(const uint8_t *data, uint32_t bytes)
{
    uint32_t at = bytes - SUM_BYTES;
    return codec_get(data + at, SUM_BYTES) == hash_bytes(data, at) ? ST_OK : ST_MISMATCH;
}

enum status shm_blob_write(const struct shm_blob *blob, struct buf *out)
{
    size_t start = out->len;
    enum status st = buf_reserve(out, SHM_BLOB_BYTES);
    if (st != ST_OK)
        return st;
    codec_put(out, SHM_VERSION, 4);
    codec_put(out, blob->pid, 4);
    codec_put(out, blob->uid, 4);
    codec_put(out, 0, 4);
    codec_put(out, blob->pid_start, 8);
    codec_put(out, blob->pid_ns, 8);
    codec_put(out, blob->net_ns, 8);
    buf_append(out, blob->name, SHM_NAME_BYTES);
    return sum_put(out, start);
}

enum status shm_blob_read(const uint8_t *data, uint32_t bytes, struct shm_blob *out)
{
    if (bytes != SHM_BLOB_BYTES)
        return ST_PARSE;
    if (codec_get(data, 4) != SHM_VERSION)
        return ST_VERSION;
    if (sum_check(data, bytes) != ST_OK)
        return ST_MISMATCH;
    if (codec_get(data + 12, 4) != 0)
        return ST_PARSE;
    *out = (struct shm_blob){.pid = (uint32_t)codec_get(data + 4, 4),
                             .uid = (uint32_t)codec_get(data + 8, 4),
                             .pid_start = codec_get(data + 16, 8),
                             .pid_ns = codec_get(data + 24, 8),
                             .net_ns = codec_get(data + 32, 8)};
    memcpy(out->name, data + 40, SHM_NAME_BYTES);
    return ST_OK;
}

enum status shm_hello_write(const struct shm_hello *hello, struct buf *out)
{
    size_t start = out->len;
    enum status st = buf_reserve(out, SHM_HELLO_BYTES);
    if (st != ST_OK)
        return st;
    codec_put(out, HELLO_MAGIC, 4);
    codec_put(out, SHM_VERSION, 4);
    codec_put(out, hello->kind, 4);
    codec_put(out, hello->flags, 4);
    codec_put(out, hello->from, 8);
    codec_put(out, hello->to, 8);
    codec_put(out, hello->layout_hash, 8);
    codec_put(out, hello->block_bytes, 8);
    codec_put(out, hello->block_count, 4);
    codec_put(out, 0, 4);
    return sum_put(out, start);
}

enum status shm_hello_read(const uint8_t *data, uint32_t bytes, struct shm_hello *out)
{
    if (bytes != SHM_HELLO_BYTES || codec_get(data, 4) != HELLO_MAGIC)
        return ST_PARSE;
    if (codec_get(data + 4, 4) != SHM_VERSION)
        return ST_VERSION;
    if (sum_check(data, bytes) != ST_OK)
        return ST_MISMATCH;
    struct shm_hello hello = {.kind = (uint32_t)codec_get(data + 8, 4),
                              .flags = (uint32_t)codec_get(data + 12, 4),
                              .from = codec_get(data + 16, 8),
                              .to = codec_get(data + 24, 8),
                              .layout_hash = codec_get(data + 32, 8),
                              .block_bytes = codec_get(data + 40, 8),
                              .block_count = (uint32_t)codec_get(data + 48, 4)};
    if ((hello.kind != SHM_HELLO && hello.kind != SHM_WELCOME) || codec_get(data + 52, 4) != 0 ||
        hello.flags > (hello.kind == SHM_WELCOME ? SHM_FLAG_POOL : 0))
        return ST_PARSE;
    *out = hello;
    return ST_OK;
}
