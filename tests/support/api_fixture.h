/* A context for tests of the API layer, and a stand-in for chat templates: it puts a message
 * between
 * "<|im_start|>role\n" and "<|im_end|>\n", trusts what it wrote itself, and can be made to fail.
 * Tests that include it need no template interpreter. */
#ifndef TESTS_SUPPORT_API_FIXTURE_H
#define TESTS_SUPPORT_API_FIXTURE_H

#include "api/request.h"
#include "base/json.h"
#include "text/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the template does next, and what it saw. */
static struct {
    enum status fail;
    char rendered[4096]; /* the last text, cut */
    int has_kwargs;
    int n_tools; /* -1: the template got none */
} api_fake_template;

static inline void api_fake_segment(struct chat_render *out, const char *text, uint32_t trusted)
{
    struct chat_segment *last = out->n_segments > 0 ? &out->segments[out->n_segments - 1] : NULL;
    uint32_t bytes = (uint32_t)strlen(text);
    if (buf_append_str(&out->text, text) != ST_OK)
        abort();
    if (last != NULL && last->trusted == trusted) {
        last->bytes += bytes;
        return;
    }
    out->segments = realloc(out->segments, (out->n_segments + 1) * sizeof(*out->segments));
    if (out->segments == NULL)
        abort();
    out->segments[out->n_segments++] =
        (struct chat_segment){(uint32_t)out->text.len - bytes, bytes, trusted};
}

const char *chat_template_bos(const struct chat_template *tpl)
{
    (void)tpl;
    return "";
}

const char *chat_template_eos(const struct chat_template *tpl)
{
    (void)tpl;
    return "<|im_end|>";
}

enum status chat_template_render(const struct chat_template *tpl, const struct chat_inputs *in,
                                 struct chat_render *out, char *err, size_t err_bytes)
{
    const cJSON *message;
    (void)tpl;
    if (api_fake_template.fail != ST_OK) {
        snprintf(err, err_bytes, "roles must alternate");
        return api_fake_template.fail;
    }
    cJSON_ArrayForEach(message, in->messages)
    {
        const cJSON *calls = json_get(message, "tool_calls");
        api_fake_segment(out, "<|im_start|>", 1);
        api_fake_segment(out, json_get(message, "role")->valuestring, 1);
        api_fake_segment(out, "\n", 1);
        api_fake_segment(out, json_get(message, "content")->valuestring, 0);
        if (calls != NULL) {
            char *text = cJSON_PrintUnformatted(calls);
            api_fake_segment(out, text, 0);
            cJSON_free(text);
        }
        api_fake_segment(out, "<|im_end|>\n", 1);
    }
    if (in->add_generation_prompt)
        api_fake_segment(out, "<|im_start|>assistant\n", 1);
    api_fake_template.has_kwargs = in->kwargs != NULL;
    api_fake_template.n_tools = in->tools != NULL ? cJSON_GetArraySize(in->tools) : -1;
    snprintf(api_fake_template.rendered, sizeof(api_fake_template.rendered), "%.*s",
             (int)out->text.len, out->text.len > 0 ? (const char *)out->text.data : "");
    return ST_OK;
}

/* Some pointer that is not NULL: the stand-in has no state. */
static inline const struct chat_template *api_fake_template_get(void)
{
    return (const struct chat_template *)(const void *)&api_fake_template;
}

/* Context of 100 tokens, model "m", 16 tokens by default, n up to 4, 3 prompts. */
static inline struct api_context api_context_small(const struct tokenizer *tokenizer)
{
    struct api_context ctx = {
        .tokenizer = tokenizer,
        .chat_template = api_fake_template_get(),
        .model = "m",
        .started_unix_s = 1700000000,
        .limits = {.context_tokens = 100, .max_tokens_default = 16, .n_max = 4, .prompts_max = 3}};
    api_defaults_init(&ctx.defaults);
    return ctx;
}

#endif
