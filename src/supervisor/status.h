/* The commands that only look: dynd check and dynd status. */
#ifndef SUPERVISOR_STATUS_H
#define SUPERVISOR_STATUS_H

#include "config/config.h"

/* Prints the processes that would run and the effective configuration. Exit code. */
int check_command(const struct config *config);
/* Asks the router at http.host:http.port for /status and prints its table. Exit code: 1 when there
 * is no answer within 5 s. */
int status_command(const struct config *config);

#endif
