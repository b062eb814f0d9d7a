/* The progress thread: commands in, UCX progress, sleep on UCX's descriptor and the command queue.
 */
#include "base/time.h"
#include "transport/ucx_int.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#define BUSY_WAIT_NS 200000l /* a full queue of the peer that empties again wakes nobody up */
#define IDLE_WAIT_NS 250000000l

struct am_header {
    uint64_t instance;
    uint32_t version, bytes;
};

static ucs_status_t on_am(void *arg, const void *header, size_t header_bytes, void *data,
                          size_t bytes, const ucp_am_recv_param_t *param)
{
    struct ucx *ucx = arg;
    struct am_header head;
    if (header_bytes != sizeof(head) || (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0)
        return UCS_OK; /* not ours: we send eagerly */
    memcpy(&head, header, sizeof(head));
    if (head.version != UCX_BLOB_VERSION || head.bytes != bytes ||
        bytes > TRANSPORT_RECORD_BYTES_MAX)
        return UCS_OK;
    ucx_event_post(ucx, &(struct transport_event){.kind = TRANSPORT_RECORD,
                                                  .peer = head.instance,
                                                  .data = data,
                                                  .bytes = (uint32_t)bytes});
    return UCS_OK;
}

static void command_run(struct ucx *ucx, struct ucx_command *cmd)
{
    switch (cmd->kind) {
    case UCX_CONNECT:
        if (ucx_peer_connect(ucx, cmd) != ST_OK)
            ucx_event_post(ucx, &(struct transport_event){.kind = TRANSPORT_PEER_ERROR,
                                                          .peer = cmd->peer,
                                                          .status = ST_UNAVAILABLE});
        break;
    case UCX_PUSH:
        ucx_peer_push(ucx, cmd);
        break;
    case UCX_RECORD:
        ucx_peer_record(ucx, cmd); /* takes cmd->data */
        break;
    case UCX_FENCE:
        ucx_peer_fence(ucx, cmd->peer);
        break;
    }
    free(cmd->vec);
    free(cmd->data);
    free(cmd);
}

/* False when the transport is being closed. */
static bool commands_run(struct ucx *ucx)
{
    eventfd_t ignored;
    for (;;) {
        struct ucx_command *cmd = NULL;
        pthread_mutex_lock(&ucx->mutex);
        bool stop = ucx->stop;
        if (!list_is_empty(&ucx->commands)) {
            cmd = list_entry(ucx->commands.next, struct ucx_command, node);
            list_del(&cmd->node);
            ucx->n_commands--;
        } else {
            eventfd_read(ucx->command_fd, &ignored);
        }
        pthread_mutex_unlock(&ucx->mutex);
        if (stop) {
            if (cmd != NULL) {
                free(cmd->vec);
                free(cmd->data);
                free(cmd);
            }
            return false;
        }
        if (cmd == NULL)
            return true;
        command_run(ucx, cmd);
    }
}

void *ucx_thread_main(void *arg)
{
    struct ucx *ucx = arg;
    ucp_am_handler_param_t handler = {.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID |
                                                    UCP_AM_HANDLER_PARAM_FIELD_CB |
                                                    UCP_AM_HANDLER_PARAM_FIELD_ARG,
                                      .id = UCX_AM_ID,
                                      .cb = on_am,
                                      .arg = ucx};
    struct pollfd fds[2] = {{.events = POLLIN}, {.fd = ucx->command_fd, .events = POLLIN}};
    if (ucp_worker_set_am_recv_handler(ucx->worker, &handler) != UCS_OK ||
        ucp_worker_get_efd(ucx->worker, &fds[0].fd) != UCS_OK)
        fds[0].fd = -1; /* polled by time alone */
    while (commands_run(ucx)) {
        bool progressed = false;
        while (ucp_worker_progress(ucx->worker) != 0)
            progressed = true;
        bool busy = ucx_peers_tick(ucx, time_monotonic_ns(), progressed);
        if (ucp_worker_arm(ucx->worker) != UCS_OK)
            continue; /* something came meanwhile */
        struct timespec nap = {.tv_nsec = busy || fds[0].fd < 0 ? BUSY_WAIT_NS : IDLE_WAIT_NS};
        ppoll(fds, 2, &nap, NULL);
    }
    ucx_peers_close(ucx);
    return NULL;
}
