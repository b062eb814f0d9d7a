#include "http/routes.h"

#include <string.h>

enum { ALLOW_BYTES = 64, EXTRA_MAX = 16 };

/* Tail behind the route's prefix, "" for an exact match, NULL for none. */
static const char *route_match(const struct http_route *route, const char *path)
{
    size_t bytes = strlen(route->path);
    if (bytes > 0 && route->path[bytes - 1] == '*')
        return strncmp(route->path, path, bytes - 1) == 0 && path[bytes - 1] != '\0'
                   ? path + bytes - 1
                   : NULL;
    return strcmp(route->path, path) == 0 ? "" : NULL;
}

/* Whole-word search in a list such as "GET, HEAD". */
static bool allow_has(const char *allow, const char *method)
{
    size_t bytes = strlen(method);
    for (const char *at = allow; (at = strstr(at, method)) != NULL; at += bytes)
        if ((at == allow || at[-1] == ' ') && (at[bytes] == ',' || at[bytes] == '\0'))
            return true;
    return false;
}

static void allow_add(char allow[ALLOW_BYTES], const char *method)
{
    size_t used = strlen(allow), bytes = strlen(method), gap = used > 0 ? 2 : 0;
    if (allow_has(allow, method) || used + gap + bytes >= ALLOW_BYTES)
        return;
    memcpy(allow + used, ", ", gap);
    memcpy(allow + used + gap, method, bytes + 1);
}

void http_routes_dispatch(const struct http_route *routes, size_t n_routes, void *user,
                          struct http_request *request, const struct http_header *extra,
                          size_t n_extra)
{
    char allow[ALLOW_BYTES] = "";
    bool is_head = strcmp(request->method, "HEAD") == 0;
    bool is_any = strcmp(request->path, "*") == 0; /* OPTIONS *: asks about the server itself */
    for (size_t i = 0; i < n_routes; i++) {
        const char *tail = route_match(&routes[i], request->path);
        if (tail == NULL && !is_any)
            continue;
        const char *method =
            is_head && strcmp(routes[i].method, "GET") == 0 ? "HEAD" : routes[i].method;
        if (!is_any && strcmp(method, request->method) == 0) {
            request->path_tail = tail;
            routes[i].handle(user, request);
            return;
        }
        allow_add(allow, routes[i].method);
        if (strcmp(routes[i].method, "GET") == 0)
            allow_add(allow, "HEAD");
    }
    if (allow[0] == '\0') {
        http_respond_error(request, 404, NULL, "There is nothing at this path.", extra, n_extra);
        return;
    }
    allow_add(allow, "OPTIONS");
    struct http_header headers[EXTRA_MAX] = {{"Allow", allow}};
    size_t n = 1;
    for (size_t i = 0; i < n_extra && n < EXTRA_MAX; i++)
        headers[n++] = extra[i];
    if (strcmp(request->method, "OPTIONS") == 0)
        http_respond(request, 204, NULL, NULL, 0, headers, n);
    else
        http_respond_error(request, 405, NULL, "This path does not take this method.", headers, n);
}
