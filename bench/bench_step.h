/* `dynd-bench step`: how long the engine's steps take, without server and network, against the
 * bytes and operations that they cannot do without. */
#ifndef BENCH_BENCH_STEP_H
#define BENCH_BENCH_STEP_H

/* argv[1..]: --model DIR (config.json; weights are random), --device cpu|cuda, --context N (tokens
 * before a decode step), --batch N,N,... , --prompt N,N,... , --steps N, --gbps N, --tflops N
 * and --fp8-tflops N (the measured ceilings that shares are taken of), --threads N. Prints a table.
 * Exit code. */
int bench_step(int argc, char **argv);

#endif
