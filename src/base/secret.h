/* Secrets of a process: read from a file or drawn from the system. */
#ifndef BASE_SECRET_H
#define BASE_SECRET_H

#include "base/status.h"

#include <stdint.h>

/* Reads exactly 32 bytes from `path`; an empty path draws random ones.
 * ST_NOT_FOUND, ST_IO, ST_INVALID: the file is shorter than 32 bytes. Any thread. */
enum status secret_load(const char *path, uint8_t out[32]);
/* Writes 32 random bytes to a new file of mode 0600. ST_EXISTS, ST_IO. */
enum status secret_create(const char *path);

/* A random number that is not 0, for instances and epochs: 0 means "none" on the wire. Waits for
 * the system's entropy, which is there but in the first moments of a boot. */
uint64_t secret_u64(void);

#endif
