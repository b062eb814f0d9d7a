/* dynd-bench load: load generator for OpenAI-compatible servers. */
#ifndef BENCH_BENCH_LOAD_H
#define BENCH_BENCH_LOAD_H

/* argv[0] is "load". Exit code: 0 when every request ended as it should, 1 otherwise, 2 for bad
 * arguments. */
int bench_load(int argc, char **argv);

#endif
