#include "check.h"

#include "base/buf.h"
#include "base/text_error.h"
#include "router/text.h"
#include "worker/plan.h"

#include <inttypes.h>
#include <stdio.h>

static void print_plan(const struct config *config, const struct worker_plan *plan,
                       bool has_template)
{
    const struct runner_size *e = &plan->engine;
    printf("# model %s\n#   context       %u tokens\n", config->model.name, e->max_context_tokens);
    if (e->n_params > 0)
        printf("#   weights       %" PRIu64 " parameters, %" PRIu64 " bytes a worker\n",
               e->n_params, e->weight_bytes);
    printf("#   KV pool       %u blocks of %u tokens in %s, %" PRIu64 " bytes a block, %" PRIu64
           " bytes a worker\n",
           plan->block_count, e->geometry.block_tokens, e->geometry.dtype, e->geometry.block_bytes,
           plan->block_count * e->geometry.block_bytes);
    if (!has_template)
        printf("#   no chat template: /v1/chat/completions will refuse\n");
}

static void print_processes(const struct config *config)
{
    printf("# processes\n#   router        http://%s:%u\n", config->http.host, config->http.port);
    for (uint32_t i = 0; i < config_process_count(config); i++) {
        struct config_process p;
        config_process_get(config, i, &p);
        printf("#   %-13s %s on %s, cpus %s, gpus %s\n", p.name, config_role_name(p.worker->role),
               config_device_name(p.worker->device),
               p.worker->cpus[0] != '\0' ? p.worker->cpus : "all",
               p.worker->gpus[0] != '\0' ? p.worker->gpus : "-");
    }
}

static enum status print_config(const struct config *config)
{
    struct buf yaml;
    buf_init(&yaml, 1 << 20);
    enum status st = config_print_yaml(config, &yaml);
    if (st == ST_OK)
        printf("%.*s", (int)yaml.len, (const char *)yaml.data);
    buf_deinit(&yaml);
    return st;
}

/* A node without workers needs no weights. */
int check_command(const struct config *config)
{
    char why[640] = "";
    struct text_error err = {why, sizeof(why)};
    struct worker_plan plan;
    bool has_template = false, has_workers = config_process_count(config) > 0;
    enum status st = router_text_check(config, &has_template, err);
    if (st == ST_OK && has_workers)
        st = worker_plan_make(config, &plan, err);
    if (st != ST_OK) {
        fprintf(stderr, "dynd: %s\n", why);
        return 1;
    }
    if (has_workers)
        print_plan(config, &plan, has_template);
    print_processes(config);
    return print_config(config) == ST_OK ? 0 : 1;
}
