/* The formats of the shm transport: any bytes are refused, as an export and as a hello, or write
 * back alike. As they come, and with a sum that is right, behind which no chance would get. */
#include "base/hash.h"
#include "transport/shm_wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const uint8_t *data, uint32_t size)
{
    struct shm_blob blob;
    struct shm_hello hello;
    struct buf again;
    buf_init(&again, 2 * SHM_BLOB_BYTES);
    if (shm_blob_read(data, size, &blob) == ST_OK &&
        (shm_blob_write(&blob, &again) != ST_OK || again.len != size ||
         memcmp(again.data, data, size) != 0))
        abort();
    again.len = 0;
    if (shm_hello_read(data, size, &hello) == ST_OK &&
        (shm_hello_write(&hello, &again) != ST_OK || again.len != size ||
         memcmp(again.data, data, size) != 0))
        abort();
    buf_deinit(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t copy[SHM_HELLO_BYTES];
    if (size > UINT32_MAX)
        return 0;
    check(data, (uint32_t)size);
    if (size < sizeof(copy))
        return 0;
    memcpy(copy, data, sizeof(copy));
    uint64_t sum = hash_bytes(copy, sizeof(copy) - 8);
    for (unsigned i = 0; i < 8; i++)
        copy[sizeof(copy) - 8 + i] = (uint8_t)(sum >> (8 * i));
    check(copy, sizeof(copy));
    return 0;
}
