/* Connections that other processes opened to us: who they are, whether they get our pool, and their
 * records. A fault closes the connection and nothing else; the writer sees that and reports it. */
#include "transport/shm_int.h"

#include "base/time.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LISTEN_AGAIN_NS (100 * NS_PER_MS)
#define READ_BYTES_MAX  (1u << 20) /* of one connection, before the next is looked at */

void shm_in_close(struct shm_in *in)
{
    if (in->fd >= 0)
        close(in->fd);
    free(in->body);
    *in = (struct shm_in){.fd = -1};
}

void shm_in_close_of(struct shm *shm, const struct shm_peer *peer)
{
    for (uint32_t i = 0; i < SHM_INS_MAX; i++)
        if (shm->ins[i].fd >= 0 && shm->ins[i].peer == peer)
            shm_in_close(&shm->ins[i]);
}

static void in_begin(struct shm *shm, int fd)
{
    uint32_t pid, i = 0;
    while (i < SHM_INS_MAX && shm->ins[i].fd >= 0)
        i++;
    if (i == SHM_INS_MAX || !shm_socket_pid(shm, fd, &pid) || !shm_watch(shm, fd, SHM_IN, i)) {
        close(fd);
        return;
    }
    shm->ins[i] =
        (struct shm_in){.fd = fd, .pid = pid, .deadline_ns = time_monotonic_ns() + SHM_HELLO_NS};
    shm_timer(shm, shm->ins[i].deadline_ns);
}

void shm_in_accept(struct shm *shm)
{
    for (uint32_t n = 0; n < SHM_INS_MAX; n++) {
        int fd = accept4(shm->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
            return;
        if (fd < 0) { /* no descriptors: it would stay readable */
            epoll_ctl(shm->epoll, EPOLL_CTL_DEL, shm->listener, NULL);
            shm->listen_ns = time_monotonic_ns() + LISTEN_AGAIN_NS;
            shm_timer(shm, shm->listen_ns);
            return;
        }
        in_begin(shm, fd);
    }
}

static bool welcome_send(struct shm *shm, struct shm_in *in, bool with_pool)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    uint8_t hello[SHM_HELLO_BYTES];
    struct iovec iov = {.iov_base = hello, .iov_len = sizeof(hello)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (shm_hello_of(shm, SHM_WELCOME, with_pool ? SHM_FLAG_POOL : 0, in->hello.from, hello) !=
        ST_OK)
        return false;
    if (with_pool) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &shm->opts.pool_fd, sizeof(int));
    }
    return sendmsg(in->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(hello);
}

/* False: to be closed. A peer that we were not told of, or that is being fenced, waits. */
static bool in_admit(struct shm *shm, struct shm_in *in)
{
    struct shm_peer *peer = shm_peer_of(shm, in->hello.from);
    if (peer == NULL || peer->fencing)
        return true;
    /* The pid is that of the process we were told of, and it lives: so it cannot be another one. */
    if (in->pid != peer->blob.pid || (peer->is_other && process_is_dead(&peer->process)))
        return false;
    shm_in_close_of(shm, peer); /* it has connected anew */
    in->peer = peer;
    in->n_head = 0;
    peer->granted |= peer->is_writer; /* before: what happens next is not known if it fails */
    return welcome_send(shm, in, peer->is_writer);
}

void shm_in_welcome(struct shm *shm, struct shm_peer *peer)
{
    for (uint32_t i = 0; i < SHM_INS_MAX; i++) {
        struct shm_in *in = &shm->ins[i];
        if (in->fd >= 0 && in->hello_read && in->peer == NULL && in->hello.from == peer->instance &&
            !in_admit(shm, in))
            shm_in_close(in);
    }
}

/* ---- bytes ---- */

/* 1: took some; 0: nothing there; -1: closed, or to be closed. */
static int in_read(struct shm_in *in, uint8_t *data, uint32_t bytes, uint32_t *n)
{
    ssize_t got = recv(in->fd, data + *n, bytes - *n, MSG_DONTWAIT);
    if (got > 0)
        *n += (uint32_t)got;
    if (got > 0)
        return 1;
    return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

static int hello_step(struct shm *shm, struct shm_in *in)
{
    int rc = in_read(in, in->head, SHM_HELLO_BYTES, &in->n_head);
    if (rc != 1 || in->n_head < SHM_HELLO_BYTES)
        return rc;
    if (shm_hello_read(in->head, in->n_head, &in->hello) != ST_OK || in->hello.kind != SHM_HELLO ||
        in->hello.to != shm->opts.instance || in->hello.layout_hash != shm->opts.pool.layout_hash ||
        in->hello.block_bytes != shm->opts.pool.block_bytes)
        return -1;
    in->hello_read = true;
    return in_admit(shm, in) ? 1 : -1;
}

static int record_step(struct shm *shm, struct shm_in *in)
{
    int rc;
    if (in->body == NULL) {
        rc = in_read(in, in->head, SHM_PREFIX, &in->n_head);
        if (rc != 1 || in->n_head < SHM_PREFIX)
            return rc;
        in->body_bytes = (uint32_t)in->head[0] | (uint32_t)in->head[1] << 8 |
                         (uint32_t)in->head[2] << 16 | (uint32_t)in->head[3] << 24;
        in->n_head = in->n_body = 0;
        if (in->body_bytes == 0 || in->body_bytes > TRANSPORT_RECORD_BYTES_MAX)
            return -1;
        in->body = malloc(in->body_bytes);
        return in->body != NULL ? 1 : -1;
    }
    rc = in_read(in, in->body, in->body_bytes, &in->n_body);
    if (rc != 1 || in->n_body < in->body_bytes)
        return rc;
    mailbox_post(&shm->box, &(struct transport_event){.kind = TRANSPORT_RECORD,
                                                      .peer = in->peer->instance,
                                                      .data = in->body,
                                                      .bytes = in->body_bytes});
    free(in->body);
    in->body = NULL;
    return 1;
}

static int in_step(struct shm *shm, struct shm_in *in)
{
    uint8_t byte;
    uint32_t none = 0;
    if (!in->hello_read)
        return hello_step(shm, in);
    if (in->peer != NULL)
        return record_step(shm, in);
    return in_read(in, &byte, 1, &none) == 0 ? 0 : -1; /* nothing may come before WELCOME */
}

void shm_in_ready(struct shm *shm, struct shm_in *in)
{
    for (uint32_t n = 0; in->fd >= 0 && n < READ_BYTES_MAX;) {
        int rc = in_step(shm, in);
        if (rc < 0)
            shm_in_close(in);
        if (rc <= 0)
            return;
        n += in->n_body + SHM_PREFIX;
    }
}

void shm_in_drain(struct shm *shm, const struct shm_peer *peer)
{
    for (uint32_t i = 0; i < SHM_INS_MAX; i++) {
        struct shm_in *in = &shm->ins[i];
        while (in->fd >= 0 && in->peer == peer && in_step(shm, in) == 1)
            ;
    }
    shm_in_close_of(shm, peer);
}

void shm_in_tick(struct shm *shm, uint64_t now_ns)
{
    if (shm->listen_ns != 0 && now_ns >= shm->listen_ns) {
        shm->listen_ns = 0;
        shm_watch(shm, shm->listener, SHM_LISTENER, 0);
    } else if (shm->listen_ns != 0) {
        shm_timer(shm, shm->listen_ns);
    }
    for (uint32_t i = 0; i < SHM_INS_MAX; i++) {
        struct shm_in *in = &shm->ins[i];
        if (in->fd < 0 || in->peer != NULL)
            continue;
        if (now_ns >= in->deadline_ns)
            shm_in_close(in);
        else
            shm_timer(shm, in->deadline_ns);
    }
}
