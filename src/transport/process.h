/* Another process of this host: told apart from a later one of the same pid, watched and, when it
 * has to be fenced, killed. Any thread. */
#ifndef TRANSPORT_PROCESS_H
#define TRANSPORT_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

struct process {
    uint32_t pid;
    uint64_t start; /* as process_start gave it in that process */
    int pidfd;      /* readable when it is dead. -1: not open */
};

/* Clock ticks from boot to the start of `pid`, /proc/<pid>/stat field 22. 0: there is no such
 * process, or it is dead. */
uint64_t process_start(uint32_t pid);
/* Inode of the own namespace of a kind ("pid", "net"); 0: unknown, which is never equal. */
uint64_t process_namespace(const char *kind);
/* Whether two ids of transport_host_id name one host; zero is unknown and never equal. */
bool process_hosts_equal(const uint8_t a[16], const uint8_t b[16]);
/* Whether pid and start can be another process: a bad pid would make kill() hit more than one. */
bool process_is_other(uint32_t pid, uint64_t start);
/* pidfd stays -1 when it is gone, or the kernel knows no pidfd. */
void process_open(struct process *out_process, uint32_t pid, uint64_t start);
void process_close(struct process *process);
/* Gone, or never to be found again under this pid. */
bool process_is_dead(const struct process *process);
/* SIGKILL; never to a process that only has the same pid. */
void process_kill(const struct process *process);

#endif
