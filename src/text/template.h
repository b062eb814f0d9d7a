/* Chat templates: the part of Jinja that model authors use, in a sandbox (jinja.h), compiled once,
 * rendered per request with bounds on steps, depth, memory and output. Templates come from the
 * model directory only, never from a request. A compiled template is immutable: any thread may
 * render it. */
#ifndef TEXT_TEMPLATE_H
#define TEXT_TEMPLATE_H

#include "base/buf.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct chat_template;

/* A run of the output: trusted text stands in the template (or is bos/eos), the rest came from the
 * request. Special tokens may be recognised only inside trusted runs. */
struct chat_segment {
    uint32_t offset, bytes;
    uint32_t trusted; /* 0 or 1 */
};

struct chat_render {
    struct buf text;               /* initialised by the caller; its max bounds the output */
    struct chat_segment *segments; /* malloc'ed; free() it */
    uint32_t n_segments;
};

struct chat_inputs {
    const cJSON *messages; /* array of objects, passed to the template as they are */
    const cJSON *tools;    /* array, or NULL: none in the template */
    const cJSON *kwargs; /* object of further variables (chat_template_kwargs) or NULL; they cannot
                            replace those of the other members */
    int add_generation_prompt;
    const char *bos_token, *eos_token; /* "" when the tokenizer has none */
    int64_t now_unix_s;                /* for strftime_now, which answers in UTC */
};

/* Compiles. ST_PARSE or ST_UNSUPPORTED with line and what in err. */
enum status chat_template_compile(const char *source, size_t bytes, struct chat_template **out,
                                  char *err, size_t err_bytes);
/* Reads chat_template.jinja of a model directory, else chat_template of tokenizer_config.json
 * (string, or list of {name, template}: "default"). ST_NOT_FOUND: the model has none; ST_IO,
 * ST_TOO_LARGE: a file that is there cannot be read. Also bos/eos text. */
enum status chat_template_load(const char *model_dir, struct chat_template **out, char *err,
                               size_t err_bytes);
void chat_template_free(struct chat_template *tpl);
const char *chat_template_bos(const struct chat_template *tpl); /* "" when there is none */
const char *chat_template_eos(const struct chat_template *tpl);
void chat_template_hash(const struct chat_template *tpl, struct hash128 *out);
/* ST_INVALID: raise_exception or a type error, err says what (a client may see it). ST_TOO_LARGE: a
 * bound was passed. */
enum status chat_template_render(const struct chat_template *tpl, const struct chat_inputs *in,
                                 struct chat_render *out, char *err, size_t err_bytes);

#endif
