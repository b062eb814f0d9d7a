/* "tools" of a chat: checked here, shown to the model by the chat template. */
#include "api/api_int.h"

#include "base/json.h"

#include <stdio.h>

static enum status refuse_tool(struct api_error *err, const char *code, uint32_t i,
                               const char *member, const char *expect)
{
    char param[sizeof(err->param)];
    snprintf(param, sizeof(param), "tools[%u]%s", i, member);
    api_error_set(err, 400, code, param, "%s %s", param, expect);
    return ST_INVALID;
}

/* {"type":"function","function":{"name":"f","description":"...","parameters":{...}}} */
static enum status check_tool(const cJSON *tool, uint32_t i, struct api_error *err)
{
    const cJSON *type = json_get(tool, "type"), *function = json_get(tool, "function");
    const cJSON *name = json_get(function, "name"), *text = json_get(function, "description");
    const cJSON *parameters = json_get(function, "parameters");
    if (!cJSON_IsObject(tool))
        return refuse_tool(err, "invalid_type", i, "", "must be an object");
    if (!cJSON_IsString(type) || strcmp(type->valuestring, "function") != 0)
        return refuse_tool(err, "invalid_value", i, ".type", "must be \"function\"");
    if (!cJSON_IsObject(function))
        return refuse_tool(err, "invalid_type", i, ".function",
                           "must be an object with a \"name\"");
    if (!cJSON_IsString(name) || name->valuestring[0] == '\0' ||
        strlen(name->valuestring) > API_TOOL_NAME_BYTES_MAX)
        return refuse_tool(err, "invalid_value", i, ".function.name",
                           "must be a string of 1 to 256 bytes");
    if (text != NULL && !cJSON_IsNull(text) && !cJSON_IsString(text))
        return refuse_tool(err, "invalid_type", i, ".function.description", "must be a string");
    if (parameters != NULL && !cJSON_IsNull(parameters) && !cJSON_IsObject(parameters))
        return refuse_tool(err, "invalid_type", i, ".function.parameters",
                           "must be an object: a JSON Schema");
    return ST_OK;
}

enum status api_tools_parse(const struct api_fields *fields, cJSON **out_tools,
                            struct api_error *err)
{
    cJSON *tools = NULL;
    const cJSON *tool;
    uint32_t i = 0;
    *out_tools = NULL;
    if (!fields->has[API_FIELD_tools])
        return ST_OK;
    enum status st = api_tree_parse(API_FIELD_tools, fields->tools, '[', &tools, err);
    if (st == ST_OK && cJSON_GetArraySize(tools) > API_TOOLS_MAX)
        st = api_refuse_value(API_FIELD_tools, err);
    if (st == ST_OK)
        cJSON_ArrayForEach(tool, tools)
        {
            st = check_tool(tool, i++, err);
            if (st != ST_OK)
                break;
        }
    bool hidden =
        fields->has[API_FIELD_tool_choice] && api_span_is(fields->tool_choice, "\"none\"");
    if (st != ST_OK || i == 0 || hidden) {
        cJSON_Delete(tools);
        return st;
    }
    *out_tools = tools;
    return ST_OK;
}
