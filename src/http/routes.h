/* Route table: method and path to a function, with the answers that follow from the table alone:
 * 404 for an unknown path, 405 with Allow for an unknown method, OPTIONS, HEAD by the GET route.
 * Loop thread. */
#ifndef HTTP_ROUTES_H
#define HTTP_ROUTES_H

#include "http/server.h"

struct http_route {
    const char *method; /* "GET", ... */
    const char *path;   /* exact; a trailing "*" takes any non-empty rest into request->path_tail */
    void (*handle)(void *user, struct http_request *request);
};

/* Calls the route's function or answers; either way the request is taken care of. `extra` goes on
 * the answers made here (CORS fields, for example). The first matching route wins. */
void http_routes_dispatch(const struct http_route *routes, size_t n_routes, void *user,
                          struct http_request *request, const struct http_header *extra,
                          size_t n_extra);

#endif
