#include "observe/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *render(void)
{
    struct buf buf;
    buf_init(&buf, 1 << 24);
    assert_int_equal(metrics_render(&buf), ST_OK);
    assert_int_equal(buf_append(&buf, "", 1), ST_OK);
    return (char *)buf.data;
}

static void test_metric_without_label_shows_zero_before_its_first_count(void **state)
{
    (void)state;
    char *text = render();
    assert_non_null(strstr(text, "# HELP dynd_requests_running Requests being generated.\n"
                                 "# TYPE dynd_requests_running gauge\ndynd_requests_running 0\n"));
    assert_null(strstr(text, "dynd_requests_total")); /* no label value yet, so no series */
    free(text);
}

static void test_metric_counter_keeps_one_series_a_label_value(void **state)
{
    (void)state;
    metric_add(M_requests_total, "ok", 1);
    metric_add(M_requests_total, "ok", 2);
    metric_add(M_requests_total, "full", 1);
    metric_add(M_requests_total, "a\"b\\c\nd", 1);
    assert_true(metric_value(M_requests_total, "ok") == 3);
    assert_true(metric_value(M_requests_total, "absent") == 0);
    char *text = render();
    assert_non_null(strstr(text, "# TYPE dynd_requests_total counter\n"));
    assert_non_null(strstr(text, "\ndynd_requests_total{status=\"ok\"} 3\n"));
    assert_non_null(strstr(text, "\ndynd_requests_total{status=\"full\"} 1\n"));
    assert_non_null(strstr(text, "\ndynd_requests_total{status=\"a\\\"b\\\\c\\nd\"} 1\n"));
    free(text);
}

static void test_metric_gauge_can_be_set_and_moved(void **state)
{
    (void)state;
    metric_set(M_requests_running, NULL, 5);
    metric_add(M_requests_running, NULL, -2);
    assert_true(metric_value(M_requests_running, NULL) == 3);
    metric_set(M_requests_waiting, NULL, 0.1);
    char *text = render();
    assert_non_null(strstr(text, "\ndynd_requests_waiting 0.1\n"));
    free(text);
}

static void test_metric_histogram_buckets_are_cumulative(void **state)
{
    (void)state;
    metric_observe(M_time_to_first_token_seconds, NULL, 0.0005);
    metric_observe(M_time_to_first_token_seconds, NULL, 0.001); /* bounds are inclusive */
    metric_observe(M_time_to_first_token_seconds, NULL, 0.3);
    metric_observe(M_time_to_first_token_seconds, NULL, 1e9);
    metric_observe(M_requests_running, NULL, 1); /* not a histogram: ignored */
    assert_true(metric_value(M_time_to_first_token_seconds, NULL) == 4);
    char *text = render();
    assert_non_null(strstr(text, "time_to_first_token_seconds_bucket{le=\"0.001\"} 2\n"));
    assert_non_null(strstr(text, "time_to_first_token_seconds_bucket{le=\"0.25\"} 2\n"));
    assert_non_null(strstr(text, "time_to_first_token_seconds_bucket{le=\"0.5\"} 3\n"));
    assert_non_null(strstr(text, "time_to_first_token_seconds_bucket{le=\"2560\"} 3\n"));
    assert_non_null(strstr(text, "time_to_first_token_seconds_bucket{le=\"+Inf\"} 4\n"));
    assert_non_null(strstr(text, "time_to_first_token_seconds_count 4\n"));
    assert_non_null(strstr(text, "time_to_first_token_seconds_sum 1000000000.3015\n"));
    free(text);
}

static void test_metric_label_values_past_the_bound_count_as_other(void **state)
{
    (void)state;
    char label[200];
    double before = metric_value(M_requests_total, "other");
    for (int i = 0; i < 100; i++) {
        snprintf(label, sizeof(label), "value-%d", i);
        metric_add(M_requests_total, label, 1);
    }
    double after = metric_value(M_requests_total, "other");
    assert_true(after >= before + 36);
    memset(label, 'x', sizeof(label) - 1);
    label[sizeof(label) - 1] = '\0';
    metric_add(M_requests_total, label, 1);
    metric_add(M_requests_total, "\xff", 1);
    assert_true(metric_value(M_requests_total, "other") == after + 2);
    assert_true(metric_value(M_requests_total, "ok") == 3);
}

static void *count_many(void *arg)
{
    for (int i = 0; i < 20000; i++) {
        metric_add(M_prompt_tokens_total, NULL, 1);
        metric_add(M_requests_total, i % 2 ? "ok" : "value-3", 1);
        metric_observe(M_inter_token_latency_seconds, NULL, 0.01);
    }
    return arg;
}

static void test_metric_counts_of_several_threads_are_all_kept(void **state)
{
    (void)state;
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_many, NULL), 0);
    for (int i = 0; i < 10; i++)
        free(render());
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_true(metric_value(M_prompt_tokens_total, NULL) == 80000);
    assert_true(metric_value(M_inter_token_latency_seconds, NULL) == 80000);
    assert_true(metric_value(M_requests_total, "ok") == 40003);
}

static void test_metrics_render_without_room_leaves_the_buffer(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 100);
    assert_int_equal(buf_append_str(&buf, "head"), ST_OK);
    assert_int_equal(metrics_render(&buf), ST_TOO_LARGE);
    assert_int_equal(buf.len, 4);
    buf_deinit(&buf);
}

/* promtool, where it is installed, is the judge of the format. */
static void test_metrics_render_pleases_promtool(void **state)
{
    (void)state;
    if (system("command -v promtool >/dev/null 2>&1") != 0)
        skip();
    FILE *judge = popen("promtool check metrics", "w");
    assert_non_null(judge);
    char *text = render();
    fputs(text, judge);
    free(text);
    assert_int_equal(pclose(judge), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metric_without_label_shows_zero_before_its_first_count),
        cmocka_unit_test(test_metric_counter_keeps_one_series_a_label_value),
        cmocka_unit_test(test_metric_gauge_can_be_set_and_moved),
        cmocka_unit_test(test_metric_histogram_buckets_are_cumulative),
        cmocka_unit_test(test_metric_label_values_past_the_bound_count_as_other),
        cmocka_unit_test(test_metric_counts_of_several_threads_are_all_kept),
        cmocka_unit_test(test_metrics_render_without_room_leaves_the_buffer),
        cmocka_unit_test(test_metrics_render_pleases_promtool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
