/* For tests against a peer in a process of its own, which stops, dies or has to be killed. The peer
 * is the test's program again, started with arguments: so nothing of the transport is shared by a
 * fork. Both processes map pool 0. The test drives the peer over a socket, one request and one
 * answer at a time, and the peer dies with it. */
#ifndef TESTS_PEER_KIT_H
#define TESTS_PEER_KIT_H

#include "transport_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define SELF      101u
#define PEER      202u
#define PEER_ARGS 7 /* of a peer's command line */

/* ---- the control socket ---- */

enum ask {
    ASK_CONNECT, /* payload: struct wire_peer and its blob */
    ASK_POOL,    /* answer: the pool */
    ASK_PUSH,   /* arg: how many times the whole pool; answer when all are done: how many were ok */
    ASK_WRITE,  /* push for ever; answer at once */
    ASK_RECORD, /* arg: bytes, filled from seed `bytes` */
    ASK_TAKE,   /* next record; answer: struct taken */
    ASK_FILL,   /* arg: seed of the pool's content */
    ASK_FENCE,  /* fence us, which for a peer that does not write closes the connection */
    ASK_CLOSE   /* close all and exit */
};

struct frame {
    uint32_t kind, bytes;
    uint64_t arg;
};

struct taken {
    uint32_t bytes, unused;
    uint64_t record_hash, pool_hash;
};

static void socket_move(int fd, void *data, size_t bytes, bool out)
{
    for (size_t at = 0; at < bytes;) {
        struct pollfd p = {.fd = fd, .events = out ? POLLOUT : POLLIN};
        if (poll(&p, 1, WAIT_MS) != 1)
            fail_msg("the other process does not answer");
        ssize_t n = out ? send(fd, (char *)data + at, bytes - at, MSG_NOSIGNAL)
                        : recv(fd, (char *)data + at, bytes - at, 0);
        if (n <= 0)
            fail_msg("the other process is gone");
        at += (size_t)n;
    }
}

static void frame_send(int fd, uint32_t kind, uint64_t arg, const void *data, uint32_t bytes)
{
    struct frame frame = {.kind = kind, .bytes = bytes, .arg = arg};
    socket_move(fd, &frame, sizeof(frame), true);
    if (bytes > 0)
        socket_move(fd, (void *)(uintptr_t)data, bytes, true);
}

static struct frame frame_receive(int fd, void *data, uint32_t bytes_max)
{
    struct frame frame;
    socket_move(fd, &frame, sizeof(frame), false);
    assert_in_range(frame.bytes, 0, bytes_max);
    if (frame.bytes > 0)
        socket_move(fd, data, frame.bytes, false);
    return frame;
}

/* ---- the peer's side ---- */

struct exported {
    struct wire_peer info;
    uint8_t blob[WIRE_BLOB_BYTES_MAX];
};

static struct exported export_of(const struct node *node)
{
    struct exported e = {.info = node->info};
    memcpy(e.blob, node->info.blob, node->info.blob_bytes);
    e.info.blob = NULL;
    return e;
}

static void peer_write_forever(struct node *node)
{
    for (uint32_t n = 0;; n++) {
        node_push_pool(node, SELF, n % N_IDS, UINT64_MAX);
        if (n >= 4)
            node_wait(node, TRANSPORT_PUSH_DONE, n - 3);
    }
}

static bool peer_answer(struct node *node, int fd)
{
    struct exported e;
    struct taken taken = {0};
    struct frame ask = frame_receive(fd, &e, sizeof(e));
    uint8_t *data;
    uint32_t n_done = node->n[TRANSPORT_PUSH_DONE];
    uint64_t answer = 0;
    switch ((enum ask)ask.kind) {
    case ASK_CONNECT:
        e.info.blob = e.blob;
        answer = node_connect(node, &e.info);
        break;
    case ASK_POOL:
        frame_send(fd, ask.kind, 0, node->pool, POOL_BYTES);
        return true;
    case ASK_PUSH:
        for (uint32_t i = 0; i < ask.arg; i++)
            node_push_pool(node, SELF, i, UINT64_MAX);
        node_wait(node, TRANSPORT_PUSH_DONE, n_done + (uint32_t)ask.arg);
        for (uint32_t i = 0; i < ask.arg; i++)
            answer += node->status[i] == ST_OK;
        break;
    case ASK_WRITE:
        frame_send(fd, ask.kind, 0, NULL, 0);
        peer_write_forever(node);
        return false;
    case ASK_RECORD:
        data = malloc(ask.arg);
        assert_non_null(data);
        bytes_fill(data, ask.arg, ask.arg);
        answer = node->ops->record(node->t, SELF, data, (uint32_t)ask.arg);
        free(data);
        break;
    case ASK_TAKE:
        node->want_hash = true;
        node_wait(node, TRANSPORT_RECORD, node->n[TRANSPORT_RECORD] + 1);
        taken = (struct taken){.bytes = node->record_bytes,
                               .record_hash = hash_bytes(node->record, node->record_bytes),
                               .pool_hash = node->pool_hash};
        frame_send(fd, ask.kind, 0, &taken, sizeof(taken));
        return true;
    case ASK_FILL:
        bytes_fill(node->pool, POOL_BYTES, ask.arg);
        break;
    case ASK_FENCE:
        answer = node->ops->fence(node->t, SELF);
        node_wait(node, TRANSPORT_FENCED, node->n[TRANSPORT_FENCED] + 1);
        break;
    case ASK_CLOSE:
        return false;
    }
    frame_send(fd, ask.kind, answer, NULL, 0);
    return true;
}

static int peer_fd;
static uint64_t peer_instance;
static uint32_t role;
static bool peer_has_host;

static void peer_run(void **state)
{
    (void)state;
    struct node node;
    uint8_t host_id[16] = {0};
    if (peer_has_host)
        transport_host_id(host_id);
    node_open_as(&node, 0, peer_instance, role, host_id);
    struct exported e = export_of(&node);
    frame_send(peer_fd, 0, 0, &e, sizeof(e));
    struct pollfd p = {.fd = peer_fd, .events = POLLIN};
    do
        assert_int_equal(poll(&p, 1, 6 * WAIT_MS), 1);
    while (peer_answer(&node, peer_fd));
    node_close(&node);
}

/* Arguments: "peer" fd role has_host tls instance. Exits 0 if all went well, sanitizers' findings
 * included.
 */
static int peer_main(char **argv)
{
    const struct CMUnitTest run = cmocka_unit_test(peer_run);
    peer_fd = atoi(argv[2]);
    role = (uint32_t)atoi(argv[3]);
    peer_has_host = argv[4][0] == '1';
    if (argv[5][0] != '\0')
        setenv("UCX_TLS", argv[5], 1);
    peer_instance = strtoull(argv[6], NULL, 10);
    return _cmocka_run_group_tests("peer", &run, 1, NULL, NULL);
}

/* ---- the test's side ---- */

struct link {
    struct node node; /* connected to the peer */
    pid_t pid;
    int fd;
    struct exported peer;
    uint8_t *copy; /* [POOL_BYTES] scratch */
};

static uint64_t ask(struct link *link, enum ask kind, uint64_t arg)
{
    frame_send(link->fd, kind, arg, NULL, 0);
    return frame_receive(link->fd, NULL, 0).arg;
}

/* Tells the peer of `node`. */
static void ask_connect_to(struct link *link, const struct node *node)
{
    struct exported e = export_of(node);
    frame_send(link->fd, ASK_CONNECT, 0, &e, sizeof(e));
    assert_int_equal(frame_receive(link->fd, NULL, 0).arg, ST_OK);
}

static void ask_connect(struct link *link)
{
    ask_connect_to(link, &link->node);
}

/* Starts a peer. Neither side has connected yet. */
static void peer_spawn(struct link *link, uint32_t peer_role, bool host, const char *tls,
                       uint64_t instance)
{
    int fds[2];
    char fd_text[16], role_text[16], instance_text[32];
    pid_t parent = getpid();
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    snprintf(fd_text, sizeof(fd_text), "%d", fds[1]);
    snprintf(role_text, sizeof(role_text), "%u", peer_role);
    snprintf(instance_text, sizeof(instance_text), "%llu", (unsigned long long)instance);
    char *const argv[] = {
        "test_peer",   "peer", fd_text, role_text, host ? "1" : "0", (char *)(uintptr_t)tls,
        instance_text, NULL};
    link->pid = fork();
    assert_true(link->pid >= 0);
    if (link->pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent || fcntl(fds[1], F_SETFD, 0) != 0 || dup2(null, 1) < 0)
            _exit(99);
        execv("/proc/self/exe", argv);
        _exit(98);
    }
    close(fds[1]);
    link->fd = fds[0];
    frame_receive(link->fd, &link->peer, sizeof(link->peer));
    link->peer.info.blob = link->peer.blob;
}

static void peer_start(struct link *link, uint32_t peer_role, bool host, const char *tls)
{
    peer_spawn(link, peer_role, host, tls, PEER);
    assert_int_equal(node_connect(&link->node, &link->peer.info), ST_OK);
    if (KIT_TELLS_BOTH)
        ask_connect(link);
}

/* host: both know that they are on one. tls: UCX_TLS of both; "": UCX's choice. */
static struct link *link_open(uint32_t peer_role, bool host, const char *tls)
{
    struct link *link = calloc(1, sizeof(*link));
    uint8_t host_id[16] = {0};
    assert_non_null(link);
    link->copy = malloc(POOL_BYTES);
    assert_non_null(link->copy);
    if (host)
        transport_host_id(host_id);
    if (tls[0] != '\0')
        setenv("UCX_TLS", tls, 1);
    node_open_as(&link->node, 0, SELF,
                 peer_role == WIRE_ROLE_PREFILL ? WIRE_ROLE_DECODE : WIRE_ROLE_PREFILL, host_id);
    unsetenv("UCX_TLS");
    peer_start(link, peer_role, host, tls);
    return link;
}

/* Waits until the peer's end, with a deadline; its wait status. */
static int peer_wait(struct link *link)
{
    int status = 0;
    char byte;
    struct pollfd p = {.fd = link->fd, .events = POLLIN};
    if (poll(&p, 1, WAIT_MS) != 1) /* its end of the socket is closed when it is gone */
        fail_msg("the peer does not end");
    assert_true(recv(link->fd, &byte, 1, 0) <= 0);
    assert_int_equal(waitpid(link->pid, &status, 0), link->pid);
    link->pid = 0;
    return status;
}

static bool peer_lives(const struct link *link)
{
    siginfo_t info = {0};
    assert_int_equal(waitid(P_PID, (id_t)link->pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info.si_pid == 0;
}

/* A stopped peer has left the run queue when this returns. */
static void peer_stop(const struct link *link)
{
    siginfo_t info = {0};
    kill(link->pid, SIGSTOP);
    assert_int_equal(waitid(P_PID, (id_t)link->pid, &info, WSTOPPED | WNOWAIT), 0);
}

static void link_close(struct link *link)
{
    if (link->pid != 0) {
        frame_send(link->fd, ASK_CLOSE, 0, NULL, 0);
        assert_int_equal(peer_wait(link), 0);
    }
    uint64_t start = time_monotonic_ns();
    node_close(&link->node);
    assert_true(time_monotonic_ns() - start < 5 * NS_PER_S);
    close(link->fd);
    free(link->copy);
    free(link);
}

#endif
