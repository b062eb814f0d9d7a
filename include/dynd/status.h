/* Result codes of libdynd-kv and of the daemon. One table (status.def) gives the name, the sentence
 * shown to a client, the HTTP code, whether a retry makes sense, and the metric label. */
#ifndef DYND_STATUS_H
#define DYND_STATUS_H

#include <stdbool.h>

enum status {
#define ST(name, text, http, retryable, label) ST_##name,
#include "dynd/status.def"
#undef ST
    ST_COUNT
};

#endif
