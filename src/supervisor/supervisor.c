#include "supervisor/supervisor.h"

#include "base/exit.h"
#include "base/secret.h"
#include "base/time.h"
#include "cluster/loop.h"
#include "observe/log.h"
#include "supervisor/supervisor_int.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void child_start(struct child *child);

/* ---- ends ---- */

static void on_handle_closed(uv_handle_t *handle)
{
    (void)handle;
}

static bool any_alive(const struct supervisor *s, bool workers_only)
{
    for (uint32_t i = 0; i < s->n_children; i++)
        if (s->children[i].alive && !(workers_only && s->children[i].worker == NULL))
            return true;
    return false;
}

static void on_kill_timer(uv_timer_t *timer)
{
    struct child *child = timer->data;
    if (!child->alive)
        return;
    log_warn("process did not end in time, killed", LOG_STR("process", child->name));
    uv_process_kill(&child->process, SIGKILL);
}

static void child_terminate(struct child *child)
{
    if (!child->alive)
        return;
    uv_process_kill(&child->process, SIGTERM);
    uint64_t wait_ms = child->supervisor->config->supervisor.kill_timeout_ms;
    if (child->worker == NULL) /* the router first drains */
        wait_ms += child->supervisor->config->router.drain_timeout_ms;
    uv_timer_start(&child->timer, on_kill_timer, wait_ms, 0);
}

/* The router is gone: its workers have nothing left to do. */
static void stop_workers(struct supervisor *s)
{
    for (uint32_t i = 0; i < s->n_children; i++)
        if (s->children[i].worker != NULL)
            child_terminate(&s->children[i]);
}

static void supervisor_stop(struct supervisor *s, int exit_code)
{
    if (s->stopping)
        return;
    s->stopping = true;
    s->exit_code = exit_code;
    for (uint32_t i = 0; i < s->n_children; i++)
        uv_timer_stop(&s->children[i].timer);
    struct child *router = &s->children[s->n_children - 1];
    if (router->alive)
        child_terminate(router);
    else
        stop_workers(s);
    if (!any_alive(s, false))
        uv_stop(&s->loop);
}

static void on_restart_timer(uv_timer_t *timer)
{
    child_start(timer->data);
}

/* True when one more restart is within the budget; records it. */
static bool restart_allowed(struct child *child, uint64_t now)
{
    const uint32_t budget = child->supervisor->config->supervisor.restart_budget;
    const uint64_t window_ns = child->supervisor->config->supervisor.restart_window_s * NS_PER_S;
    if (budget == 0)
        return false;
    uint64_t *oldest = &child->restarts_ns[child->n_restarts % budget];
    if (child->n_restarts >= budget && now - *oldest < window_ns)
        return false;
    *oldest = now;
    child->n_restarts++;
    return true;
}

static void child_restart(struct child *child)
{
    struct supervisor *s = child->supervisor;
    uint64_t now = time_monotonic_ns();
    if (!restart_allowed(child, now)) {
        log_error("restart budget is used up, process is given up", LOG_STR("process", child->name),
                  LOG_U64("restarts", s->config->supervisor.restart_budget),
                  LOG_U64("window_s", s->config->supervisor.restart_window_s));
        child->given_up = true;
        if (child->worker == NULL || !any_alive(s, true))
            supervisor_stop(s, 1);
        return;
    }
    /* One that ran for a while starts its back-off anew. */
    if (now - child->started_ns > s->config->supervisor.restart_backoff_max_ms * NS_PER_MS)
        child->backoff_ms = s->config->supervisor.restart_backoff_ms;
    log_info("restarting process", LOG_STR("process", child->name),
             LOG_U64("in_ms", child->backoff_ms));
    uv_timer_start(&child->timer, on_restart_timer, child->backoff_ms, 0);
    child->backoff_ms *= 2;
    if (child->backoff_ms > s->config->supervisor.restart_backoff_max_ms)
        child->backoff_ms = s->config->supervisor.restart_backoff_max_ms;
}

static void on_child_exit(uv_process_t *process, int64_t code, int signal)
{
    struct child *child = process->data;
    struct supervisor *s = child->supervisor;
    child->alive = false;
    uv_timer_stop(&child->timer);
    uv_close((uv_handle_t *)process, on_handle_closed);
    if (s->stopping) {
        log_info("process ended", LOG_STR("process", child->name), LOG_I64("exit_code", code));
        if (child->worker == NULL)
            stop_workers(s);
        if (!any_alive(s, false))
            uv_stop(&s->loop);
        return;
    }
    log_error("process died", LOG_STR("process", child->name), LOG_I64("exit_code", code),
              LOG_I64("signal", signal));
    if (code == EXIT_CONFIG)
        supervisor_stop(s, 1);
    else
        child_restart(child);
}

/* ---- starts ---- */

static uint32_t child_args(const struct child *child, char (*texts)[512], const char **args)
{
    const struct supervisor *s = child->supervisor;
    uint32_t n = 0, t = 0;
    args[n++] = "dynd";
    if (child->worker != NULL) {
        args[n++] = "worker";
        args[n++] = "--role";
        args[n++] = config_role_name(child->worker->role);
        args[n++] = "--name";
        args[n++] = child->name;
        args[n++] = "--listen";
        snprintf(texts[t], sizeof(*texts), "unix:%s/%s.sock", s->run_dir, child->name);
        args[n++] = texts[t++];
    } else {
        args[n++] = "router";
        args[n++] = "--listen-fd";
        args[n++] = "3";
    }
    for (uint32_t i = 0; i < s->n_argv_config && n < CHILD_ARGS_MAX - 8; i++)
        args[n++] = s->argv_config[i];
    args[n++] = "--set";
    snprintf(texts[t], sizeof(*texts), "run_dir=%s", s->run_dir);
    args[n++] = texts[t++];
    if (s->config->kv.cache_secret_file[0] == '\0') {
        args[n++] = "--set";
        snprintf(texts[t], sizeof(*texts), "kv.cache_secret_file=%s/cache-secret", s->run_dir);
        args[n++] = texts[t++];
    }
    args[n] = NULL;
    return n;
}

extern char **environ;

/* Our environment, plus what the child's place on the machine asks for. */
static const char **child_env(const struct child *child, char gpus[512])
{
    uint32_t n = 0;
    while (environ[n] != NULL)
        n++;
    const char **env = calloc(n + 4, sizeof(*env));
    if (env == NULL)
        return NULL;
    memcpy(env, environ, n * sizeof(*env));
    env[n++] = "DYND_SUPERVISED=1";
    if (child->supervisor->is_tty && child->worker != NULL)
        env[n++] = "DYND_PROGRESS=raw";
    if (child->worker != NULL && child->worker->gpus[0] != '\0') {
        snprintf(gpus, 512, "CUDA_VISIBLE_DEVICES=%s", child->worker->gpus);
        env[n++] = gpus;
    }
    return env;
}

static void child_start(struct child *child)
{
    struct supervisor *s = child->supervisor;
    const char *args[CHILD_ARGS_MAX];
    char texts[4][512], gpus[512];
    if (child->output_open) { /* a grandchild may hold it open; what it says now is lost */
        child->output_open = false;
        uv_close((uv_handle_t *)&child->output, NULL);
        uv_timer_start(&child->timer, on_restart_timer, 1, 0);
        return;
    }
    const char **env = child_env(child, gpus);
    child_args(child, texts, args);
    uv_pipe_init(&s->loop, &child->output, 0);
    child->output.data = child;
    uv_stdio_container_t stdio[4] = {
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = STDOUT_FILENO},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&child->output},
        {.flags = UV_INHERIT_FD, .data.fd = s->listen_fd},
    };
    uv_process_options_t options = {.exit_cb = on_child_exit,
                                    .file = s->exe,
                                    .args = (char **)(uintptr_t)args,
                                    .env = (char **)(uintptr_t)env,
                                    .stdio_count = child->worker == NULL ? 4 : 3,
                                    .stdio = stdio};
    child->process.data = child;
    child->started_ns = time_monotonic_ns();
    child->permille = 0;
    int rc = env == NULL ? UV_ENOMEM : uv_spawn(&s->loop, &child->process, &options);
    free(env);
    child->alive = rc == 0;
    if (rc == 0) {
        log_info("process started", LOG_STR("process", child->name),
                 LOG_I64("pid", child->process.pid));
        child_output_start(child);
        return;
    }
    log_error("process cannot be started", LOG_STR("process", child->name),
              LOG_STR("error", uv_strerror(rc)));
    uv_close((uv_handle_t *)&child->output, NULL);
    child_restart(child);
}

/* ---- set-up ---- */

/* A private directory; sockets in it are reachable by this user only. */
static enum status run_dir_open(struct supervisor *s)
{
    char secret[300];
    if (s->config->run_dir[0] != '\0') {
        snprintf(s->run_dir, sizeof(s->run_dir), "%s", s->config->run_dir);
        if (mkdir(s->run_dir, 0700) != 0 && errno != EEXIST) {
            log_error("run_dir cannot be made", LOG_STR("path", s->run_dir),
                      LOG_STR("error", strerror(errno)));
            return ST_IO;
        }
    } else {
        const char *base = getenv("XDG_RUNTIME_DIR");
        if (base == NULL || base[0] == '\0' || strlen(base) > 60 || access(base, W_OK) != 0)
            base = "/tmp";
        snprintf(s->run_dir, sizeof(s->run_dir), "%s/dynd-XXXXXX", base);
        if (mkdtemp(s->run_dir) == NULL) {
            log_error("run_dir cannot be made", LOG_STR("under", base),
                      LOG_STR("error", strerror(errno)));
            return ST_IO;
        }
        s->own_run_dir = true;
    }
    snprintf(secret, sizeof(secret), "%s/cache-secret", s->run_dir);
    enum status st = secret_create(secret);
    return st == ST_EXISTS ? ST_OK : st;
}

static void run_dir_close(struct supervisor *s)
{
    char path[400];
    if (!s->own_run_dir)
        return;
    for (uint32_t i = 0; i < s->n_children; i++) {
        snprintf(path, sizeof(path), "%s/%s.sock", s->run_dir, s->children[i].name);
        unlink(path);
    }
    snprintf(path, sizeof(path), "%s/cache-secret", s->run_dir);
    unlink(path);
    rmdir(s->run_dir);
}

/* Binds the HTTP address; the router listens on it, we keep it open across its restarts. */
static enum status listen_open(struct supervisor *s)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    char service[8];
    int on = 1;
    snprintf(service, sizeof(service), "%u", s->config->http.port);
    int rc = getaddrinfo(s->config->http.host, service, &hints, &list);
    if (rc != 0) {
        log_error("http.host is not an address", LOG_STR("host", s->config->http.host),
                  LOG_STR("error", gai_strerror(rc)));
        return ST_INVALID;
    }
    s->listen_fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool ok = s->listen_fd >= 0 &&
              setsockopt(s->listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
              bind(s->listen_fd, list->ai_addr, list->ai_addrlen) == 0 &&
              listen(s->listen_fd, (int)s->config->http.listen_backlog) == 0;
    int error = errno;
    freeaddrinfo(list);
    if (ok)
        return ST_OK;
    log_error(error == EADDRINUSE ? "http.port is in use by another process"
                                  : "cannot listen on http.host and http.port",
              LOG_STR("host", s->config->http.host), LOG_U64("port", s->config->http.port),
              LOG_STR("error", strerror(error)));
    return ST_IO;
}

static enum status children_init(struct supervisor *s)
{
    uint32_t n_workers = config_process_count(s->config);
    s->n_children = n_workers + 1;
    for (uint32_t i = 0; i < s->n_children; i++) {
        struct child *child = &s->children[i];
        struct config_process process = {.name = "router"};
        if (i < n_workers)
            config_process_get(s->config, i, &process);
        child->supervisor = s;
        child->worker = process.worker;
        memcpy(child->name, process.name, sizeof(child->name));
        child->backoff_ms = s->config->supervisor.restart_backoff_ms;
        child->restarts_ns =
            calloc(s->config->supervisor.restart_budget + 1, sizeof(*child->restarts_ns));
        if (child->restarts_ns == NULL)
            return ST_NO_MEMORY;
        uv_timer_init(&s->loop, &child->timer);
        child->timer.data = child;
    }
    return ST_OK;
}

static void on_stop_signal(uv_signal_t *signal, int number)
{
    struct supervisor *s = signal->data;
    if (!s->stopping) {
        log_info("stopping: requests under way may end", LOG_U64("signal", (uint64_t)number));
        supervisor_stop(s, 0);
        return;
    }
    log_warn("stopping at once");
    for (uint32_t i = 0; i < s->n_children; i++)
        if (s->children[i].alive)
            uv_process_kill(&s->children[i].process, SIGKILL);
}

static enum status supervisor_open(struct supervisor *s)
{
    size_t bytes = sizeof(s->exe) - 1;
    if (uv_exepath(s->exe, &bytes) != 0)
        return ST_IO;
    uv_signal_init(&s->loop, &s->sigterm);
    uv_signal_init(&s->loop, &s->sigint);
    s->sigterm.data = s->sigint.data = s;
    uv_signal_start(&s->sigterm, on_stop_signal, SIGTERM);
    uv_signal_start(&s->sigint, on_stop_signal, SIGINT);
    enum status st = listen_open(s);
    if (st == ST_OK)
        st = run_dir_open(s);
    return st == ST_OK ? children_init(s) : st;
}

int supervisor_run(const struct config *config, const char *const *argv_config, uint32_t n)
{
    struct supervisor *s = calloc(1, sizeof(*s));
    if (s == NULL || uv_loop_init(&s->loop) != 0) {
        free(s);
        return 1;
    }
    s->config = config;
    s->argv_config = argv_config;
    s->n_argv_config = n;
    s->listen_fd = -1;
    s->is_tty = isatty(STDERR_FILENO) == 1;
    if (supervisor_open(s) == ST_OK) {
        for (uint32_t i = 0; i < s->n_children; i++)
            child_start(&s->children[i]);
        uv_run(&s->loop, UV_RUN_DEFAULT);
    } else {
        s->exit_code = 1;
    }
    int exit_code = s->exit_code;
    loop_shut(&s->loop);
    run_dir_close(s);
    for (uint32_t i = 0; i < s->n_children; i++)
        free(s->children[i].restarts_ns);
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    free(s);
    return exit_code;
}
