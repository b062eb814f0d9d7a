/* The export of the transports shm and ucx together: both exports, one behind the other, which
 * bring sums of their own.
 *
 *   0     4       8       12
 *   +-----+-------+-------+-----+-----+
 *   | ver | shm n | ucx n | shm | ucx |     little endian
 *   +-----+-------+-------+-----+-----+
 *     u32   u32     u32                  Any thread. */
#ifndef TRANSPORT_PAIR_BLOB_H
#define TRANSPORT_PAIR_BLOB_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

#define PAIR_TRANSPORTS      2u
#define PAIR_BLOB_VERSION    1u
#define PAIR_BLOB_HEAD_BYTES 12u

struct pair_blob {
    const uint8_t *data[PAIR_TRANSPORTS];
    uint32_t bytes[PAIR_TRANSPORTS]; /* not 0 */
};

/* Appends to `out`. ST_TOO_LARGE, ST_NO_MEMORY: nothing was written. */
enum status pair_blob_write(const struct pair_blob *blob, struct buf *out);
/* Pointers go into data; `out` is written only on ST_OK. ST_PARSE: lengths do not add up;
 * ST_VERSION. */
enum status pair_blob_read(const uint8_t *data, uint32_t bytes, struct pair_blob *out);

#endif
