/* Weights on the device: every tensor where it belongs, and every contradiction named. */
#include "tests/support/model_configs.h"
#include "tests/support/model_dir.h"

#include "base/status.h"
#include "model/load.h"
#include "model/safetensors.h"

#include <math.h>

struct progress {
    uint32_t last, calls;
};

static void on_progress(void *arg, uint32_t permille)
{
    struct progress *p = arg;
    assert_true(permille > p->last && permille <= 1000);
    p->last = permille;
    p->calls++;
}

static struct device *open_device(void)
{
    struct device *dev = NULL;
    struct device_opts opts = {.n_threads = 1};
    assert_int_equal(device_open(DEVICE_CPU, &opts, &dev), ST_OK);
    return dev;
}

static struct model_desc desc_of(const char *config)
{
    struct model_desc d;
    assert_int_equal(
        model_desc_parse(config, strlen(config), NULL, 0, &d, (struct text_error){NULL, 0}), ST_OK);
    return d;
}

/* Loads the directory with the shape of `config`. */
static enum status load(const struct model_dir *dir, const char *config, struct device *dev,
                        enum ops_dtype dtype, struct model_weights *w, uint8_t id[32], char *err)
{
    struct model_desc d = desc_of(config);
    struct progress progress = {0};
    struct model_load_opts opts = {
        .dir = dir->path, .dtype = dtype, .on_progress = on_progress, .progress_arg = &progress};
    enum status st = model_load(dev, &d, &opts, w, id, (struct text_error){err, 256});
    if (st == ST_OK)
        assert_int_equal(progress.last, 1000);
    return st;
}

/* Row r of a packed matrix [n, k] as it multiplies: y = W e_c for each c. */
static float packed_at(struct device *dev, const void *w, enum ops_dtype dtype, uint32_t n,
                       uint32_t k, uint32_t row, uint32_t col)
{
    float *x = calloc(k, sizeof(float)), *y = calloc(n, sizeof(float));
    assert_true(x != NULL && y != NULL);
    x[col] = 1;
    struct gemm_args args = {.x = x,
                             .x_stride = k,
                             .w = w,
                             .w_dtype = dtype,
                             .y = y,
                             .y_stride = n,
                             .n_rows = 1,
                             .n = n,
                             .k = k};
    assert_int_equal(dev->ops->gemm(dev, &args), ST_OK);
    float value = y[row];
    free(x);
    free(y);
    return value;
}

static float file_at(const struct model_dir *dir, const char *name, uint64_t i)
{
    struct safetensors *set = NULL;
    float value;
    assert_int_equal(safetensors_open_dir(dir->path, &set, (struct text_error){NULL, 0}), ST_OK);
    const struct safetensors_tensor *t = safetensors_find(set, name);
    assert_non_null(t);
    memcpy(&value, t->data + 4 * i, 4);
    safetensors_close(set);
    return value;
}

static void test_load_every_matrix_lies_where_it_belongs(void **state)
{
    struct model_dir dir;
    struct model_weights w;
    uint8_t id[32];
    char err[256] = "";
    struct device *dev = open_device();
    (void)state;
    model_dir_make(&dir);
    tiny_model_write(&dir, CONFIG_QWEN2, NULL, NULL); /* q 64 rows, k 16, v 16 */
    if (load(&dir, CONFIG_QWEN2, dev, OPS_F32, &w, id, err) != ST_OK)
        fail_msg("%s", err);
    const struct model_layer *l = &w.layers[1];
    static const struct {
        const char *name;
        uint32_t row, n_first;
    } qkv[] = {
        {"self_attn.q_proj", 63, 0}, {"self_attn.k_proj", 0, 64}, {"self_attn.v_proj", 15, 80}};
    for (unsigned i = 0; i < 3; i++) {
        char name[96];
        snprintf(name, sizeof(name), "model.layers.1.%s.weight", qkv[i].name);
        assert_true(packed_at(dev, l->qkv, OPS_F32, 96, 64, qkv[i].n_first + qkv[i].row, 5) ==
                    file_at(&dir, name, qkv[i].row * 64 + 5));
        snprintf(name, sizeof(name), "model.layers.1.%s.bias", qkv[i].name);
        assert_true(l->qkv_bias[qkv[i].n_first + qkv[i].row] == file_at(&dir, name, qkv[i].row));
    }
    assert_true(packed_at(dev, l->gate_up, OPS_F32, 224, 64, 3, 7) ==
                file_at(&dir, "model.layers.1.mlp.gate_proj.weight", 3 * 64 + 7));
    assert_true(packed_at(dev, l->gate_up, OPS_F32, 224, 64, 112 + 3, 7) ==
                file_at(&dir, "model.layers.1.mlp.up_proj.weight", 3 * 64 + 7));
    assert_true(packed_at(dev, l->down, OPS_F32, 64, 112, 63, 111) ==
                file_at(&dir, "model.layers.1.mlp.down_proj.weight", 63 * 112 + 111));
    assert_true(l->mlp_norm[9] ==
                file_at(&dir, "model.layers.1.post_attention_layernorm.weight", 9));
    assert_ptr_equal(w.head, w.embed); /* tied */
    assert_null(l->o_bias);
    assert_null(l->q_norm);
    model_weights_deinit(&w);
    device_close(dev);
    model_dir_remove(&dir);
}

static void test_load_bf16_rounds_f32_to_nearest(void **state)
{
    struct model_dir dir;
    struct model_weights w;
    uint8_t id[32], other[32];
    char err[256];
    struct device *dev = open_device();
    (void)state;
    model_dir_make(&dir);
    tiny_model_write(&dir, CONFIG_LLAMA, NULL, NULL);
    assert_int_equal(load(&dir, CONFIG_LLAMA, dev, OPS_BF16, &w, id, err), ST_OK);
    for (uint32_t c = 0; c < 64; c++) {
        float exact = file_at(&dir, "lm_head.weight", 319 * 64 + c);
        float got = packed_at(dev, w.head, OPS_BF16, 320, 64, 319, c);
        assert_true(fabsf(got - exact) <= fabsf(exact) / 256);
    }
    assert_ptr_not_equal(w.head, w.embed);
    model_weights_deinit(&w);
    assert_int_equal(load(&dir, CONFIG_LLAMA, dev, OPS_F32, &w, other, err), ST_OK);
    assert_memory_equal(id, other, 32); /* of the file, not of the format in memory */
    model_weights_deinit(&w);
    device_close(dev);
    model_dir_remove(&dir);
}

/* Element i of the file below: any finite f16, subnormal ones too. */
static uint16_t f16_bits_at(uint64_t tensor, uint64_t i)
{
    uint16_t bits = (uint16_t)hash_mix64(hash_combine(tensor, i));
    return (bits >> 10 & 31) == 31 ? bits & 0x83ff : bits;
}

static float f16_value_at(uint64_t tensor, uint64_t i)
{
    uint16_t bits = f16_bits_at(tensor, i);
    int exponent = bits >> 10 & 31;
    float mantissa = (float)((bits & 1023) + (exponent > 0 ? 1024 : 0));
    return ldexpf(bits >> 15 ? -mantissa : mantissa, (exponent > 0 ? exponent : 1) - 25);
}

/* Replaces the weights by f16 ones of the same names and shapes, each tensor at an odd address:
 * the format promises no alignment. `ids`: number of "lm_head.weight", "model.norm.weight". */
static void rewrite_as_f16(const struct model_dir *dir, uint32_t ids[2])
{
    struct safetensors *set = NULL;
    struct buf header, data, file;
    buf_init(&header, 1u << 20);
    buf_init(&data, 64u << 20);
    buf_init(&file, 128u << 20);
    assert_int_equal(safetensors_open_dir(dir->path, &set, (struct text_error){NULL, 0}), ST_OK);
    for (uint32_t i = 0; i < safetensors_count(set); i++) {
        const struct safetensors_tensor *t = safetensors_at(set, i);
        uint64_t begin = data.len;
        for (uint64_t k = 0; k < t->bytes / 4; k++) {
            uint16_t bits = f16_bits_at(i, k);
            assert_int_equal(buf_append(&data, &bits, 2), ST_OK);
        }
        buf_printf(&header, "%s\"%s\":{\"dtype\":\"F16\",\"shape\":[%u", i > 0 ? "," : "{", t->name,
                   (unsigned)t->dims[0]);
        if (t->n_dims == 2)
            buf_printf(&header, ",%u", (unsigned)t->dims[1]);
        buf_printf(&header, "],\"data_offsets\":[%zu,%zu]}", (size_t)begin, (size_t)data.len);
        ids[0] = strcmp(t->name, "lm_head.weight") == 0 ? i : ids[0];
        ids[1] = strcmp(t->name, "model.norm.weight") == 0 ? i : ids[1];
    }
    safetensors_close(set);
    buf_append_str(&header, header.len % 2 == 0 ? "}" : " }");
    uint64_t header_bytes = header.len;
    assert_int_equal(header_bytes % 2, 1);
    buf_append(&file, &header_bytes, 8);
    buf_append(&file, header.data, header.len);
    assert_int_equal(buf_append(&file, data.data, data.len), ST_OK);
    model_dir_write(dir, "model.safetensors", file.data, file.len);
    buf_deinit(&header);
    buf_deinit(&data);
    buf_deinit(&file);
}

static void test_load_f16_at_odd_addresses_is_exact_in_f32(void **state)
{
    struct model_dir dir;
    struct model_weights w;
    uint32_t ids[2] = {0};
    uint8_t id[32];
    char err[256] = "";
    struct device *dev = open_device();
    (void)state;
    model_dir_make(&dir);
    tiny_model_write(&dir, CONFIG_LLAMA, NULL, NULL);
    rewrite_as_f16(&dir, ids);
    if (load(&dir, CONFIG_LLAMA, dev, OPS_F32, &w, id, err) != ST_OK)
        fail_msg("%s", err);
    for (uint32_t c = 0; c < 64; c++) {
        assert_true(packed_at(dev, w.head, OPS_F32, 320, 64, 77, c) ==
                    f16_value_at(ids[0], 77 * 64 + c));
        assert_true(w.final_norm[c] == f16_value_at(ids[1], c));
    }
    model_weights_deinit(&w);
    device_close(dev);
    model_dir_remove(&dir);
}

static void expect_refused(const char *file_config, const char *skip, const char *extra,
                           const char *config, enum status wanted, const char *needle)
{
    struct model_dir dir;
    struct model_weights w;
    uint8_t id[32];
    char err[256] = "";
    struct device *dev = open_device();
    model_dir_make(&dir);
    tiny_model_write(&dir, file_config, skip, extra);
    enum status st = load(&dir, config, dev, OPS_F32, &w, id, err);
    if (st != wanted || strstr(err, needle) == NULL)
        fail_msg("%s: got %s, \"%s\"", needle, status_name(st), err);
    if (st == ST_OK)
        model_weights_deinit(&w);
    /* Headers alone tell the same. */
    struct model_desc d = desc_of(config);
    struct model_load_opts opts = {.dir = dir.path, .dtype = OPS_F32};
    char check_err[256] = "";
    uint64_t bytes = 7;
    assert_int_equal(model_load_check(&d, &opts, &bytes, (struct text_error){check_err, 256}), st);
    assert_string_equal(check_err, err);
    assert_true(bytes == 7 || st == ST_OK);
    device_close(dev);
    model_dir_remove(&dir);
}

/* The config of `base` with `from` replaced by `to`. */
static const char *edited(const char *base, const char *from, const char *to)
{
    static char text[2048];
    const char *at = strstr(base, from);
    assert_non_null(at);
    snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - base), base, to, at + strlen(from));
    return text;
}

static void test_load_missing_tensor_is_named(void **state)
{
    (void)state;
    expect_refused(CONFIG_LLAMA, "model.layers.2.mlp.up_proj.weight", NULL, CONFIG_LLAMA,
                   ST_NOT_FOUND, "model.layers.2.mlp.up_proj.weight");
    expect_refused(CONFIG_LLAMA, "lm_head.weight", NULL, CONFIG_LLAMA, ST_NOT_FOUND,
                   "lm_head.weight");
    expect_refused(CONFIG_QWEN2, "model.layers.0.self_attn.k_proj.bias", NULL, CONFIG_QWEN2,
                   ST_NOT_FOUND, "model.layers.0.self_attn.k_proj.bias");
    expect_refused(CONFIG_QWEN3, "model.layers.1.self_attn.q_norm.weight", NULL, CONFIG_QWEN3,
                   ST_NOT_FOUND, "model.layers.1.self_attn.q_norm.weight");
}

static void test_load_other_shape_than_config_is_named(void **state)
{
    (void)state;
    expect_refused(CONFIG_LLAMA, NULL, NULL,
                   edited(CONFIG_LLAMA, "\"vocab_size\":320", "\"vocab_size\":336"), ST_INVALID,
                   "model.embed_tokens.weight");
    expect_refused(CONFIG_LLAMA, NULL, NULL,
                   edited(CONFIG_LLAMA, "\"num_key_value_heads\":2", "\"num_key_value_heads\":4"),
                   ST_INVALID, "k_proj.weight");
    expect_refused(CONFIG_LLAMA, NULL, NULL,
                   edited(CONFIG_LLAMA, "\"intermediate_size\":96", "\"intermediate_size\":97"),
                   ST_INVALID, "gate_proj.weight");
}

static void test_load_tensor_that_config_does_not_know_is_named(void **state)
{
    (void)state;
    expect_refused(CONFIG_LLAMA, NULL, "model.layers.0.self_attn.q_proj.bias", CONFIG_LLAMA,
                   ST_INVALID, "model.layers.0.self_attn.q_proj.bias");
    expect_refused(CONFIG_LLAMA, NULL, NULL,
                   edited(CONFIG_LLAMA, "\"num_hidden_layers\":3", "\"num_hidden_layers\":2"),
                   ST_INVALID, "model.layers.2.");
    expect_refused(CONFIG_LLAMA, NULL, "model.layers.0.self_attn.rotary_emb.inv_freq", CONFIG_LLAMA,
                   ST_OK, "");
    expect_refused(CONFIG_QWEN2, NULL, "lm_head.weight", CONFIG_QWEN2, ST_OK, "");
}

static void test_load_directory_without_weights_is_refused(void **state)
{
    struct model_dir dir;
    struct model_weights w;
    uint8_t id[32];
    char err[256] = "";
    struct device *dev = open_device();
    (void)state;
    model_dir_make(&dir);
    assert_int_equal(load(&dir, CONFIG_LLAMA, dev, OPS_F32, &w, id, err), ST_NOT_FOUND);
    assert_non_null(strstr(err, dir.path));
    model_dir_write_text(&dir, "model.safetensors", "\1");
    assert_int_equal(load(&dir, CONFIG_LLAMA, dev, OPS_F32, &w, id, err), ST_TRUNCATED);
    device_close(dev);
    model_dir_remove(&dir);
}

static void load_dummy(struct device *dev, uint64_t seed, struct model_weights *w, uint8_t id[32])
{
    struct model_desc d = desc_of(CONFIG_QWEN3);
    struct progress progress = {0};
    struct model_load_opts opts = {.dir = "/nonexistent",
                                   .dummy = true,
                                   .seed = seed,
                                   .dtype = OPS_BF16,
                                   .on_progress = on_progress,
                                   .progress_arg = &progress};
    assert_int_equal(model_load(dev, &d, &opts, w, id, (struct text_error){NULL, 0}), ST_OK);
    assert_int_equal(progress.last, 1000);
}

static void test_load_dummy_needs_no_file_and_follows_its_seed(void **state)
{
    struct model_weights a, b, c;
    uint8_t id_a[32], id_b[32], id_c[32];
    struct device *dev = open_device();
    size_t bytes = ops_gemm_packed_bytes(OPS_BF16, 320, 64);
    (void)state;
    load_dummy(dev, 1, &a, id_a);
    load_dummy(dev, 1, &b, id_b);
    load_dummy(dev, 2, &c, id_c);
    assert_memory_equal(a.embed, b.embed, bytes);
    assert_memory_not_equal(a.embed, c.embed, bytes);
    assert_memory_equal(id_a, id_b, 32);
    assert_memory_not_equal(id_a, id_c, 32);
    assert_true(a.layers[0].q_norm[0] == 1.0f);
    assert_true(packed_at(dev, a.layers[0].down, OPS_BF16, 64, 96, 0, 0) !=
                packed_at(dev, a.layers[1].down, OPS_BF16, 64, 96, 0, 0));
    model_weights_deinit(&a);
    model_weights_deinit(&b);
    model_weights_deinit(&c);
    device_close(dev);
}

static uint64_t checked_bytes(const char *dir, const char *config, enum ops_dtype dtype)
{
    struct model_desc d = desc_of(config);
    struct model_load_opts opts = {.dir = dir, .dummy = dir[0] == '\0', .dtype = dtype};
    uint64_t bytes = 0;
    char err[256] = "";
    if (model_load_check(&d, &opts, &bytes, (struct text_error){err, sizeof(err)}) != ST_OK)
        fail_msg("%s", err);
    return bytes;
}

static void test_load_check_counts_what_the_weights_take(void **state)
{
    struct model_dir dir;
    struct model_desc d = desc_of(CONFIG_QWEN2);
    (void)state;
    model_dir_make(&dir);
    tiny_model_write(&dir, CONFIG_QWEN2, NULL, NULL);
    uint64_t f32 = checked_bytes(dir.path, CONFIG_QWEN2, OPS_F32);
    uint64_t bf16 = checked_bytes(dir.path, CONFIG_QWEN2, OPS_BF16);
    assert_true(f32 >= 4 * model_desc_param_count(&d)); /* rows are padded */
    assert_true(f32 < 5 * model_desc_param_count(&d));
    assert_true(bf16 < f32);
    assert_int_equal(checked_bytes("", CONFIG_QWEN2, OPS_F32), f32); /* dummy: no file */
    model_dir_remove(&dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load_check_counts_what_the_weights_take),
        cmocka_unit_test(test_load_every_matrix_lies_where_it_belongs),
        cmocka_unit_test(test_load_bf16_rounds_f32_to_nearest),
        cmocka_unit_test(test_load_f16_at_odd_addresses_is_exact_in_f32),
        cmocka_unit_test(test_load_missing_tensor_is_named),
        cmocka_unit_test(test_load_other_shape_than_config_is_named),
        cmocka_unit_test(test_load_tensor_that_config_does_not_know_is_named),
        cmocka_unit_test(test_load_directory_without_weights_is_refused),
        cmocka_unit_test(test_load_dummy_needs_no_file_and_follows_its_seed),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
