#include "transport/mailbox.h"

#include "observe/log.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct mailbox_event {
    struct list node;
    struct transport_event event; /* event.data points behind this struct */
};

enum status mailbox_init(struct mailbox *box)
{
    *box = (struct mailbox){0};
    pthread_mutex_init(&box->mutex, NULL);
    list_init(&box->commands);
    list_init(&box->events);
    box->command_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    box->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return box->command_fd >= 0 && box->event_fd >= 0 ? ST_OK : ST_IO;
}

void command_free(struct command *command)
{
    free(command->vec);
    free(command->data);
    free(command);
}

void mailbox_deinit(struct mailbox *box)
{
    struct list *node, *next;
    list_for_each_safe(node, next, &box->commands)
    {
        command_free(list_entry(node, struct command, node));
    }
    list_for_each_safe(node, next, &box->events)
    {
        free(list_entry(node, struct mailbox_event, node));
    }
    free(box->handed_out);
    if (box->command_fd >= 0)
        close(box->command_fd);
    if (box->event_fd >= 0)
        close(box->event_fd);
    pthread_mutex_destroy(&box->mutex);
}

/* ---- commands ---- */

static struct command *command_new(enum command_kind kind, uint64_t peer, const void *data,
                                   uint32_t bytes)
{
    struct command *command = calloc(1, sizeof(*command));
    if (command == NULL)
        return NULL;
    command->kind = kind;
    command->peer = peer;
    command->bytes = bytes;
    command->data = bytes > 0 ? malloc(bytes) : NULL;
    if (bytes > 0 && command->data == NULL) {
        free(command);
        return NULL;
    }
    if (bytes > 0)
        memcpy(command->data, data, bytes);
    return command;
}

static enum status command_send(struct mailbox *box, struct command *command)
{
    if (command == NULL)
        return ST_NO_MEMORY;
    bool is_push = command->kind == COMMAND_PUSH;
    pthread_mutex_lock(&box->mutex);
    bool full =
        box->n_commands >= MAILBOX_COMMANDS_MAX || (is_push && box->n_pushes >= MAILBOX_PUSHES_MAX);
    if (!full) {
        list_add_tail(&box->commands, &command->node);
        box->n_commands++;
        box->n_pushes += is_push;
    }
    pthread_mutex_unlock(&box->mutex);
    if (full) {
        command_free(command);
        return ST_FULL;
    }
    eventfd_write(box->command_fd, 1);
    return ST_OK;
}

enum status mailbox_connect(struct mailbox *box, const struct wire_peer *peer)
{
    struct command *command =
        command_new(COMMAND_CONNECT, peer->instance, peer->blob, peer->blob_bytes);
    if (command != NULL) {
        command->info = *peer;
        command->info.blob = NULL;
    }
    return command_send(box, command);
}

enum status mailbox_push(struct mailbox *box, const struct wire_pool *own, uint64_t peer,
                         uint64_t push_id, const struct transport_vec *vec, uint32_t n_vec,
                         uint64_t deadline_ns)
{
    for (uint32_t i = 0; i < n_vec; i++)
        if (vec[i].src_block >= own->block_count || vec[i].bytes > own->block_bytes ||
            vec[i].offset_bytes > own->block_bytes - vec[i].bytes)
            return ST_INVALID;
    struct command *command = command_new(COMMAND_PUSH, peer, NULL, 0);
    if (command == NULL)
        return ST_NO_MEMORY;
    command->push_id = push_id;
    command->deadline_ns = deadline_ns;
    command->n_vec = n_vec;
    command->vec = malloc(n_vec > 0 ? n_vec * sizeof(*vec) : 1);
    if (command->vec == NULL) {
        free(command);
        return ST_NO_MEMORY;
    }
    if (n_vec > 0)
        memcpy(command->vec, vec, n_vec * sizeof(*vec));
    return command_send(box, command);
}

enum status mailbox_record(struct mailbox *box, uint64_t peer, const uint8_t *data, uint32_t bytes)
{
    if (bytes == 0 || bytes > TRANSPORT_RECORD_BYTES_MAX)
        return ST_TOO_LARGE;
    return command_send(box, command_new(COMMAND_RECORD, peer, data, bytes));
}

enum status mailbox_fence(struct mailbox *box, uint64_t peer)
{
    return command_send(box, command_new(COMMAND_FENCE, peer, NULL, 0));
}

void mailbox_stop(struct mailbox *box)
{
    pthread_mutex_lock(&box->mutex);
    box->stop = true;
    pthread_mutex_unlock(&box->mutex);
    eventfd_write(box->command_fd, 1);
}

bool mailbox_take(struct mailbox *box, struct command **out_command)
{
    eventfd_t ignored;
    *out_command = NULL;
    pthread_mutex_lock(&box->mutex);
    bool stop = box->stop;
    if (!stop && !list_is_empty(&box->commands)) {
        *out_command = list_entry(box->commands.next, struct command, node);
        list_del(&(*out_command)->node);
        box->n_commands--;
    } else if (!stop) {
        eventfd_read(box->command_fd, &ignored);
    }
    pthread_mutex_unlock(&box->mutex);
    return !stop;
}

/* ---- events ---- */

void mailbox_post(struct mailbox *box, const struct transport_event *event)
{
    uint32_t bytes = event->kind == TRANSPORT_RECORD ? event->bytes : 0;
    struct mailbox_event *e = malloc(sizeof(*e) + bytes);
    if (e == NULL)
        return; /* the push's or the router's deadline sees to it */
    e->event = *event;
    e->event.data = (const uint8_t *)(e + 1);
    if (bytes > 0)
        memcpy(e + 1, event->data, bytes);
    pthread_mutex_lock(&box->mutex);
    bool drop = bytes > 0 && (box->n_events >= MAILBOX_EVENTS_MAX ||
                              box->event_bytes + bytes > MAILBOX_EVENT_BYTES_MAX);
    if (!drop) {
        list_add_tail(&box->events, &e->node);
        box->n_events++;
        box->event_bytes += bytes;
    }
    pthread_mutex_unlock(&box->mutex);
    if (!drop) {
        eventfd_write(box->event_fd, 1);
        return;
    }
    log_warn("record from peer dropped, too many wait", LOG_U64("peer", event->peer));
    free(e);
}

bool mailbox_next_event(struct mailbox *box, struct transport_event *out)
{
    eventfd_t ignored;
    free(box->handed_out);
    box->handed_out = NULL;
    pthread_mutex_lock(&box->mutex);
    if (!list_is_empty(&box->events)) {
        box->handed_out = list_entry(box->events.next, struct mailbox_event, node);
        list_del(&box->handed_out->node);
        box->n_events--;
        if (box->handed_out->event.kind == TRANSPORT_RECORD)
            box->event_bytes -= box->handed_out->event.bytes;
        box->n_pushes -= box->handed_out->event.kind == TRANSPORT_PUSH_DONE;
    } else {
        eventfd_read(box->event_fd, &ignored);
    }
    pthread_mutex_unlock(&box->mutex);
    if (box->handed_out == NULL)
        return false;
    *out = box->handed_out->event;
    return true;
}
