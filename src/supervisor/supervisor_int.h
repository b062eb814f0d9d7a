/* State of the supervisor, shared by supervisor.c (policy) and output.c (its children's logs). */
#ifndef SUPERVISOR_SUPERVISOR_INT_H
#define SUPERVISOR_SUPERVISOR_INT_H

#include "config/config.h"

#include <uv.h>

#define CHILD_LINE_BYTES 8192u
#define CHILD_ARGS_MAX   512u

struct supervisor;

struct child {
    struct supervisor *supervisor;
    char name[CONFIG_NAME_BYTES_MAX + 1];
    const struct config_worker *worker; /* NULL: the router */
    uv_process_t process;
    uv_pipe_t output;
    uv_timer_t timer; /* restart back-off, later the kill deadline */
    bool alive, given_up;
    bool output_open;
    uint64_t started_ns;
    uint32_t backoff_ms;
    uint64_t *restarts_ns; /* [restart_budget] ring of the last restarts */
    uint32_t n_restarts;
    char line[CHILD_LINE_BYTES];
    uint32_t line_bytes;
    uint32_t permille; /* of the model load, for the bar */
};

struct supervisor {
    uv_loop_t loop;
    uv_signal_t sigterm, sigint;
    const struct config *config;
    const char *const *argv_config;
    uint32_t n_argv_config;
    char exe[4096];
    char run_dir[256];
    bool own_run_dir;
    int listen_fd;
    struct child children[CONFIG_WORKERS_MAX + 1]; /* the router is the last */
    uint32_t n_children;
    bool stopping, is_tty, bar_shown;
    int exit_code;
};

/* Starts reading child->output, line by line, on to our own stderr. */
void child_output_start(struct child *child);
/* Writes what is left of a line when the child is gone. */
void child_output_flush(struct child *child);

#endif
