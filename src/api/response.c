#include "api/response.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

enum {
    TEXT_BYTES_MAX = 1 << 28, /* of one choice */
    ID_BYTES_MAX = 64,
};

/* --- the text of a choice --- */

enum status api_choice_init(struct api_choice_stream *choice, const struct api_request *request,
                            const struct tokenizer *tokenizer, uint32_t index)
{
    *choice = (struct api_choice_stream){.index = index,
                                         .prompt = &request->prompts[index / request->n_choices],
                                         .min_tokens = request->sampling.min_new_tokens,
                                         .stop_index = -1,
                                         .keep_ids = request->return_token_ids};
    detok_init(&choice->detok, tokenizer, request->skip_special_tokens);
    buf_init(&choice->decoded, TEXT_BYTES_MAX);
    buf_init(&choice->text, TEXT_BYTES_MAX);
    token_buf_init(&choice->ids, WIRE_TOKENS_MAX);
    if (request->n_stops == 0)
        return ST_OK;
    return stop_create(request->stops, request->n_stops, &choice->stop);
}

void api_choice_deinit(struct api_choice_stream *choice)
{
    stop_destroy(choice->stop);
    choice->stop = NULL;
    buf_deinit(&choice->decoded);
    buf_deinit(&choice->text);
    token_buf_deinit(&choice->ids);
}

/* Where the detokenizer writes: behind the stop strings there is only the pending text. */
static struct buf *decode_target(struct api_choice_stream *choice)
{
    return choice->stop != NULL ? &choice->decoded : &choice->text;
}

/* Passes what was decoded through the stop strings, unless it is too early for them. */
static enum status match_decoded(struct api_choice_stream *choice)
{
    struct buf *decoded = &choice->decoded;
    enum status st;
    if (choice->stop == NULL || decoded->len == 0)
        return ST_OK;
    if (choice->n_tokens < choice->min_tokens)
        st = buf_append(&choice->text, decoded->data, decoded->len);
    else
        st = stop_feed(choice->stop, (const char *)decoded->data, decoded->len, &choice->text,
                       &choice->stop_index);
    decoded->len = 0;
    if (st == ST_OK && choice->stop_index >= 0)
        choice->finish = API_FINISH_STOP;
    return st;
}

static enum status push_token(struct api_choice_stream *choice, uint32_t token, bool is_end)
{
    enum status st = choice->keep_ids ? token_buf_append(&choice->ids, &token, 1) : ST_OK;
    if (st == ST_OK && !is_end)
        st = detok_feed(&choice->detok, token, decode_target(choice));
    choice->n_tokens++;
    return st == ST_OK ? match_decoded(choice) : st;
}

/* The tokens have ended: half a character, and what could have been a stop string, are text. */
static enum status push_end(struct api_choice_stream *choice, enum wire_finish finish)
{
    enum status st = detok_flush(&choice->detok, decode_target(choice));
    if (st == ST_OK)
        st = match_decoded(choice);
    if (st == ST_OK && choice->stop != NULL)
        st = stop_flush(choice->stop, &choice->text);
    if (st == ST_OK && choice->finish == API_FINISH_NONE)
        choice->finish = finish == WIRE_FINISH_STOP ? API_FINISH_STOP : API_FINISH_LENGTH;
    return st;
}

enum status api_choice_push(struct api_choice_stream *choice, const uint32_t *tokens,
                            uint32_t n_tokens, enum wire_finish finish, bool *out_stopped)
{
    enum status st = ST_OK;
    *out_stopped = false;
    if (choice->finish != API_FINISH_NONE)
        return ST_OK;
    for (uint32_t i = 0; i < n_tokens && choice->finish == API_FINISH_NONE; i++) {
        bool is_end = finish == WIRE_FINISH_STOP && i + 1 == n_tokens;
        st = push_token(choice, tokens[i], is_end);
        if (st != ST_OK)
            return st;
    }
    if (finish != WIRE_FINISH_NONE && choice->finish == API_FINISH_NONE)
        st = push_end(choice, finish);
    *out_stopped = st == ST_OK && choice->stop_index >= 0;
    return st;
}

/* --- writing --- */

/* A buffer with the first error that appending to it met. */
struct writer {
    struct buf *out;
    size_t before; /* length to go back to */
    enum status st;
};

static struct writer writer_begin(struct buf *out)
{
    return (struct writer){.out = out, .before = out->len, .st = ST_OK};
}

static enum status writer_end(struct writer *w)
{
    if (w->st != ST_OK)
        w->out->len = w->before;
    return w->st;
}

static void put_bytes(struct writer *w, const void *data, size_t bytes)
{
    if (w->st == ST_OK)
        w->st = buf_append(w->out, data, bytes);
}

static void put(struct writer *w, const char *text)
{
    put_bytes(w, text, strlen(text));
}

static void put_string(struct writer *w, const char *text, size_t bytes)
{
    if (w->st == ST_OK) /* an empty buf has no data */
        w->st = json_append_string(w->out, bytes > 0 ? text : "", bytes);
}

static void put_u64(struct writer *w, uint64_t value)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    put_bytes(w, digits + at, sizeof(digits) - at);
}

static void put_ids(struct writer *w, const char *name, const uint32_t *ids, size_t n_ids)
{
    put(w, name);
    put(w, "[");
    for (size_t i = 0; i < n_ids; i++) {
        if (i > 0)
            put(w, ",");
        put_u64(w, ids[i]);
    }
    put(w, "]");
}

static void put_prompt_ids(struct writer *w, const struct api_prompt *prompt)
{
    put_ids(w, ",\"prompt_token_ids\":", prompt->tokens, prompt->n_tokens);
}

static void put_finish(struct writer *w, enum api_finish finish)
{
    static const char *const reasons[] = {"null", "\"stop\"", "\"length\""};
    put(w, ",\"logprobs\":null,\"finish_reason\":");
    put(w, reasons[finish]);
}

static void put_usage(struct writer *w, const struct api_usage *usage)
{
    put(w, ",\"usage\":{\"prompt_tokens\":");
    put_u64(w, usage->prompt_tokens);
    put(w, ",\"completion_tokens\":");
    put_u64(w, usage->completion_tokens);
    put(w, ",\"total_tokens\":");
    put_u64(w, usage->prompt_tokens + usage->completion_tokens);
    put(w, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    put_u64(w, usage->cached_tokens);
    put(w, "}}");
}

/* --- the answer as a whole --- */

static const char *object_name(const struct api_request *request)
{
    if (request->endpoint != API_CHAT)
        return "text_completion";
    return request->stream ? "chat.completion.chunk" : "chat.completion";
}

enum status api_response_init(struct api_response *response, const struct api_request *request,
                              const char *id, const char *model, const char *fingerprint)
{
    *response = (struct api_response){.endpoint = request->endpoint,
                                      .return_token_ids = request->return_token_ids,
                                      .continuous_usage = request->continuous_usage,
                                      .include_usage = request->include_usage};
    buf_init(&response->head, SIZE_MAX / 2);
    struct writer w = writer_begin(&response->head);
    char name[16 + ID_BYTES_MAX + 1];
    snprintf(name, sizeof(name), "%s%.*s", request->endpoint == API_CHAT ? "chatcmpl-" : "cmpl-",
             ID_BYTES_MAX, id);
    put(&w, "{\"id\":");
    put_string(&w, name, strlen(name));
    put(&w, ",\"object\":\"");
    put(&w, object_name(request));
    put(&w, "\",\"created\":");
    put_u64(&w, request->created_unix_s);
    put(&w, ",\"model\":");
    put_string(&w, model, strlen(model));
    put(&w, ",\"system_fingerprint\":");
    if (fingerprint != NULL)
        put_string(&w, fingerprint, strlen(fingerprint));
    else
        put(&w, "null");
    if (writer_end(&w) == ST_OK)
        return ST_OK;
    api_response_deinit(response);
    return w.st;
}

void api_response_deinit(struct api_response *response)
{
    buf_deinit(&response->head);
}

/* --- streams --- */

static void put_event_begin(struct writer *w, const struct api_response *response)
{
    put(w, "data: ");
    put_bytes(w, response->head.data, response->head.len);
}

/* The text member of a chunk: an empty delta for the last one of a chat. */
static void put_delta(struct writer *w, const struct api_response *response,
                      const struct api_choice_stream *choice, bool is_last)
{
    const char *text = (const char *)choice->text.data;
    size_t bytes = is_last ? 0 : choice->text.len;
    if (response->endpoint != API_CHAT) {
        put(w, ",\"text\":");
        put_string(w, text, bytes);
    } else if (is_last) {
        put(w, ",\"delta\":{}");
    } else {
        put(w, choice->has_begun ? ",\"delta\":{\"content\":"
                                 : ",\"delta\":{\"role\":\"assistant\",\"content\":");
        put_string(w, text, bytes);
        put(w, "}");
    }
}

/* One event: the pending text, or the end when is_last. The ids go with the first of the two. */
static void put_chunk(struct writer *w, const struct api_response *response,
                      const struct api_choice_stream *choice, const struct api_usage *usage,
                      bool is_last, size_t n_ids)
{
    bool is_chat = response->endpoint == API_CHAT;
    put_event_begin(w, response);
    if (response->return_token_ids && is_chat && !response->has_prompt_ids)
        put_prompt_ids(w, choice->prompt);
    put(w, ",\"choices\":[{\"index\":");
    put_u64(w, choice->index);
    put_delta(w, response, choice, is_last);
    put_finish(w, is_last ? choice->finish : API_FINISH_NONE);
    if (response->return_token_ids) {
        if (!is_chat && !choice->has_begun)
            put_prompt_ids(w, choice->prompt);
        put_ids(w, ",\"token_ids\":", choice->ids.ids, n_ids);
    }
    put(w, "}]");
    if (response->continuous_usage && usage != NULL)
        put_usage(w, usage);
    put(w, "}\n\n");
}

/* A chat says its role even when it has no text. */
static bool needs_text_chunk(const struct api_response *response,
                             const struct api_choice_stream *choice)
{
    bool has_ended = choice->finish != API_FINISH_NONE;
    if (choice->text.len > 0)
        return true;
    if (!choice->has_begun && has_ended && response->endpoint == API_CHAT)
        return true;
    return choice->ids.len > 0 && !has_ended;
}

enum status api_response_chunk(struct api_response *response, struct api_choice_stream *choice,
                               const struct api_usage *usage, struct buf *out)
{
    struct writer w = writer_begin(out);
    bool has_prompt_ids = response->has_prompt_ids, has_begun = choice->has_begun;
    size_t n_ids = choice->ids.len;
    if (choice->has_ended)
        return ST_OK;
    if (needs_text_chunk(response, choice)) {
        put_chunk(&w, response, choice, usage, false, n_ids);
        response->has_prompt_ids = choice->has_begun = true;
        n_ids = 0;
    }
    if (choice->finish != API_FINISH_NONE) {
        put_chunk(&w, response, choice, usage, true, n_ids);
        response->has_prompt_ids = choice->has_begun = choice->has_ended = true;
    }
    if (writer_end(&w) != ST_OK) { /* nothing was written: the next call tries again */
        response->has_prompt_ids = has_prompt_ids;
        choice->has_begun = has_begun;
        choice->has_ended = false;
        return w.st;
    }
    choice->text.len = 0;
    choice->ids.len = 0;
    return ST_OK;
}

enum status api_response_end(struct api_response *response, const struct api_usage *usage,
                             struct buf *out)
{
    struct writer w = writer_begin(out);
    if (response->include_usage) {
        put_event_begin(&w, response);
        put(&w, ",\"choices\":[]");
        put_usage(&w, usage);
        put(&w, "}\n\n");
    }
    put(&w, "data: [DONE]\n\n");
    return writer_end(&w);
}

enum status api_response_error(const struct api_error *error, struct buf *out)
{
    struct writer w = writer_begin(out);
    put(&w, "data: ");
    if (w.st == ST_OK)
        w.st = api_error_write(error, out);
    put(&w, "\n\n");
    return writer_end(&w);
}

/* --- answers in one piece --- */

static void put_whole_choice(struct writer *w, const struct api_response *response,
                             const struct api_choice_stream *choice)
{
    bool is_chat = response->endpoint == API_CHAT;
    put(w, "{\"index\":");
    put_u64(w, choice->index);
    put(w, is_chat ? ",\"message\":{\"role\":\"assistant\",\"content\":" : ",\"text\":");
    put_string(w, (const char *)choice->text.data, choice->text.len);
    put(w, is_chat ? "}" : "");
    put_finish(w, choice->finish);
    if (response->return_token_ids) {
        if (!is_chat)
            put_prompt_ids(w, choice->prompt);
        put_ids(w, ",\"token_ids\":", choice->ids.ids, choice->ids.len);
    }
    put(w, "}");
}

enum status api_response_full(struct api_response *response,
                              const struct api_choice_stream *choices, uint32_t n_choices,
                              const struct api_usage *usage, struct buf *out)
{
    struct writer w = writer_begin(out);
    put_bytes(&w, response->head.data, response->head.len);
    if (response->return_token_ids && response->endpoint == API_CHAT && n_choices > 0)
        put_prompt_ids(&w, choices[0].prompt);
    put(&w, ",\"choices\":[");
    for (uint32_t i = 0; i < n_choices; i++) {
        if (i > 0)
            put(&w, ",");
        put_whole_choice(&w, response, &choices[i]);
    }
    put(&w, "]");
    put_usage(&w, usage);
    put(&w, "}");
    return writer_end(&w);
}
