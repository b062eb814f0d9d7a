/* The shm transport between two pools of one process, and against strangers: raw sockets that say
 * what they should not. */
#define KIT_OPS        (&transport_shm_ops)
#define KIT_TELLS_BOTH true

#include "pair_cases.h"
#include "transport/shm_int.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define RAW 909u

/* ---- open and connect ---- */

static void
test_open_with_pool_elsewhere_is_invalid_and_with_a_private_one_unsupported(void **state)
{
    (void)state;
    static uint8_t elsewhere[4096];
    struct transport *t = NULL;
    struct transport_opts opts = {.pool = {.block_count = 1, .block_bytes = sizeof(elsewhere)},
                                  .pool_base = elsewhere,
                                  .pool_fd = -1};
    assert_int_equal(transport_shm_ops.open(&opts, &t), ST_INVALID);
    opts.pool_base = (void *)(uintptr_t)kv_window_base(0);
    assert_int_equal(transport_shm_ops.open(&opts, &t), ST_UNSUPPORTED);
    assert_null(t);
    transport_shm_ops.close(NULL);
}

static void test_describe_stays_inside(void **state)
{
    struct pair *p = *state;
    char text[256], small[8];
    p->a.ops->describe(p->a.t, text, sizeof(text));
    assert_non_null(strstr(text, "shared memory"));
    p->a.ops->describe(p->a.t, small, sizeof(small));
    assert_int_equal(strlen(small), sizeof(small) - 1);
}

static void test_connect_with_malformed_blob_is_refused(void **state)
{
    struct pair *p = *state;
    struct wire_peer peer = p->b.info;
    uint8_t blob[SHM_BLOB_BYTES];
    peer.instance = 303;
    assert_int_equal(peer.blob_bytes, sizeof(blob));
    memcpy(blob, p->b.info.blob, sizeof(blob));
    peer.blob = blob;
    peer.blob_bytes = 0;
    assert_int_equal(node_connect(&p->a, &peer), ST_PARSE);
    peer.blob_bytes = sizeof(blob) - 1;
    assert_int_equal(node_connect(&p->a, &peer), ST_PARSE);
    peer.blob_bytes = sizeof(blob);
    for (size_t bit = 0; bit < 8 * sizeof(blob); bit++) {
        blob[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(node_connect(&p->a, &peer), bit < 32 ? ST_VERSION : ST_MISMATCH);
        blob[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    node_check_quiet(&p->a, 20);
}

static void test_connect_to_a_peer_out_of_reach_is_unsupported(void **state)
{
    struct pair *p = *state;
    struct shm_blob own, other;
    assert_int_equal(shm_blob_read(p->b.info.blob, p->b.info.blob_bytes, &own), ST_OK);
    for (unsigned i = 0; i < 7; i++) {
        struct wire_peer peer = p->b.info;
        struct buf blob;
        peer.instance = 303;
        other = own;
        peer.host_id[3] ^= i == 0;
        memset(peer.host_id, i == 1 ? 0 : peer.host_id[0], i == 1 ? 16 : 1);
        other.pid_ns = i == 2 ? own.pid_ns + 1 : i == 3 ? 0 : own.pid_ns;
        other.net_ns = i == 4 ? own.net_ns + 1 : i == 5 ? 0 : own.net_ns;
        other.uid += i == 6;
        buf_init(&blob, SHM_BLOB_BYTES);
        assert_int_equal(shm_blob_write(&other, &blob), ST_OK);
        peer.blob = blob.data;
        assert_int_equal(node_connect(&p->a, &peer), ST_UNSUPPORTED);
        buf_deinit(&blob);
    }
    node_check_quiet(&p->a, 20);
}

/* ---- a raw peer ---- */

/* Tells `node` of a peer RAW in this process with a socket of its own. Its listener; blob: given to
 * buf_deinit. */
static int raw_announce(struct node *node, uint32_t role, struct wire_peer *out, struct buf *blob)
{
    struct shm_blob own;
    struct sockaddr_un name;
    assert_int_equal(shm_blob_read(node->info.blob, node->info.blob_bytes, &own), ST_OK);
    own.name[0] ^= 0xff;
    buf_init(blob, SHM_BLOB_BYTES);
    assert_int_equal(shm_blob_write(&own, blob), ST_OK);
    *out = node->info;
    out->instance = RAW;
    out->role = role;
    out->blob = blob->data;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t bytes = shm_socket_name(&own, &name);
    assert_int_equal(bind(fd, (const struct sockaddr *)&name, bytes), 0);
    assert_int_equal(listen(fd, 8), 0);
    return fd;
}

static int raw_connect(const struct node *node)
{
    struct shm_blob blob;
    struct sockaddr_un name;
    assert_int_equal(shm_blob_read(node->info.blob, node->info.blob_bytes, &blob), ST_OK);
    socklen_t bytes = shm_socket_name(&blob, &name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&name, bytes), 0);
    return fd;
}

static struct shm_hello raw_hello(const struct node *to)
{
    return (struct shm_hello){.kind = SHM_HELLO,
                              .from = RAW,
                              .to = to->info.instance,
                              .layout_hash = LAYOUT,
                              .block_bytes = BLOCK_BYTES,
                              .block_count = N_BLOCKS};
}

/* With up to two descriptors. */
static void raw_send(int fd, const void *data, size_t bytes, const int *fds, size_t n_fds)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = bytes};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (n_fds > 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(head), fds, n_fds * sizeof(int));
    }
    assert_int_equal(sendmsg(fd, &msg, MSG_NOSIGNAL), bytes);
}

static void raw_hello_send(int fd, const struct shm_hello *hello, const int *fds, size_t n_fds)
{
    struct buf buf;
    buf_init(&buf, SHM_HELLO_BYTES);
    assert_int_equal(shm_hello_write(hello, &buf), ST_OK);
    raw_send(fd, buf.data, buf.len, fds, n_fds);
    buf_deinit(&buf);
}

/* WELCOME and the descriptor that came with it, -1 for none. False: the connection was closed. */
static bool raw_welcome(int fd, struct shm_hello *out, int *out_fd)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    uint8_t data[SHM_HELLO_BYTES];
    struct iovec iov = {.iov_base = data, .iov_len = sizeof(data)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, WAIT_MS), 1);
    ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    *out_fd = -1;
    if (n <= 0)
        return false;
    assert_int_equal(n, SHM_HELLO_BYTES);
    assert_int_equal(shm_hello_read(data, SHM_HELLO_BYTES, out), ST_OK);
    struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
    if (head != NULL)
        memcpy(out_fd, CMSG_DATA(head), sizeof(*out_fd));
    return true;
}

static void raw_check_closed(int fd)
{
    char byte;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, WAIT_MS), 1);
    assert_true(recv(fd, &byte, 1, 0) <= 0);
    close(fd);
}

/* All between a and b is as it was, and nobody heard of the raw peer. */
static void check_others(struct pair *p, uint64_t seed)
{
    uint32_t n = p->a.n[TRANSPORT_PUSH_DONE];
    bytes_fill(p->a.pool, POOL_BYTES, seed);
    assert_int_equal(node_push_pool(&p->a, B, 1, UINT64_MAX), ST_OK);
    node_wait(&p->a, TRANSPORT_PUSH_DONE, n + 1);
    assert_int_equal(p->a.status[1], ST_OK);
    assert_memory_equal(p->a.pool, p->b.pool, POOL_BYTES);
    check_record(p, 1000, seed);
    assert_int_equal(p->b.n[TRANSPORT_PEER_ERROR], 0);
}

/* ---- strangers: connections to b ---- */

static void test_stranger_gets_nothing_until_it_is_announced(void **state)
{
    struct pair *p = *state;
    struct shm_hello hello = raw_hello(&p->b), welcome;
    struct wire_peer peer;
    struct buf blob;
    int pool_fd, fd = raw_connect(&p->b);
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    raw_hello_send(fd, &hello, NULL, 0);
    assert_int_equal(poll(&poll_fd, 1, 100), 0);
    check_others(p, 1);
    int listener = raw_announce(&p->b, WIRE_ROLE_PREFILL, &peer, &blob);
    assert_int_equal(node_connect(&p->b, &peer), ST_OK);
    assert_true(raw_welcome(fd, &welcome, &pool_fd));
    assert_int_equal(welcome.kind, SHM_WELCOME);
    assert_int_equal(welcome.flags, SHM_FLAG_POOL);
    assert_int_equal(welcome.from, B);
    assert_int_equal(welcome.to, RAW);
    assert_int_equal(welcome.block_count, N_BLOCKS);
    uint8_t *view = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, pool_fd, 0);
    assert_true(view != MAP_FAILED);
    view[POOL_BYTES - 1] = 0x77;
    assert_int_equal(p->b.pool[POOL_BYTES - 1], 0x77);
    munmap(view, POOL_BYTES);
    close(pool_fd);
    close(fd);
    close(listener);
    buf_deinit(&blob);
    check_others(p, 2);
}

static void test_peer_announced_in_another_role_gets_no_pool(void **state)
{
    struct pair *p = *state;
    static const uint32_t roles[] = {WIRE_ROLE_DECODE, WIRE_ROLE_UNIFIED};
    for (size_t i = 0; i < 2; i++) {
        struct shm_hello hello = raw_hello(&p->b), welcome;
        struct wire_peer peer;
        struct buf blob;
        int pool_fd, listener = raw_announce(&p->b, roles[i], &peer, &blob);
        assert_int_equal(node_connect(&p->b, &peer), ST_OK);
        int fd = raw_connect(&p->b);
        raw_hello_send(fd, &hello, NULL, 0);
        assert_true(raw_welcome(fd, &welcome, &pool_fd));
        assert_int_equal(welcome.flags, 0);
        assert_int_equal(pool_fd, -1);
        assert_int_equal(p->b.ops->fence(p->b.t, RAW), ST_OK);
        node_wait(&p->b, TRANSPORT_FENCED, (uint32_t)i + 1);
        raw_check_closed(fd);
        close(listener);
        buf_deinit(&blob);
    }
    check_others(p, 1);
}

/* Announced: all else is wrong. */
static void test_hello_with_anything_wrong_closes_the_connection_and_nothing_else(void **state)
{
    struct pair *p = *state;
    struct wire_peer peer;
    struct buf blob;
    int listener = raw_announce(&p->b, WIRE_ROLE_PREFILL, &peer, &blob);
    assert_int_equal(node_connect(&p->b, &peer), ST_OK);
    for (unsigned i = 0; i < 5; i++) {
        struct shm_hello hello = raw_hello(&p->b);
        hello.kind = i == 0 ? SHM_WELCOME : SHM_HELLO;
        hello.to += i == 1;
        hello.layout_hash ^= i == 2;
        hello.block_bytes += i == 3;
        int fd = raw_connect(&p->b);
        if (i < 4) {
            raw_hello_send(fd, &hello, NULL, 0);
        } else {
            uint8_t noise[SHM_HELLO_BYTES];
            bytes_fill(noise, sizeof(noise), 1);
            raw_send(fd, noise, sizeof(noise), NULL, 0);
        }
        raw_check_closed(fd);
    }
    check_others(p, 1);
    close(listener);
    buf_deinit(&blob);
}

static void test_hello_cut_anywhere_or_with_a_bit_flipped_is_no_hello(void **state)
{
    struct pair *p = *state;
    struct shm_hello hello = raw_hello(&p->b);
    struct buf buf;
    buf_init(&buf, SHM_HELLO_BYTES);
    assert_int_equal(shm_hello_write(&hello, &buf), ST_OK);
    for (size_t n = 0; n < buf.len; n++) {
        int fd = raw_connect(&p->b);
        if (n > 0)
            raw_send(fd, buf.data, n, NULL, 0);
        shutdown(fd, SHUT_WR);
        raw_check_closed(fd);
        fd = raw_connect(&p->b);
        buf.data[n] ^= 0x10;
        raw_send(fd, buf.data, buf.len, NULL, 0);
        buf.data[n] ^= 0x10;
        raw_check_closed(fd);
    }
    buf_deinit(&buf);
    check_others(p, 1);
}

static void test_bytes_before_welcome_close_the_connection(void **state)
{
    struct pair *p = *state;
    struct shm_hello hello = raw_hello(&p->b);
    int fd = raw_connect(&p->b);
    raw_hello_send(fd, &hello, NULL, 0); /* a stranger: it would wait */
    raw_send(fd, "\1\0\0\0x", 5, NULL, 0);
    raw_check_closed(fd);
    check_others(p, 1);
}

static int raw_join(struct pair *p, uint32_t role, struct wire_peer *peer, struct buf *blob,
                    int *out_listener)
{
    struct shm_hello hello = raw_hello(&p->b), welcome;
    int pool_fd;
    *out_listener = raw_announce(&p->b, role, peer, blob);
    assert_int_equal(node_connect(&p->b, peer), ST_OK);
    int fd = raw_connect(&p->b);
    raw_hello_send(fd, &hello, NULL, 0);
    assert_true(raw_welcome(fd, &welcome, &pool_fd));
    if (pool_fd >= 0)
        close(pool_fd);
    return fd;
}

static void test_record_of_wrong_length_closes_the_connection_and_nothing_else(void **state)
{
    struct pair *p = *state;
    static const uint32_t lengths[] = {0, TRANSPORT_RECORD_BYTES_MAX + 1, UINT32_MAX, 0x80000000u};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        struct wire_peer peer;
        struct buf blob;
        int listener, fd = raw_join(p, WIRE_ROLE_PREFILL, &peer, &blob, &listener);
        raw_send(fd, &lengths[i], sizeof(lengths[i]), NULL, 0);
        raw_check_closed(fd);
        close(listener);
        assert_int_equal(p->b.ops->fence(p->b.t, RAW), ST_OK);
        node_wait(&p->b, TRANSPORT_FENCED, (uint32_t)i + 1);
        check_others(p, i);
        buf_deinit(&blob);
    }
}

static void test_record_cut_by_the_end_of_the_connection_is_no_record(void **state)
{
    struct pair *p = *state;
    struct wire_peer peer;
    struct buf blob;
    const uint32_t length = 100;
    int listener, fd = raw_join(p, WIRE_ROLE_PREFILL, &peer, &blob, &listener);
    raw_send(fd, &length, 4, NULL, 0);
    raw_send(fd, "abc", 3, NULL, 0);
    shutdown(fd, SHUT_WR);
    raw_check_closed(fd);
    close(listener);
    check_others(p, 1);
    assert_int_equal(p->b.n[TRANSPORT_RECORD], 1); /* of check_others */
    node_check_quiet(&p->b, 20);
    buf_deinit(&blob);
}

static void test_descriptors_that_a_peer_sends_are_not_kept(void **state)
{
    struct pair *p = *state;
    struct wire_peer peer;
    struct buf blob;
    int ends[2], listener, fd = raw_join(p, WIRE_ROLE_PREFILL, &peer, &blob, &listener);
    struct pollfd end = {.events = POLLIN};
    char byte;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    raw_send(fd, "\1\0\0\0x", 5, &ends[1], 1);
    node_wait(&p->b, TRANSPORT_RECORD, 1);
    close(ends[1]);
    end.fd = ends[0];
    assert_int_equal(poll(&end, 1, WAIT_MS), 1); /* nobody holds the other end */
    assert_int_equal(read(ends[0], &byte, 1), 0);
    close(ends[0]);
    close(fd);
    close(listener);
    buf_deinit(&blob);
}

static void test_many_strangers_that_say_nothing_do_not_keep_others_out_for_good(void **state)
{
    enum { N = 600 };
    struct pair *p = *state;
    int fds[N];
    for (unsigned i = 0; i < N; i++)
        fds[i] = raw_connect(&p->b);
    check_others(p, 1); /* connected before */
    for (unsigned i = 0; i < N; i++)
        close(fds[i]);
    struct wire_peer peer;
    struct buf blob;
    int listener;
    poll(NULL, 0, 50); /* their ends are seen */
    close(raw_join(p, WIRE_ROLE_PREFILL, &peer, &blob, &listener));
    close(listener);
    buf_deinit(&blob);
}

/* The name of the socket is no secret, and an abstract one has no mode. */
static void test_process_of_another_user_is_turned_away(void **state)
{
    struct pair *p = *state;
    struct wire_peer peer;
    struct buf blob;
    int status = -1;
    if (geteuid() != 0)
        skip();
    int listener = raw_announce(&p->b, WIRE_ROLE_PREFILL, &peer, &blob);
    assert_int_equal(node_connect(&p->b, &peer), ST_OK);
    pid_t child = fork();
    if (child == 0) {
        struct shm_hello hello = raw_hello(&p->b);
        char byte;
        if (setuid(65534) != 0)
            _exit(2);
        int fd = raw_connect(&p->b);
        struct buf buf;
        buf_init(&buf, SHM_HELLO_BYTES);
        shm_hello_write(&hello, &buf);
        if (send(fd, buf.data, buf.len, MSG_NOSIGNAL) < 0)
            _exit(0); /* closed already */
        _exit(recv(fd, &byte, 1, 0) <= 0 ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(listener);
    buf_deinit(&blob);
}

/* Same user, announced, but not the process that was announced. */
static void test_process_that_is_not_the_announced_one_gets_no_pool(void **state)
{
    struct pair *p = *state;
    struct wire_peer peer;
    struct buf blob, other;
    int listener = raw_announce(&p->b, WIRE_ROLE_PREFILL, &peer, &blob);
    blob_with_pid(&peer, (uint32_t)getppid(), process_start((uint32_t)getppid()), &other);
    peer.blob = other.data;
    assert_int_equal(node_connect(&p->b, &peer), ST_OK);
    struct shm_hello hello = raw_hello(&p->b);
    int fd = raw_connect(&p->b);
    raw_hello_send(fd, &hello, NULL, 0);
    raw_check_closed(fd);
    assert_int_equal(p->b.ops->fence(p->b.t, RAW), ST_OK); /* the one announced is not killed */
    node_wait(&p->b, TRANSPORT_FENCED, 1);
    assert_int_not_equal(process_start((uint32_t)getppid()), 0);
    check_others(p, 1);
    close(listener);
    buf_deinit(&blob);
    buf_deinit(&other);
}

/* ---- owners that lie: connections of a ---- */

static int memory_of(size_t bytes, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

enum lie {
    LIE_NONE,
    LIE_NOISE,
    LIE_KIND,
    LIE_FROM,
    LIE_TO,
    LIE_LAYOUT,
    LIE_COUNT,
    LIE_NO_FD,
    LIE_FD_UNSAID,
    LIE_TWO_FDS,
    LIE_SHORT,
    LIE_UNSEALED,
    LIE_NO_FILE,
    LIE_MORE,
    LIE_N
};

static void owner_answer(int fd, enum lie lie)
{
    struct shm_hello hello = {.kind = lie == LIE_KIND ? SHM_HELLO : SHM_WELCOME,
                              .from = RAW + (lie == LIE_FROM),
                              .to = A + (lie == LIE_TO),
                              .layout_hash = LAYOUT + (lie == LIE_LAYOUT),
                              .block_bytes = BLOCK_BYTES,
                              .block_count = N_BLOCKS + (lie == LIE_COUNT)};
    int ends[2], fds[2] = {memory_of(lie == LIE_SHORT ? POOL_BYTES - 4096 : POOL_BYTES,
                                     lie == LIE_UNSEALED ? F_SEAL_GROW : F_SEAL_SHRINK),
                           memory_of(POOL_BYTES, F_SEAL_SHRINK)};
    uint8_t noise[SHM_HELLO_BYTES];
    bytes_fill(noise, sizeof(noise), 1);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    if (lie != LIE_FD_UNSAID && lie != LIE_KIND)
        hello.flags = SHM_FLAG_POOL;
    if (lie == LIE_NOISE)
        raw_send(fd, noise, sizeof(noise), NULL, 0);
    else
        raw_hello_send(fd, &hello, lie == LIE_NO_FILE ? ends : fds,
                       lie == LIE_NO_FD     ? 0
                       : lie == LIE_TWO_FDS ? 2
                                            : 1);
    if (lie == LIE_MORE)
        raw_send(fd, "x", 1, NULL, 0);
    close(ends[0]);
    close(ends[1]);
    close(fds[0]);
    close(fds[1]);
}

static void test_owner_that_lies_is_lost_with_its_pushes(void **state)
{
    struct pair *p = *state;
    for (enum lie lie = LIE_NONE; lie < LIE_N; lie++) {
        struct wire_peer peer;
        struct buf blob;
        uint8_t said[SHM_HELLO_BYTES];
        uint32_t n = p->a.n[TRANSPORT_PUSH_DONE], n_errors = p->a.n[TRANSPORT_PEER_ERROR];
        int listener = raw_announce(&p->a, WIRE_ROLE_DECODE, &peer, &blob);
        assert_int_equal(node_connect(&p->a, &peer), ST_OK);
        assert_int_equal(node_push_pool(&p->a, RAW, 100 + lie, UINT64_MAX), ST_OK);
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        assert_int_equal(recv(fd, said, sizeof(said), MSG_WAITALL), sizeof(said));
        owner_answer(fd, lie);
        node_wait(&p->a, TRANSPORT_PUSH_DONE, n + 1);
        if (lie == LIE_NONE || lie == LIE_MORE) {
            close(fd); /* the pushes went, then it is lost */
            fd = -1;
        } else {
            assert_int_equal(p->a.status[100 + lie], ST_PEER_LOST);
        }
        if (lie == LIE_NONE)
            assert_int_equal(p->a.status[100], ST_OK);
        node_wait(&p->a, TRANSPORT_PEER_ERROR, n_errors + 1);
        assert_int_equal(p->a.peer, RAW);
        if (fd >= 0)
            raw_check_closed(fd);
        close(listener);
        buf_deinit(&blob);
        assert_int_equal(p->a.ops->fence(p->a.t, RAW), ST_OK);
        node_wait(&p->a, TRANSPORT_FENCED, p->a.n[TRANSPORT_FENCED] + 1);
        check_others(p, lie);
    }
}

/* It listens, but nobody ever answers. */
static void test_push_to_an_owner_that_does_not_answer_is_done_timeout(void **state)
{
    struct pair *p = *state;
    struct wire_peer peer;
    struct buf blob;
    struct transport_vec vec = {.bytes = 1};
    int listener = raw_announce(&p->a, WIRE_ROLE_DECODE, &peer, &blob);
    assert_int_equal(node_connect(&p->a, &peer), ST_OK);
    uint64_t deadline = time_monotonic_ns() + 100 * NS_PER_MS;
    assert_int_equal(p->a.ops->push(p->a.t, RAW, 1, &vec, 1, deadline), ST_OK);
    assert_int_equal(node_push(&p->a, RAW, 2, &vec, 1), ST_OK);
    node_wait(&p->a, TRANSPORT_PUSH_DONE, 1);
    assert_true(time_monotonic_ns() >= deadline);
    assert_int_equal(p->a.status[1], ST_TIMEOUT);
    check_others(p, 1);
    assert_int_equal(p->a.ops->fence(p->a.t, RAW), ST_OK);
    node_wait(&p->a, TRANSPORT_FENCED, 1);
    assert_int_equal(p->a.status[2], ST_PEER_LOST);
    close(listener);
    buf_deinit(&blob);
}

static void test_connect_to_a_socket_that_is_gone_gives_error(void **state)
{
    struct pair *p = *state;
    struct wire_peer peer;
    struct buf blob;
    close(raw_announce(&p->a, WIRE_ROLE_DECODE, &peer, &blob));
    assert_int_equal(node_connect(&p->a, &peer), ST_OK);
    node_wait(&p->a, TRANSPORT_PEER_ERROR, 1);
    assert_int_equal(p->a.peer, RAW);
    assert_int_equal(p->a.error, ST_PEER_LOST);
    assert_int_equal(node_connect(&p->a, &peer), ST_OK); /* again, and again told */
    node_wait(&p->a, TRANSPORT_PEER_ERROR, 2);
    buf_deinit(&blob);
}

static void test_peer_beyond_as_many_as_the_worker_core_knows_gives_error(void **state)
{
    struct pair *p = *state;
    struct wire_peer peer;
    struct buf blob;
    close(raw_announce(&p->a, WIRE_ROLE_PREFILL, &peer, &blob));
    for (uint32_t i = 1; i < TRANSPORT_PEERS_MAX; i++) { /* B is one */
        peer.instance = 1000 + i;
        assert_int_equal(node_connect(&p->a, &peer), ST_OK);
    }
    check_others(p, 1);
    assert_int_equal(p->a.n[TRANSPORT_PEER_ERROR], 0);
    peer.instance = 9999;
    assert_int_equal(node_connect(&p->a, &peer), ST_OK);
    node_wait(&p->a, TRANSPORT_PEER_ERROR, 1);
    assert_int_equal(p->a.peer, 9999);
    assert_int_equal(p->a.ops->fence(p->a.t, 1001), ST_OK); /* makes room */
    node_wait(&p->a, TRANSPORT_FENCED, 1);
    assert_int_equal(node_connect(&p->a, &peer), ST_OK);
    node_check_quiet(&p->a, 20);
    buf_deinit(&blob);
}

static void test_close_with_pushes_and_records_under_way_ends(void **state)
{
    struct pair *p = *state;
    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(node_push_pool(&p->a, B, i, UINT64_MAX), ST_OK);
        assert_int_equal(p->a.ops->record(p->a.t, B, p->a.pool, 100000), ST_OK);
    }
    node_wait(&p->a, TRANSPORT_PUSH_DONE, 1);
    uint64_t start = time_monotonic_ns();
    p->a.ops->close(p->a.t);
    p->a.t = NULL;
    assert_true(time_monotonic_ns() - start < NS_PER_S);
}

/* While a push of many slices is copied, commands are taken. */
static void test_push_of_many_slices_does_not_hold_up_a_fence(void **state)
{
    struct pair *p = *state;
    struct transport_vec vec[4096];
    for (uint32_t i = 0; i < 4096; i++)
        vec[i] = (struct transport_vec){
            .src_block = i % N_BLOCKS, .dst_block = i % N_BLOCKS, .bytes = BLOCK_BYTES};
    for (uint32_t i = 0; i < 64; i++) /* 16 GiB */
        assert_int_equal(node_push(&p->a, B, i, vec, 4096), ST_OK);
    assert_int_equal(p->a.ops->fence(p->a.t, B), ST_OK);
    uint64_t start = time_monotonic_ns();
    node_wait(&p->a, TRANSPORT_FENCED, 1);
    assert_true(time_monotonic_ns() - start < NS_PER_S / 2);
    assert_int_equal(p->a.status[63], ST_PEER_LOST);
}

static void test_records_that_wait_are_bounded_in_bytes(void **state)
{
    struct pair *p = *state;
    struct shm *shm = (struct shm *)p->b.t;
    uint8_t *data = calloc(1, TRANSPORT_RECORD_BYTES_MAX);
    const uint32_t fits = MAILBOX_EVENT_BYTES_MAX / TRANSPORT_RECORD_BYTES_MAX;
    assert_non_null(data);
    for (uint32_t i = 0; i < fits + 8; i++)
        mailbox_post(&shm->box, &(struct transport_event){.kind = TRANSPORT_RECORD,
                                                          .peer = A,
                                                          .data = data,
                                                          .bytes = TRANSPORT_RECORD_BYTES_MAX});
    mailbox_post(&shm->box, &(struct transport_event){.kind = TRANSPORT_FENCED});
    node_wait(&p->b, TRANSPORT_FENCED, 1);
    assert_int_equal(p->b.n[TRANSPORT_RECORD], fits);
    check_record(p, TRANSPORT_RECORD_BYTES_MAX, 1);
    free(data);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        PAIR_CASES,
        cmocka_unit_test(
            test_open_with_pool_elsewhere_is_invalid_and_with_a_private_one_unsupported),
        PAIR(test_describe_stays_inside),
        PAIR(test_connect_with_malformed_blob_is_refused),
        PAIR(test_connect_to_a_peer_out_of_reach_is_unsupported),
        PAIR(test_stranger_gets_nothing_until_it_is_announced),
        PAIR(test_peer_announced_in_another_role_gets_no_pool),
        PAIR(test_hello_with_anything_wrong_closes_the_connection_and_nothing_else),
        PAIR(test_hello_cut_anywhere_or_with_a_bit_flipped_is_no_hello),
        PAIR(test_bytes_before_welcome_close_the_connection),
        PAIR(test_record_of_wrong_length_closes_the_connection_and_nothing_else),
        PAIR(test_record_cut_by_the_end_of_the_connection_is_no_record),
        PAIR(test_descriptors_that_a_peer_sends_are_not_kept),
        PAIR(test_many_strangers_that_say_nothing_do_not_keep_others_out_for_good),
        PAIR(test_process_of_another_user_is_turned_away),
        PAIR(test_process_that_is_not_the_announced_one_gets_no_pool),
        PAIR(test_owner_that_lies_is_lost_with_its_pushes),
        PAIR(test_push_to_an_owner_that_does_not_answer_is_done_timeout),
        PAIR(test_connect_to_a_socket_that_is_gone_gives_error),
        PAIR(test_peer_beyond_as_many_as_the_worker_core_knows_gives_error),
        PAIR(test_close_with_pushes_and_records_under_way_ends),
        PAIR(test_push_of_many_slices_does_not_hold_up_a_fence),
        PAIR(test_records_that_wait_are_bounded_in_bytes),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
