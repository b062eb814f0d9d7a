/* The shm transport as the loop thread sees it, and its opening and closing.
 *
 * The pool of a worker is a file without a name. Its descriptor goes over a UNIX socket to the
 * workers of this host that may write, which map it, and a push is a copy into that mapping. No
 * step of it needs the owner's help, so a writer that stops or dies at any point leaves nothing
 * behind that the owner, or another writer, would have to clean up or wait for. */
#include "transport/shm_int.h"

#include "base/secret.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static enum status shm_probe(char *out_why, uint32_t why_bytes)
{
    struct process self;
    int fd = memfd_create("dynd-probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    process_open(&self, (uint32_t)getpid(), process_start((uint32_t)getpid()));
    const char *lacks = fd < 0 ? "memfd" : self.pidfd < 0 ? "pidfd" : NULL;
    if (fd >= 0)
        close(fd);
    process_close(&self);
    if (lacks != NULL) {
        snprintf(out_why, why_bytes, "the kernel has no %s", lacks);
        return ST_UNSUPPORTED;
    }
    snprintf(out_why, why_bytes, "shared memory between processes of one host");
    return ST_OK;
}

bool shm_socket_pid(const struct shm *shm, int fd, uint32_t *out_pid)
{
    struct ucred cred;
    socklen_t bytes = sizeof(cred);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &bytes) != 0 || bytes != sizeof(cred) ||
        cred.pid <= 0 || cred.uid != shm->self.uid)
        return false;
    *out_pid = (uint32_t)cred.pid;
    return true;
}

/* In the abstract namespace: nothing stays behind on disk. */
socklen_t shm_socket_name(const struct shm_blob *blob, struct sockaddr_un *out)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(out->sun_path + 1, sizeof(out->sun_path) - 1, "dynd-kv-");
    for (uint32_t i = 0; i < SHM_NAME_BYTES; i++)
        n += snprintf(out->sun_path + 1 + n, sizeof(out->sun_path) - 1 - (size_t)n, "%02x",
                      blob->name[i]);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

enum status shm_hello_of(const struct shm *shm, enum shm_hello_kind kind, uint32_t flags,
                         uint64_t to, uint8_t out[SHM_HELLO_BYTES])
{
    struct buf buf;
    struct shm_hello hello = {.kind = kind,
                              .flags = flags,
                              .from = shm->opts.instance,
                              .to = to,
                              .layout_hash = shm->opts.pool.layout_hash,
                              .block_bytes = shm->opts.pool.block_bytes,
                              .block_count = shm->opts.pool.block_count};
    buf_init(&buf, SHM_HELLO_BYTES);
    enum status st = shm_hello_write(&hello, &buf);
    if (st == ST_OK)
        memcpy(out, buf.data, SHM_HELLO_BYTES);
    buf_deinit(&buf);
    return st;
}

static enum status shm_connect(struct transport *t, const struct wire_peer *peer)
{
    struct shm *shm = (struct shm *)t;
    struct shm_blob blob;
    if (peer->pool.layout_hash != shm->opts.pool.layout_hash ||
        peer->pool.block_bytes != shm->opts.pool.block_bytes || peer->pool.pool >= 16)
        return ST_MISMATCH;
    enum status st = shm_blob_read(peer->blob, peer->blob_bytes, &blob);
    if (st != ST_OK)
        return st;
    if (!process_hosts_equal(peer->host_id, shm->opts.host_id) || blob.pid_ns == 0 ||
        blob.net_ns == 0 || blob.pid_ns != shm->self.pid_ns || blob.net_ns != shm->self.net_ns ||
        blob.uid != shm->self.uid)
        return ST_UNSUPPORTED;
    return mailbox_connect(&shm->box, peer);
}

static enum status shm_push(struct transport *t, uint64_t peer, uint64_t push_id,
                            const struct transport_vec *vec, uint32_t n_vec, uint64_t deadline_ns)
{
    struct shm *shm = (struct shm *)t;
    return mailbox_push(&shm->box, &shm->opts.pool, peer, push_id, vec, n_vec, deadline_ns);
}

static enum status shm_record(struct transport *t, uint64_t peer, const uint8_t *data,
                              uint32_t bytes)
{
    return mailbox_record(&((struct shm *)t)->box, peer, data, bytes);
}

static enum status shm_fence(struct transport *t, uint64_t peer)
{
    return mailbox_fence(&((struct shm *)t)->box, peer);
}

static bool shm_next_event(struct transport *t, struct transport_event *out)
{
    return mailbox_next_event(&((struct shm *)t)->box, out);
}

static int shm_event_fd(struct transport *t)
{
    return ((struct shm *)t)->box.event_fd;
}

static void shm_export_blob(struct transport *t, const uint8_t **out_blob, uint32_t *out_bytes)
{
    struct shm *shm = (struct shm *)t;
    *out_blob = shm->blob.data;
    *out_bytes = (uint32_t)shm->blob.len;
}

static void shm_describe(struct transport *t, char *out, uint32_t bytes)
{
    (void)t;
    snprintf(out, bytes, "shared memory, version %u, slices of %u bytes", SHM_VERSION,
             SHM_SLICE_BYTES);
}

static void shm_close(struct transport *t)
{
    struct shm *shm = (struct shm *)t;
    if (shm == NULL)
        return;
    if (shm->thread_started) {
        mailbox_stop(&shm->box);
        pthread_join(shm->thread, NULL);
    }
    if (shm->listener >= 0)
        close(shm->listener);
    if (shm->epoll >= 0)
        close(shm->epoll);
    mailbox_deinit(&shm->box);
    buf_deinit(&shm->blob);
    free(shm);
}

static enum status listener_open(struct shm *shm)
{
    struct sockaddr_un name;
    for (uint32_t i = 0; i < SHM_NAME_BYTES; i += 8) {
        uint64_t random = secret_u64();
        memcpy(shm->self.name + i, &random, sizeof(random));
    }
    socklen_t bytes = shm_socket_name(&shm->self, &name);
    shm->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (shm->listener < 0 || bind(shm->listener, (const struct sockaddr *)&name, bytes) != 0 ||
        listen(shm->listener, (int)SHM_INS_MAX) != 0)
        return ST_IO;
    shm->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (shm->epoll < 0 || !shm_watch(shm, shm->listener, SHM_LISTENER, 0) ||
        !shm_watch(shm, shm->box.command_fd, SHM_COMMANDS, 0))
        return ST_IO;
    return ST_OK;
}

static void slots_init(struct shm *shm)
{
    shm->listener = shm->epoll = -1;
    shm->timer_ns = UINT64_MAX;
    for (uint32_t i = 0; i < SHM_INS_MAX; i++)
        shm->ins[i].fd = -1;
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX; i++)
        shm->peers[i].fd = shm->peers[i].pool_fd = shm->peers[i].process.pidfd = -1;
}

static enum status shm_create(const struct transport_opts *opts, struct transport **out_transport)
{
    if ((uint64_t)(uintptr_t)opts->pool_base != kv_window_base(opts->pool.pool))
        return ST_INVALID;
    if (opts->pool_fd < 0 && !opts->pool_is_private)
        return ST_UNSUPPORTED;
    struct shm *shm = calloc(1, sizeof(*shm));
    if (shm == NULL)
        return ST_NO_MEMORY;
    shm->base.ops = &transport_shm_ops;
    shm->opts = *opts;
    shm->self = (struct shm_blob){.pid = (uint32_t)getpid(),
                                  .uid = (uint32_t)geteuid(),
                                  .pid_start = process_start((uint32_t)getpid()),
                                  .pid_ns = process_namespace("pid"),
                                  .net_ns = process_namespace("net")};
    slots_init(shm);
    buf_init(&shm->blob, SHM_BLOB_BYTES);
    enum status st = mailbox_init(&shm->box);
    if (st == ST_OK)
        st = listener_open(shm);
    if (st == ST_OK)
        st = shm_blob_write(&shm->self, &shm->blob);
    if (st == ST_OK) {
        shm->thread_started = pthread_create(&shm->thread, NULL, shm_thread_main, shm) == 0;
        st = shm->thread_started ? ST_OK : ST_NO_MEMORY;
    }
    if (st != ST_OK) {
        shm_close(&shm->base);
        return st;
    }
    *out_transport = &shm->base;
    return ST_OK;
}

const struct transport_ops transport_shm_ops = {
    .name = "shm",
    .probe = shm_probe,
    .open = shm_create,
    .export_blob = shm_export_blob,
    .connect = shm_connect,
    .push = shm_push,
    .record = shm_record,
    .fence = shm_fence,
    .next_event = shm_next_event,
    .event_fd = shm_event_fd,
    .describe = shm_describe,
    .close = shm_close,
};
