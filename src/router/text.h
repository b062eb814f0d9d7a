/* What the router needs of a model to turn text into tokens and back. Any thread. */
#ifndef ROUTER_TEXT_H
#define ROUTER_TEXT_H

#include "base/text_error.h"
#include "config/config.h"
#include "text/template.h"
#include "text/tokenizer.h"

struct router_text {
    struct tokenizer *tokenizer;
    struct chat_template *chat_template; /* NULL: the model has none, chats are refused */
};

/* Loads both from model.path. Without tokenizer.json the hash runner and dummy weights are served
 * with token ids alone.
 * err: one sentence that names the file. Errors as tokenizer_load and chat_template_load, but for
 * ST_NOT_FOUND of the template. */
enum status router_text_load(const struct config *config, struct router_text *out_text,
                             struct text_error err);
void router_text_deinit(struct router_text *text); /* all zero is fine */
/* Whether router_text_load would succeed, and with a template or not. */
enum status router_text_check(const struct config *config, bool *out_has_template,
                              struct text_error err);

#endif
