/* Lookups over include/dynd/status.def. Any thread; an unknown code answers as ST_INTERNAL. */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#include "dynd/status.h"

/* Metric label and log form, for example "no_blocks". */
const char *status_name(enum status st);
/* Sentence that a client may see. */
const char *status_text(enum status st);
int status_http_code(enum status st);
bool status_is_retryable(enum status st);

#endif
