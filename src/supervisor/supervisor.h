/* Supervisor: makes the node's processes, keeps them alive, ends them in order.
 *
 *   dynd --config F
 *     +- dynd router --config F ...               owns no model; gets the listening socket as fd 3
 *     +- dynd worker --role prefill --name prefill-0 --config F ...
 *     +- dynd worker --role decode --name decode-0 ...
 *
 * It holds the HTTP socket itself, so that no connect is refused while the router restarts. It is
 * one thread on a libuv loop and knows nothing of requests. */
#ifndef SUPERVISOR_SUPERVISOR_H
#define SUPERVISOR_SUPERVISOR_H

#include "config/config.h"

/* Runs until SIGTERM or SIGINT has drained everything, or a process was given up.
 * argv_config  [n] "--config", "F", "--set", ... to hand on to every process
 * Returns the exit code: 0 after a drain, 1 on an error (logged). */
int supervisor_run(const struct config *config, const char *const *argv_config, uint32_t n);

#endif
