/* What the children write: each line goes to our stderr with the child's name in front (JSON lines
 * as they are). Load progress marks become a bar when stderr is a terminal. */
#include "supervisor/supervisor_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BAR_CELLS 24u

static void write_all(const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(STDERR_FILENO, data, bytes);
        if (n <= 0)
            return; /* nobody reads: the log is lossy */
        data += n;
        bytes -= (size_t)n;
    }
}

/* One bar over all workers that load: the mean of their progress. */
static void bar_draw(struct supervisor *s)
{
    char line[160];
    uint32_t sum = 0, n = 0;
    for (uint32_t i = 0; i < s->n_children; i++)
        if (s->children[i].worker != NULL && !s->children[i].given_up) {
            sum += s->children[i].permille;
            n++;
        }
    uint32_t permille = n > 0 ? sum / n : 1000, full = permille * BAR_CELLS / 1000;
    int bytes = snprintf(line, sizeof(line), "\rloading model [%.*s%.*s] %3u %%%s", (int)full,
                         "########################", (int)(BAR_CELLS - full),
                         "........................", permille / 10, permille == 1000 ? "\n" : "");
    s->bar_shown = permille != 1000;
    write_all(line, (size_t)bytes);
}

static void child_line(struct child *child, const char *line, uint32_t bytes)
{
    struct supervisor *s = child->supervisor;
    char out[CHILD_LINE_BYTES + CONFIG_NAME_BYTES_MAX + 32];
    unsigned permille;
    if (bytes > 10 && sscanf(line, "@progress %u", &permille) == 1) {
        child->permille = permille <= 1000 ? permille : 1000;
        bar_draw(s);
        return;
    }
    bool is_json = bytes > 0 && line[0] == '{';
    int n = snprintf(out, sizeof(out), "%s%s%s%.*s\n", s->bar_shown ? "\r\033[K" : "",
                     is_json ? "" : child->name, is_json ? "" : " | ", (int)bytes, line);
    write_all(out, (size_t)n);
}

static void on_output_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
    struct child *child = handle->data;
    (void)suggested;
    if (child->line_bytes == CHILD_LINE_BYTES - 1)
        child_output_flush(child); /* a line longer than the buffer goes out in pieces */
    *out = uv_buf_init(child->line + child->line_bytes, CHILD_LINE_BYTES - 1 - child->line_bytes);
}

static void on_output_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *data)
{
    struct child *child = stream->data;
    (void)data;
    if (n < 0) {
        child_output_flush(child);
        child->output_open = false;
        uv_close((uv_handle_t *)stream, NULL);
        return;
    }
    child->line_bytes += (uint32_t)n;
    char *start = child->line, *end = child->line + child->line_bytes, *newline;
    *end = '\0';
    while ((newline = memchr(start, '\n', (size_t)(end - start))) != NULL) {
        *newline = '\0';
        child_line(child, start, (uint32_t)(newline - start));
        start = newline + 1;
    }
    child->line_bytes = (uint32_t)(end - start);
    memmove(child->line, start, child->line_bytes);
}

void child_output_flush(struct child *child)
{
    child->line[child->line_bytes] = '\0';
    if (child->line_bytes > 0)
        child_line(child, child->line, child->line_bytes);
    child->line_bytes = 0;
}

void child_output_start(struct child *child)
{
    child->output_open = true;
    child->line_bytes = 0;
    uv_read_start((uv_stream_t *)&child->output, on_output_alloc, on_output_read);
}
