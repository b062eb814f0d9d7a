/* dynd status: what a running daemon says of itself. */
#ifndef SUPERVISOR_STATUS_H
#define SUPERVISOR_STATUS_H

#include "config/config.h"

/* Asks the router at http.host:http.port for /status and prints its table. Exit code: 1 when there
 * is no answer within 5 s. */
int status_command(const struct config *config);

#endif
