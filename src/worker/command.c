#include "worker/command.h"

#include "observe/log.h"
#include "worker/run.h"

#include <stdio.h>
#include <string.h>

/* The first worker of the configuration with that name, or that role; NULL is no wish. */
static bool find_process(const struct config *config, const char *role, const char *name,
                         struct config_process *out)
{
    uint32_t n = config_process_count(config);
    for (uint32_t i = 0; i < n; i++) {
        config_process_get(config, i, out);
        if ((name != NULL && strcmp(out->name, name) == 0) ||
            (role != NULL && strcmp(config_role_name(out->worker->role), role) == 0))
            return true;
    }
    return false;
}

/* The settings of a worker that the file does not list. */
static bool make_worker(const char *role, struct config_worker *out)
{
    *out = (struct config_worker){.cpus = "", .gpus = "", .name = ""};
    for (out->role = CONFIG_ROLE_UNIFIED; out->role <= CONFIG_ROLE_DECODE; out->role++)
        if (role != NULL && strcmp(config_role_name(out->role), role) == 0)
            return true;
    return false;
}

int worker_command(const struct config *config, const char *role, const char *name,
                   const char *listen)
{
    struct config_process process;
    struct config_worker alone;
    bool listed = name != NULL && find_process(config, NULL, name, &process);
    if (!listed && !find_process(config, role, NULL, &process)) {
        if (!make_worker(role, &alone)) {
            fprintf(stderr, "dynd worker: --role must be prefill, decode or unified\n");
            return 2;
        }
        process = (struct config_process){.worker = &alone};
        snprintf(process.name, sizeof(process.name), "%s", role);
    }
    if (!listed && name != NULL)
        snprintf(process.name, sizeof(process.name), "%s", name);
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
