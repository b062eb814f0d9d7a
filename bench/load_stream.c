/* Reads "data: {...}" events: counts tokens, takes their times, compares them with the oracle. */
#include "load_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void on_token(struct load_request *r, uint32_t token)
{
    struct load *load = r->load;
    if (load->o.check_hash) {
        struct hash_sampling s = {.temperature = (float)load->o.temperature,
                                  .top_p = 1.0f,
                                  .seed = r->seed,
                                  .output_position = r->n_tokens};
        uint32_t want = hash_expect_next(&r->expect, &s);
        if (token != want && !r->wrong) {
            r->wrong = true;
            snprintf(load->first_error, sizeof(load->first_error),
                     "seed %llu, isl %u: token %u is %u, expected %u", (unsigned long long)r->seed,
                     r->isl, r->n_tokens, token, want);
        }
        hash_expect_push(&r->expect, token);
    }
    r->n_tokens++;
}

static void on_tokens(struct load_request *r, const char *list)
{
    double now = load_now_s();
    uint32_t before = r->n_tokens;
    for (char *end; *list != ']' && *list != '\0'; list = *end == ',' ? end + 1 : end) {
        unsigned long token = strtoul(list, &end, 10);
        if (end == list)
            break;
        on_token(r, (uint32_t)token);
    }
    if (r->n_tokens == before)
        return;
    if (before == 0) {
        r->first_s = now;
        r->load->ttft_s += 0.05 * (now - r->start_s - r->load->ttft_s);
    }
    if (before > 0 && r->measured)
        samples_add(&r->load->t.itl, (now - r->last_s) * 1e3);
    r->last_s = now;
}

/* One event without its "data: ". Only fields that dynd writes are looked for. */
static void on_event(struct load_request *r, const char *text)
{
    if (strcmp(text, "[DONE]") == 0) {
        r->done_seen = true;
        return;
    }
    if (strncmp(text, "{\"error\"", 8) == 0) {
        r->error_seen = true;
        snprintf(r->load->first_error, sizeof(r->load->first_error), "%.200s", text);
        return;
    }
    const char *ids = strstr(text, "\"token_ids\":[");
    /* "prompt_token_ids" stands before it in the first event of a choice. */
    while (ids != NULL && ids > text && strncmp(ids - 7, "prompt_", 7) == 0)
        ids = strstr(ids + 1, "\"token_ids\":[");
    if (ids != NULL)
        on_tokens(r, ids + strlen("\"token_ids\":["));
    const char *finish = strstr(text, "\"finish_reason\":\"");
    if (finish != NULL)
        r->finish_seen = true;
}

size_t load_on_data(char *data, size_t size, size_t n, void *user)
{
    struct load_request *r = user;
    if (buf_append(&r->line, data, size * n) != ST_OK)
        return 0;
    for (;;) {
        uint8_t *newline = memchr(r->line.data, '\n', r->line.len);
        if (newline == NULL)
            return size * n;
        *newline = '\0';
        const char *line = (const char *)r->line.data;
        if (strncmp(line, "data: ", 6) == 0)
            on_event(r, line + 6);
        r->cancelled = r->cancel_tokens > 0 && r->n_tokens >= r->cancel_tokens;
        if (r->cancelled)
            return 0; /* curl closes the connection */
        buf_consume(&r->line, (size_t)(newline - r->line.data) + 1);
        if (r->line.len == 0)
            return size * n;
    }
}
