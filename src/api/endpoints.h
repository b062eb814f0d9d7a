/* The small endpoints: each turns a body or nothing into a JSON body in `out`. Any thread.
 * Errors are told in out_error, as by api_request_parse; then `out` is unchanged. */
#ifndef API_ENDPOINTS_H
#define API_ENDPOINTS_H

#include "api/error.h"
#include "api/request.h"
#include "base/buf.h"

/* GET /v1/models */
enum status api_models_list(const struct api_context *ctx, struct buf *out,
                            struct api_error *out_error);
/* GET /v1/models/{id}
 * id  as it stands in the path: percent escapes are decoded here
 * Errors  ST_NOT_FOUND: 404, model_not_found */
enum status api_models_get(const struct api_context *ctx, const char *id, struct buf *out,
                           struct api_error *out_error);
/* GET /version */
enum status api_version(struct buf *out, struct api_error *out_error);
/* POST /tokenize {"prompt": "..."} or {"messages": [...]}, add_special_tokens,
 * add_generation_prompt, return_token_strs -> {"count":..,"max_model_len":..,"tokens":[..]} */
enum status api_tokenize(const struct api_context *ctx, const char *body, size_t bytes,
                         struct buf *out, struct api_error *out_error);
/* POST /detokenize {"tokens": [...]} -> {"prompt": "..."}; special tokens are written out. */
enum status api_detokenize(const struct api_context *ctx, const char *body, size_t bytes,
                           struct buf *out, struct api_error *out_error);

#endif
