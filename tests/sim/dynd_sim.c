/* dynd-sim --seeds A..B [--twice] [--expect-violation]     dynd-sim --seed N --trace
 *
 * --twice             runs each seed twice and compares the trace hashes
 * --expect-violation  exit 0 when some seed breaks an invariant (planted bugs), 1 when none does
 * --trace             prints every event of one seed */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sim_args {
    uint64_t first, last;
    bool twice, expect_violation, trace;
};

static int usage(void)
{
    fprintf(stderr,
            "usage: dynd-sim --seeds A..B [--twice] [--expect-violation] | --seed N [--trace]\n");
    return 2;
}

static bool parse_args(int argc, char **argv, struct sim_args *out)
{
    for (int i = 1; i < argc; i++) {
        unsigned long long a, b;
        if (strcmp(argv[i], "--twice") == 0)
            out->twice = true;
        else if (strcmp(argv[i], "--expect-violation") == 0)
            out->expect_violation = true;
        else if (strcmp(argv[i], "--trace") == 0)
            out->trace = true;
        else if (i + 1 < argc && strcmp(argv[i], "--seeds") == 0 &&
                 sscanf(argv[++i], "%llu..%llu", &a, &b) == 2)
            out->first = a, out->last = b;
        else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0 &&
                 sscanf(argv[++i], "%llu", &a) == 1)
            out->first = out->last = a;
        else
            return false;
    }
    return out->last >= out->first && out->first > 0;
}

static void add_counts(struct sim_counts *total, const struct sim_counts *c)
{
    const uint64_t *from = (const uint64_t *)c;
    uint64_t *to = (uint64_t *)total;
    for (size_t i = 0; i < sizeof(*c) / sizeof(uint64_t); i++)
        to[i] += from[i];
}

static void print_counts(const struct sim_counts *c)
{
    printf("events %llu  requests %llu  done %llu  failed %llu  refused %llu  cancelled %llu  "
           "tokens %llu\n"
           "frames %llu  lost %llu  writes %llu  crashes %llu  pauses %llu  disconnects %llu  "
           "fences %llu\n"
           "steps %llu  ahead %llu  failed steps %llu  preemptions %llu\n",
           (unsigned long long)c->events, (unsigned long long)c->requests,
           (unsigned long long)c->done, (unsigned long long)c->failed,
           (unsigned long long)c->refused, (unsigned long long)c->cancelled,
           (unsigned long long)c->tokens, (unsigned long long)c->frames,
           (unsigned long long)c->lost, (unsigned long long)c->writes,
           (unsigned long long)c->crashes, (unsigned long long)c->pauses,
           (unsigned long long)c->disconnects, (unsigned long long)c->fences,
           (unsigned long long)c->steps, (unsigned long long)c->steps_ahead,
           (unsigned long long)c->steps_failed, (unsigned long long)c->preemptions);
}

int main(int argc, char **argv)
{
    struct sim_args args = {0};
    struct sim_counts total = {0};
    uint64_t n_seeds = 0, n_violations = 0;
    if (!parse_args(argc, argv, &args))
        return usage();
    struct sim *sim = calloc(1, sizeof(*sim));
    if (sim == NULL)
        return 2;
    for (uint64_t seed = args.first; seed <= args.last; seed++, n_seeds++) {
        enum status st = sim_run(sim, seed, args.trace);
        add_counts(&total, &sim->counts);
        if (st != ST_OK) {
            n_violations++;
            printf("seed %llu: violation at %.3f ms: %s\n", (unsigned long long)seed,
                   (double)sim->now / 1e6, sim->violation);
            if (args.expect_violation)
                break;
            continue;
        }
        uint64_t trace = sim->trace;
        if (args.twice && (sim_run(sim, seed, false) != ST_OK || sim->trace != trace)) {
            n_violations++;
            printf("seed %llu: the second run differs\n", (unsigned long long)seed);
        }
        if (args.trace)
            printf("seed %llu: trace hash %016llx\n", (unsigned long long)seed,
                   (unsigned long long)trace);
    }
    print_counts(&total);
    printf("%llu seeds, %llu violations\n", (unsigned long long)n_seeds,
           (unsigned long long)n_violations);
    free(sim);
    /* A run without faults, finished requests, steps ahead or preemptions would prove nothing. */
    bool is_void =
        n_seeds >= 100 && !args.expect_violation &&
        (total.crashes == 0 || total.done == 0 || total.steps_ahead == 0 || total.preemptions == 0);
    if (args.expect_violation)
        return n_violations > 0 ? 0 : 1;
    return n_violations == 0 && !is_void ? 0 : 1;
}
