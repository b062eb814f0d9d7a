/* From the body of an HTTP request to a checked generation request: fields by the one table
 * (fields.def), prompts and chats as token ids. No global state: any thread, several at once. */
#ifndef API_REQUEST_H
#define API_REQUEST_H

#include "api/error.h"
#include "base/arena.h"
#include "base/status.h"
#include "text/stop.h"
#include "text/template.h"
#include "text/tokenizer.h"
#include "wire/wire.h"

#include <stddef.h>
#include <stdint.h>

enum api_endpoint { API_COMPLETIONS, API_CHAT, API_TOKENIZE, API_DETOKENIZE };

struct api_limits {
    uint32_t context_tokens;     /* prompt + answer; 0: WIRE_TOKENS_MAX */
    uint32_t vocab_size;         /* ids below it may stand in a prompt; 0: the tokenizer's */
    uint32_t max_tokens_default; /* answer length of a request that names none; 0: the context */
    uint32_t n_max;              /* answers to a prompt, >= 1 */
    uint32_t prompts_max;        /* prompts of a request, >= 1 */
};

/* For fields that a request leaves out; generation_config.json may set others. */
struct api_defaults {
    double temperature, top_p, min_p;
    uint32_t top_k; /* 0: off */
};

/* What the server serves. Constant while requests are parsed with it; all borrowed. */
struct api_context {
    const struct tokenizer *tokenizer;
    const struct chat_template *chat_template; /* NULL: chats are refused */
    const char *model;                         /* name that clients use */
    uint64_t started_unix_s;
    struct api_limits limits;
    struct api_defaults defaults;
};

struct api_prompt {
    const uint32_t *tokens; /* [n_tokens] */
    uint32_t n_tokens;      /* >= 1 */
};

struct api_request {
    enum api_endpoint endpoint; /* API_COMPLETIONS or API_CHAT */
    const struct api_prompt *prompts;
    uint32_t n_prompts; /* 1 for a chat */
    uint32_t n_choices; /* of each prompt; choice c of prompt p has index p * n_choices + c */
    /* The same for all prompts. seed is 0 unless has_seed: then the caller draws one.
     * max_new_tokens is at most context_tokens; what a long prompt leaves may be less. */
    struct wire_sampling sampling;
    bool has_seed;
    const struct stop_string *stops; /* [n_stops] */
    uint32_t n_stops;
    bool stream;
    bool include_usage;       /* a last chunk with the usage */
    bool continuous_usage;    /* the usage so far on each chunk */
    bool return_token_ids;    /* "token_ids" and "prompt_token_ids" in the answer */
    bool skip_special_tokens; /* they write no text; the default */
    const char *cache_salt;   /* NULL: none given */
    uint64_t created_unix_s;

    struct arena arena;      /* holds what the pointers above point to, */
    struct token_buf tokens; /* except the ids */
};

/* The defaults of fields.def. */
void api_defaults_init(struct api_defaults *out_defaults);

/* Parses, checks and tokenises.
 * endpoint  API_COMPLETIONS or API_CHAT
 * body      [bytes], need not be JSON or UTF-8
 * Errors    out_error says what the client is told. ST_INVALID: 400, a field; ST_NOT_FOUND: 404,
 *           another model; ST_UNSUPPORTED: 400, a feature to come; ST_PROMPT_TOO_LONG; ST_NO_MEMORY
 * Thread    any; takes time in proportion to bytes, so large bodies belong off the loop */
enum status api_request_parse(const struct api_context *ctx, enum api_endpoint endpoint,
                              const char *body, size_t bytes, struct api_request **out_request,
                              struct api_error *out_error);
void api_request_free(struct api_request *request); /* NULL is fine */

#endif
