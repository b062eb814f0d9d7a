/* The formats of the shm transport. Little endian; each ends in a sum of hash_bytes over all before
 * it, which finds damage (not malice). Any thread.
 *
 * The export, what a peer needs to reach this process:
 *
 *   0     4     8     12    16         24         32         40        56    64
 *   +-----+-----+-----+-----+----------+----------+----------+---------+-----+
 *   | ver | pid | uid | 0   | pid start| pid ns   | net ns   | name    | sum |
 *   +-----+-----+-----+-----+----------+----------+----------+---------+-----+
 *     u32   u32   u32   u32    u64        u64        u64       16 bytes  u64
 *
 * HELLO opens a connection, WELCOME answers it; with the flag POOL it brings the descriptor of the
 * sender's pool. Behind WELCOME come records from the side that said HELLO, nothing from the other.
 *
 *   0       4     8      12      16     24   32       40            48       52    56    64
 *   +-------+-----+------+-------+------+----+--------+-------------+--------+-----+-----+
 *   | magic | ver | kind | flags | from | to | layout | block bytes | blocks | 0   | sum |
 *   +-------+-----+------+-------+------+----+--------+-------------+--------+-----+-----+
 *     u32     u32   u32    u32     u64    u64   u64      u64           u32     u32   u64
 *
 * A record is its length, u32, 1 to TRANSPORT_RECORD_BYTES_MAX, and its bytes. */
#ifndef TRANSPORT_SHM_WIRE_H
#define TRANSPORT_SHM_WIRE_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

#define SHM_VERSION     1u
#define SHM_BLOB_BYTES  64u
#define SHM_HELLO_BYTES 64u
#define SHM_NAME_BYTES  16u
#define SHM_PREFIX      4u /* length of a record */

struct shm_blob {
    uint32_t pid, uid;
    uint64_t pid_start, pid_ns, net_ns; /* see process.h */
    uint8_t name[SHM_NAME_BYTES];       /* random: names the socket */
};

enum shm_hello_kind { SHM_HELLO = 1, SHM_WELCOME = 2 };

#define SHM_FLAG_POOL 1u

struct shm_hello {
    uint32_t kind, flags;
    uint64_t from, to; /* instances */
    uint64_t layout_hash, block_bytes;
    uint32_t block_count;
};

/* Append to `out`. ST_TOO_LARGE, ST_NO_MEMORY: nothing was written. */
enum status shm_blob_write(const struct shm_blob *blob, struct buf *out);
enum status shm_hello_write(const struct shm_hello *hello, struct buf *out);
/* `out` is written only on ST_OK. ST_PARSE: not of this form; ST_VERSION; ST_MISMATCH: the sum is
 * wrong. */
enum status shm_blob_read(const uint8_t *data, uint32_t bytes, struct shm_blob *out);
enum status shm_hello_read(const uint8_t *data, uint32_t bytes, struct shm_hello *out);

#endif
