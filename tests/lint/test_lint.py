#!/usr/bin/env python3
"""The lint finds what it is there for: faults planted in a copy of the sources, and in a library of our own."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


class LintTest(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="dynd-lint-")
        self.addCleanup(shutil.rmtree, self.root)
        for folder in ("src", "include", "kernels", "bench", "docs"):
            shutil.copytree(os.path.join(ROOT, folder), os.path.join(self.root, folder))

    def append(self, path, text):
        with open(os.path.join(self.root, path), "a", encoding="utf-8") as file:
            file.write(text)

    def lint(self, check, *args):
        run = subprocess.run([sys.executable, os.path.join(HERE, check + ".py"), *args], capture_output=True, text=True,
                             env=dict(os.environ, DYND_LINT_ROOT=self.root))
        return run.returncode, run.stdout + run.stderr

    def assert_refused(self, check, text, *args):
        code, output = self.lint(check, *args)
        self.assertEqual(code, 1, output)
        self.assertIn(text, output)

    def test_includes_of_the_tree_as_it_is_are_clean(self):
        code, output = self.lint("check_includes")
        self.assertEqual(code, 0, output)

    def test_includes_of_a_higher_layer_are_refused(self):
        self.append("src/base/map.c", '#include "wire/wire.h"\n')
        self.assert_refused("check_includes", "layer base may not include wire/wire.h")

    def test_includes_of_the_loop_in_a_core_are_refused(self):
        self.append("src/router/core.c", '#include "router/loop_int.h"\n')
        self.assert_refused("check_includes", "layer router_core may not include router/loop_int.h")

    def test_includes_of_a_vendor_header_elsewhere_are_refused(self):
        self.append("src/worker/core.c", "#include <uv.h>\n")
        self.assert_refused("check_includes", "<uv.h> is allowed only in")

    def test_includes_of_an_unknown_header_are_refused(self):
        self.append("src/base/buf.c", "#include <glib.h>\n")
        self.assert_refused("check_includes", "<glib.h> is in no table")

    def test_includes_in_a_circle_are_refused(self):
        self.append("src/base/buf.h", '#include "base/arena.h"\n')
        self.append("src/base/arena.h", '#include "base/buf.h"\n')
        self.assert_refused("check_includes", "include circle")

    def test_text_with_unfinished_work_is_refused(self):
        self.append("src/base/buf.c", "/* TO" "DO: later */\n")
        self.assert_refused("check_text", "unfinished work")

    def test_text_of_a_long_main_is_refused(self):
        self.append("src/main.c", "\n" * 150)
        self.assert_refused("check_text", "src/main.c: 150 lines or more")


class SymbolsTest(unittest.TestCase):
    SOURCES = {"router_core": "int core_go(void); int map_get(void); int core_go(void) { return map_get(); }",
               "worker_core": "int worker_go; ", "kv": "int pool_go;", "wire": "int wire_go;",
               "base": "int map_get(void); int map_get(void) { return 1; }"}

    def lint(self, **changes):
        folder = tempfile.mkdtemp(prefix="dynd-lint-")
        self.addCleanup(shutil.rmtree, folder)
        for library, text in dict(self.SOURCES, **changes).items():
            source, item = os.path.join(folder, "part.c"), os.path.join(folder, "part.c.o")
            with open(source, "w", encoding="utf-8") as file:
                file.write(text)
            subprocess.run(["cc", "-c", source, "-o", item], check=True)
            subprocess.run(["ar", "rcs", os.path.join(folder, "libdynd_%s.a" % library), item], check=True)
        run = subprocess.run([sys.executable, os.path.join(HERE, "check_symbols.py"), "nm", folder],
                             capture_output=True, text=True)
        return run.returncode, run.stdout + run.stderr

    def test_symbols_of_pure_libraries_are_clean(self):
        code, output = self.lint()
        self.assertEqual(code, 0, output)

    def test_symbols_of_a_clock_in_a_core_are_refused(self):
        code, output = self.lint(worker_core="long time(long *); long go(void); long go(void) { return time(0); }")
        self.assertEqual(code, 1, output)
        self.assertIn("worker_core:part.c.o: uses time", output)

    def test_symbols_of_io_behind_a_helper_are_refused(self):
        code, output = self.lint(base="int getrandom(void); int map_get(void); int map_get(void) { return getrandom(); }")
        self.assertEqual(code, 1, output)
        self.assertIn("base:part.c.o: uses getrandom", output)

    def test_symbols_of_allocation_in_a_core_are_refused(self):
        code, output = self.lint(kv="void *malloc(unsigned long); void *go(void); void *go(void) { return malloc(9); }")
        self.assertEqual(code, 1, output)
        self.assertIn("kv:part.c.o: uses malloc outside of create", output)


if __name__ == "__main__":
    unittest.main()
