/* Any text as config.json and, behind the first NUL, generation_config.json: refused, or a
 * description whose numbers keep their bounds. */
#include "model/desc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct model_desc *d)
{
    uint8_t hash[32];
    if (d->n_layers == 0 || d->n_layers > MODEL_LAYERS_MAX || d->hidden == 0 || d->n_heads == 0 ||
        d->n_kv_heads == 0 || d->n_heads % d->n_kv_heads != 0 || d->head_dim == 0 ||
        d->head_dim % 16 != 0 || d->head_dim > OPS_HEAD_DIM_MAX || d->n_vocab < 2 ||
        d->n_vocab > MODEL_VOCAB_MAX || d->n_eos > MODEL_EOS_MAX)
        abort();
    for (uint32_t i = 0; i < d->n_eos; i++)
        if (d->eos[i] >= d->n_vocab)
            abort();
    for (uint32_t i = 0; i < d->n_layers; i++)
        if (d->layer_window[i] != 0 && d->window == 0)
            abort();
    if (d->weight_scaling > MODEL_SCALE_BLOCK)
        abort();
    for (uint32_t i = 0; i < MODEL_LAYERS_MAX; i++)
        if (d->layer_plain[i] >> MODEL_MATRICES != 0 ||
            (d->layer_plain[i] != 0 && (i >= d->n_layers || d->weight_scaling == MODEL_SCALE_NONE)))
            abort();
    for (uint32_t i = 0; i < d->head_dim / 2; i++)
        if (!isfinite(d->inv_freq[i]) || d->inv_freq[i] < 0)
            abort();
    if (!(d->norm_eps > 0) || !isfinite(d->rope_attn_scale) || model_desc_param_count(d) == 0)
        abort();
    model_desc_hash(d, hash);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_desc desc;
    char err[256];
    const char *config = (const char *)data, *generation = NULL;
    const uint8_t *nul = size > 0 ? memchr(data, 0, size) : NULL;
    size_t config_bytes = nul != NULL ? (size_t)(nul - data) : size, generation_bytes = 0;
    if (nul != NULL) {
        generation = (const char *)nul + 1;
        generation_bytes = size - config_bytes - 1;
    }
    if (model_desc_parse(config, config_bytes, generation, generation_bytes, &desc,
                         (struct text_error){err, sizeof(err)}) == ST_OK)
        check(&desc);
    return 0;
}
