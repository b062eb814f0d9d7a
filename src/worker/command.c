#include "worker/command.h"

#include "observe/log.h"
#include "worker/run.h"

#include <stdio.h>
#include <string.h>

static bool find_process(const struct config *config, const char *role, const char *name,
                         struct config_process *out)
{
    uint32_t n = config_process_count(config);
    for (uint32_t i = 0; i < n; i++) {
        config_process_get(config, i, out);
        if (name != NULL ? strcmp(out->name, name) == 0
                         : role != NULL && strcmp(config_role_name(out->worker->role), role) == 0)
            return true;
    }
    return false;
}

/* A worker that the file does not list. `alone` backs the process and outlives it. */
static bool make_process(const char *role, const char *name, struct config_worker *alone,
                         struct config_process *out)
{
    *alone = (struct config_worker){.cpus = "", .gpus = "", .name = ""};
    for (alone->role = CONFIG_ROLE_UNIFIED; alone->role <= CONFIG_ROLE_DECODE; alone->role++) {
        if (role == NULL || strcmp(config_role_name(alone->role), role) != 0)
            continue;
        *out = (struct config_process){.worker = alone};
        snprintf(out->name, sizeof(out->name), "%s", name != NULL ? name : role);
        return true;
    }
    return false;
}

int worker_command(const struct config *config, const char *role, const char *name,
                   const char *listen)
{
    struct config_process process = {0};
    struct config_worker alone;
    if (!find_process(config, role, name, &process) &&
        !make_process(role, name, &alone, &process)) {
        fprintf(stderr, "dynd worker: --role must be prefill, decode or unified\n");
        return 2;
    }
    if (listen == NULL)
        listen = config->cluster.listen;
    if (listen[0] == '\0') {
        fprintf(stderr, "dynd worker: --listen or cluster.listen must say where routers connect\n");
        return 2;
    }
    log_setup((enum log_level)config->log.level, config->log.format == CONFIG_LOG_JSON,
              process.name);
    return worker_run(config, &process, listen);
}
