/* Connections to the workers: static endpoints or names resolved again and again, dialled with
 * back-off, announced to the core when their HELLO fits. */
#include "base/time.h"
#include "observe/log.h"
#include "router/loop_int.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BACKOFF_MIN_MS 20u
#define BACKOFF_MAX_MS 1000u

struct link *link_of_slot(struct router *r, uint32_t slot)
{
    for (uint32_t i = 0; i < LINKS_MAX; i++)
        if (r->links[i].up && r->links[i].slot == slot)
            return &r->links[i];
    return NULL;
}

/* Back to the dialling state. The connection itself is gone or going. */
static void link_reset(struct link *link)
{
    link->conn = NULL;
    link->open = link->up = false;
    link->pid = 0;
    link->dial_at_ns = time_monotonic_ns() + link->backoff_ms * NS_PER_MS;
    link->backoff_ms =
        link->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : link->backoff_ms * 2;
}

static void on_link_closed(void *user, struct conn *conn, enum status why)
{
    struct link *link = user;
    struct router *r = link->router;
    (void)conn;
    if (link->up) {
        log_warn("worker lost", LOG_STR("worker", link->name), LOG_STR("why", status_name(why)));
        router_core_worker_down(r->core, time_monotonic_ns(), link->slot);
    }
    link_reset(link);
    router_pump(r);
}

static void on_link_open(void *user, struct conn *conn)
{
    struct link *link = user;
    struct wire_msg msg = {.type = WIRE_HELLO};
    msg.u.hello.version_min = WIRE_VERSION_MIN;
    msg.u.hello.version_max = WIRE_VERSION_MAX;
    msg.u.hello.role = WIRE_ROLE_ROUTER;
    msg.u.hello.instance = link->router->instance;
    msg.u.hello.pid = (uint32_t)getpid();
    snprintf(msg.u.hello.name, sizeof(msg.u.hello.name), "router");
    link->open = true;
    link->backoff_ms = BACKOFF_MIN_MS;
    link->pid = conn_peer_pid(conn);
    conn_send(conn, &msg);
}

/* The router's own files must be those that the worker's model came with. */
static bool tokenizer_fits(const struct router *r, const struct wire_hello *hello)
{
    const struct hash128 none = {{0}}, own = tokenizer_hash(r->text.tokenizer);
    return hash128_equal(&hello->tokenizer_hash, &none) ||
           hash128_equal(&hello->tokenizer_hash, &own);
}

/* "": no worker is up. */
static void kv_dtype_served(const struct router *r, char out[WIRE_NAME_BYTES])
{
    struct router_worker_view view;
    out[0] = '\0';
    for (uint32_t i = 0; i < ROUTER_WORKERS_MAX && out[0] == '\0'; i++)
        if (router_core_worker_view(r->core, 0, i, &view) && view.up)
            memcpy(out, view.hello.kv_dtype, sizeof(view.hello.kv_dtype));
}

/* Once for each reason: the worker comes again and again. */
static void refusal_log(struct link *link, const struct wire_hello *hello, enum status st)
{
    char served[WIRE_NAME_BYTES];
    if (strcmp(link->refused, status_name(st)) == 0)
        return;
    snprintf(link->refused, sizeof(link->refused), "%s", status_name(st));
    kv_dtype_served(link->router, served);
    if (st == ST_MISMATCH && served[0] != '\0' && strcmp(served, hello->kv_dtype) != 0)
        log_error("worker refused: its KV cache has another number format, set kv.dtype alike",
                  LOG_STR("worker", hello->name), LOG_STR("kv_dtype", hello->kv_dtype),
                  LOG_STR("kv_dtype_of_others", served));
    else
        log_error("worker refused: its version, model, tokenizer or layout does not fit",
                  LOG_STR("worker", hello->name), LOG_STR("status", status_name(st)),
                  LOG_U64("version_min", hello->version_min),
                  LOG_U64("version_max", hello->version_max));
}

static void link_hello(struct link *link, const struct wire_hello *hello)
{
    struct router *r = link->router;
    memcpy(link->name, hello->name, sizeof(link->name));
    enum status st = tokenizer_fits(r, hello) ? ST_OK : ST_MISMATCH;
    if (st == ST_OK && !link->up)
        st = router_core_worker_up(r->core, time_monotonic_ns(), hello, &link->slot);
    if (st == ST_OK) {
        link->up = true;
        link->refused[0] = '\0';
        /* An id that a model does not have would fail the whole step it is in. */
        if (r->api.limits.vocab_size == 0 || hello->vocab_size < r->api.limits.vocab_size)
            r->api.limits.vocab_size = hello->vocab_size;
        if (hello->max_context_tokens > r->api.limits.context_tokens)
            r->api.limits.context_tokens = hello->max_context_tokens;
        log_info("worker ready", LOG_STR("worker", hello->name),
                 LOG_STR("role", wire_role_name(hello->role)),
                 LOG_U64("blocks", hello->pool.block_count), LOG_STR("kv_dtype", hello->kv_dtype),
                 LOG_STR("transport", hello->transport[0] != '\0' ? hello->transport : "none"));
        return;
    }
    refusal_log(link, hello, st);
    conn_close(link->conn);
    link->backoff_ms = BACKOFF_MAX_MS;
    link_reset(link);
}

static void on_link_message(void *user, struct conn *conn, const struct wire_msg *msg)
{
    struct link *link = user;
    (void)conn;
    if (msg->type == WIRE_HELLO) {
        link_hello(link, &msg->u.hello);
    } else if (msg->type == WIRE_LOADING) {
        link->load_permille = msg->u.loading.permille;
        memcpy(link->name, msg->u.loading.name, sizeof(link->name));
    } else if (link->up) {
        router_core_message(link->router->core, time_monotonic_ns(), link->slot, msg);
    }
    router_pump(link->router);
}

static const struct conn_handlers link_handlers = {
    .on_open = on_link_open, .on_message = on_link_message, .on_closed = on_link_closed};

void link_send(struct router *r, uint32_t slot, const struct wire_msg *msg)
{
    struct link *link = link_of_slot(r, slot);
    if (link != NULL && conn_send(link->conn, msg) != ST_OK) {
        log_error("worker does not read its messages", LOG_STR("worker", link->name));
        router_core_worker_down(r->core, time_monotonic_ns(), slot);
        conn_close(link->conn);
        link_reset(link);
        r->again = true;
    }
}

/* The core has given a worker up. One on this host that is alive and silent hangs: it is killed, so
 * that its supervisor starts it anew and nothing of it can write any more. */
void link_drop(struct router *r, uint32_t slot, enum status why)
{
    struct link *link = link_of_slot(r, slot);
    if (link == NULL)
        return;
    log_error("worker is silent, dropped", LOG_STR("worker", link->name),
              LOG_STR("why", status_name(why)), LOG_U64("pid", link->pid));
    if (why == ST_TIMEOUT && link->pid != 0)
        kill((pid_t)link->pid, SIGKILL);
    conn_close(link->conn);
    link_reset(link);
}

void links_flush(struct router *r)
{
    for (uint32_t i = 0; i < LINKS_MAX; i++)
        if (r->links[i].open)
            conn_flush(r->links[i].conn);
}

static struct link *link_add(struct router *r, const char *endpoint)
{
    struct link *empty = NULL;
    for (uint32_t i = 0; i < LINKS_MAX; i++) {
        if (strcmp(r->links[i].endpoint, endpoint) == 0) {
            r->links[i].listed = true;
            return &r->links[i];
        }
        if (r->links[i].endpoint[0] == '\0' && empty == NULL)
            empty = &r->links[i];
    }
    if (empty == NULL || strlen(endpoint) >= sizeof(empty->endpoint)) {
        log_error("endpoint left out: too many, or too long", LOG_STR("endpoint", endpoint));
        return NULL;
    }
    *empty = (struct link){.router = r, .listed = true, .backoff_ms = BACKOFF_MIN_MS};
    snprintf(empty->endpoint, sizeof(empty->endpoint), "%s", endpoint);
    return empty;
}

/* ---- names with one address a worker ---- */

static void lookup_add(struct router *r, const struct addrinfo *info)
{
    char host[64], endpoint[CONN_ENDPOINT_BYTES];
    bool v6 = info->ai_family == AF_INET6;
    uint16_t port = ntohs(v6 ? ((struct sockaddr_in6 *)info->ai_addr)->sin6_port
                             : ((struct sockaddr_in *)info->ai_addr)->sin_port);
    if (getnameinfo(info->ai_addr, info->ai_addrlen, host, sizeof(host), NULL, 0, NI_NUMERICHOST) !=
        0)
        return;
    snprintf(endpoint, sizeof(endpoint), v6 ? "[%s]:%u" : "%s:%u", host, port);
    struct link *link = link_add(r, endpoint);
    if (link != NULL)
        link->from_dns = true;
}

static void on_looked_up(uv_getaddrinfo_t *req, int rc, struct addrinfo *list)
{
    struct router *r = req->data;
    r->lookup_pending[req - r->lookups] = false;
    for (const struct addrinfo *info = list; rc == 0 && info != NULL; info = info->ai_next)
        lookup_add(r, info);
    uv_freeaddrinfo(list);
}

/* Addresses that are no longer listed go when their connection has. */
static void links_lookup(struct router *r)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    for (uint32_t i = 0; i < LINKS_MAX; i++) {
        struct link *link = &r->links[i];
        if (link->from_dns && !link->listed && link->conn == NULL)
            link->endpoint[0] = '\0';
        link->listed = !link->from_dns;
    }
    for (uint32_t i = 0; i < r->config->cluster.endpoints.count && i < LOOKUPS_MAX; i++) {
        char host[CONN_ENDPOINT_BYTES];
        const char *endpoint = r->config->cluster.endpoints.items[i];
        const char *colon = strrchr(endpoint, ':');
        if (r->lookup_pending[i] || colon == NULL)
            continue;
        snprintf(host, sizeof(host), "%.*s", (int)(colon - endpoint), endpoint);
        r->lookups[i].data = r;
        r->lookup_pending[i] =
            uv_getaddrinfo(&r->loop, &r->lookups[i], on_looked_up, host, colon + 1, &hints) == 0;
    }
}

void links_init(struct router *r)
{
    char endpoint[CONN_ENDPOINT_BYTES];
    if (r->config->run_dir[0] != '\0')
        for (uint32_t i = 0; i < config_process_count(r->config); i++) {
            struct config_process process;
            config_process_get(r->config, i, &process);
            snprintf(endpoint, sizeof(endpoint), "unix:%s/%s.sock", r->config->run_dir,
                     process.name);
            link_add(r, endpoint);
        }
    if (r->config->cluster.discovery == CONFIG_DISCOVERY_STATIC)
        for (uint32_t i = 0; i < r->config->cluster.endpoints.count; i++)
            link_add(r, r->config->cluster.endpoints.items[i]);
}

void links_tick(struct router *r)
{
    uint64_t now = time_monotonic_ns();
    if (r->config->cluster.discovery == CONFIG_DISCOVERY_DNS && now >= r->lookup_at_ns) {
        r->lookup_at_ns = now + r->config->cluster.refresh_ms * NS_PER_MS;
        links_lookup(r);
    }
    for (uint32_t i = 0; i < LINKS_MAX; i++) {
        struct link *link = &r->links[i];
        if (link->endpoint[0] == '\0' || link->conn != NULL || now < link->dial_at_ns)
            continue;
        if (conn_dial(&r->loop, link->endpoint, &link_handlers, link, &link->conn) != ST_OK)
            link_reset(link);
    }
}

void links_close(struct router *r)
{
    for (uint32_t i = 0; i < LINKS_MAX; i++)
        conn_close(r->links[i].conn);
}
