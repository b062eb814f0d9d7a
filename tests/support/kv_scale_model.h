/* For tests: a checkpoint with the tensors of another one and more numbers beside them, as writers
 * leave the scales of an fp8 KV cache. */
#ifndef TESTS_KV_SCALE_MODEL_H
#define TESTS_KV_SCALE_MODEL_H

#include "tests/support/fp8_model.h"

#define KV_SCHEME(strategy)                                                                        \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"dense\",\"config_groups\":{},"          \
    "\"kv_cache_scheme\":{\"num_bits\":8,\"type\":\"float\",\"symmetric\":true,"                   \
    "\"dynamic\":false,\"strategy\":\"" strategy "\"},\"ignore\":[\"lm_head\"]}"

struct kv_scale {
    const char *name;  /* with %u: of each layer */
    const char *dtype; /* "F32", "BF16", "F16" or "I32" */
    uint32_t n_dims;
    uint64_t dims[3];
    const void *data; /* of one layer, and the same in all unless it is f32 and `step` is set */
    float step;       /* layer i: data * (1 + i * step) */
};

static inline void kv_scale_add(struct fp8_writer *w, const struct kv_scale *s, uint32_t layer)
{
    const uint32_t elem = strstr(s->dtype, "32") != NULL ? 4 : 2;
    uint64_t count = 1;
    float values[64];
    char name[160];
    for (uint32_t i = 0; i < s->n_dims; i++)
        count *= s->dims[i];
    assert_true(count <= 64);
    memcpy(values, s->data, count * elem);
    for (uint32_t i = 0; i < count && s->step != 0; i++)
        values[i] *= 1.0f + (float)layer * s->step;
    snprintf(name, sizeof(name), "model.layers.%u.%s", layer, s->name);
    fp8_writer_add(w, name, s->dtype, s->dims, s->n_dims, values, count * elem);
}

/* `out` becomes `source` with scales [n_scales] in each of n_layers, and with that config.json. */
static inline void kv_scale_model_write(const char *source, const char *config,
                                        const struct kv_scale *scales, uint32_t n_scales,
                                        uint32_t n_layers, const struct model_dir *out)
{
    struct safetensors *set = NULL;
    struct fp8_writer w;
    fp8_writer_init(&w);
    assert_int_equal(safetensors_open_dir(source, &set, (struct text_error){NULL, 0}), ST_OK);
    for (uint32_t i = 0; i < safetensors_count(set); i++) {
        const struct safetensors_tensor *t = safetensors_at(set, i);
        fp8_writer_add(&w, t->name, safetensors_dtype_name(t->dtype), t->dims, t->n_dims, t->data,
                       t->bytes);
    }
    for (uint32_t i = 0; i < n_layers * n_scales; i++)
        kv_scale_add(&w, &scales[i % n_scales], i / n_scales);
    safetensors_close(set);
    fp8_writer_finish(&w, out);
    model_dir_write_text(out, "config.json", config);
}

#endif
