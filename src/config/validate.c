/* Checks of several values together, and the expansion of `workers` into processes. */
#include "config/config_int.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

/* --- Lists of indices --- */

/* Digits at *at; moves behind them. */
static bool index_read(const char **at, uint32_t *out)
{
    size_t n = strspn(*at, "0123456789");
    if (n == 0 || n > 4)
        return false;
    uint32_t value = 0;
    for (size_t i = 0; i < n; i++)
        value = value * 10 + (uint32_t)((*at)[i] - '0');
    *at += n;
    *out = value;
    return value <= CONFIG_INDEX_MAX;
}

enum status config_index_list_parse(const char *text, uint32_t *out, uint32_t out_max,
                                    uint32_t *out_count)
{
    uint8_t seen[(CONFIG_INDEX_MAX + 1) / CHAR_BIT] = {0};
    uint32_t count = 0;
    const char *at = text;
    while (*at != '\0') {
        uint32_t first, last;
        if (!index_read(&at, &first))
            return ST_PARSE;
        last = first;
        if (*at == '-') {
            at++;
            if (!index_read(&at, &last) || last < first)
                return ST_PARSE;
        }
        for (uint32_t i = first; i <= last; i++) {
            uint8_t bit = (uint8_t)(1u << (i % CHAR_BIT));
            if (seen[i / CHAR_BIT] & bit)
                return ST_PARSE;
            seen[i / CHAR_BIT] |= bit;
            if (count == out_max)
                return ST_TOO_LARGE;
            if (out != NULL)
                out[count] = i;
            count++;
        }
        if (*at == '\0')
            break;
        if (*at++ != ',' || *at == '\0')
            return ST_PARSE;
    }
    *out_count = count;
    return ST_OK;
}

/* --- Processes --- */

uint32_t config_process_count(const struct config *config)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < config->n_workers; i++)
        n += config->workers[i].count;
    return n;
}

void config_process_get(const struct config *config, uint32_t index, struct config_process *out)
{
    uint32_t n_of_role[3] = {0};
    uint32_t entry = 0;
    while (entry + 1 < config->n_workers && index >= config->workers[entry].count) {
        const struct config_worker *worker = &config->workers[entry];
        if (worker->name[0] == '\0')
            n_of_role[worker->role] += worker->count;
        index -= worker->count;
        entry++;
    }
    const struct config_worker *worker = &config->workers[entry];
    out->worker = worker;
    out->entry = entry;
    if (worker->name[0] == '\0')
        snprintf(out->name, sizeof(out->name), "%s-%u", config_role_name(worker->role),
                 n_of_role[worker->role] + index);
    else if (worker->count == 1)
        snprintf(out->name, sizeof(out->name), "%s", worker->name);
    else
        snprintf(out->name, sizeof(out->name), "%s-%u", worker->name, index);
}

/* --- Checks --- */

struct checker {
    const struct config *config;
    struct config_error *error;
};

static enum status fail(const struct checker *c, const char *key, const char *message)
{
    struct origin at = {.source = c->config->path};
    error_set(c->error, &at, key, "%s", message);
    return ST_INVALID;
}

static enum status model_check(const struct checker *c)
{
    const struct config *config = c->config;
    if (config->model.runner == CONFIG_RUNNER_TRANSFORMER && config->model.path[0] == '\0')
        return fail(c, "model.path", "is required unless model.runner is hash");
    return ST_OK;
}

static enum status names_check(const struct checker *c)
{
    uint32_t n = config_process_count(c->config);
    if (n > CONFIG_WORKERS_MAX)
        return fail(c, "workers", "stand for more than 64 processes");
    for (uint32_t i = 0; i < n; i++) {
        struct config_process a, b;
        config_process_get(c->config, i, &a);
        for (uint32_t j = 0; j < i; j++) {
            config_process_get(c->config, j, &b);
            if (strcmp(a.name, b.name) != 0)
                continue;
            char message[128];
            snprintf(message, sizeof(message), "two processes would be named %s", a.name);
            return fail(c, "workers", message);
        }
    }
    return ST_OK;
}

static enum status devices_check(const struct checker *c)
{
    for (uint32_t i = 0; i < c->config->n_workers; i++) {
        const struct config_worker *worker = &c->config->workers[i];
        if (worker->device == CONFIG_DEVICE_CUDA || worker->gpus[0] == '\0')
            continue;
        char key[32];
        snprintf(key, sizeof(key), "workers.%u.gpus", i);
        return fail(c, key, "needs device: cuda");
    }
    return ST_OK;
}

/* A router with endpoints, and a worker that listens alone, may have their partners elsewhere. */
static enum status roles_check(const struct checker *c)
{
    const struct config *config = c->config;
    if (config->cluster.endpoints.count > 0 || config->cluster.listen[0] != '\0')
        return ST_OK;
    if (config->n_workers == 0)
        return fail(c, "workers", "is empty, and cluster.endpoints too: nothing could serve");
    for (uint32_t i = 0; i < config->n_workers; i++)
        if (config->workers[i].role != CONFIG_ROLE_PREFILL)
            return ST_OK;
    return fail(c, "workers", "a prefill worker needs a decode worker, add one with role: decode");
}

static enum status cluster_check(const struct checker *c)
{
    const struct config *config = c->config;
    if (config->cluster.discovery != CONFIG_DISCOVERY_DNS)
        return ST_OK;
    if (config->cluster.endpoints.count == 0)
        return fail(c, "cluster.endpoints", "needs a name to look up when discovery is dns");
    for (uint32_t i = 0; i < config->cluster.endpoints.count; i++)
        if (strncmp(config->cluster.endpoints.items[i], "unix:", 5) == 0)
            return fail(c, "cluster.endpoints", "takes no unix: path when discovery is dns");
    return ST_OK;
}

static enum status transfer_check(const struct checker *c)
{
    const struct config_strings *require = &c->config->kv_transfer.require;
    const char *name = config_transport_name(c->config->kv_transfer.transport);
    if (c->config->kv_transfer.transport == CONFIG_TRANSPORT_AUTO || require->count == 0)
        return ST_OK;
    for (uint32_t i = 0; i < require->count; i++)
        if (strcmp(require->items[i], name) == 0)
            return ST_OK;
    return fail(c, "kv_transfer.transport", "is not among kv_transfer.require");
}

static enum status numbers_check(const struct checker *c)
{
    const struct config *config = c->config;
    if (config->scheduler.prefill_chunk_tokens > config->scheduler.max_batch_tokens)
        return fail(c, "scheduler.prefill_chunk_tokens", "is more than max_batch_tokens");
    if (config->scheduler.max_batch_seqs > config->scheduler.max_batch_tokens)
        return fail(c, "scheduler.max_batch_seqs", "is more than max_batch_tokens");
    if (config->supervisor.restart_backoff_ms > config->supervisor.restart_backoff_max_ms)
        return fail(c, "supervisor.restart_backoff_ms", "is more than restart_backoff_max_ms");
    return ST_OK;
}

enum status config_validate(const struct config *config, struct config_error *out_error)
{
    static enum status (*const checks[])(const struct checker *) = {
        model_check,   names_check,    devices_check, roles_check,
        cluster_check, transfer_check, numbers_check,
    };
    struct checker c = {.config = config, .error = out_error};
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        enum status st = checks[i](&c);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}
