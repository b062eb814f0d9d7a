#!/usr/bin/env python3
"""clang-format has nothing to change: check_format.py CLANG_FORMAT. Ends with 77, skipped, unless it is the version that
the sources are kept in, because versions differ in what they want."""

import re
import subprocess
import sys

import tree


VERSION = "14"


def main():
    text = subprocess.run([sys.argv[1], "--version"], capture_output=True, text=True).stdout
    version = re.search(r"version (\d+)", text)
    if version is None or version.group(1) != VERSION:
        print("skipped: clang-format %s is needed, this is %s" % (VERSION, text.strip() or "none"))
        sys.exit(77)
    paths = tree.files("include", "src", "kernels", "bench", "tests", ends=(".c", ".h"))
    run = subprocess.run([sys.argv[1], "--dry-run", "-Werror", *paths], cwd=tree.root(), capture_output=True, text=True)
    wrong = sorted(set(re.findall(r"^([^\s:]+):\d+:\d+: error:", run.stderr, re.M)))
    faults = ["%s: run clang-format -i %s" % (path, path) for path in wrong]
    if run.returncode != 0 and not faults:
        faults.append(run.stderr)
    tree.report(faults, "format of %d files" % len(paths))


if __name__ == "__main__":
    main()
