/* The router process: HTTP in front, worker connections behind, the core between. */
#ifndef ROUTER_RUN_H
#define ROUTER_RUN_H

#include "config/config.h"

/* Runs until SIGTERM or SIGINT has drained it.
 * listen_fd  a bound TCP socket, or -1 to bind http.host:http.port itself
 * Workers: those of the configuration at run_dir/<name>.sock, and cluster.endpoints.
 * Returns the exit code: 0 after a drain, 1 on an error (logged), 78 when the configuration can
 * never work (no tokenizer, bad template). */
int router_run(const struct config *config, int listen_fd);

#endif
