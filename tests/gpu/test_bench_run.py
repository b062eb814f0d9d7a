"""bench/gpu/run with programs and peers made up here: what ends up in the table, and what a failure does."""

import csv
import glob
import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAMS = ("check_attention_prefill", "check_attention_decode", "check_gemm_small", "check_sample", "test_cuda_ops")


def row(who, what, value, unit, limit=0):
    return "printf '%%s\\t%%s\\t%s\\t%s\\t%s\\n' '%s' '%s' >>\"$DYND_BENCH_ROWS\"" % (value, unit, limit, who, what)


class BenchRunTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="dynd-bench-run-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.program("ceilings", "echo 'NVIDIA H999, 1 multiprocessors'", row("dynd", "ceiling copy", 4000, "GB/s"),
                     row("dynd", "ceiling bf16", 700, "TFLOP/s"), row("dynd", "ceiling fp8", 1300, "TFLOP/s"))
        for name in PROGRAMS:
            self.program(name, "true" if name.startswith("test") else row("dynd", name, 2, "us", 1))
        self.program("dynd-bench", row("dynd", "$1 figure", 2, "ms", 1))
        self.program("python3", "exit 1")

    def program(self, name, *lines):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n" + "\n".join(lines) + "\n")
        os.chmod(path, 0o755)

    def run_it(self, *args):
        """Exit code, output, and the rows of the CSV by their name."""
        env = dict(os.environ, PATH=self.folder + ":" + os.environ["PATH"])
        command = [os.path.join(ROOT, "bench", "gpu", "run"), "--build", self.folder, "--out", self.folder, *args]
        run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
        found = glob.glob(os.path.join(self.folder, "*-run.csv"))
        self.assertEqual(len(found), 1, run.stdout + run.stderr)
        self.assertIn("-h999-run.csv", found[0])
        with open(found[0], newline="", encoding="utf-8") as file:
            rows = {line["what"]: line for line in csv.DictReader(file)}
        return run.returncode, run.stdout + run.stderr, rows

    def test_run_without_peers_gives_every_row_and_says_so(self):
        self.program("check_sample", row("dynd", 'sample "a", b', 50, "us", 25))
        code, output, rows = self.run_it("kernels", "peers")
        self.assertEqual(code, 0, output)
        self.assertIn("peers are left out", output)
        self.assertEqual(rows['sample "a", b'], {
            "what": 'sample "a", b', "value": "50", "unit": "us", "limit": "25", "share": "50.0", "peer": "",
            "command": self.folder + "/check_sample quick time"})
        self.assertEqual(rows["ceiling copy"]["value"], "4000")

    def test_run_with_peers_takes_the_best_one_of_the_same_unit(self):
        self.program("check_sample", row("dynd", "work", 50, "us", 25), row("dynd", "rate", 50, "GB/s", 100))
        self.program("python3", '[ "$2" = sampling ] || exit 0', row("slow", "work", 200, "us"),
                     row("fast", "work", 75, "us"), row("other", "work", 1, "ms"), row("slow", "rate", 10, "GB/s"),
                     row("fast", "rate", 40, "GB/s"))
        code, output, rows = self.run_it("kernels", "peers")
        self.assertEqual(code, 0, output)
        self.assertEqual((rows["work"]["peer"], rows["work"]["share"]), ("75", "50.0"))
        self.assertEqual((rows["rate"]["peer"], rows["rate"]["share"]), ("40", "50.0"))
        self.assertEqual(rows["slow: work"]["value"], "200")
        table = {line.split()[0]: line.split() for line in output.splitlines() if line.startswith(("work", "rate"))}
        self.assertEqual(table["work"][1:], ["50", "us", "25", "50.0%", "75", "1.50", "fast"])
        self.assertEqual(table["rate"][1:], ["50", "GB/s", "100", "50.0%", "40", "1.25", "fast"])

    def test_run_hands_the_ceilings_to_the_programs(self):
        self.program("check_sample", 'what=seen-$DYND_BENCH_COPY_GBPS', row("dynd", "'$what'", 1, "us"))
        code, output, rows = self.run_it("kernels")
        self.assertEqual(code, 0, output)
        self.assertIn("seen-4000", rows)

    def test_run_with_a_failing_part_names_it_and_runs_the_others(self):
        self.program("check_gemm_small", row("dynd", "before the end", 1, "us"), "echo the reason; exit 3")
        os.remove(os.path.join(self.folder, "check_attention_decode"))
        self.program("check_sample", row("dynd", "after it", 1, "us"))
        code, output, rows = self.run_it("kernels")
        self.assertEqual(code, 1, output)
        self.assertIn("gemm_small: exit code 3", output)
        self.assertIn("the reason", output)
        self.assertIn("attention_decode: there is no", output)
        self.assertIn("before the end", rows)
        self.assertIn("after it", rows)

    def test_run_of_a_program_that_measures_nothing_fails(self):
        self.program("check_gemm_small", "true")
        code, output, _ = self.run_it("kernels")
        self.assertEqual(code, 1)
        self.assertIn("gemm_small: it has measured nothing", output)

    def test_run_of_the_server_measures_it_and_ends_it(self):
        pid_file = os.path.join(self.folder, "pid")
        self.program("dynd", "echo $$ >%s" % pid_file, "exec sleep 60")
        self.program("dynd-bench", '[ -s %s ] || exit 1' % pid_file, '[ -z "${DYND_BENCH_ROWS-}" ] ||',
                     'printf "dynd\\tserver seed ${17}\\t5\\ttokens/s\\t0\\n" >>"$DYND_BENCH_ROWS"')
        code, output, rows = self.run_it("server")
        self.assertEqual(code, 0, output)
        self.assertEqual({name for name in rows if name.startswith("server")},
                         {"server seed %d" % seed for seed in (11, 12, 13, 14, 21, 22, 23, 24)})
        self.assertEqual({name for name in rows if "KV: server" in name},
                         {"fp8 and fp8 KV: server seed %d" % seed for seed in (31, 32, 33, 34)})
        with open(pid_file, encoding="utf-8") as file:
            self.assertFalse(os.path.exists("/proc/" + file.read().strip()))

    def test_run_of_a_server_that_ends_at_once_fails(self):
        self.program("dynd", "echo the port is taken; exit 1")
        self.program("dynd-bench", "exit 1")
        code, output, _ = self.run_it("server")
        self.assertEqual(code, 1, output)
        self.assertIn("server: it does not answer", output)
        self.assertIn("the port is taken", output)

    def test_run_past_its_time_fails_and_ends(self):
        self.program("check_gemm_small", "exec sleep 30")
        code, output, rows = self.run_it("--limit", "2", "kernels")
        self.assertEqual(code, 1, output)
        self.assertIn("gemm_small: not within its time", output)
        self.assertIn("ceiling copy", rows)

    def test_run_with_an_unknown_part_is_refused(self):
        run = subprocess.run([os.path.join(ROOT, "bench", "gpu", "run"), "nonsense"], capture_output=True, text=True)
        self.assertEqual(run.returncode, 2)
        self.assertIn("bench/gpu/run [--build DIR]", run.stderr)


if __name__ == "__main__":
    unittest.main()
