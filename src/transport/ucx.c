/* The UCX transport as the loop thread sees it: commands go into a mailbox, events come out of it.
 */
#include "transport/ucx_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Without these a shared-memory peer that dies is never noticed, or only TCP loopback is used
 * (measured on UCX 1.13). A variable that the user has set wins.
 *
 * Known limits of UCX 1.13. It has no one-sided way into a private pool on one host, nor over TCP:
 * there a put is a row of messages, which the target's progress thread copies and answers. So the
 * death of a writer in the middle of a push can hurt the target:
 *  - Shared memory: one queue takes in what all peers send. A slot of it that its writer left half
 *    filled stops the queue for good: pushes to this process time out until it is restarted.
 *  - Answers that wait when the writer's endpoint fails are dropped wrongly by UCX, and an answer
 *    over TCP to a writer that is gone is fatal there: both can end this process.
 * Between processes of one host the shm transport has none of this; ucx is for the others. */
static const struct ucx_setting {
    const char *name, *value;
} settings[] = {
    {"POSIX_ERROR_HANDLING", "y"},
    {"SYSV_ERROR_HANDLING", "y"},
    {"KEEPALIVE_INTERVAL", "500ms"},
};

static enum status ucx_probe(char *out_why, uint32_t why_bytes)
{
    unsigned major, minor, release;
    ucp_get_version(&major, &minor, &release);
    snprintf(out_why, why_bytes, "UCX %u.%u.%u", major, minor, release);
    if (major > 1 || (major == 1 && minor >= 12))
        return ST_OK;
    snprintf(out_why, why_bytes, "UCX %u.%u.%u is too old, 1.12 is needed", major, minor, release);
    return ST_UNSUPPORTED;
}

static enum status ucx_connect(struct transport *t, const struct wire_peer *peer)
{
    struct ucx *ucx = (struct ucx *)t;
    struct ucx_blob blob;
    if (peer->pool.layout_hash != ucx->opts.pool.layout_hash ||
        peer->pool.block_bytes != ucx->opts.pool.block_bytes || peer->pool.pool >= 16)
        return ST_MISMATCH;
    enum status st = ucx_blob_read(peer->blob, peer->blob_bytes, &blob);
    if (st != ST_OK)
        return st;
    return mailbox_connect(&ucx->box, peer);
}

static enum status ucx_push(struct transport *t, uint64_t peer, uint64_t push_id,
                            const struct transport_vec *vec, uint32_t n_vec, uint64_t deadline_ns)
{
    struct ucx *ucx = (struct ucx *)t;
    return mailbox_push(&ucx->box, &ucx->opts.pool, peer, push_id, vec, n_vec, deadline_ns);
}

static enum status ucx_record(struct transport *t, uint64_t peer, const uint8_t *data,
                              uint32_t bytes)
{
    return mailbox_record(&((struct ucx *)t)->box, peer, data, bytes);
}

static enum status ucx_fence_peer(struct transport *t, uint64_t peer)
{
    return mailbox_fence(&((struct ucx *)t)->box, peer);
}

static bool ucx_next_event(struct transport *t, struct transport_event *out)
{
    return mailbox_next_event(&((struct ucx *)t)->box, out);
}

static int ucx_event_fd(struct transport *t)
{
    return ((struct ucx *)t)->box.event_fd;
}

static void ucx_export_blob(struct transport *t, const uint8_t **out_blob, uint32_t *out_bytes)
{
    struct ucx *ucx = (struct ucx *)t;
    *out_blob = ucx->blob.data;
    *out_bytes = (uint32_t)ucx->blob.len;
}

static void ucx_describe(struct transport *t, char *out, uint32_t bytes)
{
    snprintf(out, bytes, "%s", ((struct ucx *)t)->settings);
}

static void ucx_close(struct transport *t)
{
    struct ucx *ucx = (struct ucx *)t;
    struct list *node, *next;
    if (ucx == NULL)
        return;
    if (ucx->thread_started) {
        mailbox_stop(&ucx->box);
        pthread_join(ucx->thread, NULL);
    }
    if (ucx->worker != NULL)
        ucp_worker_destroy(ucx->worker);
    list_for_each_safe(node, next, &ucx->pushes)
    {
        free(list_entry(node, struct ucx_push, node)); /* never completed, not even by that */
    }
    if (ucx->memory != NULL)
        ucp_mem_unmap(ucx->context, ucx->memory);
    if (ucx->context != NULL)
        ucp_cleanup(ucx->context);
    mailbox_deinit(&ucx->box);
    buf_deinit(&ucx->blob);
    free(ucx);
}

/* Through the environment, which UCX reads for its lower layers too; before any other thread of the
 * process may look at it. */
static void settings_apply(struct ucx *ucx)
{
    unsigned major, minor, release;
    char variable[64];
    ucp_get_version(&major, &minor, &release);
    size_t room = sizeof(ucx->settings);
    size_t used = (size_t)snprintf(ucx->settings, room, "UCX %u.%u.%u, error mode peer", major,
                                   minor, release);
    for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++) {
        snprintf(variable, sizeof(variable), "UCX_%s", settings[i].name);
        setenv(variable, settings[i].value, 0);
        if (used < room) /* a value of the user's may be of any length */
            used += (size_t)snprintf(ucx->settings + used, room - used, ", %s=%s", settings[i].name,
                                     getenv(variable));
    }
}

static enum status context_open(struct ucx *ucx)
{
    ucp_config_t *config;
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                           .features = UCP_FEATURE_RMA | UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
    ucp_worker_params_t wparams = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                   .thread_mode = UCS_THREAD_MODE_SERIALIZED};
    ucp_mem_map_params_t mparams = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                      UCP_MEM_MAP_PARAM_FIELD_FLAGS,
        .address = ucx->opts.pool_base,
        .length = (size_t)ucx->opts.pool.block_count * ucx->opts.pool.block_bytes,
        .flags = UCP_MEM_MAP_NONBLOCK};
    settings_apply(ucx);
    if (ucp_config_read(NULL, NULL, &config) != UCS_OK)
        return ST_INTERNAL;
    ucs_status_t rc = ucp_init(&params, config, &ucx->context);
    ucp_config_release(config);
    if (rc != UCS_OK)
        return ST_UNSUPPORTED;
    if (ucp_worker_create(ucx->context, &wparams, &ucx->worker) != UCS_OK)
        return ST_UNSUPPORTED;
    return ucp_mem_map(ucx->context, &mparams, &ucx->memory) == UCS_OK ? ST_OK : ST_NO_MEMORY;
}

static enum status blob_make(struct ucx *ucx)
{
    ucp_address_t *address;
    size_t address_bytes, rkey_bytes;
    void *rkey;
    ucx->pid_ns = process_namespace("pid");
    if (ucp_worker_get_address(ucx->worker, &address, &address_bytes) != UCS_OK)
        return ST_INTERNAL;
    if (ucp_rkey_pack(ucx->context, ucx->memory, &rkey, &rkey_bytes) != UCS_OK) {
        ucp_worker_release_address(ucx->worker, address);
        return ST_INTERNAL;
    }
    struct ucx_blob blob = {.pid = (uint32_t)getpid(),
                            .pid_start = process_start((uint32_t)getpid()),
                            .pid_ns = ucx->pid_ns,
                            .address = (const uint8_t *)address,
                            .rkey = rkey,
                            .address_bytes = (uint32_t)address_bytes,
                            .rkey_bytes = (uint32_t)rkey_bytes};
    enum status st = ucx_blob_write(&blob, &ucx->blob);
    ucp_rkey_buffer_release(rkey);
    ucp_worker_release_address(ucx->worker, address);
    return st;
}

static enum status ucx_open(const struct transport_opts *opts, struct transport **out_transport)
{
    if ((uint64_t)(uintptr_t)opts->pool_base != kv_window_base(opts->pool.pool))
        return ST_INVALID;
    struct ucx *ucx = calloc(1, sizeof(*ucx));
    if (ucx == NULL)
        return ST_NO_MEMORY;
    ucx->base.ops = &transport_ucx_ops;
    ucx->opts = *opts;
    list_init(&ucx->pushes);
    buf_init(&ucx->blob, WIRE_BLOB_BYTES_MAX);
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX; i++)
        ucx->peers[i].process.pidfd = -1;
    enum status st = mailbox_init(&ucx->box);
    if (st == ST_OK)
        st = context_open(ucx);
    if (st == ST_OK)
        st = blob_make(ucx);
    if (st == ST_OK) {
        ucx->thread_started = pthread_create(&ucx->thread, NULL, ucx_thread_main, ucx) == 0;
        st = ucx->thread_started ? ST_OK : ST_NO_MEMORY;
    }
    if (st != ST_OK) {
        ucx_close(&ucx->base);
        return st;
    }
    *out_transport = &ucx->base;
    return ST_OK;
}

const struct transport_ops transport_ucx_ops = {
    .name = "ucx",
    .probe = ucx_probe,
    .open = ucx_open,
    .export_blob = ucx_export_blob,
    .connect = ucx_connect,
    .push = ucx_push,
    .record = ucx_record,
    .fence = ucx_fence_peer,
    .next_event = ucx_next_event,
    .event_fd = ucx_event_fd,
    .describe = ucx_describe,
    .close = ucx_close,
};
