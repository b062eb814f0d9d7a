/* "messages" of a chat: checked, brought into the form that templates expect, rendered, encoded.
 * Templates see: roles system, user, assistant, tool; content always a string; the arguments of
 * tool calls as objects; no null members. */
#include "api/api_int.h"

#include "base/json.h"
#include "base/time.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RENDER_SLACK_BYTES = 1 << 20 };

static enum status refuse_message(struct api_error *err, enum status st, const char *code, int i,
                                  const char *member, const char *expect)
{
    char param[sizeof(err->param)];
    snprintf(param, sizeof(param), "messages[%d]%s", i, member);
    api_error_set(err, 400, code, param, "%s %s", param, expect);
    return st;
}

/* --- members of a message --- */

static enum status check_role(cJSON *message, int i, struct api_error *err)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool", "developer"};
    cJSON *role = cJSON_GetObjectItemCaseSensitive(message, "role");
    if (role == NULL || cJSON_IsNull(role))
        return refuse_message(err, ST_INVALID, "missing_required_parameter", i, ".role",
                              "is required");
    for (size_t r = 0; cJSON_IsString(role) && r < sizeof(roles) / sizeof(roles[0]); r++) {
        if (strcmp(role->valuestring, roles[r]) != 0)
            continue;
        if (strcmp(roles[r], "developer") == 0) /* the newer name; templates know the older one */
            cJSON_SetValuestring(role, "system");
        return ST_OK;
    }
    return refuse_message(err, ST_INVALID, "invalid_value", i, ".role",
                          "must be system, developer, user, assistant or tool");
}

/* Text of one part; NULL: err is filled. */
static const char *part_text(const cJSON *part, int i, struct api_error *err, enum status *out_st)
{
    const cJSON *type = json_get(part, "type");
    if (!cJSON_IsObject(part) || !cJSON_IsString(type)) {
        *out_st = refuse_message(err, ST_INVALID, "invalid_type", i, ".content",
                                 "must hold parts like {\"type\":\"text\",\"text\":\"...\"}");
        return NULL;
    }
    if (strcmp(type->valuestring, "text") != 0) {
        *out_st = refuse_message(err, ST_UNSUPPORTED, "unsupported_value", i, ".content",
                                 "holds a part that is not text, which is not supported yet");
        return NULL;
    }
    const cJSON *text = json_get(part, "text");
    if (!cJSON_IsString(text)) {
        *out_st = refuse_message(err, ST_INVALID, "invalid_type", i, ".content",
                                 "holds a text part whose \"text\" is not a string");
        return NULL;
    }
    return text->valuestring;
}

static enum status set_member(cJSON *object, const char *name, cJSON *value, struct api_error *err)
{
    if (value != NULL && cJSON_ReplaceItemInObjectCaseSensitive(object, name, value))
        return ST_OK;
    cJSON_Delete(value);
    return api_refuse_status(ST_NO_MEMORY, err);
}

/* The texts of all parts, a line break between two. */
static enum status join_parts(cJSON *message, const cJSON *parts, int i, struct api_error *err)
{
    struct buf joined;
    const cJSON *part;
    enum status st = ST_OK;
    buf_init(&joined, SIZE_MAX / 2);
    cJSON_ArrayForEach(part, parts)
    {
        const char *text = part_text(part, i, err, &st);
        if (text == NULL)
            break;
        if (part != parts->child)
            st = buf_append(&joined, "\n", 1);
        if (st == ST_OK)
            st = buf_append_str(&joined, text);
        if (st != ST_OK) {
            api_refuse_status(st, err);
            break;
        }
    }
    if (st == ST_OK) {
        st = buf_append(&joined, "", 1);
        st = st == ST_OK ? set_member(message, "content",
                                      cJSON_CreateString((const char *)joined.data), err)
                         : api_refuse_status(st, err);
    }
    buf_deinit(&joined);
    return st;
}

static enum status check_content(cJSON *message, int i, struct api_error *err)
{
    const cJSON *content = cJSON_GetObjectItemCaseSensitive(message, "content");
    const cJSON *role = cJSON_GetObjectItemCaseSensitive(message, "role");
    if (cJSON_IsString(content))
        return ST_OK;
    if (cJSON_IsArray(content))
        return join_parts(message, content, i, err);
    if (cJSON_IsNull(content))
        return set_member(message, "content", cJSON_CreateString(""), err);
    if (content != NULL)
        return refuse_message(err, ST_INVALID, "invalid_type", i, ".content",
                              "must be a string, null or a list of parts");
    if (strcmp(role->valuestring, "assistant") != 0) /* it may have made a tool call only */
        return refuse_message(err, ST_INVALID, "missing_required_parameter", i, ".content",
                              "is required");
    return cJSON_AddStringToObject(message, "content", "") != NULL
               ? ST_OK
               : api_refuse_status(ST_NO_MEMORY, err);
}

/* {"function":{"name":"f","arguments":"{...}"}}: the arguments become an object. */
static enum status check_tool_call(cJSON *call, int i, struct api_error *err)
{
    cJSON *function = cJSON_GetObjectItemCaseSensitive(call, "function");
    cJSON *arguments = cJSON_GetObjectItemCaseSensitive(function, "arguments");
    if (!cJSON_IsString(cJSON_GetObjectItemCaseSensitive(function, "name")))
        return refuse_message(err, ST_INVALID, "invalid_value", i, ".tool_calls",
                              "must hold calls like {\"function\":{\"name\":\"...\"}}");
    if (!cJSON_IsString(arguments))
        return ST_OK;
    cJSON *object = NULL;
    const char *text = arguments->valuestring;
    enum status st = json_parse(text, strlen(text), API_DEPTH_MAX, &object, NULL);
    if (st == ST_NO_MEMORY)
        return api_refuse_status(st, err);
    if (st == ST_OK && cJSON_IsObject(object))
        return set_member(function, "arguments", object, err);
    cJSON_Delete(object); /* stays the string that it is */
    return ST_OK;
}

static enum status check_tool_calls(cJSON *message, int i, struct api_error *err)
{
    cJSON *calls = cJSON_GetObjectItemCaseSensitive(message, "tool_calls"), *call;
    if (calls == NULL)
        return ST_OK;
    if (!cJSON_IsArray(calls) || cJSON_GetArraySize(calls) > API_TOOL_CALLS_MAX)
        return refuse_message(err, ST_INVALID, "invalid_value", i, ".tool_calls",
                              "must be a list of at most 128 calls");
    cJSON_ArrayForEach(call, calls)
    {
        enum status st = check_tool_call(call, i, err);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

/* Clients send null for what they leave out, which is not what templates test for. */
static void delete_nulls(cJSON *message)
{
    for (cJSON *item = message->child, *next; item != NULL; item = next) {
        next = item->next;
        if (cJSON_IsNull(item) && strcmp(item->string, "content") != 0)
            cJSON_Delete(cJSON_DetachItemViaPointer(message, item));
    }
}

static enum status check_messages(cJSON *messages, struct api_error *err)
{
    cJSON *message;
    int i = 0;
    cJSON_ArrayForEach(message, messages)
    {
        if (!cJSON_IsObject(message))
            return refuse_message(err, ST_INVALID, "invalid_type", i, "", "must be an object");
        delete_nulls(message);
        enum status st = check_role(message, i, err);
        if (st == ST_OK)
            st = check_content(message, i, err);
        if (st == ST_OK)
            st = check_tool_calls(message, i, err);
        if (st != ST_OK)
            return st;
        i++;
    }
    return i > 0 ? ST_OK : api_refuse_value(API_FIELD_messages, err);
}

/* --- rendering --- */

enum status api_tree_parse(enum api_field field, struct json_span value, uint8_t open, cJSON **out,
                           struct api_error *err)
{
    if (value.data[0] != open)
        return api_refuse_type(field, value, err);
    if (api_count_values(value) > API_VALUES_MAX) {
        api_error_set(err, 400, "invalid_value", api_field_name(field),
                      "%s must hold at most %d values", api_field_name(field), API_VALUES_MAX);
        return ST_INVALID;
    }
    *out = cJSON_ParseWithLength((const char *)value.data, value.bytes);
    return *out != NULL ? ST_OK : api_refuse_status(ST_NO_MEMORY, err);
}

static enum status refuse_render(enum status st, const char *why, struct api_error *err)
{
    if (st == ST_INVALID)
        api_error_set(err, 400, "template_error", "messages",
                      "the chat template refuses the messages: %s", why);
    else if (st == ST_TOO_LARGE)
        api_error_set(err, 400, "template_error", "messages",
                      "the chat template takes too long or writes too much for these messages");
    else
        return api_refuse_status(st, err);
    return ST_INVALID;
}

static enum status render_encode(const struct api_context *ctx, const struct api_fields *fields,
                                 struct chat_inputs *in, uint32_t ids_max,
                                 struct api_prompts *prompts, struct api_error *err)
{
    char why[192] = "";
    struct chat_render render = {0};
    size_t bytes = fields->messages.bytes + (in->tools != NULL ? fields->tools.bytes : 0);
    in->add_generation_prompt = fields->add_generation_prompt;
    in->bos_token = chat_template_bos(ctx->chat_template);
    in->eos_token = chat_template_eos(ctx->chat_template);
    in->now_unix_s = (int64_t)time_unix_s();
    buf_init(&render.text, 4 * bytes + RENDER_SLACK_BYTES);
    enum status st = chat_template_render(ctx->chat_template, in, &render, why, sizeof(why));
    if (st != ST_OK) {
        st = refuse_render(st, why, err);
    } else {
        api_prompts_begin(prompts, ids_max);
        st = tokenizer_encode_segments(ctx->tokenizer, (const char *)render.text.data,
                                       render.text.len, render.segments, render.n_segments,
                                       fields->add_special_tokens, &prompts->ids);
        st = api_prompts_end(ctx, API_FIELD_messages, st, prompts, err);
    }
    free(render.segments);
    buf_deinit(&render.text);
    return st;
}

enum status api_chat_parse(const struct api_context *ctx, const struct api_fields *fields,
                           uint32_t ids_max, struct api_prompts *prompts, struct api_error *err)
{
    cJSON *messages = NULL, *tools = NULL, *kwargs = NULL;
    if (ctx->chat_template == NULL) {
        api_error_set(err, 400, "unsupported_value", "messages",
                      "this model has no chat template; use /v1/completions");
        return ST_UNSUPPORTED;
    }
    enum status st = api_tree_parse(API_FIELD_messages, fields->messages, '[', &messages, err);
    if (st == ST_OK)
        st = check_messages(messages, err);
    if (st == ST_OK)
        st = api_tools_parse(fields, &tools, err);
    if (st == ST_OK && fields->has[API_FIELD_chat_template_kwargs])
        st = api_tree_parse(API_FIELD_chat_template_kwargs, fields->chat_template_kwargs, '{',
                            &kwargs, err);
    struct chat_inputs in = {.messages = messages, .tools = tools, .kwargs = kwargs};
    if (st == ST_OK)
        st = render_encode(ctx, fields, &in, ids_max, prompts, err);
    cJSON_Delete(messages);
    cJSON_Delete(tools);
    cJSON_Delete(kwargs);
    return st;
}
