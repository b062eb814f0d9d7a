/* One worker process: loads the model, listens for routers, runs the core until told to stop. */
#ifndef WORKER_RUN_H
#define WORKER_RUN_H

#include "config/config.h"

/* Runs on the calling thread until SIGTERM or SIGINT has drained it, or it cannot go on.
 * process   which worker of the configuration this is
 * listen    endpoint for routers, "unix:/path" or "host:port"
 * Returns the process exit code: 0 after a drain, 1 on an error (logged). */
int worker_run(const struct config *config, const struct config_process *process,
               const char *listen);

#endif
