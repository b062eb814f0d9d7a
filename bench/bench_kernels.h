/* `dynd-bench kernels`: how fast the CPU ops run against what the memory of this machine gives. */
#ifndef BENCH_BENCH_KERNELS_H
#define BENCH_BENCH_KERNELS_H

/* argv[1..]: --threads N (default 2), --isa scalar|avx2|avx512, --seconds S (of each row, default
 * 0.25). Prints a table to stdout. Returns a process exit code. */
int bench_kernels(int argc, char **argv);

#endif
