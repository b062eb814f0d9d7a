#include "supervisor/status.h"

#include "base/buf.h"
#include "base/json.h"

#include <curl/curl.h>
#include <stdio.h>
#include <string.h>

#define STATUS_BYTES_MAX (4u << 20)

static size_t on_body(char *data, size_t size, size_t n, void *user)
{
    return buf_append(user, data, size * n) == ST_OK ? size * n : 0;
}

static double number_of(const cJSON *object, const char *name)
{
    const cJSON *item = json_get(object, name);
    return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

static const char *text_of(const cJSON *object, const char *name)
{
    const cJSON *item = json_get(object, name);
    return cJSON_IsString(item) ? item->valuestring : "-";
}

static void print_table(const cJSON *root)
{
    const cJSON *router = json_get(root, "router"), *worker;
    printf("model %s   requests running %.0f, waiting %.0f   retries %.0f, workers lost %.0f\n\n",
           text_of(root, "model"), number_of(router, "running"), number_of(router, "waiting"),
           number_of(router, "retries"), number_of(router, "workers_lost"));
    printf("%-14s %-8s %-9s %8s %8s %8s %6s %20s %12s\n", "worker", "role", "health", "running",
           "waiting", "reserved", "kv", "blocks used/total", "quarantined");
    cJSON_ArrayForEach(worker, json_get(root, "workers"))
    {
        char blocks[32];
        double total = number_of(worker, "blocks_total");
        snprintf(blocks, sizeof(blocks), "%.0f/%.0f", total - number_of(worker, "blocks_free"),
                 total);
        printf("%-14s %-8s %-9s %8.0f %8.0f %8.0f %6s %20s %12.0f\n", text_of(worker, "name"),
               text_of(worker, "role"), text_of(worker, "health"), number_of(worker, "running"),
               number_of(worker, "waiting"), number_of(worker, "reserved"),
               text_of(worker, "kv_dtype"), blocks, number_of(worker, "blocks_quarantined"));
    }
}

int status_command(const struct config *config)
{
    char url[512];
    struct buf body;
    cJSON *root = NULL;
    CURL *curl = curl_easy_init();
    if (curl == NULL)
        return 1;
    buf_init(&body, STATUS_BYTES_MAX);
    snprintf(url, sizeof(url),
             strchr(config->http.host, ':') != NULL ? "http://[%s]:%u/status"
                                                    : "http://%s:%u/status",
             config->http.host, config->http.port);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 5L);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
    CURLcode rc = curl_easy_perform(curl);
    if (rc != CURLE_OK)
        fprintf(stderr, "dynd status: %s: %s\n", url, curl_easy_strerror(rc));
    else if (json_parse((const char *)body.data, body.len, 32, &root, NULL) != ST_OK)
        fprintf(stderr, "dynd status: %s: the answer is not JSON; is that a dynd router?\n", url);
    else
        print_table(root);
    int exit_code = root != NULL ? 0 : 1;
    cJSON_Delete(root);
    buf_deinit(&body);
    curl_easy_cleanup(curl);
    return exit_code;
}
