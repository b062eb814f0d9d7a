#include "cluster/endpoint.h"

#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static enum status parse_port(const char *text, uint16_t *out)
{
    char *end;
    if (*text < '0' || *text > '9')
        return ST_INVALID;
    unsigned long port = strtoul(text, &end, 10);
    if (*end != '\0' || port > 65535)
        return ST_INVALID;
    *out = (uint16_t)port;
    return ST_OK;
}

enum status endpoint_parse(const char *text, struct endpoint *out)
{
    memset(out, 0, sizeof(*out));
    if (strncmp(text, "unix:", 5) == 0) {
        size_t bytes = strlen(text + 5);
        if (bytes == 0 || bytes >= sizeof(((struct sockaddr_un *)0)->sun_path))
            return ST_INVALID;
        out->is_unix = true;
        memcpy(out->host, text + 5, bytes + 1);
        return ST_OK;
    }
    const char *host = text, *colon = strrchr(text, ':');
    if (colon == NULL)
        return ST_INVALID;
    size_t bytes = (size_t)(colon - text);
    if (bytes >= 2 && text[0] == '[' && text[bytes - 1] == ']') {
        host++;
        bytes -= 2;
    } else if (memchr(text, ':', bytes) != NULL) {
        return ST_INVALID; /* a bare IPv6 address: which colon is the port's? */
    }
    if (bytes == 0 || bytes >= sizeof(out->host))
        return ST_INVALID;
    memcpy(out->host, host, bytes);
    return parse_port(colon + 1, &out->port);
}
