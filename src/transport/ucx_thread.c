/* The progress thread: commands in, UCX progress, sleep on UCX's descriptor and the command queue.
 */
#include "base/time.h"
#include "transport/ucx_int.h"

#include <poll.h>
#include <string.h>
#include <time.h>

#define BUSY_WAIT_NS 200000l /* a full queue of the peer that empties again wakes nobody up */
#define IDLE_WAIT_NS 250000000l
#define PROGRESS_MAX 256u /* calls in a row: a peer that floods us must not hold up all else */

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
    mailbox_post(&ucx->box, &(struct transport_event){.kind = TRANSPORT_RECORD,
                                                      .peer = head.instance,
                                                      .data = data,
                                                      .bytes = (uint32_t)bytes});
    return UCS_OK;
}

static void command_run(struct ucx *ucx, struct command *cmd)
{
    switch (cmd->kind) {
    case COMMAND_CONNECT:
        if (ucx_peer_connect(ucx, cmd) != ST_OK)
            mailbox_post(&ucx->box, &(struct transport_event){.kind = TRANSPORT_PEER_ERROR,
                                                              .peer = cmd->peer,
                                                              .status = ST_UNAVAILABLE});
        break;
    case COMMAND_PUSH:
        ucx_peer_push(ucx, cmd);
        break;
    case COMMAND_RECORD:
        ucx_peer_record(ucx, cmd); /* takes cmd->data */
        break;
    case COMMAND_FENCE:
        ucx_peer_fence(ucx, cmd->peer);
        break;
    }
    command_free(cmd);
}

/* False when the transport is being closed. */
static bool commands_run(struct ucx *ucx)
{
    struct command *cmd;
    while (mailbox_take(&ucx->box, &cmd)) {
        if (cmd == NULL)
            return true;
        command_run(ucx, cmd);
    }
    return false;
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
    struct pollfd fds[2] = {{.events = POLLIN}, {.fd = ucx->box.command_fd, .events = POLLIN}};
    if (ucp_worker_set_am_recv_handler(ucx->worker, &handler) != UCS_OK ||
        ucp_worker_get_efd(ucx->worker, &fds[0].fd) != UCS_OK)
        fds[0].fd = -1; /* polled by time alone */
    while (commands_run(ucx)) {
        uint32_t n = 0;
        while (n < PROGRESS_MAX && ucp_worker_progress(ucx->worker) != 0)
            n++;
        bool busy = ucx_peers_tick(ucx, time_monotonic_ns(), n < PROGRESS_MAX);
        if (fds[0].fd >= 0 && ucp_worker_arm(ucx->worker) != UCS_OK)
            continue; /* something came meanwhile */
        struct timespec nap = {.tv_nsec = busy || fds[0].fd < 0 ? BUSY_WAIT_NS : IDLE_WAIT_NS};
        ppoll(fds, 2, &nap, NULL);
    }
    ucx_peers_close(ucx);
    return NULL;
}
