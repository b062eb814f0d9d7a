/* What the validator accepts, cJSON must parse; what cJSON prints of it, the validator must accept.
 */
#include "base/json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_error error = {0};
    cJSON *root = NULL;
    if (json_parse((const char *)data, size, 64, &root, &error) != ST_OK) {
        must(root == NULL && error.offset <= size && error.line > 0 && error.column > 0);
        must(error.message[0] != '\0');
        return 0;
    }
    char *text = cJSON_PrintUnformatted(root);
    must(text != NULL && json_validate(text, strlen(text), 64, NULL) == ST_OK);
    if (cJSON_IsString(root)) {
        struct buf buf;
        buf_init(&buf, 8 * size + 64);
        must(json_append_string(&buf, root->valuestring, strlen(root->valuestring)) == ST_OK);
        must(json_validate((const char *)buf.data, buf.len, 1, NULL) == ST_OK);
        buf_deinit(&buf);
    }
    cJSON_free(text);
    cJSON_Delete(root);
    return 0;
}
