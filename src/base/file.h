/* Reading and mapping whole regular files. Errors name the path and the reason. Any thread. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/text_error.h"

#include <stdint.h>

#define FILE_PATH_BYTES 4096u

/* dir/name into out[FILE_PATH_BYTES]. ST_TOO_LARGE. */
enum status file_path_join(const char *dir, const char *name, char *out, struct text_error err);
/* Whole file into malloc'd memory with a NUL behind it; the caller frees *out_data.
 * ST_NOT_FOUND: no such file (err is set too); ST_TOO_LARGE: over bytes_max; ST_IO: not a regular
 * file, or reading failed; ST_NO_MEMORY. A file that shrinks meanwhile is ST_IO, not a fault. */
enum status file_read(const char *path, size_t bytes_max, char **out_data, size_t *out_bytes,
                      struct text_error err);

/* A regular file mapped read-only. All zero: nothing mapped. */
struct file_map {
    const uint8_t *data;
    size_t bytes;
};

/* An empty file is ST_TRUNCATED. The file must not be cut while it is mapped: as with any mapping,
 * a read behind its new end is a bus error. */
enum status file_map_open(const char *path, struct file_map *out_map, struct text_error err);
void file_map_close(struct file_map *map);

#endif
