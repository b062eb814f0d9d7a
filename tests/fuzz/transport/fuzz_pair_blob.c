/* The export of two transports: any bytes are refused or give pointers inside the input that write
 * back alike. */
#include "transport/pair_blob.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pair_blob blob;
    if (size > UINT32_MAX || pair_blob_read(data, (uint32_t)size, &blob) != ST_OK)
        return 0;
    struct buf again;
    buf_init(&again, size);
    if (pair_blob_write(&blob, &again) != ST_OK || again.len != size ||
        memcmp(again.data, data, size) != 0)
        abort();
    buf_deinit(&again);
    return 0;
}
