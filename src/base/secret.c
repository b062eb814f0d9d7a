#include "base/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

static enum status secret_draw(uint8_t out[32])
{
    return getrandom(out, 32, 0) == 32 ? ST_OK : ST_IO;
}

enum status secret_load(const char *path, uint8_t out[32])
{
    if (path[0] == '\0')
        return secret_draw(out);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? ST_NOT_FOUND : ST_IO;
    ssize_t n = read(fd, out, 32);
    close(fd);
    return n == 32 ? ST_OK : n < 0 ? ST_IO : ST_INVALID;
}

enum status secret_create(const char *path)
{
    uint8_t bytes[32];
    if (secret_draw(bytes) != ST_OK)
        return ST_IO;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno == EEXIST ? ST_EXISTS : ST_IO;
    ssize_t n = write(fd, bytes, sizeof(bytes));
    return close(fd) == 0 && n == (ssize_t)sizeof(bytes) ? ST_OK : ST_IO;
}

uint64_t secret_u64(void)
{
    uint64_t value = 0;
    while (value == 0 && getrandom(&value, sizeof(value), 0) != sizeof(value))
        ;
    return value;
}
