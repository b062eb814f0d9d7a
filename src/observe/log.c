/* One write(2) of at most PIPE_BUF bytes a line, so that lines of several writers never mix in a
 * pipe. A line that does not fit loses whole fields, never the end of one, and says so.
 *
 * stderr is shared with other processes, so its O_NONBLOCK flag is not ours to set. log_setup
 * therefore opens pipes and terminals a second time for itself, non-blocking; where that is
 * refused, a poll before the write tells whether there is room. */
#include "observe/log.h"

#include "base/json.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINE_BYTES_MAX = PIPE_BUF, VALUE_BYTES_MAX = 1024, COMPONENT_BYTES_MAX = 63 };

enum output_kind { OUTPUT_POLLED, OUTPUT_NONBLOCK, OUTPUT_SOCKET, OUTPUT_FILE };

static struct {
    _Atomic int level;
    _Atomic bool json;
    _Atomic int fd; /* own descriptor when kind is OUTPUT_NONBLOCK, else stderr */
    _Atomic int kind;
    _Atomic uint64_t n_dropped;
    char component[COMPONENT_BYTES_MAX + 1]; /* written by log_setup alone */
} logger = {.level = LOG_INFO, .fd = STDERR_FILENO};

struct line {
    char text[LINE_BYTES_MAX];
    size_t len, max; /* max leaves room for what must still follow */
    bool is_full;    /* something did not fit since the last mark */
};

/* --- Output --- */

static void output_open(void)
{
    int old_fd = atomic_exchange(&logger.fd, STDERR_FILENO);
    if (old_fd != STDERR_FILENO)
        close(old_fd);
    enum output_kind kind = OUTPUT_POLLED;
    struct stat info;
    if (fstat(STDERR_FILENO, &info) == 0) {
        if (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode)) {
            int flags = O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
            int fd = open("/proc/self/fd/2", flags);
            if (fd >= 0) {
                atomic_store(&logger.fd, fd);
                kind = OUTPUT_NONBLOCK;
            }
        } else if (S_ISSOCK(info.st_mode)) {
            kind = OUTPUT_SOCKET;
        } else if (S_ISREG(info.st_mode)) {
            kind = OUTPUT_FILE;
        }
    }
    atomic_store(&logger.kind, kind);
}

static bool output_write(const char *text, size_t bytes)
{
    int fd = atomic_load(&logger.fd);
    int kind = atomic_load(&logger.kind);
    if (kind == OUTPUT_POLLED) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        if (poll(&ready, 1, 0) <= 0 || (ready.revents & POLLOUT) == 0)
            return false;
    }
    ssize_t n;
    do {
        n = kind == OUTPUT_SOCKET ? send(fd, text, bytes, MSG_DONTWAIT | MSG_NOSIGNAL)
                                  : write(fd, text, bytes);
    } while (n < 0 && errno == EINTR);
    return n == (ssize_t)bytes;
}

/* --- Lines --- */

static void line_put(struct line *line, const char *data, size_t bytes)
{
    if (line->is_full || bytes > line->max - line->len) {
        line->is_full = true;
        return;
    }
    memcpy(line->text + line->len, data, bytes);
    line->len += bytes;
}

static void line_put_str(struct line *line, const char *text)
{
    line_put(line, text, strlen(text));
}

static void line_put_control(struct line *line, uint8_t c)
{
    static const char meanings[] = "\n\r\t", escapes[] = "nrt";
    char text[8];
    const char *found = c != 0 ? strchr(meanings, c) : NULL;
    if (found != NULL)
        snprintf(text, sizeof(text), "\\%c", escapes[found - meanings]);
    else
        snprintf(text, sizeof(text), "\\u%04x", c);
    line_put_str(line, text);
}

/* Escapes as JSON does; bytes that are not UTF-8 become U+FFFD. Bounded by VALUE_BYTES_MAX. */
static void line_put_escaped(struct line *line, const char *text)
{
    const uint8_t *at = (const uint8_t *)text;
    size_t left = strnlen(text, VALUE_BYTES_MAX + 1);
    bool is_cut = left > VALUE_BYTES_MAX;
    if (is_cut)
        left = VALUE_BYTES_MAX;
    while (left > 0) {
        size_t n = 1;
        if (*at == '"' || *at == '\\') {
            line_put(line, *at == '"' ? "\\\"" : "\\\\", 2);
        } else if (*at < 0x20 || *at == 0x7f) {
            line_put_control(line, *at);
        } else if (*at < 0x80) {
            line_put(line, (const char *)at, 1);
        } else {
            size_t window = left < 4 ? left : 4;
            n = utf8_valid_prefix(at, window);
            if (n > 0)
                line_put(line, (const char *)at, n);
            else
                line_put_str(line, "\xef\xbf\xbd");
            n = n > 0 ? n : 1;
        }
        at += n;
        left -= n;
    }
    if (is_cut)
        line_put_str(line, "...");
}

static bool needs_quotes(const char *text)
{
    if (*text == '\0')
        return true;
    for (; *text != '\0'; text++) {
        uint8_t c = (uint8_t)*text;
        if (c <= 0x20 || c == '"' || c == '=' || c == '\\' || c >= 0x7f)
            return true;
    }
    return false;
}

static void line_put_quoted(struct line *line, const char *text)
{
    line_put(line, "\"", 1);
    line_put_escaped(line, text);
    line_put(line, "\"", 1);
}

static void line_put_f64(struct line *line, double value, bool json)
{
    char text[40];
    if (json && !isfinite(value)) /* JSON has no such number */
        snprintf(text, sizeof(text), "null");
    else
        snprintf(text, sizeof(text), "%.9g", value);
    line_put_str(line, text);
}

static void line_put_value(struct line *line, const struct log_field *field, bool json)
{
    char text[32];
    switch (field->kind) {
    case LOG_FIELD_STR: {
        const char *str = field->value.str != NULL ? field->value.str : "";
        if (json || needs_quotes(str))
            line_put_quoted(line, str);
        else
            line_put_escaped(line, str);
        return;
    }
    case LOG_FIELD_U64:
        snprintf(text, sizeof(text), "%llu", (unsigned long long)field->value.u64);
        line_put_str(line, text);
        return;
    case LOG_FIELD_I64:
        snprintf(text, sizeof(text), "%lld", (long long)field->value.i64);
        line_put_str(line, text);
        return;
    case LOG_FIELD_F64:
        line_put_f64(line, field->value.f64, json);
        return;
    }
}

static void line_put_head(struct line *line, enum log_level level, const char *message, bool json)
{
    static const char *const names[] = {"DEBUG", "INFO ", "WARN ", "ERROR"};
    static const char *const json_names[] = {"debug", "info", "warn", "error"};
    char when[32];
    time_rfc3339(when, sizeof(when));
    if (!json) {
        line_put_str(line, when);
        line_put(line, " ", 1);
        line_put_str(line, names[level]);
        line_put(line, " ", 1);
        line_put_escaped(line, logger.component);
        line_put(line, "  ", 2);
        line_put_escaped(line, message);
        return;
    }
    line_put_str(line, "{\"time\":\"");
    line_put_str(line, when);
    line_put_str(line, "\",\"level\":\"");
    line_put_str(line, json_names[level]);
    line_put_str(line, "\",\"component\":");
    line_put_quoted(line, logger.component);
    line_put_str(line, ",\"message\":");
    line_put_quoted(line, message);
}

static void line_put_field(struct line *line, const struct log_field *field, bool json)
{
    if (json) {
        line_put(line, ",", 1);
        line_put_quoted(line, field->key);
        line_put(line, ":", 1);
    } else {
        line_put(line, " ", 1);
        line_put_str(line, field->key);
        line_put(line, "=", 1);
    }
    line_put_value(line, field, json);
}

void log_write(enum log_level level, const char *message, const struct log_field *fields,
               uint32_t n_fields)
{
    static const char tail_text[] = " truncated=true", tail_json[] = ",\"truncated\":true";
    struct line line;
    bool json = atomic_load_explicit(&logger.json, memory_order_relaxed);
    const char *tail = json ? tail_json : tail_text;
    line.len = 0;
    line.max = sizeof(line.text) - sizeof(tail_json) - 2;
    line.is_full = false;
    line_put_head(&line, level <= LOG_ERROR ? level : LOG_ERROR, message, json);

    bool is_cut = false;
    for (uint32_t i = 0; i < n_fields && !is_cut; i++) {
        size_t len_before = line.len;
        line_put_field(&line, &fields[i], json);
        if (line.is_full) {
            line.len = len_before;
            is_cut = true;
        }
    }
    line.max = sizeof(line.text);
    line.is_full = false;
    if (is_cut)
        line_put_str(&line, tail);
    line_put_str(&line, json ? "}\n" : "\n");
    if (!output_write(line.text, line.len))
        atomic_fetch_add_explicit(&logger.n_dropped, 1, memory_order_relaxed);
}

/* --- Settings --- */

void log_setup(enum log_level level, bool json, const char *component)
{
    snprintf(logger.component, sizeof(logger.component), "%s", component);
    atomic_store(&logger.level, (int)level);
    atomic_store(&logger.json, json);
    output_open();
}

bool log_is_on(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&logger.level, memory_order_relaxed);
}

uint64_t log_dropped_count(void)
{
    return atomic_load_explicit(&logger.n_dropped, memory_order_relaxed);
}
