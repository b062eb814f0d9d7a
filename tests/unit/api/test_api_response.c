#include "api/response.h"

#include "tests/support/api_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/tokenizer_json.h"

/* Tokens over single bytes: "h" 1, "i" 2, the three bytes of U+20AC 3 4 5, "S" 6, "T" 7, "O" 8,
 * "P" 9, newline 10, quote 11, "STOP" 12, end token 20. */
static struct tokenizer *tokenizer_bytes(void)
{
    static const struct tokenizer_json parts = {
        .vocab = "{\"h\":1,\"i\":2,\"\\u00e2\":3,\"\\u0124\":4,\"\\u00ac\":5,\"S\":6,\"T\":7,"
                 "\"O\":8,\"P\":9,\"\\u010a\":10,\"\\\"\":11,\"ST\":13,\"STO\":14,\"STOP\":12}",
        .merges = "[\"S T\",\"ST O\",\"STO P\"]",
        .added = "[{\"id\":20,\"content\":\"<|end|>\",\"single_word\":false,\"lstrip\":false,"
                 "\"rstrip\":false,\"normalized\":false,\"special\":true}]"};
    return tokenizer_json_load(&parts);
}

struct fixture {
    struct tokenizer *tokenizer;
    struct api_request *request;
    struct api_response response;
    struct api_choice_stream choices[4];
    uint32_t n_choices;
    struct buf out;
};

/* A request as it would be parsed; `extra` are further members of the body. */
static void begin(struct fixture *f, enum api_endpoint endpoint, const char *extra)
{
    char body[512];
    struct api_error err;
    struct api_context ctx;
    memset(f, 0, sizeof(*f));
    f->tokenizer = tokenizer_bytes();
    ctx = api_context_small(f->tokenizer);
    snprintf(body, sizeof(body), "{%s%s}",
             endpoint == API_CHAT ? "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
                                  : "\"prompt\":[[1,2],[2]]",
             extra);
    if (api_request_parse(&ctx, endpoint, body, strlen(body), &f->request, &err) != ST_OK)
        fail_msg("%s", err.message);
    f->request->created_unix_s = 1700000000;
    f->n_choices = f->request->n_prompts * f->request->n_choices;
    for (uint32_t i = 0; i < f->n_choices; i++)
        assert_int_equal(api_choice_init(&f->choices[i], f->request, f->tokenizer, i), ST_OK);
    assert_int_equal(api_response_init(&f->response, f->request, "7", "m", "fp_1"), ST_OK);
    buf_init(&f->out, 1 << 16);
}

static void end(struct fixture *f)
{
    for (uint32_t i = 0; i < f->n_choices; i++)
        api_choice_deinit(&f->choices[i]);
    api_response_deinit(&f->response);
    api_request_free(f->request);
    tokenizer_free(f->tokenizer);
    buf_deinit(&f->out);
}

static bool push(struct fixture *f, uint32_t choice, uint32_t token, enum wire_finish finish)
{
    bool stopped;
    assert_int_equal(api_choice_push(&f->choices[choice], &token, 1, finish, &stopped), ST_OK);
    return stopped;
}

/* Compares what was written since the last call, every event of which must be JSON. */
static void expect_events(struct fixture *f, const char *want)
{
    assert_int_equal(buf_append(&f->out, "", 1), ST_OK);
    assert_string_equal((const char *)f->out.data, want);
    for (char *at = (char *)f->out.data; *at != '\0';) {
        char *stop = strstr(at, "\n\n");
        assert_non_null(stop);
        assert_int_equal(strncmp(at, "data: ", 6), 0);
        at += 6;
        bool is_done = strncmp(at, "[DONE]", 6) == 0 && stop == at + 6;
        if (!is_done)
            assert_int_equal(json_validate(at, (size_t)(stop - at), 16, NULL), ST_OK);
        at = stop + 2;
    }
    f->out.len = 0;
}

static void chunk(struct fixture *f, uint32_t choice, const struct api_usage *usage)
{
    assert_int_equal(api_response_chunk(&f->response, &f->choices[choice], usage, &f->out), ST_OK);
}

static void push_chunk(struct fixture *f, uint32_t choice, uint32_t token, enum wire_finish finish)
{
    push(f, choice, token, finish);
    chunk(f, choice, NULL);
}

#define CHAT_HEAD                                                                                  \
    "data: {\"id\":\"chatcmpl-7\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"    \
    "\"model\":\"m\",\"system_fingerprint\":\"fp_1\""
#define TEXT_HEAD                                                                                  \
    "data: {\"id\":\"cmpl-7\",\"object\":\"text_completion\",\"created\":1700000000,"              \
    "\"model\":\"m\",\"system_fingerprint\":\"fp_1\""
#define CHAT_CHUNK(index, delta, finish)                                                           \
    CHAT_HEAD ",\"choices\":[{\"index\":" index ",\"delta\":{" delta                               \
              "},\"logprobs\":null,\"finish_reason\":" finish "}]}\n\n"
#define TEXT_CHUNK(index, text, finish)                                                            \
    TEXT_HEAD ",\"choices\":[{\"index\":" index ",\"text\":\"" text                                \
              "\",\"logprobs\":null,\"finish_reason\":" finish "}]}\n\n"
#define STREAM ",\"stream\":true"

static const struct api_usage usage = {
    .prompt_tokens = 5, .completion_tokens = 3, .cached_tokens = 2};
#define USAGE                                                                                      \
    ",\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3,\"total_tokens\":8,"                  \
    "\"prompt_tokens_details\":{\"cached_tokens\":2}}"

static void test_api_response_chat_first_chunk_has_role_and_text(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, STREAM);
    chunk(&f, 0, NULL); /* nothing to say: no role-only chunk */
    expect_events(&f, "");
    push_chunk(&f, 0, 1, WIRE_FINISH_NONE);
    expect_events(&f, CHAT_CHUNK("0", "\"role\":\"assistant\",\"content\":\"h\"", "null"));
    push_chunk(&f, 0, 2, WIRE_FINISH_NONE);
    expect_events(&f, CHAT_CHUNK("0", "\"content\":\"i\"", "null"));
    push_chunk(&f, 0, 20, WIRE_FINISH_STOP);
    expect_events(&f, CHAT_CHUNK("0", "", "\"stop\""));
    chunk(&f, 0, NULL); /* has ended: nothing more */
    expect_events(&f, "");
    assert_int_equal(api_response_end(&f.response, &usage, &f.out), ST_OK);
    expect_events(&f, "data: [DONE]\n\n");
    assert_int_equal(f.choices[0].n_tokens, 3);
    end(&f);
}

static void test_api_response_last_text_and_finish_come_as_two_chunks(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, STREAM);
    push_chunk(&f, 0, 1, WIRE_FINISH_LENGTH);
    expect_events(&f, CHAT_CHUNK("0", "\"role\":\"assistant\",\"content\":\"h\"", "null")
                          CHAT_CHUNK("0", "", "\"length\""));
    end(&f);
    begin(&f, API_COMPLETIONS, STREAM);
    push_chunk(&f, 1, 11, WIRE_FINISH_LENGTH);
    expect_events(&f, TEXT_CHUNK("1", "\\\"", "null") TEXT_CHUNK("1", "", "\"length\""));
    end(&f);
}

static void test_api_response_without_text_still_says_role_and_reason(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, STREAM);
    push_chunk(&f, 0, 20, WIRE_FINISH_STOP);
    expect_events(&f, CHAT_CHUNK("0", "\"role\":\"assistant\",\"content\":\"\"", "null")
                          CHAT_CHUNK("0", "", "\"stop\""));
    end(&f);
    begin(&f, API_COMPLETIONS, STREAM);
    push_chunk(&f, 0, 20, WIRE_FINISH_STOP);
    expect_events(&f, TEXT_CHUNK("0", "", "\"stop\""));
    end(&f);
}

static void test_api_response_usage_only_when_asked_for_without_choices(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, STREAM ",\"stream_options\":{\"include_usage\":true}");
    push_chunk(&f, 0, 1, WIRE_FINISH_NONE);
    expect_events(&f, CHAT_CHUNK("0", "\"role\":\"assistant\",\"content\":\"h\"", "null"));
    assert_int_equal(api_response_end(&f.response, &usage, &f.out), ST_OK);
    expect_events(&f, CHAT_HEAD ",\"choices\":[]" USAGE "}\n\ndata: [DONE]\n\n");
    end(&f);
    begin(&f, API_CHAT, STREAM ",\"stream_options\":{\"continuous_usage_stats\":true}");
    push(&f, 0, 1, WIRE_FINISH_NONE);
    chunk(&f, 0, &usage);
    expect_events(&f, CHAT_HEAD
                  ",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
                  "\"content\":\"h\"},\"logprobs\":null,\"finish_reason\":null}]" USAGE "}\n\n");
    end(&f);
}

static void test_api_response_character_over_three_tokens_comes_whole(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETIONS, STREAM);
    push_chunk(&f, 0, 3, WIRE_FINISH_NONE);
    push_chunk(&f, 0, 4, WIRE_FINISH_NONE);
    expect_events(&f, "");
    push_chunk(&f, 0, 5, WIRE_FINISH_NONE);
    expect_events(&f, TEXT_CHUNK("0", "\xe2\x82\xac", "null"));
    push_chunk(&f, 0, 3, WIRE_FINISH_LENGTH); /* half a character at the end */
    expect_events(&f, TEXT_CHUNK("0", "\xef\xbf\xbd", "null") TEXT_CHUNK("0", "", "\"length\""));
    end(&f);
}

static void test_api_response_stop_string_over_tokens_is_cut(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETIONS, STREAM ",\"stop\":[\"STOP\"]");
    const uint32_t tokens[] = {1, 6, 7, 8};
    for (int i = 0; i < 4; i++) {
        assert_false(push(&f, 0, tokens[i], WIRE_FINISH_NONE));
        chunk(&f, 0, NULL);
    }
    expect_events(&f, TEXT_CHUNK("0", "h", "null")); /* "STO" may begin the stop string */
    assert_true(push(&f, 0, 9, WIRE_FINISH_NONE));
    assert_int_equal(f.choices[0].stop_index, 0);
    chunk(&f, 0, NULL);
    expect_events(&f, TEXT_CHUNK("0", "", "\"stop\""));
    assert_false(push(&f, 0, 1, WIRE_FINISH_NONE)); /* too late: ignored */
    chunk(&f, 0, NULL);
    expect_events(&f, "");
    assert_int_equal(f.choices[0].n_tokens, 5);
    end(&f);
}

static void test_api_response_beginning_of_stop_string_is_text_in_the_end(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETIONS, STREAM ",\"stop\":[\"STOP\"]");
    push_chunk(&f, 0, 6, WIRE_FINISH_NONE);
    push_chunk(&f, 0, 7, WIRE_FINISH_NONE);
    expect_events(&f, "");
    push_chunk(&f, 0, 20, WIRE_FINISH_STOP);
    expect_events(&f, TEXT_CHUNK("0", "ST", "null") TEXT_CHUNK("0", "", "\"stop\""));
    end(&f);
}

static void test_api_response_stop_string_inside_one_push_ignores_the_rest(void **state)
{
    (void)state;
    struct fixture f;
    bool stopped;
    begin(&f, API_COMPLETIONS, ",\"stop\":[\"STOP\",\"i\"]");
    const uint32_t tokens[] = {1, 1, 2, 1, 12};
    assert_int_equal(api_choice_push(&f.choices[0], tokens, 5, WIRE_FINISH_LENGTH, &stopped),
                     ST_OK);
    assert_true(stopped);
    assert_int_equal(f.choices[0].finish, API_FINISH_STOP);
    assert_int_equal(f.choices[0].stop_index, 1);
    assert_int_equal(f.choices[0].n_tokens, 3);
    assert_int_equal(f.choices[0].text.len, 2);
    end(&f);
}

static void test_api_response_min_tokens_holds_stop_strings_off(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETIONS, STREAM ",\"stop\":[\"h\"],\"min_tokens\":3");
    push_chunk(&f, 0, 1, WIRE_FINISH_NONE);
    push_chunk(&f, 0, 1, WIRE_FINISH_NONE);
    expect_events(&f, TEXT_CHUNK("0", "h", "null") TEXT_CHUNK("0", "h", "null"));
    assert_true(push(&f, 0, 1, WIRE_FINISH_NONE));
    end(&f);
}

static void test_api_response_special_tokens_are_hidden_unless_asked_for(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETIONS, STREAM);
    push_chunk(&f, 0, 20, WIRE_FINISH_NONE); /* ignore_eos: goes on */
    push_chunk(&f, 0, 1, WIRE_FINISH_NONE);
    expect_events(&f, TEXT_CHUNK("0", "h", "null"));
    end(&f);
    begin(&f, API_COMPLETIONS, STREAM ",\"skip_special_tokens\":false");
    push_chunk(&f, 0, 20, WIRE_FINISH_NONE);
    expect_events(&f, TEXT_CHUNK("0", "<|end|>", "null"));
    push_chunk(&f, 0, 20, WIRE_FINISH_STOP); /* the end token is never text */
    expect_events(&f, TEXT_CHUNK("0", "", "\"stop\""));
    end(&f);
}

static void test_api_response_choices_of_two_prompts_interleave_by_index(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETIONS, STREAM ",\"n\":2");
    assert_int_equal(f.n_choices, 4);
    push_chunk(&f, 3, 1, WIRE_FINISH_NONE);
    push_chunk(&f, 0, 2, WIRE_FINISH_NONE);
    push_chunk(&f, 3, 20, WIRE_FINISH_STOP);
    push_chunk(&f, 0, 10, WIRE_FINISH_LENGTH);
    expect_events(&f, TEXT_CHUNK("3", "h", "null") TEXT_CHUNK("0", "i", "null")
                          TEXT_CHUNK("3", "", "\"stop\"") TEXT_CHUNK("0", "\\n", "null")
                              TEXT_CHUNK("0", "", "\"length\""));
    assert_int_equal(f.choices[1].prompt->n_tokens, 2);
    assert_int_equal(f.choices[2].prompt->n_tokens, 1);
    end(&f);
}

static void test_api_response_chat_choices_each_say_their_role_once(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, STREAM ",\"n\":2");
    push_chunk(&f, 0, 1, WIRE_FINISH_NONE);
    push_chunk(&f, 1, 2, WIRE_FINISH_NONE);
    push_chunk(&f, 0, 2, WIRE_FINISH_NONE);
    expect_events(&f, CHAT_CHUNK("0", "\"role\":\"assistant\",\"content\":\"h\"", "null")
                          CHAT_CHUNK("1", "\"role\":\"assistant\",\"content\":\"i\"", "null")
                              CHAT_CHUNK("0", "\"content\":\"i\"", "null"));
    end(&f);
}

static void test_api_response_token_ids_are_complete_and_once(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETIONS, STREAM ",\"return_token_ids\":true");
    push_chunk(&f, 0, 3, WIRE_FINISH_NONE); /* no text yet, but an id */
    push_chunk(&f, 0, 1, WIRE_FINISH_NONE);
    push_chunk(&f, 0, 20, WIRE_FINISH_STOP);
#define IDS_CHUNK(text, finish, ids)                                                               \
    TEXT_HEAD ",\"choices\":[{\"index\":0,\"text\":\"" text                                        \
              "\",\"logprobs\":null,\"finish_reason\":" finish "" ids "}]}\n\n"
    expect_events(&f, IDS_CHUNK("", "null", ",\"prompt_token_ids\":[1,2],\"token_ids\":[3]")
                          IDS_CHUNK("\xef\xbf\xbdh", "null", ",\"token_ids\":[1]")
                              IDS_CHUNK("", "\"stop\"", ",\"token_ids\":[20]"));
    end(&f);
    begin(&f, API_CHAT, STREAM ",\"return_token_ids\":true,\"n\":2");
    push_chunk(&f, 1, 1, WIRE_FINISH_LENGTH);
    push_chunk(&f, 0, 2, WIRE_FINISH_NONE);
    assert_int_equal(buf_append(&f.out, "", 1), ST_OK);
    const char *first = strstr((const char *)f.out.data, "\"prompt_token_ids\":[1,2");
    assert_null(first); /* the template's text is in front */
    first = strstr((const char *)f.out.data, "\"prompt_token_ids\":[");
    assert_non_null(first);
    assert_null(strstr(first + 1, "\"prompt_token_ids\":["));
    end(&f);
}

static void test_api_response_full_answers_are_exact(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, "");
    push(&f, 0, 1, WIRE_FINISH_NONE);
    push(&f, 0, 2, WIRE_FINISH_NONE);
    push(&f, 0, 20, WIRE_FINISH_STOP);
    assert_int_equal(api_response_full(&f.response, f.choices, 1, &usage, &f.out), ST_OK);
    assert_int_equal(buf_append(&f.out, "", 1), ST_OK);
    assert_string_equal((const char *)f.out.data,
                        "{\"id\":\"chatcmpl-7\",\"object\":\"chat.completion\",\"created\":"
                        "1700000000,\"model\":\"m\",\"system_fingerprint\":\"fp_1\",\"choices\":[{"
                        "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"hi\"},"
                        "\"logprobs\":null,\"finish_reason\":\"stop\"}]" USAGE "}");
    end(&f);
    begin(&f, API_COMPLETIONS, ",\"return_token_ids\":true");
    push(&f, 0, 1, WIRE_FINISH_LENGTH);
    push(&f, 1, 20, WIRE_FINISH_STOP);
    assert_int_equal(api_response_full(&f.response, f.choices, 2, &usage, &f.out), ST_OK);
    assert_int_equal(buf_append(&f.out, "", 1), ST_OK);
    assert_string_equal((const char *)f.out.data,
                        "{\"id\":\"cmpl-7\",\"object\":\"text_completion\",\"created\":1700000000,"
                        "\"model\":\"m\",\"system_fingerprint\":\"fp_1\",\"choices\":[{\"index\":0,"
                        "\"text\":\"h\",\"logprobs\":null,\"finish_reason\":\"length\","
                        "\"prompt_token_ids\":[1,2],\"token_ids\":[1]},{\"index\":1,\"text\":\"\","
                        "\"logprobs\":null,\"finish_reason\":\"stop\",\"prompt_token_ids\":[2],"
                        "\"token_ids\":[20]}]" USAGE "}");
    end(&f);
}

static void test_api_response_full_buffer_writes_nothing_and_can_go_on(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, STREAM);
    push(&f, 0, 1, WIRE_FINISH_LENGTH);
    for (f.out.max = 0; f.out.max < 4096; f.out.max++) {
        enum status st = api_response_chunk(&f.response, &f.choices[0], NULL, &f.out);
        if (st == ST_OK)
            break;
        assert_int_equal(st, ST_TOO_LARGE);
        assert_int_equal(f.out.len, 0);
    }
    f.out.max = 1 << 16;
    expect_events(&f, CHAT_CHUNK("0", "\"role\":\"assistant\",\"content\":\"h\"", "null")
                          CHAT_CHUNK("0", "", "\"length\""));
    end(&f);
}

static void test_api_response_error_event_is_an_error_body(void **state)
{
    (void)state;
    struct fixture f;
    struct api_error err;
    begin(&f, API_CHAT, STREAM);
    api_error_from_status(ST_PEER_LOST, &err);
    assert_int_equal(api_response_error(&err, &f.out), ST_OK);
    expect_events(&f, "data: {\"error\":{\"message\":\"peer was lost\",\"type\":"
                      "\"service_unavailable\",\"param\":null,\"code\":\"peer_lost\"}}\n\n");
    end(&f);
}

static void test_api_response_names_are_escaped(void **state)
{
    (void)state;
    struct fixture f;
    struct api_response response;
    begin(&f, API_CHAT, STREAM);
    assert_int_equal(api_response_init(&response, f.request, "a\"b", "m\\\n", NULL), ST_OK);
    assert_int_equal(api_response_end(&response, &usage, &f.out), ST_OK);
    f.out.len = 0;
    response.include_usage = true;
    assert_int_equal(api_response_end(&response, &usage, &f.out), ST_OK);
    expect_events(&f, "data: {\"id\":\"chatcmpl-a\\\"b\",\"object\":\"chat.completion.chunk\","
                      "\"created\":1700000000,\"model\":\"m\\\\\\n\",\"system_fingerprint\":null,"
                      "\"choices\":[]" USAGE "}\n\ndata: [DONE]\n\n");
    api_response_deinit(&response);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_api_response_chat_first_chunk_has_role_and_text),
        cmocka_unit_test(test_api_response_last_text_and_finish_come_as_two_chunks),
        cmocka_unit_test(test_api_response_without_text_still_says_role_and_reason),
        cmocka_unit_test(test_api_response_usage_only_when_asked_for_without_choices),
        cmocka_unit_test(test_api_response_character_over_three_tokens_comes_whole),
        cmocka_unit_test(test_api_response_stop_string_over_tokens_is_cut),
        cmocka_unit_test(test_api_response_beginning_of_stop_string_is_text_in_the_end),
        cmocka_unit_test(test_api_response_stop_string_inside_one_push_ignores_the_rest),
        cmocka_unit_test(test_api_response_min_tokens_holds_stop_strings_off),
        cmocka_unit_test(test_api_response_special_tokens_are_hidden_unless_asked_for),
        cmocka_unit_test(test_api_response_choices_of_two_prompts_interleave_by_index),
        cmocka_unit_test(test_api_response_chat_choices_each_say_their_role_once),
        cmocka_unit_test(test_api_response_token_ids_are_complete_and_once),
        cmocka_unit_test(test_api_response_full_answers_are_exact),
        cmocka_unit_test(test_api_response_full_buffer_writes_nothing_and_can_go_on),
        cmocka_unit_test(test_api_response_error_event_is_an_error_body),
        cmocka_unit_test(test_api_response_names_are_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
