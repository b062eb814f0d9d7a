/* The UCX transport's export: what a peer needs to reach this process.
 *
 *   0     4     8          16         24          28          32
 *   +-----+-----+----------+----------+-----------+-----------+---------+------+-----+
 *   | ver | pid | pid start| pid ns   | address n | key n     | address | rkey | sum |
 *   +-----+-----+----------+----------+-----------+-----------+---------+------+-----+
 *     u32   u32    u64        u64        u32         u32                          u64
 *
 * Address and key are UCX's own bytes, opaque to us, and UCX does not check them: the sum, of
 * hash_bytes over all before it, finds damage (not malice). Little endian. Any thread. */
#ifndef TRANSPORT_UCX_BLOB_H
#define TRANSPORT_UCX_BLOB_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

#define UCX_BLOB_VERSION    2u
#define UCX_BLOB_HEAD_BYTES 32u
#define UCX_BLOB_SUM_BYTES  8u

struct ucx_blob {
    uint32_t pid;
    uint64_t pid_start; /* clock ticks since boot, /proc/<pid>/stat field 22: tells a reused pid */
    uint64_t pid_ns;    /* inode of the pid namespace: a pid of another one means nothing here */
    const uint8_t *address, *rkey;
    uint32_t address_bytes, rkey_bytes;
};

/* Appends to `out`. ST_TOO_LARGE, ST_NO_MEMORY: nothing was written. */
enum status ucx_blob_write(const struct ucx_blob *blob, struct buf *out);
/* Pointers go into data; `out` is written only on ST_OK. ST_PARSE: lengths do not add up;
 * ST_VERSION; ST_MISMATCH: the sum is wrong. */
enum status ucx_blob_read(const uint8_t *data, uint32_t bytes, struct ucx_blob *out);

#endif
