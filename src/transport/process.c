#include "transport/process.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

uint64_t process_start(uint32_t pid)
{
    char path[64], text[1024], state = '\0';
    unsigned long long start = 0;
    snprintf(path, sizeof(path), "/proc/%u/stat", pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = '\0';
    const char *at = strrchr(text, ')'); /* the name may hold blanks */
    if (at == NULL ||
        sscanf(at + 1,
               " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
               &state, &start) != 2 ||
        state == 'Z' || state == 'X')
        return 0;
    return start;
}

uint64_t process_namespace(const char *kind)
{
    char path[64];
    struct stat ns;
    snprintf(path, sizeof(path), "/proc/self/ns/%s", kind);
    return stat(path, &ns) == 0 ? ns.st_ino : 0;
}

bool process_hosts_equal(const uint8_t a[16], const uint8_t b[16])
{
    static const uint8_t unknown[16];
    return memcmp(a, b, 16) == 0 && memcmp(a, unknown, 16) != 0;
}

bool process_is_other(uint32_t pid, uint64_t start)
{
    return pid > 0 && pid <= INT32_MAX && pid != (uint32_t)getpid() && start != 0;
}

/* The start is looked at after opening, so that it is that of the opened process. */
void process_open(struct process *out_process, uint32_t pid, uint64_t start)
{
    *out_process = (struct process){.pid = pid, .start = start};
    out_process->pidfd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    if (out_process->pidfd >= 0 && process_start(pid) != start)
        process_close(out_process);
}

void process_close(struct process *process)
{
    if (process->pidfd >= 0)
        close(process->pidfd);
    process->pidfd = -1;
}

bool process_is_dead(const struct process *process)
{
    if (process->pidfd >= 0) {
        struct pollfd fd = {.fd = process->pidfd, .events = POLLIN};
        return poll(&fd, 1, 0) == 1;
    }
    return process_start(process->pid) != process->start;
}

void process_kill(const struct process *process)
{
    if (process->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0);
    else if (process_start(process->pid) == process->start)
        kill((pid_t)process->pid, SIGKILL);
}
