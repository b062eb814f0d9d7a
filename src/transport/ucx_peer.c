/* Endpoints of the UCX transport: connect, one-sided pushes, records, failures, fencing. Progress
 * thread only. */
#include "base/time.h"
#include "transport/ucx_int.h"

#include <stdlib.h>
#include <string.h>

/* Looks that find nothing after a peer's death, before nothing of it can be under way. */
#define DRAIN_ROUNDS   2u
#define DRAIN_NS       (100 * NS_PER_MS) /* for what the kernel still delivers of a dead writer */
#define CLOSE_WAIT_NS  NS_PER_S
#define ALIVE_CHECK_NS (10 * NS_PER_MS) /* a system call a peer */

static struct ucx_peer *peer_of(struct ucx *ucx, uint64_t instance)
{
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX; i++)
        if (ucx->peers[i].used && ucx->peers[i].instance == instance)
            return &ucx->peers[i];
    return NULL;
}

static void on_ep_error(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    struct ucx_peer *peer = arg;
    (void)ep, (void)status;
    peer->failed = true; /* closed by the tick: not from inside a callback */
}

static void wait_closed(struct ucx *ucx, void *request, uint64_t limit_ns)
{
    if (request == NULL || UCS_PTR_IS_ERR(request))
        return;
    while (ucp_request_check_status(request) == UCS_INPROGRESS && time_monotonic_ns() < limit_ns)
        ucp_worker_progress(ucx->worker);
    ucp_request_free(request);
}

/* UCX 1.13 does not complete every request of a force-closed shared-memory endpoint before its
 * worker is destroyed. The endpoint sends no more, so the push is over for the caller; the struct
 * stays for the callbacks to come. */
static void pushes_abandon(struct ucx *ucx, const struct ucx_peer *peer)
{
    struct list *node;
    list_for_each(node, &ucx->pushes)
    {
        struct ucx_push *push = list_entry(node, struct ucx_push, node);
        if (push->peer != peer || push->abandoned)
            continue;
        mailbox_post(&ucx->box, &(struct transport_event){
                                    .kind = TRANSPORT_PUSH_DONE,
                                    .peer = push->instance,
                                    .push_id = push->id,
                                    .status = push->status != ST_OK ? push->status : ST_PEER_LOST});
        push->abandoned = true;
        push->peer = NULL;
        ucx->n_live_pushes--;
    }
}

/* Force-closes the endpoint: what was under way on it completes with an error. Waits for that until
 * limit_ns. */
static void ep_close(struct ucx *ucx, struct ucx_peer *peer, uint64_t limit_ns)
{
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                 .flags = UCP_EP_CLOSE_FLAG_FORCE};
    if (peer->ep != NULL)
        wait_closed(ucx, ucp_ep_close_nbx(peer->ep, &param), limit_ns);
    peer->ep = NULL;
    pushes_abandon(ucx, peer);
    if (peer->rkey != NULL) /* after the endpoint: its last operations may look at it */
        ucp_rkey_destroy(peer->rkey);
    peer->rkey = NULL;
}

/* Whether the peer is a process that we see, and may kill, under the pid in its blob. */
static bool is_same_host(const struct ucx *ucx, const struct wire_peer *info,
                         const struct ucx_blob *blob)
{
    return process_hosts_equal(info->host_id, ucx->opts.host_id) && blob->pid_ns == ucx->pid_ns &&
           blob->pid_ns != 0 && process_is_other(blob->pid, blob->pid_start);
}

enum status ucx_peer_connect(struct ucx *ucx, const struct command *cmd)
{
    struct ucx_blob blob;
    struct ucx_peer *peer = peer_of(ucx, cmd->peer);
    if (peer != NULL && peer->fence != UCX_FENCE_NONE)
        return ST_AGAIN;
    if (peer != NULL && peer->ep != NULL && peer->rkey != NULL && !peer->failed)
        return ST_OK;
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX && peer == NULL; i++)
        if (!ucx->peers[i].used)
            peer = &ucx->peers[i];
    if (peer == NULL || ucx_blob_read(cmd->data, cmd->bytes, &blob) != ST_OK)
        return ST_FULL;
    ep_close(ucx, peer, time_monotonic_ns() + CLOSE_WAIT_NS);
    process_close(&peer->process);
    *peer = (struct ucx_peer){.ucx = ucx,
                              .used = true,
                              .instance = cmd->peer,
                              .pool = cmd->info.pool,
                              .is_writer = cmd->info.role == WIRE_ROLE_PREFILL,
                              .same_host = is_same_host(ucx, &cmd->info, &blob),
                              .process = {.pidfd = -1}};
    if (peer->same_host)
        process_open(&peer->process, blob.pid, blob.pid_start);
    ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
                                            UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                                            UCP_EP_PARAM_FIELD_ERR_HANDLER,
                              .address = (const ucp_address_t *)blob.address,
                              .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                              .err_handler = {.cb = on_ep_error, .arg = peer}};
    if (ucp_ep_create(ucx->worker, &params, &peer->ep) != UCS_OK) {
        peer->ep = NULL;
        return ST_UNAVAILABLE;
    }
    if (ucp_ep_rkey_unpack(peer->ep, blob.rkey, &peer->rkey) != UCS_OK) {
        peer->rkey = NULL;
        return ST_UNAVAILABLE;
    }
    return ST_OK;
}

/* ---- pushes ---- */

static void push_report(struct ucx *ucx, uint64_t peer, uint64_t push_id, enum status st)
{
    mailbox_post(&ucx->box,
                 &(struct transport_event){
                     .kind = TRANSPORT_PUSH_DONE, .peer = peer, .push_id = push_id, .status = st});
}

static void push_end_try(struct ucx_push *push)
{
    struct ucx *ucx = push->ucx;
    if (!push->issued || push->n_pending > 0)
        return;
    if (!push->abandoned)
        push_report(ucx, push->instance, push->id,
                    push->status == ST_OK && !push->flushed ? ST_PEER_LOST : push->status);
    ucx->n_live_pushes -= !push->abandoned;
    list_del(&push->node);
    free(push);
}

static void push_request_done(struct ucx_push *push, ucs_status_t status)
{
    if (status != UCS_OK && push->status == ST_OK)
        push->status = ST_PEER_LOST;
    push->n_pending--;
}

static void on_put_done(void *request, ucs_status_t status, void *arg)
{
    struct ucx_push *push = arg;
    ucp_request_free(request);
    push_request_done(push, status);
    push_end_try(push);
}

static void on_flush_done(void *request, ucs_status_t status, void *arg)
{
    struct ucx_push *push = arg;
    push->flushed = status == UCS_OK;
    on_put_done(request, status, arg);
}

/* A request pointer of UCX: NULL done at once, an error, or under way with its callback to come. */
static void push_track(struct ucx_push *push, void *request)
{
    if (request == NULL)
        return;
    if (UCS_PTR_IS_ERR(request))
        push->status = ST_PEER_LOST;
    else
        push->n_pending++;
}

void ucx_peer_push(struct ucx *ucx, const struct command *cmd)
{
    struct ucx_peer *peer = peer_of(ucx, cmd->peer);
    struct ucx_push *push = NULL;
    if (peer != NULL && peer->ep != NULL && peer->rkey != NULL && !peer->failed)
        push = calloc(1, sizeof(*push));
    if (push == NULL) {
        push_report(ucx, cmd->peer, cmd->push_id, ST_PEER_LOST);
        return;
    }
    for (uint32_t i = 0; i < cmd->n_vec; i++) {
        if (cmd->vec[i].dst_block < peer->pool.block_count)
            continue;
        push_report(ucx, cmd->peer, cmd->push_id, ST_INVALID);
        free(push);
        return;
    }
    *push = (struct ucx_push){.ucx = ucx,
                              .peer = peer,
                              .instance = cmd->peer,
                              .id = cmd->push_id,
                              .deadline_ns = cmd->deadline_ns,
                              .status = ST_OK};
    list_add_tail(&ucx->pushes, &push->node);
    ucx->n_live_pushes++;
    ucp_request_param_t put = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                                               UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMH,
                               .cb.send = on_put_done,
                               .user_data = push,
                               .memh = ucx->memory};
    uint64_t window = kv_window_base(peer->pool.pool);
    for (uint32_t i = 0; i < cmd->n_vec && push->status == ST_OK; i++) {
        const struct transport_vec *v = &cmd->vec[i];
        const uint8_t *src = (const uint8_t *)ucx->opts.pool_base +
                             v->src_block * ucx->opts.pool.block_bytes + v->offset_bytes;
        push_track(push,
                   ucp_put_nbx(peer->ep, src, v->bytes,
                               window + v->dst_block * peer->pool.block_bytes + v->offset_bytes,
                               peer->rkey, &put));
    }
    if (push->status == ST_OK) {
        ucp_request_param_t flush = {.op_attr_mask =
                                         UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                     .cb.send = on_flush_done,
                                     .user_data = push};
        void *request = ucp_ep_flush_nbx(peer->ep, &flush);
        push->flushed = request == NULL;
        push_track(push, request);
    }
    push->issued = true;
    push_end_try(push);
}

/* ---- records ---- */

struct ucx_send {
    struct ucx *ucx;
    uint64_t head[2];
    uint8_t *data;
};

static void send_free(struct ucx_send *send)
{
    send->ucx->n_sends--;
    free(send->data);
    free(send);
}

static void on_send_done(void *request, ucs_status_t status, void *arg)
{
    (void)status; /* a lost record is what deadlines are for */
    ucp_request_free(request);
    send_free(arg);
}

void ucx_peer_record(struct ucx *ucx, struct command *cmd)
{
    struct ucx_peer *peer = peer_of(ucx, cmd->peer);
    struct ucx_send *send;
    if (peer == NULL || peer->ep == NULL || peer->failed ||
        (send = calloc(1, sizeof(*send))) == NULL)
        return;
    send->ucx = ucx;
    send->data = cmd->data;
    cmd->data = NULL;
    send->head[0] = ucx->opts.instance;
    send->head[1] = UCX_BLOB_VERSION | (uint64_t)cmd->bytes << 32;
    ucx->n_sends++;
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                                                 UCP_OP_ATTR_FIELD_USER_DATA |
                                                 UCP_OP_ATTR_FIELD_FLAGS,
                                 .flags = UCP_AM_SEND_FLAG_EAGER,
                                 .cb.send = on_send_done,
                                 .user_data = send};
    void *request = ucp_am_send_nbx(peer->ep, UCX_AM_ID, send->head, sizeof(send->head), send->data,
                                    cmd->bytes, &param);
    if (request == NULL || UCS_PTR_IS_ERR(request))
        send_free(send);
}

/* ---- failures and fencing ---- */

void ucx_peer_fence(struct ucx *ucx, uint64_t instance)
{
    struct ucx_peer *peer = peer_of(ucx, instance);
    if (peer == NULL) { /* it never got our key, or is fenced already */
        mailbox_post(&ucx->box,
                     &(struct transport_event){.kind = TRANSPORT_FENCED, .peer = instance});
        return;
    }
    if (peer->fence != UCX_FENCE_NONE)
        return;
    peer->fence = UCX_FENCE_WANTED;
    ep_close(ucx, peer, time_monotonic_ns() + CLOSE_WAIT_NS);
    if (peer->is_writer && peer->same_host && !process_is_dead(&peer->process))
        process_kill(&peer->process); /* its mappings cannot be taken away from it */
}

static void peer_forget(struct ucx_peer *peer)
{
    process_close(&peer->process);
    *peer = (struct ucx_peer){.process = {.pidfd = -1}};
}

/* Dead, then quiet: what it had sent before its end has been taken in or is gone. */
static bool fence_tick(struct ucx *ucx, struct ucx_peer *peer, uint64_t now_ns, bool is_empty)
{
    if (peer->fence == UCX_FENCE_NONE)
        return false;
    bool is_killed = peer->is_writer && peer->same_host;
    if (peer->fence == UCX_FENCE_WANTED && is_killed && !process_is_dead(&peer->process))
        return true;
    if (peer->fence == UCX_FENCE_WANTED) {
        peer->fence = UCX_FENCE_DRAINING;
        peer->idle_rounds = 0;
        peer->quiet_ns = is_killed ? now_ns + DRAIN_NS : 0;
    }
    peer->idle_rounds = is_empty ? peer->idle_rounds + 1 : 0;
    if (peer->idle_rounds < DRAIN_ROUNDS || now_ns < peer->quiet_ns)
        return true;
    mailbox_post(&ucx->box,
                 &(struct transport_event){.kind = TRANSPORT_FENCED, .peer = peer->instance});
    peer_forget(peer);
    return false;
}

static void deadlines_tick(struct ucx *ucx, uint64_t now)
{
    struct list *node, *next;
    list_for_each_safe(node, next, &ucx->pushes)
    {
        struct ucx_push *push = list_entry(node, struct ucx_push, node);
        if (now < push->deadline_ns || push->status != ST_OK || push->abandoned)
            continue;
        push->status = ST_TIMEOUT;
        push->peer->failed = true; /* closing the endpoint ends its requests */
    }
}

bool ucx_peers_tick(struct ucx *ucx, uint64_t now_ns, bool is_empty)
{
    bool busy = false, check_alive = now_ns >= ucx->alive_check_ns;
    if (check_alive)
        ucx->alive_check_ns = now_ns + ALIVE_CHECK_NS;
    deadlines_tick(ucx, now_ns);
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX; i++) {
        struct ucx_peer *peer = &ucx->peers[i];
        if (!peer->used)
            continue;
        if (check_alive && peer->ep != NULL && peer->process.pidfd >= 0 &&
            process_is_dead(&peer->process))
            peer->failed = true;
        if (peer->failed && peer->ep != NULL) {
            ep_close(ucx, peer, now_ns + CLOSE_WAIT_NS);
            mailbox_post(&ucx->box, &(struct transport_event){.kind = TRANSPORT_PEER_ERROR,
                                                              .peer = peer->instance,
                                                              .status = ST_PEER_LOST});
        }
        busy |= fence_tick(ucx, peer, now_ns, is_empty);
    }
    return busy || ucx->n_sends > 0 || ucx->n_live_pushes > 0;
}

void ucx_peers_close(struct ucx *ucx)
{
    uint64_t limit = time_monotonic_ns() + CLOSE_WAIT_NS; /* for all of them together */
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX; i++)
        ep_close(ucx, &ucx->peers[i], limit);
    while ((!list_is_empty(&ucx->pushes) || ucx->n_sends > 0) && time_monotonic_ns() < limit)
        ucp_worker_progress(ucx->worker);
    for (uint32_t i = 0; i < TRANSPORT_PEERS_MAX; i++)
        process_close(&ucx->peers[i].process);
}
