#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum status file_path_join(const char *dir, const char *name, char *out, struct text_error err)
{
    int n = snprintf(out, FILE_PATH_BYTES, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= FILE_PATH_BYTES)
        return text_error_set(err, ST_TOO_LARGE, "path of %s is too long", name);
    return ST_OK;
}

static enum status cannot_read(struct text_error err, enum status st, const char *path,
                               const char *why)
{
    return text_error_set(err, st, "%s: cannot be read: %s", path, why);
}

/* Opens a regular file and tells its size. */
static enum status open_regular(const char *path, int *out_fd, uint64_t *out_bytes,
                                struct text_error err)
{
    /* O_NONBLOCK: a FIFO in place of a file must not hang the start. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        enum status st = errno == ENOENT || errno == ENOTDIR ? ST_NOT_FOUND : ST_IO;
        return cannot_read(err, st, path, strerror(errno));
    }
    struct stat info;
    bool known = fstat(fd, &info) == 0;
    if (!known || !S_ISREG(info.st_mode) || info.st_size < 0) {
        close(fd);
        return cannot_read(err, ST_IO, path,
                           known && S_ISDIR(info.st_mode) ? strerror(EISDIR)
                                                          : "not a regular file");
    }
    *out_fd = fd;
    *out_bytes = (uint64_t)info.st_size;
    return ST_OK;
}

/* Reads exactly `bytes`; else errno says why not, 0: the file ended before. */
static bool read_all(int fd, char *data, size_t bytes)
{
    size_t at = 0;
    while (at < bytes) {
        errno = 0;
        ssize_t n = read(fd, data + at, bytes - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

enum status file_read(const char *path, size_t bytes_max, char **out_data, size_t *out_bytes,
                      struct text_error err)
{
    int fd = -1;
    uint64_t bytes = 0;
    enum status st = open_regular(path, &fd, &bytes, err);
    if (st != ST_OK)
        return st;
    if (bytes > bytes_max) {
        close(fd);
        return text_error_set(err, ST_TOO_LARGE, "%s: larger than %zu bytes", path, bytes_max);
    }
    char *data = malloc((size_t)bytes + 1);
    if (data == NULL) {
        close(fd);
        return cannot_read(err, ST_NO_MEMORY, path, status_text(ST_NO_MEMORY));
    }
    bool whole = read_all(fd, data, (size_t)bytes);
    int code = errno;
    close(fd);
    if (!whole) {
        free(data);
        return cannot_read(err, ST_IO, path,
                           code != 0 ? strerror(code) : "the file became shorter");
    }
    data[bytes] = '\0';
    *out_data = data;
    *out_bytes = (size_t)bytes;
    return ST_OK;
}

enum status file_map_open(const char *path, struct file_map *out_map, struct text_error err)
{
    int fd = -1;
    uint64_t bytes = 0;
    enum status st = open_regular(path, &fd, &bytes, err);
    if (st != ST_OK)
        return st;
    if (bytes == 0 || bytes > SIZE_MAX) {
        close(fd);
        return text_error_set(err, ST_TRUNCATED, "%s: file is empty", path);
    }
    void *data = mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, fd, 0);
    int code = errno;
    close(fd);
    if (data == MAP_FAILED)
        return text_error_set(err, ST_IO, "%s: cannot be mapped: %s", path, strerror(code));
    *out_map = (struct file_map){.data = data, .bytes = (size_t)bytes};
    return ST_OK;
}

void file_map_close(struct file_map *map)
{
    if (map->data != NULL)
        munmap((void *)(uintptr_t)map->data, map->bytes);
    *map = (struct file_map){0};
}
