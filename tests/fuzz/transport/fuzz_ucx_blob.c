/* The blob parser: any bytes are refused or give pointers inside the input that write back alike.
 * As they come, and with a sum that is right, behind which no chance would get. */
#include "base/hash.h"
#include "transport/ucx_blob.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const uint8_t *data, uint32_t size)
{
    struct ucx_blob blob;
    if (ucx_blob_read(data, size, &blob) != ST_OK)
        return;
    struct buf again;
    buf_init(&again, size);
    if (ucx_blob_write(&blob, &again) != ST_OK || again.len != size ||
        memcmp(again.data, data, size) != 0)
        abort();
    buf_deinit(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > UINT32_MAX)
        return 0;
    check(data, (uint32_t)size);
    if (size < UCX_BLOB_SUM_BYTES)
        return 0;
    uint8_t *copy = malloc(size);
    if (copy == NULL)
        return 0;
    size_t at = size - UCX_BLOB_SUM_BYTES;
    memcpy(copy, data, at);
    uint64_t sum = hash_bytes(copy, at);
    for (unsigned i = 0; i < UCX_BLOB_SUM_BYTES; i++)
        copy[at + i] = (uint8_t)(sum >> (8 * i));
    check(copy, (uint32_t)size);
    free(copy);
    return 0;
}
