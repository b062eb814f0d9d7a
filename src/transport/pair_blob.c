#include "transport/pair_blob.h"

#include "transport/codec.h"

enum status pair_blob_write(const struct pair_blob *blob, struct buf *out)
{
    enum status st =
        buf_reserve(out, (size_t)PAIR_BLOB_HEAD_BYTES + blob->bytes[0] + blob->bytes[1]);
    if (st != ST_OK)
        return st;
    codec_put(out, PAIR_BLOB_VERSION, 4);
    codec_put(out, blob->bytes[0], 4);
    codec_put(out, blob->bytes[1], 4);
    buf_append(out, blob->data[0], blob->bytes[0]);
    return buf_append(out, blob->data[1], blob->bytes[1]);
}

enum status pair_blob_read(const uint8_t *data, uint32_t bytes, struct pair_blob *out)
{
    if (bytes < PAIR_BLOB_HEAD_BYTES)
        return ST_PARSE;
    if (codec_get(data, 4) != PAIR_BLOB_VERSION)
        return ST_VERSION;
    struct pair_blob blob = {
        .bytes = {(uint32_t)codec_get(data + 4, 4), (uint32_t)codec_get(data + 8, 4)}};
    if (blob.bytes[0] == 0 || blob.bytes[1] == 0 ||
        (uint64_t)PAIR_BLOB_HEAD_BYTES + blob.bytes[0] + blob.bytes[1] != bytes)
        return ST_PARSE;
    blob.data[0] = data + PAIR_BLOB_HEAD_BYTES;
    blob.data[1] = blob.data[0] + blob.bytes[0];
    *out = blob;
    return ST_OK;
}
