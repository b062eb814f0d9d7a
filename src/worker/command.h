/* `dynd worker`: which worker of the configuration the command line speaks of. */
#ifndef WORKER_COMMAND_H
#define WORKER_COMMAND_H

#include "config/config.h"

/* Runs the worker that the configuration calls `name`; else one of `role`, with the settings of the
 * first listed worker of that role, or default ones.
 * role, name  as given, or NULL; a name that is not listed is that of the process
 * listen      endpoint for routers, "unix:/path" or "host:port"; NULL: cluster.listen
 * Returns the process exit code: worker_run's, or 2 for arguments that name no worker. */
int worker_command(const struct config *config, const char *role, const char *name,
                   const char *listen);

#endif
