/* The thread of the shm transport: commands, a slice of copying, then whatever is ready. */
#include "transport/shm_int.h"

#include "base/time.h"

#include <sys/epoll.h>

#define EVENTS_MAX 64

bool shm_watch(struct shm *shm, int fd, enum shm_source source, size_t index)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = source | (uint64_t)index << 32};
    return epoll_ctl(shm->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

void shm_timer(struct shm *shm, uint64_t at_ns)
{
    if (at_ns < shm->timer_ns)
        shm->timer_ns = at_ns;
}

/* False when the transport is being closed. */
static bool commands_run(struct shm *shm)
{
    struct command *cmd;
    while (mailbox_take(&shm->box, &cmd)) {
        if (cmd == NULL)
            return true;
        switch (cmd->kind) {
        case COMMAND_CONNECT:
            shm_peer_connect(shm, cmd);
            break;
        case COMMAND_PUSH:
            shm_peer_push(shm, cmd);
            break;
        case COMMAND_RECORD:
            shm_out_record(shm, cmd);
            break;
        case COMMAND_FENCE:
            shm_peer_fence(shm, cmd->peer);
            break;
        }
        command_free(cmd);
    }
    return false;
}

/* An event may be about what an event before it closed, even if its slot is in use again: a look at
 * something that is not ready does nothing. */
static void event_run(struct shm *shm, const struct epoll_event *event)
{
    uint32_t index = (uint32_t)(event->data.u64 >> 32);
    bool readable = (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;
    bool writable = (event->events & EPOLLOUT) != 0;
    switch ((enum shm_source)(event->data.u64 & UINT32_MAX)) {
    case SHM_COMMANDS:
        return; /* looked at in each round */
    case SHM_LISTENER:
        shm_in_accept(shm);
        return;
    case SHM_PIDFD:
        shm_peer_died(shm, &shm->peers[index]);
        return;
    case SHM_OUT:
        shm_out_ready(shm, &shm->peers[index], readable, writable);
        return;
    case SHM_IN:
        shm_in_ready(shm, &shm->ins[index]);
        return;
    }
}

static int timeout_ms(const struct shm *shm, bool more, uint64_t now)
{
    if (more || shm->timer_ns <= now)
        return 0;
    uint64_t ms = (shm->timer_ns - now + NS_PER_MS - 1) / NS_PER_MS;
    return ms > 60000 ? 60000 : (int)ms;
}

void *shm_thread_main(void *arg)
{
    struct shm *shm = arg;
    struct epoll_event events[EVENTS_MAX];
    for (;;) {
        bool more = shm->n_pushes > 0 ? shm_pushes_run(shm) : shm_peers_populate(shm);
        int n =
            epoll_wait(shm->epoll, events, EVENTS_MAX, timeout_ms(shm, more, time_monotonic_ns()));
        if (!commands_run(
                shm)) /* before the events: a push that came before a loss fails with it */
            break;
        for (int i = 0; i < n; i++)
            event_run(shm, &events[i]);
        uint64_t now = time_monotonic_ns();
        if (now >= shm->timer_ns) {
            shm->timer_ns = UINT64_MAX;
            shm_peers_tick(shm, now);
            shm_in_tick(shm, now);
        }
    }
    shm_peers_close(shm);
    return NULL;
}
