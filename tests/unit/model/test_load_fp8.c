/* fp8 checkpoints on a device that multiplies fp8 and on one that does not: every form of scales
 * means what the plain checkpoint beside it says, to the bit. */
#include "tests/support/fp8_model.h"

#include "model/load.h"

struct fixture {
    struct model_dir source, fp8, plain;
    struct device *dev;
    struct device_ops ops; /* of an invented device with fp8 */
};

/* Row-major, as on a GPU; what is not fp8 goes to the CPU's packing. */
static enum status pack_with_fp8(struct device *dev, const struct gemm_pack_args *args)
{
    if (args->dst_dtype != OPS_F8)
        return device_ops_get(DEVICE_CPU)->gemm_pack(dev, args);
    assert_int_equal(args->src_dtype, OPS_F8);
    assert_null(args->src_scale);
    for (uint32_t r = 0; r < args->n_rows; r++)
        memcpy((char *)args->dst + (size_t)(args->n_first + r) * args->k,
               (const char *)args->src + r * args->src_stride, args->k);
    return ST_OK;
}

static int setup(void **state)
{
    static struct fixture f;
    struct device_opts opts = {.n_threads = 1};
    model_dir_make(&f.source);
    model_dir_make(&f.fp8);
    model_dir_make(&f.plain);
    tiny_model_write(&f.source, CONFIG_FP8, NULL, NULL);
    assert_int_equal(device_open(DEVICE_CPU, &opts, &f.dev), ST_OK);
    f.ops = *f.dev->ops;
    f.ops.has_fp8 = true;
    f.ops.gemm_pack = pack_with_fp8;
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    f->dev->ops = device_ops_get(DEVICE_CPU);
    device_close(f->dev);
    model_dir_remove(&f->source);
    model_dir_remove(&f->fp8);
    model_dir_remove(&f->plain);
    return 0;
}

static void make(const struct fixture *f, const struct fp8_form *form)
{
    fp8_model_write(f->source.path, CONFIG_FP8, form, &f->fp8, &f->plain);
}

static struct model_desc desc_of(const struct model_dir *dir)
{
    struct model_desc d;
    char err[256] = "";
    if (model_desc_load(dir->path, &d, (struct text_error){err, sizeof(err)}) != ST_OK)
        fail_msg("%s", err);
    return d;
}

/* Loads, and checks that model_load_check says the same; bytes: what it counts. */
static enum status load(const struct fixture *f, const struct model_dir *dir,
                        struct model_load_opts opts, struct model_weights *w, uint64_t *bytes,
                        char err[256])
{
    uint8_t id[32];
    char check_err[256] = "";
    struct model_desc d = desc_of(dir);
    opts.dir = dir->path;
    f->dev->ops = opts.keep_fp8 ? &f->ops : device_ops_get(DEVICE_CPU);
    err[0] = '\0';
    enum status st = model_load(f->dev, &d, &opts, w, id, (struct text_error){err, 256});
    assert_int_equal(model_load_check(&d, &opts, bytes, (struct text_error){check_err, 256}), st);
    assert_string_equal(check_err, err);
    return st;
}

static struct model_weights loaded(const struct fixture *f, const struct model_dir *dir,
                                   struct model_load_opts opts, uint64_t *bytes)
{
    struct model_weights w;
    char err[256];
    if (load(f, dir, opts, &w, bytes, err) != ST_OK)
        fail_msg("%s", err);
    return w;
}

/* ---- dequantised ---- */

static void assert_same_matrix(const void *a, const void *b, enum ops_dtype dtype, uint32_t n,
                               uint32_t k)
{
    assert_memory_equal(a, b, ops_gemm_packed_bytes(dtype, n, k));
}

static void test_fp8_without_a_device_for_it_is_the_plain_model(void **state)
{
    const struct fixture *f = *state;
    uint64_t bytes[2];
    for (unsigned i = 0; i < 2 * FP8_FORMS; i++) {
        const enum ops_dtype dtype = i % 2 == 0 ? OPS_BF16 : OPS_F32;
        const struct model_load_opts opts = {.dtype = dtype};
        make(f, &fp8_forms[i / 2]);
        struct model_weights a = loaded(f, &f->fp8, opts, &bytes[0]);
        struct model_weights b = loaded(f, &f->plain, opts, &bytes[1]);
        for (uint32_t k = 0; k < 2; k++) {
            const struct model_layer *x = &a.layers[k], *y = &b.layers[k];
            assert_same_matrix(x->qkv, y->qkv, dtype, 512, 192);
            assert_same_matrix(x->o, y->o, dtype, 192, 256);
            assert_same_matrix(x->gate_up, y->gate_up, dtype, 512, 192);
            assert_same_matrix(x->down, y->down, dtype, 192, 256);
            assert_memory_equal(x->qkv_bias, y->qkv_bias, 512 * sizeof(float));
            assert_null(x->qkv_scale);
        }
        assert_same_matrix(a.head, b.head, dtype, 320, 192);
        assert_int_equal(a.matrix_dtype, dtype);
        assert_int_equal(a.scaling, OPS_SCALE_NONE);
        assert_int_equal(bytes[0], bytes[1]);
        model_weights_deinit(&a);
        model_weights_deinit(&b);
    }
}

/* ---- kept ---- */

static const struct safetensors_tensor *tensor(struct safetensors *set, const char *module,
                                               const char *suffix)
{
    char name[160];
    snprintf(name, sizeof(name), "model.layers.1.%s.%s", module, suffix);
    const struct safetensors_tensor *t = safetensors_find(set, name);
    assert_non_null(t);
    return t;
}

static float scale_at(const struct safetensors_tensor *t, uint64_t i)
{
    return fp8_source(t, i); /* F32 or BF16 */
}

/* Rows of `module` in a kept matrix [n, k] from row `first` on, and their scales. */
static void check_kept(struct safetensors *set, const struct fp8_form *form, const char *module,
                       const void *w, const float *scale, uint32_t first, uint32_t k)
{
    const struct safetensors_tensor *t = tensor(set, module, "weight");
    const struct safetensors_tensor *s = tensor(set, module, form->scale_name);
    const uint32_t n = (uint32_t)t->dims[0], per_row = (k + 127) / 128;
    assert_memory_equal((const char *)w + (size_t)first * k, t->data, (size_t)n * k);
    if (form->scaling == MODEL_SCALE_BLOCK) {
        for (uint32_t i = 0; i < (n + 127) / 128 * per_row; i++)
            assert_true(scale[first / 128 * per_row + i] == scale_at(s, i));
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        assert_true(scale[first + i] == scale_at(s, form->scaling == MODEL_SCALE_ROW ? i : 0));
}

static uint64_t kept_bytes(const struct fp8_form *form, uint32_t n, uint32_t k)
{
    uint64_t scales = form->scaling == MODEL_SCALE_BLOCK ? (n + 127) / 128 * ((k + 127) / 128) : n;
    return (uint64_t)n * k + scales * sizeof(float);
}

static void test_fp8_is_kept_with_its_scales(void **state)
{
    const struct fixture *f = *state;
    const struct model_load_opts opts = {.dtype = OPS_BF16, .keep_fp8 = true};
    for (unsigned i = 0; i < FP8_FORMS; i++) {
        const struct fp8_form *form = &fp8_forms[i];
        struct safetensors *set = NULL;
        uint64_t bytes, plain_bytes;
        make(f, form);
        assert_int_equal(safetensors_open_dir(f->fp8.path, &set, (struct text_error){NULL, 0}),
                         ST_OK);
        struct model_weights w = loaded(f, &f->fp8, opts, &bytes);
        struct model_weights p = loaded(f, &f->plain, opts, &plain_bytes);
        const struct model_layer *l = &w.layers[1];
        assert_int_equal(w.matrix_dtype, OPS_F8);
        assert_int_equal(w.scaling,
                         form->scaling == MODEL_SCALE_BLOCK ? OPS_SCALE_BLOCK : OPS_SCALE_ROW);
        if (form->plain == NULL) {
            check_kept(set, form, "self_attn.q_proj", l->qkv, l->qkv_scale, 0, 192);
            check_kept(set, form, "self_attn.k_proj", l->qkv, l->qkv_scale, 256, 192);
            check_kept(set, form, "self_attn.v_proj", l->qkv, l->qkv_scale, 384, 192);
            check_kept(set, form, "self_attn.o_proj", l->o, l->o_scale, 0, 256);
            plain_bytes -= 2 * (2 * (512 * 192 + 192 * 256) - kept_bytes(form, 512, 192) -
                                kept_bytes(form, 192, 256));
        } else { /* of dtype, without scales */
            assert_null(l->qkv_scale);
            assert_null(l->o_scale);
            assert_same_matrix(l->qkv, p.layers[1].qkv, OPS_BF16, 512, 192);
        }
        check_kept(set, form, "mlp.gate_proj", l->gate_up, l->gate_up_scale, 0, 192);
        check_kept(set, form, "mlp.up_proj", l->gate_up, l->gate_up_scale, 256, 192);
        check_kept(set, form, "mlp.down_proj", l->down, l->down_scale, 0, 256);
        plain_bytes -= 2 * (2 * (512 * 192 + 192 * 256) - kept_bytes(form, 512, 192) -
                            kept_bytes(form, 192, 256));
        assert_int_equal(bytes, plain_bytes);
        assert_same_matrix(w.head, p.head, OPS_BF16, 320, 192); /* never kept */
        model_weights_deinit(&w);
        model_weights_deinit(&p);
        safetensors_close(set);
    }
}

static void test_fp8_is_not_kept_with_f32(void **state)
{
    const struct fixture *f = *state;
    const struct model_load_opts opts = {.dtype = OPS_F32, .keep_fp8 = true};
    uint64_t bytes;
    make(f, &fp8_forms[0]);
    struct model_weights w = loaded(f, &f->fp8, opts, &bytes);
    assert_int_equal(w.matrix_dtype, OPS_F32);
    assert_null(w.layers[0].qkv_scale);
    model_weights_deinit(&w);
}

/* ---- refused ---- */

/* Loads fp8 tensors with another config than theirs. */
static void refused_as(const struct fixture *f, const char *config, const char *quantization,
                       enum status wanted, const char *needle)
{
    char *text = config_with(config, "quantization_config", quantization);
    struct model_weights w;
    uint64_t bytes;
    char err[256];
    model_dir_write_text(&f->fp8, "config.json", text);
    free(text);
    enum status st = load(f, &f->fp8, (struct model_load_opts){.dtype = OPS_BF16}, &w, &bytes, err);
    if (st != wanted || strstr(err, needle) == NULL)
        fail_msg("%s: got %s, \"%s\"", needle, status_name(st), err);
}

static void test_fp8_that_config_does_not_know_is_refused(void **state)
{
    const struct fixture *f = *state;
    make(f, &fp8_forms[0]);
    refused_as(f, CONFIG_FP8, "null", ST_UNSUPPORTED, "no quantization_config");
    refused_as(f, CONFIG_FP8, QUANT_COMPRESSED_CHANNEL, ST_INVALID, "q_proj.weight_scale");
    refused_as(f, CONFIG_FP8, QUANT_COMPRESSED_BLOCK, ST_INVALID, "q_proj.weight_scale");
    make(f, &fp8_forms[1]);
    refused_as(f, CONFIG_FP8, QUANT_COMPRESSED_TENSOR, ST_INVALID, "q_proj.weight_scale");
    make(f, &fp8_forms[5]);
    refused_as(f, CONFIG_FP8, QUANT_COMPRESSED_CHANNEL, ST_INVALID, "q_proj.weight_scale_inv");
}

static void test_fp8_parts_of_one_matrix_are_all_quantised_or_none(void **state)
{
    const struct fixture *f = *state;
    struct fp8_form form = fp8_forms[1];
    form.plain = "k_proj";
    make(f, &form);
    refused_as(f, CONFIG_FP8, QUANT_COMPRESSED_CHANNEL, ST_UNSUPPORTED, "k_proj.weight");
    form.plain = "up_proj";
    make(f, &form);
    refused_as(f, CONFIG_FP8, QUANT_COMPRESSED_CHANNEL, ST_UNSUPPORTED, "up_proj.weight");
}

/* Tensors under names that are not looked for: one is missing, the other left over. */
static void test_fp8_tensors_of_other_names_are_refused(void **state)
{
    const struct fixture *f = *state;
    struct fp8_form form = fp8_forms[1];
    form.scale_name = "scale";
    make(f, &form);
    refused_as(f, CONFIG_FP8, QUANT_COMPRESSED_CHANNEL, ST_NOT_FOUND, "q_proj.weight_scale");
    form = fp8_forms[1];
    form.extra = "weight_zero_point";
    make(f, &form);
    refused_as(f, CONFIG_FP8, QUANT_COMPRESSED_CHANNEL, ST_INVALID, "weight_zero_point");
}

/* Overwrites the first scale of a tensor in the file. */
static void scale_spoil(const struct model_dir *dir, const char *module, float value)
{
    struct safetensors *set = NULL;
    float scale;
    char path[512];
    static char file[1u << 22];
    assert_int_equal(safetensors_open_dir(dir->path, &set, (struct text_error){NULL, 0}), ST_OK);
    memcpy(&scale, tensor(set, module, "weight_scale")->data, sizeof(scale));
    safetensors_close(set);
    snprintf(path, sizeof(path), "%s/model.safetensors", dir->path);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    size_t n = fread(file, 1, sizeof(file), f);
    char *at = memmem(file, n, &scale, sizeof(scale));
    assert_non_null(at);
    fseek(f, at - file, SEEK_SET);
    assert_int_equal(fwrite(&value, sizeof(value), 1, f), 1);
    fclose(f);
    assert_int_equal(safetensors_open_dir(dir->path, &set, (struct text_error){NULL, 0}), ST_OK);
    assert_memory_equal(tensor(set, module, "weight_scale")->data, &value, sizeof(value));
    safetensors_close(set);
}

static void test_fp8_scales_that_are_no_numbers_are_refused(void **state)
{
    const struct fixture *f = *state;
    const float bad[] = {NAN, INFINITY, -1.0f};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        make(f, &fp8_forms[2]);
        scale_spoil(&f->fp8, "mlp.down_proj", bad[i]);
        refused_as(f, CONFIG_FP8, QUANT_COMPRESSED_CHANNEL, ST_INVALID,
                   "down_proj.weight_scale is");
    }
}

/* 48 rows of k and v do not fill a block. */
static void test_fp8_blocks_across_parts_are_refused(void **state)
{
    const struct fixture *f = *state;
    const char *config = "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":192,"
                         "\"intermediate_size\":256,\"num_hidden_layers\":1,"
                         "\"num_attention_heads\":8,\"num_key_value_heads\":1,\"head_dim\":48,"
                         "\"vocab_size\":320,\"max_position_embeddings\":512}";
    tiny_model_write(&f->plain, config, NULL, NULL);
    fp8_model_write(f->plain.path, config, &fp8_forms[5], &f->fp8, &f->plain);
    refused_as(f, config, QUANT_FP8_BLOCK, ST_UNSUPPORTED, "k_proj has 48 rows");
}

/* ---- dummy ---- */

static void load_dummy(const struct fixture *f, bool keep, struct model_weights *w)
{
    const struct model_load_opts opts = {
        .dummy = true, .dtype = OPS_BF16, .seed = 3, .keep_fp8 = keep};
    uint64_t bytes;
    *w = loaded(f, &f->fp8, opts, &bytes);
}

static void test_fp8_dummy_is_the_same_kept_and_dequantised(void **state)
{
    const struct fixture *f = *state;
    struct model_weights kept, plain;
    make(f, &fp8_forms[3]);
    load_dummy(f, true, &kept);
    load_dummy(f, false, &plain);
    const struct model_layer *l = &kept.layers[0];
    void *packed = NULL;
    size_t bytes = ops_gemm_packed_bytes(OPS_BF16, 512, 192);
    assert_int_equal(posix_memalign(&packed, 64, bytes), 0);
    struct gemm_pack_args args = {.src = l->qkv,
                                  .src_dtype = OPS_F8,
                                  .src_stride = 192,
                                  .src_scale = l->qkv_scale,
                                  .src_scaling = kept.scaling,
                                  .n_rows = 512,
                                  .n = 512,
                                  .k = 192,
                                  .dst = packed,
                                  .dst_dtype = OPS_BF16};
    assert_int_equal(f->dev->ops->gemm_pack(f->dev, &args), ST_OK);
    assert_memory_equal(packed, plain.layers[0].qkv, bytes);
    double sum = 0;
    for (uint32_t i = 0; i < 512 * 192; i++) {
        double value = (double)fp8_value(((const uint8_t *)l->qkv)[i]) * (double)l->qkv_scale[0];
        sum += value * value;
    }
    assert_true(fabs(sum / 512 - 1) < 0.02); /* 192 terms of variance 1 / 192 */
    free(packed);
    model_weights_deinit(&kept);
    model_weights_deinit(&plain);
}

static void test_fp8_dummy_leaves_named_modules_plain(void **state)
{
    const struct fixture *f = *state;
    struct model_weights w;
    make(f, &fp8_forms[6]);
    char *text = config_with(CONFIG_FP8, "quantization_config",
                             "{\"quant_method\":\"fbgemm_fp8\",\"modules_to_not_convert\":["
                             "\"model.layers.0.self_attn.o_proj\",\"model.layers.1\"]}");
    model_dir_write_text(&f->fp8, "config.json", text);
    free(text);
    load_dummy(f, true, &w);
    assert_non_null(w.layers[0].qkv_scale);
    assert_null(w.layers[0].o_scale);
    assert_non_null(w.layers[0].down_scale);
    assert_null(w.layers[1].qkv_scale);
    assert_null(w.layers[1].gate_up_scale);
    model_weights_deinit(&w);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fp8_without_a_device_for_it_is_the_plain_model),
        cmocka_unit_test(test_fp8_is_kept_with_its_scales),
        cmocka_unit_test(test_fp8_is_not_kept_with_f32),
        cmocka_unit_test(test_fp8_that_config_does_not_know_is_refused),
        cmocka_unit_test(test_fp8_parts_of_one_matrix_are_all_quantised_or_none),
        cmocka_unit_test(test_fp8_tensors_of_other_names_are_refused),
        cmocka_unit_test(test_fp8_scales_that_are_no_numbers_are_refused),
        cmocka_unit_test(test_fp8_blocks_across_parts_are_refused),
        cmocka_unit_test(test_fp8_dummy_is_the_same_kept_and_dequantised),
        cmocka_unit_test(test_fp8_dummy_leaves_named_modules_plain),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
