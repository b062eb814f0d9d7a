/* The UCX transport as the loop thread sees it: commands go into a queue, events come out of one.
 */
#include "base/time.h"
#include "observe/log.h"
#include "transport/ucx_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

/* Without these a shared-memory peer that dies is never noticed, or only TCP loopback is used
 * (measured on UCX 1.13). A variable that the user has set wins. */
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

void ucx_event_post(struct ucx *ucx, const struct transport_event *event)
{
    uint32_t bytes = event->kind == TRANSPORT_RECORD ? event->bytes : 0;
    struct ucx_event *e = malloc(sizeof(*e) + bytes);
    if (e == NULL)
        return; /* the push's or the router's deadline sees to it */
    e->event = *event;
    e->event.data = (const uint8_t *)(e + 1);
    if (bytes > 0)
        memcpy(e + 1, event->data, bytes);
    pthread_mutex_lock(&ucx->mutex);
    bool drop = bytes > 0 && ucx->n_events >= UCX_EVENTS_MAX;
    if (!drop) {
        list_add_tail(&ucx->events, &e->node);
        ucx->n_events++;
    }
    pthread_mutex_unlock(&ucx->mutex);
    if (!drop) {
        eventfd_write(ucx->event_fd, 1);
        return;
    }
    log_warn("record from peer dropped, too many wait", LOG_U64("peer", event->peer));
    free(e);
}

static enum status command_post(struct ucx *ucx, struct ucx_command *cmd)
{
    pthread_mutex_lock(&ucx->mutex);
    bool full = ucx->n_commands >= UCX_COMMANDS_MAX ||
                (cmd->kind == UCX_PUSH && ucx->n_pushes >= UCX_PUSHES_MAX);
    if (!full) {
        list_add_tail(&ucx->commands, &cmd->node);
        ucx->n_commands++;
        ucx->n_pushes += cmd->kind == UCX_PUSH;
    }
    pthread_mutex_unlock(&ucx->mutex);
    if (full) {
        free(cmd->vec);
        free(cmd->data);
        free(cmd);
        return ST_FULL;
    }
    eventfd_write(ucx->command_fd, 1);
    return ST_OK;
}

static struct ucx_command *command_new(enum ucx_command_kind kind, uint64_t peer, const void *data,
                                       uint32_t bytes)
{
    struct ucx_command *cmd = calloc(1, sizeof(*cmd));
    if (cmd == NULL)
        return NULL;
    cmd->kind = kind;
    cmd->peer = peer;
    cmd->bytes = bytes;
    cmd->data = bytes > 0 ? malloc(bytes) : NULL;
    if (bytes > 0 && cmd->data == NULL) {
        free(cmd);
        return NULL;
    }
    if (bytes > 0)
        memcpy(cmd->data, data, bytes);
    return cmd;
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
    struct ucx_command *cmd =
        command_new(UCX_CONNECT, peer->instance, peer->blob, peer->blob_bytes);
    if (cmd == NULL)
        return ST_NO_MEMORY;
    cmd->info = *peer;
    cmd->info.blob = NULL;
    return command_post(ucx, cmd);
}

static enum status ucx_push(struct transport *t, uint64_t peer, uint64_t push_id,
                            const struct transport_vec *vec, uint32_t n_vec, uint64_t deadline_ns)
{
    struct ucx *ucx = (struct ucx *)t;
    const struct wire_pool *own = &ucx->opts.pool;
    for (uint32_t i = 0; i < n_vec; i++)
        if (vec[i].src_block >= own->block_count || vec[i].bytes > own->block_bytes ||
            vec[i].offset_bytes > own->block_bytes - vec[i].bytes)
            return ST_INVALID;
    struct ucx_command *cmd = command_new(UCX_PUSH, peer, NULL, 0);
    if (cmd == NULL)
        return ST_NO_MEMORY;
    cmd->push_id = push_id;
    cmd->deadline_ns = deadline_ns;
    cmd->n_vec = n_vec;
    cmd->vec = malloc(n_vec > 0 ? n_vec * sizeof(*vec) : 1);
    if (cmd->vec == NULL) {
        free(cmd);
        return ST_NO_MEMORY;
    }
    memcpy(cmd->vec, vec, n_vec * sizeof(*vec));
    return command_post(ucx, cmd);
}

static enum status ucx_record(struct transport *t, uint64_t peer, const uint8_t *data,
                              uint32_t bytes)
{
    if (bytes == 0 || bytes > TRANSPORT_RECORD_BYTES_MAX)
        return ST_TOO_LARGE;
    struct ucx_command *cmd = command_new(UCX_RECORD, peer, data, bytes);
    return cmd != NULL ? command_post((struct ucx *)t, cmd) : ST_NO_MEMORY;
}

static enum status ucx_fence_peer(struct transport *t, uint64_t peer)
{
    struct ucx_command *cmd = command_new(UCX_FENCE, peer, NULL, 0);
    return cmd != NULL ? command_post((struct ucx *)t, cmd) : ST_NO_MEMORY;
}

static bool ucx_next_event(struct transport *t, struct transport_event *out)
{
    struct ucx *ucx = (struct ucx *)t;
    eventfd_t ignored;
    free(ucx->handed_out);
    ucx->handed_out = NULL;
    pthread_mutex_lock(&ucx->mutex);
    if (!list_is_empty(&ucx->events)) {
        ucx->handed_out = list_entry(ucx->events.next, struct ucx_event, node);
        list_del(&ucx->handed_out->node);
        ucx->n_events--;
        ucx->n_pushes -= ucx->handed_out->event.kind == TRANSPORT_PUSH_DONE;
    } else {
        eventfd_read(ucx->event_fd, &ignored);
    }
    pthread_mutex_unlock(&ucx->mutex);
    if (ucx->handed_out == NULL)
        return false;
    *out = ucx->handed_out->event;
    return true;
}

static int ucx_event_fd(struct transport *t)
{
    return ((struct ucx *)t)->event_fd;
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

static void commands_free(struct list *head)
{
    struct list *node, *next;
    list_for_each_safe(node, next, head)
    {
        struct ucx_command *cmd = list_entry(node, struct ucx_command, node);
        free(cmd->vec);
        free(cmd->data);
        free(cmd);
    }
}

static void ucx_close(struct transport *t)
{
    struct ucx *ucx = (struct ucx *)t;
    struct list *node, *next;
    if (ucx == NULL)
        return;
    if (ucx->thread_started) {
        pthread_mutex_lock(&ucx->mutex);
        ucx->stop = true;
        pthread_mutex_unlock(&ucx->mutex);
        eventfd_write(ucx->command_fd, 1);
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
    commands_free(&ucx->commands);
    list_for_each_safe(node, next, &ucx->events)
    {
        free(list_entry(node, struct ucx_event, node));
    }
    free(ucx->handed_out);
    buf_deinit(&ucx->blob);
    if (ucx->command_fd >= 0)
        close(ucx->command_fd);
    if (ucx->event_fd >= 0)
        close(ucx->event_fd);
    pthread_mutex_destroy(&ucx->mutex);
    free(ucx);
}

/* Through the environment, which UCX reads for its lower layers too; before any other thread of the
 * process may look at it. */
static void settings_apply(struct ucx *ucx)
{
    unsigned major, minor, release;
    char variable[64];
    ucp_get_version(&major, &minor, &release);
    int used = snprintf(ucx->settings, sizeof(ucx->settings), "UCX %u.%u.%u, error mode peer",
                        major, minor, release);
    for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++) {
        snprintf(variable, sizeof(variable), "UCX_%s", settings[i].name);
        setenv(variable, settings[i].value, 0);
        used += snprintf(ucx->settings + used, sizeof(ucx->settings) - (size_t)used, ", %s=%s",
                         settings[i].name, getenv(variable));
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
        .flags = UCP_MEM_MAP_NONBLOCK}; /* do not touch all pages now */
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
    struct stat ns = {0};
    if (stat("/proc/self/ns/pid", &ns) == 0)
        ucx->pid_ns = ns.st_ino;
    if (ucp_worker_get_address(ucx->worker, &address, &address_bytes) != UCS_OK)
        return ST_INTERNAL;
    if (ucp_rkey_pack(ucx->context, ucx->memory, &rkey, &rkey_bytes) != UCS_OK) {
        ucp_worker_release_address(ucx->worker, address);
        return ST_INTERNAL;
    }
    struct ucx_blob blob = {.pid = (uint32_t)getpid(),
                            .pid_start = ucx_pid_start((uint32_t)getpid()),
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
    pthread_mutex_init(&ucx->mutex, NULL);
    list_init(&ucx->commands);
    list_init(&ucx->events);
    list_init(&ucx->pushes);
    buf_init(&ucx->blob, WIRE_BLOB_BYTES_MAX);
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX; i++)
        ucx->peers[i].pidfd = -1;
    ucx->command_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ucx->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    enum status st = ucx->command_fd >= 0 && ucx->event_fd >= 0 ? context_open(ucx) : ST_IO;
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
