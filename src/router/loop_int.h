/* Inside of the router process: run.c starts and stops it, links.c talks to workers, flight.c
 * carries requests, pages.c answers the small endpoints. Everything runs on one libuv loop. */
#ifndef ROUTER_LOOP_INT_H
#define ROUTER_LOOP_INT_H

#include "api/endpoints.h"
#include "api/request.h"
#include "api/response.h"
#include "base/list.h"
#include "base/philox.h"
#include "cluster/conn.h"
#include "config/config.h"
#include "http/routes.h"
#include "http/server.h"
#include "router/core.h"
#include "router/text.h"

#include <uv.h>

#define LOOKUPS_MAX 256u /* bound of cluster.endpoints in options.def */
#define LINKS_MAX   ROUTER_WORKERS_MAX

/* A worker that is dialled, and dialled again. */
struct link {
    struct router *router;
    char endpoint[CONN_ENDPOINT_BYTES]; /* "": slot is free */
    bool from_dns, listed;
    struct conn *conn;
    bool open, up;
    uint32_t slot; /* in the core, when up */
    uint64_t dial_at_ns;
    uint32_t backoff_ms;
    uint32_t load_permille;
    char name[WIRE_NAME_BYTES];
    char refused[64]; /* why its HELLO was not taken */
    uint32_t pid;     /* of a process on this host, 0: not known */
};

struct flight;

/* One prompt of a request: what the core knows as a request. Its address is the core's tag. */
struct flight_prompt {
    struct flight *flight;
    uint32_t index;
    uint64_t id; /* core request, 0: ended or not submitted */
    uint32_t cached_tokens;
};

/* A generation request between its arrival and its last byte. */
struct flight {
    struct list node; /* in router->flights */
    struct router *router;
    struct http_request *http; /* NULL: the client is gone */
    enum api_endpoint endpoint;
    struct api_request *request;
    struct api_error error; /* of the parse */
    enum status parse_status;
    uv_work_t work;
    char *body; /* copy of a large one, parsed off the loop */
    size_t body_bytes;
    bool in_work, begun, response_made;
    struct api_response response;
    struct api_choice_stream *choices;
    uint64_t *last_ns; /* [n_choices] time of a choice's newest token */
    uint32_t n_choices, n_choices_made;
    struct flight_prompt *prompts;
    uint32_t n_prompts_live;
    struct buf out;
    uint64_t completion_tokens;
};

struct router {
    const struct config *config;
    uv_loop_t loop;
    uv_timer_t timer, links_timer, drain_timer;
    uv_signal_t sigterm, sigint;
    uv_getaddrinfo_t lookups[LOOKUPS_MAX]; /* one for each of cluster.endpoints */
    bool lookup_pending[LOOKUPS_MAX];
    uint64_t lookup_at_ns;
    struct http_server *http;
    struct router_core *core;
    uint64_t instance;
    struct router_text text;
    struct api_context api;
    struct link links[LINKS_MAX];
    struct list flights;
    uint32_t n_flights;
    struct rng rng; /* seeds of requests that name none */
    bool draining, again;
    int exit_code;
};

/* run.c */
void router_pump(struct router *r);
/* links.c */
void links_init(struct router *r);
void links_tick(struct router *r);
void links_close(struct router *r);
void links_flush(struct router *r);
void link_send(struct router *r, uint32_t slot, const struct wire_msg *msg);
void link_drop(struct router *r, uint32_t slot, enum status why);
struct link *link_of_slot(struct router *r, uint32_t slot);
/* flight.c */
void flight_start(struct router *r, struct http_request *req, enum api_endpoint endpoint);
void flight_client_gone(struct flight *f);
void flight_action(const struct router_action *act);
void flights_fail_all(struct router *r, enum status st);
/* pages.c */
void pages_dispatch(struct router *r, struct http_request *req);
bool router_is_ready(const struct router *r);

#endif
