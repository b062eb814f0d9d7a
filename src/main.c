/* dynd: argv -> command -> run.
 *
 *   dynd [--config F] [--set a.b=c ...]    supervisor, router and this node's workers
 *   dynd router | worker | check | status  one part alone */
#include "base/buf.h"
#include "check.h"
#include "config/config.h"
#include "observe/log.h"
#include "router/run.h"
#include "supervisor/status.h"
#include "supervisor/supervisor.h"
#include "worker/command.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#define SETS_MAX 250u

struct args {
    const char *command; /* "" runs everything */
    const char *config, *role, *name, *listen, *listen_fd;
    const char *sets[SETS_MAX];
    const char *handed_on[2 * SETS_MAX + 2]; /* --config and --set, for the children */
    uint32_t n_sets, n_handed_on;
};

static const char usage_text[] =
    "usage: dynd [command] [--config FILE] [--set section.key=value ...]\n\n"
    "commands\n"
    "  (none)   run the router and the workers of this node\n"
    "  check    validate configuration and model files, print what would run\n"
    "  status   ask a running router for its workers, queues and block use\n"
    "  router   run the router alone; workers come from cluster.endpoints\n"
    "  worker   run one worker alone: --role prefill|decode|unified [--name N] [--listen "
    "ENDPOINT]\n"
    "\n"
    "  --help, --version, --schema (JSON Schema of the configuration file)\n\n"
    "options of the configuration, each also as DYND_SECTION_KEY in the environment:\n";

static int print_document(const char *head, enum status (*write)(struct buf *out))
{
    struct buf out;
    buf_init(&out, 1 << 20);
    enum status st = write(&out);
    if (st == ST_OK)
        printf("%s%.*s", head, (int)out.len, (const char *)out.data);
    buf_deinit(&out);
    return st == ST_OK ? 0 : 1;
}

/* The value of an option that takes one; NULL and a message when argv ends. */
static const char *option_value(int argc, char **argv, int *i)
{
    if (*i + 1 < argc)
        return argv[++*i];
    fprintf(stderr, "dynd: %s needs a value\n", argv[*i]);
    return NULL;
}

static int parse_args(int argc, char **argv, struct args *out)
{
    out->command = "";
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], **value = NULL;
        if (i == 1 && arg[0] != '-') {
            out->command = arg;
            continue;
        }
        if (strcmp(arg, "--config") == 0)
            value = &out->config;
        else if (strcmp(arg, "--set") == 0 && out->n_sets < SETS_MAX)
            value = &out->sets[out->n_sets++];
        else if (strcmp(arg, "--role") == 0)
            value = &out->role;
        else if (strcmp(arg, "--name") == 0)
            value = &out->name;
        else if (strcmp(arg, "--listen") == 0)
            value = &out->listen;
        else if (strcmp(arg, "--listen-fd") == 0)
            value = &out->listen_fd;
        if (value == NULL) {
            fprintf(stderr, "dynd: %s: unknown argument, see dynd --help\n", arg);
            return 2;
        }
        if ((*value = option_value(argc, argv, &i)) == NULL)
            return 2;
        if (strcmp(arg, "--config") == 0 || strcmp(arg, "--set") == 0) {
            out->handed_on[out->n_handed_on++] = arg;
            out->handed_on[out->n_handed_on++] = *value;
        }
    }
    return 0;
}

static int run_command(const struct args *args, struct config *config)
{
    struct config_error error;
    log_setup((enum log_level)config->log.level, config->log.format == CONFIG_LOG_JSON,
              args->command[0] != '\0' ? args->command : "supervisor");
    if (getenv("DYND_SUPERVISED") != NULL)
        prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (strcmp(args->command, "status") == 0)
        return status_command(config);
    if (strcmp(args->command, "worker") == 0)
        return worker_command(config, args->role, args->name, args->listen);
    if (strcmp(args->command, "router") == 0)
        return router_run(config, args->listen_fd != NULL ? atoi(args->listen_fd) : -1);
    if (config_validate(config, &error) != ST_OK) {
        fprintf(stderr, "dynd: %s\n", error.message);
        return 1;
    }
    if (strcmp(args->command, "check") == 0)
        return check_command(config);
    return supervisor_run(config, args->handed_on, args->n_handed_on);
}

int main(int argc, char **argv)
{
    struct args args = {0};
    struct config config;
    struct config_error error;
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        return printf("dynd %s\n", DYND_VERSION) > 0 ? 0 : 1;
    if (argc == 2 && strcmp(argv[1], "--help") == 0)
        return print_document(usage_text, config_docs_help);
    if (argc == 2 && strcmp(argv[1], "--schema") == 0)
        return print_document("", config_docs_schema);
    int rc = parse_args(argc, argv, &args);
    static const char *const commands[] = {"", "router", "worker", "check", "status"};
    bool known = false;
    for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
        known |= strcmp(args.command, commands[i]) == 0;
    if (rc == 0 && !known) {
        fprintf(stderr, "dynd: %s: unknown command, see dynd --help\n", args.command);
        rc = 2;
    }
    if (rc != 0)
        return rc;
    if (config_load(args.config, args.sets, args.n_sets, &config, &error) != ST_OK) {
        fprintf(stderr, "dynd: %s\n", error.message);
        return 1;
    }
    rc = run_command(&args, &config);
    config_deinit(&config);
    return rc;
}
