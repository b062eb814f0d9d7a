#include "router/text.h"

#include <stdio.h>

#define TOKENIZER_IDS_MAX (1u << 20)

static enum status ids_only(uint32_t vocab_size, struct router_text *out_text,
                            struct text_error err)
{
    out_text->tokenizer = tokenizer_create_ids(vocab_size);
    return out_text->tokenizer != NULL
               ? ST_OK
               : text_error_set(err, ST_NO_MEMORY, "%s", status_text(ST_NO_MEMORY));
}

static enum status load(const struct config *c, struct router_text *out, struct text_error err)
{
    char why[512] = "";
    bool is_hash = c->model.runner == CONFIG_RUNNER_HASH;
    if (c->model.path[0] == '\0')
        return ids_only(c->hash.vocab_size, out, err);
    enum status st = tokenizer_load(c->model.path, &out->tokenizer, why, sizeof(why));
    if (st == ST_NOT_FOUND && (is_hash || c->model.load_format == CONFIG_LOAD_DUMMY))
        /* Token ids in, token ids out; the workers' vocabulary bounds them. */
        return ids_only(is_hash ? c->hash.vocab_size : TOKENIZER_IDS_MAX, out, err);
    if (st != ST_OK)
        return text_error_set(err, st, "tokenizer cannot be loaded: %s", why);
    st = chat_template_load(c->model.path, &out->chat_template, why, sizeof(why));
    return st == ST_OK || st == ST_NOT_FOUND
               ? ST_OK
               : text_error_set(err, st, "chat template cannot be used: %s", why);
}

enum status router_text_load(const struct config *config, struct router_text *out_text,
                             struct text_error err)
{
    struct router_text text = {0};
    enum status st = load(config, &text, err);
    if (st == ST_OK)
        *out_text = text;
    else
        router_text_deinit(&text);
    return st;
}

void router_text_deinit(struct router_text *text)
{
    tokenizer_free(text->tokenizer);
    chat_template_free(text->chat_template);
    *text = (struct router_text){0};
}

enum status router_text_check(const struct config *config, bool *out_has_template,
                              struct text_error err)
{
    struct router_text text = {0};
    enum status st = router_text_load(config, &text, err);
    *out_has_template = text.chat_template != NULL;
    router_text_deinit(&text);
    return st;
}
