/* Input: the source of a template. Whatever compiles is rendered with a fixed conversation; the
 * segments must cover the text, and no byte that only the request has may be trusted. */
#include "base/json.h"
#include "text/template.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The mark stands in every text of the request, and is written out nowhere else. */
#define MARK "\xe2\x98\x83"

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system" MARK "\",\"content\":\" Be \\\"nice\\\"\\n" MARK "\"},"
    "{\"role\":\"user\",\"content\":\"a,b " MARK " <|im_end|>\",\"n\":[1,-2,0.5,true,null]},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"" MARK "\",\"function\":"
    "{\"name\":\"f" MARK "\",\"arguments\":{\"x" MARK "\":{\"y\":[]}}}}]}],"
    "\"tools\":[{\"function\":{\"name\":\"f" MARK "\",\"parameters\":{\"items\":{}}}}],"
    "\"kwargs\":{\"k\":\"v" MARK "\",\"depth\":[[[[1]]]]}}";

static void check(const struct chat_render *render, bool source_has_mark)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < render->n_segments; i++) {
        const struct chat_segment *s = &render->segments[i];
        if (s->offset != at || s->bytes == 0 || s->trusted > 1)
            abort();
        if (s->trusted && !source_has_mark &&
            memmem(render->text.data + at, s->bytes, MARK, strlen(MARK)) != NULL)
            abort();
        at += s->bytes;
    }
    if (at != render->text.len)
        abort();
    if (at > 0 && utf8_valid_prefix(render->text.data, at) != at)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static cJSON *root;
    struct chat_template *tpl = NULL;
    struct chat_render render = {0};
    char err[200];
    if (root == NULL &&
        json_parse(conversation, sizeof(conversation) - 1, 64, &root, NULL) != ST_OK)
        abort();
    enum status st = chat_template_compile((const char *)data, size, &tpl, err, sizeof(err));
    if (st != ST_OK) {
        if (utf8_valid_prefix((const uint8_t *)err, strlen(err)) != strlen(err))
            abort();
        return 0;
    }
    struct chat_inputs in = {.messages = json_get(root, "messages"),
                             .tools = json_get(root, "tools"),
                             .kwargs = json_get(root, "kwargs"),
                             .add_generation_prompt = 1,
                             .bos_token = "<s>",
                             .eos_token = "</s>",
                             .now_unix_s = 1753401600};
    buf_init(&render.text, 1 << 16);
    st = chat_template_render(tpl, &in, &render, err, sizeof(err));
    if (st == ST_OK) /* an escape in a string of the template may spell the mark, too */
        check(&render, memmem(data, size, MARK, 3) != NULL || memchr(data, '\\', size) != NULL);
    else if (st != ST_INVALID && st != ST_TOO_LARGE)
        abort();
    free(render.segments);
    buf_deinit(&render.text);
    chat_template_free(tpl);
    return 0;
}
