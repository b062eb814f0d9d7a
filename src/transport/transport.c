#include "transport/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; EINVAL before */
#endif

#define PAGE_BYTES_MIN 4096u

/* Below where the kernel places libraries and stacks, inside what ThreadSanitizer and
 * AddressSanitizer let a program use on x86-64. */
#define WINDOW_BASE   0x7e9000000000ull
#define WINDOW_STRIDE (16ull << 30) /* one pool alone may be larger */
#define WINDOW_BYTES  (400ull << 30)

const struct transport_ops *const transport_table[] = {&transport_shm_ops, &transport_ucx_ops,
                                                       NULL};

uint64_t kv_window_base(uint32_t pool)
{
    return WINDOW_BASE + (uint64_t)pool * WINDOW_STRIDE;
}

/* -1: there are none here. */
static int memory_create(uint64_t bytes)
{
    int fd = memfd_create("dynd-kv-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && (ftruncate(fd, (off_t)bytes) != 0 ||
                    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static enum status memory_populate(void *base, uint64_t bytes)
{
    madvise(base, bytes, MADV_HUGEPAGE);
    madvise(base, bytes, MADV_DONTFORK);
    if (madvise(base, bytes, MADV_POPULATE_WRITE) == 0)
        return ST_OK;
    if (errno != EINVAL)
        return ST_NO_MEMORY;
    for (uint64_t at = 0; at < bytes; at += PAGE_BYTES_MIN)
        ((volatile uint8_t *)base)[at] = 0;
    return ST_OK;
}

enum status transport_pool_map(uint32_t pool, uint64_t bytes, void **out_base, int *out_fd)
{
    if (pool >= 16 || bytes == 0 || bytes > WINDOW_BYTES)
        return ST_TOO_LARGE;
    void *want = (void *)(uintptr_t)kv_window_base(pool);
    int fd = out_fd != NULL ? memory_create(bytes) : -1;
    int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void *base = mmap(want, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE, fd, 0);
    if (base != want) { /* perhaps a kernel that takes the address for a hint */
        enum status st = base != MAP_FAILED || errno == EEXIST ? ST_EXISTS : ST_NO_MEMORY;
        transport_pool_unmap(base != MAP_FAILED ? base : NULL, bytes, fd);
        return st;
    }
    enum status st = memory_populate(base, bytes);
    if (st != ST_OK) {
        transport_pool_unmap(base, bytes, fd);
        return st;
    }
    *out_base = base;
    if (out_fd != NULL)
        *out_fd = fd;
    return ST_OK;
}

void transport_pool_unmap(void *base, uint64_t bytes, int fd)
{
    if (base != NULL)
        munmap(base, bytes);
    if (fd >= 0)
        close(fd);
}

void transport_host_id(uint8_t out[16])
{
    char text[64] = "";
    unsigned value;
    memset(out, 0, 16);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    for (unsigned i = 0, at = 0; i < 16 && (ssize_t)at + 1 < n; at += 2) {
        if (text[at] == '-')
            at++;
        if (sscanf(text + at, "%2x", &value) != 1)
            return;
        out[i++] = (uint8_t)value;
    }
}

static bool is_allowed(const char *name, const char *const *require, uint32_t n_require)
{
    for (uint32_t i = 0; i < n_require; i++)
        if (strcmp(name, require[i]) == 0)
            return true;
    return n_require == 0;
}

/* Refusal or version in out_reason. */
static bool is_fit(const struct transport_ops *ops, const char *wanted, const char *const *require,
                   uint32_t n_require, char *out_reason, uint32_t reason_bytes)
{
    if (strcmp(wanted, "auto") != 0 && strcmp(wanted, ops->name) != 0)
        snprintf(out_reason, reason_bytes, "kv_transfer.transport asks for %s", wanted);
    else if (!is_allowed(ops->name, require, n_require))
        snprintf(out_reason, reason_bytes, "kv_transfer.require does not list it");
    else
        return ops->probe(out_reason, reason_bytes) == ST_OK;
    return false;
}

enum status transport_select(const char *wanted, const char *const *require, uint32_t n_require,
                             const struct transport_ops **out_ops, char *out_why,
                             uint32_t why_bytes)
{
    uint32_t used = 0, n_fit = 0;
    char reason[256];
    if (why_bytes > 0)
        out_why[0] = '\0';
    for (const struct transport_ops *const *ops = transport_table; *ops != NULL; ops++) {
        bool fit = is_fit(*ops, wanted, require, n_require, reason, sizeof(reason));
        if (fit)
            *out_ops = n_fit++ == 0 ? *ops : &transport_pair_ops;
        int n = snprintf(out_why + used, why_bytes - used, "%s%s: %s; ", (*ops)->name,
                         fit ? "" : " refused", reason);
        if (n > 0 && used + (uint32_t)n < why_bytes)
            used += (uint32_t)n;
        else
            used = why_bytes > 0 ? why_bytes - 1 : 0; /* full */
    }
    return n_fit > 0 ? ST_OK : ST_UNSUPPORTED;
}
