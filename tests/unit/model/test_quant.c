/* quantization_config: the forms that are read, and the sentence for each that is not. */
#include "tests/support/kv_scale_model.h"

static enum status parse(const char *quantization, struct model_desc *out, char err[256])
{
    char *text = config_with(CONFIG_FP8, "quantization_config", quantization);
    err[0] = '\0';
    enum status st =
        model_desc_parse(text, strlen(text), NULL, 0, out, (struct text_error){err, 256});
    free(text);
    return st;
}

static struct model_desc accepted(const char *quantization)
{
    struct model_desc d;
    char err[256];
    if (parse(quantization, &d, err) != ST_OK)
        fail_msg("%s", err);
    return d;
}

static void refused(const char *quantization, enum status wanted, const char *needle)
{
    struct model_desc d;
    char err[256];
    enum status st = parse(quantization, &d, err);
    if (st != wanted || strstr(err, needle) == NULL || strstr(err, "config.json: ") == NULL)
        fail_msg("%s: got %s, \"%s\"", quantization, status_name(st), err);
}

/* `text` with the first `from` replaced. */
static const char *edited(const char *text, const char *from, const char *to)
{
    static char out[2048];
    const char *at = strstr(text, from);
    assert_non_null(at);
    snprintf(out, sizeof(out), "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return out;
}

static void test_quant_forms_are_told_apart(void **state)
{
    (void)state;
    for (unsigned i = 0; i < FP8_FORMS; i++)
        assert_int_equal(accepted(fp8_forms[i].quantization).weight_scaling, fp8_forms[i].scaling);
    assert_int_equal(accepted("null").weight_scaling, MODEL_SCALE_NONE);
    assert_int_equal(
        accepted("{\"quant_method\":\"fp8\",\"weight_block_size\":null}").weight_scaling,
        MODEL_SCALE_TENSOR);
}

/* Names and spellings that writers have used. */
static void test_quant_harmless_fields_are_fine(void **state)
{
    static const char *const edits[][2] = {
        {"\"group_0\"", "\"FP8_DYNAMIC\""},
        {"\"dynamic\":true", "\"dynamic\":false"}, /* static scales of activations */
        {"\"strategy\":\"token\"", "\"strategy\":\"tensor\",\"observer_kwargs\":{}"},
        {"\"kv_cache_scheme\":null", "\"global_compression_ratio\":1.2,\"version\":\"0.9\""},
        {"\"kv_cache_scheme\":null", "\"sparsity_config\":{},\"transform_config\":{}"},
        {"\"kv_cache_scheme\":null", "\"sparsity_config\":{\"format\":\"dense\"}"},
        {"\"targets\"", "\"format\":\"float-quantized\",\"targets\""},
        {"[\"lm_head\"]", "[\"re:.*lm_head\",\"model.layers.9.mlp\",\"model.layers.x\"]"},
        {",\"ignore\":[\"lm_head\"]", ""},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(edits) / sizeof(edits[0]); i++)
        accepted(edited(QUANT_COMPRESSED_CHANNEL, edits[i][0], edits[i][1]));
    accepted("{\"quant_method\":\"fp8\",\"activation_scheme\":\"dynamic\",\"ignored_layers\":[],"
             "\"dequantize\":false}");
    accepted("{\"quant_method\":\"fbgemm_fp8\"}");
}

static void test_quant_other_methods_are_refused_by_name(void **state)
{
    static const char *const methods[] = {"awq",   "gptq",    "bitsandbytes", "modelopt_fp4",
                                          "mxfp4", "torchao", "quark",        "FP8"};
    char text[96];
    (void)state;
    for (unsigned i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        snprintf(text, sizeof(text), "{\"quant_method\":\"%s\",\"bits\":4}", methods[i]);
        refused(text, ST_UNSUPPORTED, methods[i]);
    }
    refused("{\"bits\":8}", ST_INVALID, "quant_method");
    refused("{\"quant_method\":8}", ST_INVALID, "quant_method");
    refused("\"fp8\"", ST_INVALID, "quantization_config");
    refused("[]", ST_INVALID, "quantization_config");
}

static void test_quant_compressed_tensors_of_other_kinds_are_refused(void **state)
{
    static const struct {
        const char *from, *to, *needle;
    } bad[] = {
        {"float-quantized", "int-quantized", "format\": \"int-quantized\""},
        {"float-quantized", "pack-quantized", "pack-quantized"},
        {"\"format\":\"float-quantized\",", "", "format"},
        {"\"num_bits\":8", "\"num_bits\":4", "weights"},
        {"\"type\":\"float\"", "\"type\":\"int\"", "weights"},
        {"\"symmetric\":true", "\"symmetric\":false", "weights"},
        {"\"dynamic\":false", "\"dynamic\":true", "weights.dynamic"},
        {"\"channel\"", "\"group\"", "weights.strategy\": \"group\""},
        {"\"channel\"", "\"block\"", "weights.block_structure"},
        {"\"dynamic\":true", "\"dynamic\":\"local\"", "input_activations.dynamic"},
        {"\"input_activations\"", "\"input_activation\"", "input_activations"},
        {"\"output_activations\":null", "\"output_activations\":{\"num_bits\":8}",
         "output_activations"},
        {"[\"Linear\"]", "[\"Linear\",\"Embedding\"]", "targets"},
        {"[\"Linear\"]", "[\"re:.*mlp.*\"]", "targets"},
        {"\"targets\"", "\"format\":\"int-quantized\",\"targets\"", "format"},
        {"\"config_groups\"", "\"config_group\"", "config_groups"},
        {"\"config_groups\":{", "\"config_groups\":{\"group_1\":{},", "config_groups"},
        {"\"kv_cache_scheme\":null", "\"kv_cache_scheme\":{\"num_bits\":8}", "kv_cache_scheme"},
        {"\"kv_cache_scheme\":null", "\"sparsity_config\":{\"format\":\"sparse-24\"}",
         "sparsity_config"},
        {"\"kv_cache_scheme\":null", "\"transform_config\":{\"config_groups\":{}}",
         "transform_config"},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        refused(edited(QUANT_COMPRESSED_CHANNEL, bad[i].from, bad[i].to), ST_UNSUPPORTED,
                bad[i].needle);
    refused(edited(QUANT_COMPRESSED_BLOCK, "[128,128]", "[64,128]"), ST_UNSUPPORTED,
            "weights.block_structure\": [64,128]");
    refused(edited(QUANT_COMPRESSED_CHANNEL, "[\"lm_head\"]", "\"lm_head\""), ST_INVALID, "ignore");
    refused(edited(QUANT_COMPRESSED_CHANNEL, "[\"lm_head\"]", "[7]"), ST_INVALID, "ignore");
}

static void test_quant_fp8_of_other_kinds_is_refused(void **state)
{
    static const char *const blocks[] = {
        "[64,64]", "[128]", "[128,128,128]", "128", "[128,\"128\"]", "[]", "{}", "[1,128]"};
    char text[160];
    (void)state;
    for (unsigned i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        snprintf(text, sizeof(text), "{\"quant_method\":\"fp8\",\"weight_block_size\":%s}",
                 blocks[i]);
        refused(text, ST_UNSUPPORTED, "weight_block_size");
    }
    refused("{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}", ST_UNSUPPORTED, "fmt\": \"e5m2\"");
    refused("{\"quant_method\":\"fp8\",\"activation_scheme\":\"none\"}", ST_UNSUPPORTED,
            "activation_scheme");
    refused("{\"quant_method\":\"fp8\",\"scale_fmt\":\"ue8m0\"}", ST_UNSUPPORTED, "scale_fmt");
    refused("{\"quant_method\":\"fp8\",\"kv_cache_scheme\":{\"num_bits\":8}}", ST_UNSUPPORTED,
            "kv_cache_scheme");
    refused("{\"quant_method\":\"fp8\",\"ignored_layers\":{}}", ST_INVALID, "ignored_layers");
    refused("{\"quant_method\":\"fbgemm_fp8\",\"modules_to_not_convert\":[null]}", ST_INVALID,
            "modules_to_not_convert");
}

static void test_quant_modelopt_is_read_for_fp8_alone(void **state)
{
    (void)state;
    struct model_desc d =
        accepted("{\"quant_method\":\"modelopt\",\"quant_algo\":\"FP8\",\"ignore\":[\"lm_head\","
                 "\"model.layers.1.mlp\"],\"producer\":{\"name\":\"modelopt\"},"
                 "\"kv_cache_scheme\":{\"dynamic\":false,\"num_bits\":8,\"type\":\"float\"}}");
    assert_int_equal(d.weight_scaling, MODEL_SCALE_TENSOR);
    assert_true(d.kv_fp8);
    assert_int_equal(d.layer_plain[1], 1u << MODEL_GATE_UP | 1u << MODEL_DOWN);
    refused("{\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\"}", ST_UNSUPPORTED,
            "quant_algo\": \"NVFP4\"");
    refused("{\"quant_method\":\"modelopt\"}", ST_UNSUPPORTED, "quant_algo");
}

static void test_quant_kv_scheme_asks_for_fp8(void **state)
{
    static const char *const schemes[] = {
        "{\"num_bits\":8,\"type\":\"float\"}",
        "{\"num_bits\":8,\"type\":\"float\",\"dynamic\":false,\"group_size\":null}",
        "{\"num_bits\":8,\"type\":\"float\",\"symmetric\":true,\"strategy\":\"attn_head\"}",
        "\"static\"",
    };
    static const struct {
        const char *scheme, *needle;
    } bad[] = {
        {"{\"num_bits\":4,\"type\":\"float\"}", "kv_cache_scheme"},
        {"{\"num_bits\":8,\"type\":\"int\"}", "kv_cache_scheme"},
        {"{\"num_bits\":8,\"type\":\"float\",\"symmetric\":false}", "kv_cache_scheme"},
        {"{\"num_bits\":8,\"type\":\"float\",\"dynamic\":true}", "kv_cache_scheme.dynamic"},
        {"{\"num_bits\":8,\"type\":\"float\",\"strategy\":\"token\"}",
         "kv_cache_scheme.strategy\": \"token\""},
        {"\"dynamic\"", "kv_cache_scheme"},
        {"8", "kv_cache_scheme"},
        {"[]", "kv_cache_scheme"},
    };
    char text[256];
    (void)state;
    for (unsigned i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        snprintf(text, sizeof(text), "\"kv_cache_scheme\":%s", schemes[i]);
        struct model_desc d =
            accepted(edited(QUANT_COMPRESSED_CHANNEL, "\"kv_cache_scheme\":null", text));
        assert_true(d.kv_fp8);
        assert_int_equal(d.weight_scaling, MODEL_SCALE_ROW);
        snprintf(text, sizeof(text), "{\"quant_method\":\"fp8\",\"kv_cache_scheme\":%s}",
                 schemes[i]);
        assert_true(accepted(text).kv_fp8);
    }
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(text, sizeof(text), "{\"quant_method\":\"fp8\",\"kv_cache_scheme\":%s}",
                 bad[i].scheme);
        refused(text, ST_UNSUPPORTED, bad[i].needle);
    }
    assert_false(accepted(QUANT_COMPRESSED_CHANNEL).kv_fp8);
    assert_false(accepted("{\"quant_method\":\"fp8\",\"kv_cache_scheme\":{}}").kv_fp8);
}

static void test_quant_of_the_kv_cache_alone_leaves_the_weights(void **state)
{
    (void)state;
    struct model_desc d = accepted(KV_SCHEME("tensor"));
    assert_true(d.kv_fp8);
    assert_int_equal(d.weight_scaling, MODEL_SCALE_NONE);
    assert_true(accepted(KV_SCHEME("attn_head")).kv_fp8);
    refused(edited(KV_SCHEME("tensor"), "\"dense\",\"config_groups\":{}",
                   "\"float-quantized\",\"config_groups\":[]"),
            ST_UNSUPPORTED, "config_groups");
}

static void test_quant_of_a_file_of_its_own_is_added(void **state)
{
    static const struct {
        const char *text;
        enum model_scaling scaling;
        bool kv_fp8;
    } good[] = {
        {"{\"quantization\":{\"quant_algo\":\"FP8\",\"kv_cache_quant_algo\":\"FP8\","
         "\"exclude_modules\":[\"lm_head\"]},\"producer\":{\"name\":\"modelopt\"}}",
         MODEL_SCALE_TENSOR, true},
        {"{\"quantization\":{\"quant_algo\":null,\"kv_cache_quant_algo\":\"FP8\"}}",
         MODEL_SCALE_NONE, true},
        {"{\"quantization\":{\"quant_algo\":\"FP8\",\"kv_cache_quant_algo\":null}}",
         MODEL_SCALE_TENSOR, false},
        {"{\"quantization\":{}}", MODEL_SCALE_NONE, false},
    };
    static const struct {
        const char *text, *needle;
        enum status wanted;
    } bad[] = {
        {"{\"quantization\":{\"quant_algo\":\"NVFP4\"}}", "quant_algo\": \"NVFP4\"",
         ST_UNSUPPORTED},
        {"{\"quantization\":{\"kv_cache_quant_algo\":\"INT8\"}}", "kv_cache_quant_algo",
         ST_UNSUPPORTED},
        {"{\"quantization\":{\"quant_algo\":\"FP8\",\"exclude_modules\":7}}", "exclude_modules",
         ST_INVALID},
        {"{}", "\"quantization\"", ST_INVALID},
        {"[]", "JSON object", ST_INVALID},
        {"{", "line 1", ST_PARSE},
    };
    struct model_dir dir;
    char err[256] = "";
    (void)state;
    for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct model_desc d = accepted("null");
        assert_int_equal(model_desc_add_quant(good[i].text, strlen(good[i].text), &d,
                                              (struct text_error){err, sizeof(err)}),
                         ST_OK);
        assert_int_equal(d.weight_scaling, good[i].scaling);
        assert_true(d.kv_fp8 == good[i].kv_fp8);
    }
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct model_desc d = accepted("null");
        assert_int_equal(model_desc_add_quant(bad[i].text, strlen(bad[i].text), &d,
                                              (struct text_error){err, sizeof(err)}),
                         bad[i].wanted);
        if (strstr(err, bad[i].needle) == NULL || strstr(err, "hf_quant_config.json: ") == NULL)
            fail_msg("%s: \"%s\"", bad[i].text, err);
        assert_int_equal(d.weight_scaling, MODEL_SCALE_NONE);
        assert_false(d.kv_fp8);
    }
    /* The file beside config.json is read when that says nothing itself. */
    model_dir_make(&dir);
    struct model_desc d;
    model_dir_write_text(&dir, "config.json", CONFIG_FP8);
    model_dir_write_text(&dir, "hf_quant_config.json", good[0].text);
    assert_int_equal(model_desc_load(dir.path, &d, (struct text_error){err, sizeof(err)}), ST_OK);
    assert_true(d.kv_fp8 && d.weight_scaling == MODEL_SCALE_TENSOR);
    char *told = config_with(CONFIG_FP8, "quantization_config", QUANT_FBGEMM);
    model_dir_write_text(&dir, "config.json", told);
    assert_int_equal(model_desc_load(dir.path, &d, (struct text_error){err, sizeof(err)}), ST_OK);
    assert_true(!d.kv_fp8 && d.weight_scaling == MODEL_SCALE_ROW);
    free(told);
    model_dir_remove(&dir);
}

static void test_quant_named_modules_stay_plain(void **state)
{
    (void)state;
    struct model_desc d = accepted(edited(
        QUANT_COMPRESSED_CHANNEL, "[\"lm_head\"]",
        "[\"lm_head\",\"model.layers.0.self_attn.k_proj\",\"model.layers.0.mlp.down_proj\","
        "\"model.layers.1.mlp\",\"model.layers.2\",\"model.layers.1x\",\"model.layers.1.self\"]"));
    assert_int_equal(d.layer_plain[0], 1u << MODEL_QKV | 1u << MODEL_DOWN);
    assert_int_equal(d.layer_plain[1], 1u << MODEL_GATE_UP | 1u << MODEL_DOWN);
    assert_int_equal(d.layer_plain[2], 0); /* there are two layers */
    d = accepted(
        "{\"quant_method\":\"fbgemm_fp8\",\"modules_to_not_convert\":[\"model.layers.1\"]}");
    assert_int_equal(d.layer_plain[1], (1u << MODEL_MATRICES) - 1);
}

static void test_quant_changes_the_hash_and_not_the_count(void **state)
{
    uint8_t hashes[4][32];
    (void)state;
    struct model_desc d[4] = {
        accepted("null"), accepted(QUANT_FP8_BLOCK), accepted(QUANT_FBGEMM),
        accepted(
            "{\"quant_method\":\"fbgemm_fp8\",\"modules_to_not_convert\":[\"model.layers.1\"]}")};
    for (unsigned i = 0; i < 4; i++) {
        model_desc_hash(&d[i], hashes[i]);
        assert_int_equal(model_desc_param_count(&d[i]), model_desc_param_count(&d[0]));
        for (unsigned k = 0; k < i; k++)
            assert_memory_not_equal(hashes[k], hashes[i], 32);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quant_forms_are_told_apart),
        cmocka_unit_test(test_quant_harmless_fields_are_fine),
        cmocka_unit_test(test_quant_other_methods_are_refused_by_name),
        cmocka_unit_test(test_quant_compressed_tensors_of_other_kinds_are_refused),
        cmocka_unit_test(test_quant_fp8_of_other_kinds_is_refused),
        cmocka_unit_test(test_quant_modelopt_is_read_for_fp8_alone),
        cmocka_unit_test(test_quant_kv_scheme_asks_for_fp8),
        cmocka_unit_test(test_quant_of_the_kv_cache_alone_leaves_the_weights),
        cmocka_unit_test(test_quant_of_a_file_of_its_own_is_added),
        cmocka_unit_test(test_quant_named_modules_stay_plain),
        cmocka_unit_test(test_quant_changes_the_hash_and_not_the_count),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
