#include "transport/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Below where the kernel places libraries and stacks, inside what ThreadSanitizer and
 * AddressSanitizer let a program use on x86-64. */
#define WINDOW_BASE 0x7e9000000000ull
#define WINDOW_STRIDE                                                                              \
    (16ull << 30) /* between pools of one process; one pool alone may be larger                    \
                   */
#define WINDOW_BYTES (400ull << 30)

const struct transport_ops *const transport_table[] = {&transport_ucx_ops, NULL};

uint64_t kv_window_base(uint32_t pool)
{
    return WINDOW_BASE + (uint64_t)pool * WINDOW_STRIDE;
}

enum status transport_pool_map(uint32_t pool, uint64_t bytes, void **out_base)
{
    if (pool >= 16 || bytes == 0 || bytes > WINDOW_BYTES)
        return ST_TOO_LARGE;
    void *want = (void *)(uintptr_t)kv_window_base(pool);
    void *base = mmap(want, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (base == MAP_FAILED)
        return errno == EEXIST ? ST_EXISTS : ST_NO_MEMORY;
    if (base != want) { /* a kernel that takes the address for a hint */
        munmap(base, bytes);
        return ST_EXISTS;
    }
    madvise(base, bytes, MADV_HUGEPAGE);
    madvise(base, bytes, MADV_DONTFORK);
    *out_base = base;
    return ST_OK;
}

void transport_pool_unmap(void *base, uint64_t bytes)
{
    if (base != NULL)
        munmap(base, bytes);
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

enum status transport_select(const char *wanted, const char *const *require, uint32_t n_require,
                             const struct transport_ops **out_ops, char *out_why,
                             uint32_t why_bytes)
{
    uint32_t used = 0;
    char reason[256];
    if (why_bytes > 0)
        out_why[0] = '\0';
    for (const struct transport_ops *const *ops = transport_table; *ops != NULL; ops++) {
        const char *name = (*ops)->name;
        if (strcmp(wanted, "auto") != 0 && strcmp(wanted, name) != 0)
            snprintf(reason, sizeof(reason), "kv_transfer.transport asks for %s", wanted);
        else if (!is_allowed(name, require, n_require))
            snprintf(reason, sizeof(reason), "kv_transfer.require does not list it");
        else if ((*ops)->probe(reason, sizeof(reason)) == ST_OK) {
            snprintf(out_why + used, why_bytes - used, "%s: %s", name, reason);
            *out_ops = *ops;
            return ST_OK;
        }
        int n = snprintf(out_why + used, why_bytes - used, "%s refused: %s; ", name, reason);
        used = n > 0 && used + (uint32_t)n < why_bytes ? used + (uint32_t)n : used;
    }
    return ST_UNSUPPORTED;
}
