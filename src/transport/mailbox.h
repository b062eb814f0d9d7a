/* The two queues between the loop thread and the thread of a transport: commands in, events out.
 * Both are bounded, but for events that end something: each of those must be seen. */
#ifndef TRANSPORT_MAILBOX_H
#define TRANSPORT_MAILBOX_H

#include "base/list.h"
#include "transport/transport.h"

#include <pthread.h>
#include <stdbool.h>

#define MAILBOX_PUSHES_MAX      16384u /* begun, their PUSH_DONE not yet taken */
#define MAILBOX_COMMANDS_MAX    65536u
#define MAILBOX_EVENTS_MAX      65536u
#define MAILBOX_EVENT_BYTES_MAX (64u << 20) /* of records that wait to be taken */

enum command_kind { COMMAND_CONNECT, COMMAND_PUSH, COMMAND_RECORD, COMMAND_FENCE };

struct command {
    struct list node;
    enum command_kind kind;
    uint64_t peer, push_id, deadline_ns;
    struct wire_peer info; /* CONNECT; its blob is `data` */
    uint32_t n_vec, bytes;
    struct transport_vec *vec; /* PUSH */
    uint8_t *data;             /* CONNECT, RECORD; who takes it sets it to NULL */
};

struct mailbox {
    pthread_mutex_t mutex;
    struct list commands, events;
    uint32_t n_commands, n_events, n_pushes;
    uint64_t event_bytes; /* of the records among the events */
    bool stop;
    int command_fd, event_fd;         /* eventfds, readable when there may be something */
    struct mailbox_event *handed_out; /* loop thread */
};

/* ST_IO: no descriptors. mailbox_deinit either way; only when the other thread has ended. */
enum status mailbox_init(struct mailbox *box);
void mailbox_deinit(struct mailbox *box);

/* Loop thread. The contracts of transport_ops; own: geometry of the own pool. */
enum status mailbox_connect(struct mailbox *box, const struct wire_peer *peer);
enum status mailbox_push(struct mailbox *box, const struct wire_pool *own, uint64_t peer,
                         uint64_t push_id, const struct transport_vec *vec, uint32_t n_vec,
                         uint64_t deadline_ns);
enum status mailbox_record(struct mailbox *box, uint64_t peer, const uint8_t *data, uint32_t bytes);
enum status mailbox_fence(struct mailbox *box, uint64_t peer);
bool mailbox_next_event(struct mailbox *box, struct transport_event *out);
/* From now on mailbox_take gives false. */
void mailbox_stop(struct mailbox *box);

/* The transport's thread. */
/* False: the transport is being closed. *out_command is NULL when there is none, else to be given
 * to command_free. */
bool mailbox_take(struct mailbox *box, struct command **out_command);
void command_free(struct command *command);
/* Copies. A record is dropped when too many wait. */
void mailbox_post(struct mailbox *box, const struct transport_event *event);

#endif
