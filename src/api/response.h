/* From committed tokens back to what the client reads: text of each choice, and the JSON answer or
 * the event stream (SSE) around it. One thread at a time for each object; nothing here does I/O.
 *
 *   api_choice_push(tokens) -> detok -> stop -> pending text
 *   api_response_chunk(choice) -> "data: {...}\n\n" events    (stream)
 *   api_response_full(choices) -> one JSON object             (no stream)
 *
 * Rules of a stream, which clients and benchmarks rely on: the first chunk of a choice carries the
 * role (chats) and the first text together; finish_reason is null up to the last chunk of a choice,
 * which holds no text; the usage comes in a chunk without choices, before [DONE]; id and created do
 * not change. A writer appends whole events or, on an error, nothing. */
#ifndef API_RESPONSE_H
#define API_RESPONSE_H

#include "api/error.h"
#include "api/request.h"
#include "base/buf.h"
#include "text/detok.h"
#include "text/stop.h"
#include "wire/wire.h"

#include <stdint.h>

struct api_usage {
    uint64_t prompt_tokens;     /* each prompt once, however many choices it has */
    uint64_t completion_tokens; /* over all choices, end tokens included */
    uint64_t cached_tokens;     /* of the prompts, found in a cache */
};

enum api_finish { API_FINISH_NONE, API_FINISH_STOP, API_FINISH_LENGTH };

/* One answer to one prompt. Embeds by value. */
struct api_choice_stream {
    uint32_t index; /* prompt index * n_choices + choice */
    const struct api_prompt *prompt;
    uint32_t min_tokens; /* stop strings count from here on */
    uint32_t n_tokens;   /* pushed and counted */
    enum api_finish finish;
    int32_t stop_index; /* stop string that ended it, or -1 */
    bool keep_ids;
    bool has_begun; /* a chunk was written */
    bool has_ended; /* the last one was written */
    struct detok detok;
    struct stop *stop;    /* NULL: no stop strings */
    struct buf decoded;   /* scratch: text of one push before the stop strings */
    struct buf text;      /* not yet written; all of it without streaming */
    struct token_buf ids; /* likewise, when token ids are to be returned */
};

/* request   borrowed; lives longer than the choice
 * index     of the choice, below n_prompts * n_choices
 * Errors    ST_NO_MEMORY, ST_INVALID: a stop string that begins inside a character */
enum status api_choice_init(struct api_choice_stream *choice, const struct api_request *request,
                            const struct tokenizer *tokenizer, uint32_t index);
void api_choice_deinit(struct api_choice_stream *choice);
/* Takes committed tokens in order.
 * finish       after tokens[n_tokens - 1]; with WIRE_FINISH_STOP that one is an end token, which
 *              writes no text
 * *out_stopped true when a stop string was found just now: the text is cut before it, the choice
 *              has ended, tokens still to come are ignored and the caller ends their generation
 * Errors       ST_NO_MEMORY, ST_TOO_LARGE: the choice cannot go on */
enum status api_choice_push(struct api_choice_stream *choice, const uint32_t *tokens,
                            uint32_t n_tokens, enum wire_finish finish, bool *out_stopped);

/* What all chunks of an answer share. */
struct api_response {
    enum api_endpoint endpoint;
    bool return_token_ids, continuous_usage, include_usage;
    bool has_prompt_ids; /* written */
    struct buf head;     /* {"id":...,"system_fingerprint":...  */
};

/* id           unique for the request, at most 64 bytes; prefixed with "chatcmpl-" or "cmpl-"
 * fingerprint  of the model and its configuration; NULL: null
 * Errors       ST_NO_MEMORY */
enum status api_response_init(struct api_response *response, const struct api_request *request,
                              const char *id, const char *model, const char *fingerprint);
void api_response_deinit(struct api_response *response);
/* Appends the events of what `choice` holds since the last call: none, a text chunk, the last
 * chunk, or both. `usage` so far is written when the request wanted it on each chunk. */
enum status api_response_chunk(struct api_response *response, struct api_choice_stream *choice,
                               const struct api_usage *usage, struct buf *out);
/* Appends the usage event when the request asked for it, and [DONE]. */
enum status api_response_end(struct api_response *response, const struct api_usage *usage,
                             struct buf *out);
/* Appends an error event; the stream is broken off behind it, without [DONE]. */
enum status api_response_error(const struct api_error *error, struct buf *out);
/* Appends the whole answer of choices[0 .. n_choices), in order of index, all ended. */
enum status api_response_full(struct api_response *response,
                              const struct api_choice_stream *choices, uint32_t n_choices,
                              const struct api_usage *usage, struct buf *out);

#endif
