/* Inside the API layer: fields of a body by the table, and what the parsers share.
 *
 *   body -> json_validate -> api_fields_parse -> spans of JSON and typed values
 *        -> api_prompt_parse | api_chat_encode -> token ids
 *
 * Values of fields that are lists or objects stay spans of the body until the code that knows them
 * reads them: a tree of a hundred thousand token ids costs ten times the time and memory. */
#ifndef API_API_INT_H
#define API_API_INT_H

#include "api/error.h"
#include "api/request.h"
#include "base/json.h"
#include "text/json_scan.h"

#include <stdbool.h>
#include <string.h>

enum {
    API_DEPTH_MAX = 32,
    API_VALUES_MAX = 1 << 16, /* in messages, in tools, and in chat_template_kwargs */
    API_TOOL_CALLS_MAX = 128,
    API_TOOLS_MAX = 128,
    API_TOOL_NAME_BYTES_MAX = 256,
    API_NUMBER_BYTES_MAX = 63,
};

enum api_field {
#define FIELD(name, kind, endpoints, min, max, default_, expect) API_FIELD_##name,
#include "api/fields.def"
    API_FIELD_COUNT
};

#define API_VALUE_NUMBER(name) double name;
#define API_VALUE_INT(name)    int64_t name;
#define API_VALUE_SEED(name)   uint64_t name;
#define API_VALUE_BOOL(name)   bool name;
#define API_VALUE_STRING(name) const char *name;
#define API_VALUE_RAW(name)    struct json_span name;
#define API_VALUE_IGNORED(name)
#define API_VALUE_NOT_NUMBER(name)
#define API_VALUE_NOT_TRUE(name)
#define API_VALUE_NOT_SET(name)
#define API_VALUE_NOT_FILLED(name)

/* Values given, or the table's defaults. Spans are of the body, strings of the arena. */
struct api_fields {
    bool has[API_FIELD_COUNT];
#define FIELD(name, kind, endpoints, min, max, default_, expect) API_VALUE_##kind(name)
#include "api/fields.def"
};

/* Errors: out_error is filled. ST_INVALID, ST_UNSUPPORTED, ST_NO_MEMORY. */
enum status api_fields_parse(enum api_endpoint endpoint, const char *body, size_t bytes,
                             struct arena *arena, struct api_fields *out_fields,
                             struct api_error *out_error);
void api_fields_default(struct api_fields *out_fields);
const char *api_field_name(enum api_field field);

/* Errors about a field, all returning what to return. `expect` is the field's, from the table. */
enum status api_refuse_type(enum api_field field, struct json_span got, struct api_error *err);
enum status api_refuse_value(enum api_field field, struct api_error *err);
enum status api_refuse_missing(enum api_field field, struct api_error *err);
enum status api_refuse_unsupported(enum api_field field, struct api_error *err);
/* ST_TOO_LARGE of a token_buf bounded to the context becomes ST_PROMPT_TOO_LONG, and so on. */
enum status api_refuse_encode(enum api_field field, enum status st, const struct api_context *ctx,
                              struct api_error *err);
/* Fills err from st and returns st. */
enum status api_refuse_status(enum status st, struct api_error *err);

/* "a string", "a number", "a list", ... */
const char *api_type_name(struct json_span value);
/* Whole number in [min, max]; 2.0 counts as 2. */
bool api_span_as_i64(struct json_span value, int64_t min, int64_t max, int64_t *out);
/* Moves the scan over one value. The scan is over validated JSON: this cannot fail. */
struct json_span api_scan_value(struct json_scan *scan);
/* Steps to the next member of an object, and gives its key (good until the next string is read);
 * the scan stands at the value. False at the end. */
bool api_scan_member(struct json_scan *scan, size_t *io_n, struct json_span *out_key);
static inline bool api_span_is(struct json_span span, const char *text)
{
    return span.bytes == strlen(text) && memcmp(span.data, text, span.bytes) == 0;
}
/* Upper bound of the number of values in validated JSON. */
size_t api_count_values(struct json_span value);

/* ST_NOT_FOUND: the request names another model than the one served. */
enum status api_check_model(const struct api_context *ctx, const struct api_fields *fields,
                            struct api_error *err);
/* Longest prompt in tokens: one token of the context is the answer's. */
uint32_t api_prompt_tokens_max(const struct api_context *ctx);
uint32_t api_vocab_size(const struct api_context *ctx);

/* Prompts of a request: their ids one behind the other in one list. */
struct api_prompts {
    struct token_buf ids;
    size_t begin;      /* of the prompt being appended */
    uint32_t *lengths; /* [n] */
    uint32_t n, cap;
};

void api_prompts_init(struct api_prompts *prompts);
void api_prompts_deinit(struct api_prompts *prompts);
/* Each of these appends prompts, none longer than ids_max nor empty. Errors: err is filled. */
/* "prompt" in its four forms. */
enum status api_prompt_parse(const struct api_context *ctx, struct json_span value, bool add_bos,
                             uint32_t ids_max, struct api_prompts *prompts, struct api_error *err);
/* Tree of a field that is a list or object, which `open` tells; the caller frees *out. */
enum status api_tree_parse(enum api_field field, struct json_span value, uint8_t open, cJSON **out,
                           struct api_error *err);
/* "tools", checked; NULL when there are none, or when tool_choice "none" hides them from the model.
 * The caller frees *out_tools. */
enum status api_tools_parse(const struct api_fields *fields, cJSON **out_tools,
                            struct api_error *err);
/* "messages" with "tools", rendered by the chat template. */
enum status api_chat_parse(const struct api_context *ctx, const struct api_fields *fields,
                           uint32_t ids_max, struct api_prompts *prompts, struct api_error *err);
/* Before and after the ids of one prompt are appended; `st` is what became of it. */
void api_prompts_begin(struct api_prompts *prompts, uint32_t ids_max);
enum status api_prompts_end(const struct api_context *ctx, enum api_field field, enum status st,
                            struct api_prompts *prompts, struct api_error *err);
/* Appends a list of ids below the vocabulary's size. ST_TOO_LARGE and ST_NO_MEMORY are left to the
 * caller; else err is filled. */
enum status api_token_list_parse(const struct api_context *ctx, enum api_field field,
                                 struct json_span value, struct token_buf *out,
                                 struct api_error *err);

#endif
