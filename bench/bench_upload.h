/* Weights from a file to a device, against the speed of the bus. */
#ifndef BENCH_UPLOAD_H
#define BENCH_UPLOAD_H

/* Runs `dynd-bench upload`; answers the exit status.
 * Options: --device cpu|cuda  --bytes N (of the file)  --threads N (0: the device's own choice)
 *          --dir PATH (where the file is made; default: TMPDIR, /tmp)  --runs N */
int bench_upload(int argc, char **argv);

#endif
