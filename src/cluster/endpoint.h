/* Endpoint texts: "unix:/path", "host:port", "[address]:port". */
#ifndef CLUSTER_ENDPOINT_H
#define CLUSTER_ENDPOINT_H

#include "base/status.h"

#include <stdint.h>

struct endpoint {
    bool is_unix;
    char host[254]; /* or the path */
    uint16_t port;
};

/* ST_INVALID: not an endpoint, or its path or name is too long. */
enum status endpoint_parse(const char *text, struct endpoint *out);

#endif
