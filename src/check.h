/* dynd check: what a configuration would run, without running it. */
#ifndef CHECK_H
#define CHECK_H

#include "config/config.h"

/* Reads all that serving the model takes but the weights themselves, then prints the model's sizes,
 * the processes, and the effective configuration; comments and YAML, which load as a configuration
 * again. A fault is one line on stderr that names file or setting.
 * config  validated
 * Returns the exit code. */
int check_command(const struct config *config);

#endif
