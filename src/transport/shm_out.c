/* Connections that we opened: the way to a peer's pool, and our records to it. */
#include "transport/shm_int.h"

#include "base/time.h"
#include "observe/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define CALL_AGAIN_NS (20 * NS_PER_MS)

void shm_out_close(struct shm_peer *peer)
{
    if (peer->fd >= 0)
        close(peer->fd);
    if (peer->pool_fd >= 0)
        close(peer->pool_fd);
    if (peer->map != NULL)
        munmap(peer->map, peer->map_bytes);
    peer->fd = peer->pool_fd = -1;
    peer->map = NULL;
    peer->state = SHM_DOWN;
    peer->retry_ns = UINT64_MAX;
    peer->n_welcome = 0;
    peer->wants_out = false;
    if (!list_is_empty(&peer->records)) /* one that was cut is lost, the others start whole */
        list_entry(peer->records.next, struct shm_record, node)->sent = 0;
}

/* Connects, and says HELLO. */
void shm_out_open(struct shm *shm, struct shm_peer *peer)
{
    struct sockaddr_un name;
    uint8_t hello[SHM_HELLO_BYTES];
    uint32_t pid;
    socklen_t bytes = shm_socket_name(&peer->blob, &name);
    uint64_t now = time_monotonic_ns();
    if (peer->state == SHM_DOWN)
        peer->deadline_ns = now + SHM_HELLO_NS;
    shm_timer(shm, peer->deadline_ns);
    peer->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (peer->fd >= 0 && connect(peer->fd, (const struct sockaddr *)&name, bytes) != 0) {
        bool full = errno == EAGAIN;
        close(peer->fd);
        peer->fd = -1;
        if (full) {
            peer->state = SHM_CALLING;
            peer->retry_ns = now + CALL_AGAIN_NS;
            shm_timer(shm, peer->retry_ns);
            return;
        }
    }
    peer->state = SHM_WAITING;
    if (peer->fd < 0 || !shm_socket_pid(shm, peer->fd, &pid) || pid != peer->blob.pid ||
        shm_hello_of(shm, SHM_HELLO, 0, peer->instance, hello) != ST_OK ||
        send(peer->fd, hello, sizeof(hello), MSG_NOSIGNAL) != (ssize_t)sizeof(hello) ||
        !shm_watch(shm, peer->fd, SHM_OUT, (size_t)(peer - shm->peers)))
        shm_peer_lost(shm, peer);
}

/* ---- WELCOME ---- */

/* Keeps the first descriptor that came and closes any other. */
static bool descriptors_take(struct msghdr *msg, struct shm_peer *peer)
{
    bool good = (msg->msg_flags & MSG_CTRUNC) == 0;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(msg); head != NULL; head = CMSG_NXTHDR(msg, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = 0; at + sizeof(int) <= head->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
            int fd;
            memcpy(&fd, CMSG_DATA(head) + at, sizeof(fd));
            good &= peer->pool_fd < 0;
            if (peer->pool_fd < 0)
                peer->pool_fd = fd;
            else
                close(fd);
        }
    }
    return good;
}

/* Sealed, so that it can never become shorter than our mapping: reaching behind its end would end
 * this process. */
static bool pool_map(struct shm_peer *peer)
{
    struct stat file;
    int seals = fcntl(peer->pool_fd, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(peer->pool_fd, &file) != 0 ||
        __builtin_mul_overflow(peer->pool.block_bytes, (uint64_t)peer->pool.block_count,
                               &peer->map_bytes) ||
        peer->map_bytes == 0 || (uint64_t)file.st_size < peer->map_bytes)
        return false;
    void *map = mmap(NULL, peer->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, peer->pool_fd, 0);
    if (map == MAP_FAILED)
        return false;
    madvise(map, peer->map_bytes, MADV_HUGEPAGE);
    madvise(map, peer->map_bytes, MADV_DONTFORK);
    peer->map = map;
    peer->populated_bytes = 0;
    close(peer->pool_fd);
    peer->pool_fd = -1;
    return true;
}

static bool welcome_check(const struct shm *shm, struct shm_peer *peer)
{
    struct shm_hello hello;
    if (shm_hello_read(peer->welcome, SHM_HELLO_BYTES, &hello) != ST_OK ||
        hello.kind != SHM_WELCOME || hello.from != peer->instance ||
        hello.to != shm->opts.instance || hello.layout_hash != peer->pool.layout_hash ||
        hello.block_bytes != peer->pool.block_bytes ||
        hello.block_count != peer->pool.block_count ||
        ((hello.flags & SHM_FLAG_POOL) != 0) != (peer->pool_fd >= 0))
        return false;
    return peer->pool_fd < 0 || pool_map(peer);
}

/* False: the connection is over. */
static bool out_read(const struct shm *shm, struct shm_peer *peer)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(4 * sizeof(int))];
    } control;
    uint8_t byte;
    struct iovec iov = {.iov_base = peer->welcome + peer->n_welcome,
                        .iov_len = SHM_HELLO_BYTES - peer->n_welcome};
    if (peer->state == SHM_UP)
        iov = (struct iovec){.iov_base = &byte, .iov_len = 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(peer->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (!descriptors_take(&msg, peer) || n == 0 || peer->state == SHM_UP)
        return false; /* also: nothing comes behind WELCOME */
    peer->n_welcome += (uint32_t)n;
    if (peer->n_welcome < SHM_HELLO_BYTES)
        return true;
    if (!welcome_check(shm, peer))
        return false;
    peer->state = SHM_UP;
    return true;
}

/* ---- records ---- */

static void record_free(struct shm_peer *peer, struct shm_record *record)
{
    peer->record_bytes -= record->bytes;
    list_del(&record->node);
    free(record->data);
    free(record);
}

/* False: the connection is over. */
static bool out_write(struct shm *shm, struct shm_peer *peer)
{
    bool full = false;
    while (!full && !list_is_empty(&peer->records)) {
        struct shm_record *r = list_entry(peer->records.next, struct shm_record, node);
        uint8_t prefix[SHM_PREFIX] = {(uint8_t)r->bytes, (uint8_t)(r->bytes >> 8),
                                      (uint8_t)(r->bytes >> 16), (uint8_t)(r->bytes >> 24)};
        uint32_t skip = r->sent < SHM_PREFIX ? r->sent : SHM_PREFIX, at = r->sent - skip;
        struct iovec iov[2] = {{.iov_base = prefix + skip, .iov_len = SHM_PREFIX - skip},
                               {.iov_base = r->data + at, .iov_len = r->bytes - at}};
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
        ssize_t n = sendmsg(peer->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        full = n < 0;
        r->sent += n > 0 ? (uint32_t)n : 0;
        if (r->sent == r->bytes + SHM_PREFIX)
            record_free(peer, r);
    }
    if (full == peer->wants_out)
        return true;
    struct epoll_event event = {.events = EPOLLIN | (full ? EPOLLOUT : 0),
                                .data.u64 = SHM_OUT | (uint64_t)(peer - shm->peers) << 32};
    peer->wants_out = full;
    return epoll_ctl(shm->epoll, EPOLL_CTL_MOD, peer->fd, &event) == 0;
}

void shm_out_record(struct shm *shm, struct command *cmd)
{
    struct shm_peer *peer = shm_peer_of(shm, cmd->peer);
    if (peer == NULL || peer->failed || peer->fencing)
        return;
    struct shm_record *record = NULL;
    if (peer->record_bytes + cmd->bytes <= SHM_QUEUE_BYTES_MAX)
        record = calloc(1, sizeof(*record));
    if (record == NULL) {
        log_warn("record to peer dropped, too many wait", LOG_U64("peer", peer->instance));
        return;
    }
    record->bytes = cmd->bytes;
    record->data = cmd->data;
    cmd->data = NULL;
    list_add_tail(&peer->records, &record->node);
    peer->record_bytes += record->bytes;
    if (peer->state == SHM_UP && !peer->wants_out && !out_write(shm, peer))
        shm_peer_lost(shm, peer);
}

void shm_out_ready(struct shm *shm, struct shm_peer *peer, bool readable, bool writable)
{
    if (!peer->used || peer->fd < 0)
        return;
    bool was_up = peer->state == SHM_UP;
    if ((readable && !out_read(shm, peer)) ||
        (peer->state == SHM_UP && (writable || !was_up) && !out_write(shm, peer)))
        shm_peer_lost(shm, peer);
}
