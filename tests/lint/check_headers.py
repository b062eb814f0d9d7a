#!/usr/bin/env python3
"""Each header compiles alone, with the flags of the build: check_headers.py BUILD_DIR [CXX]. With a C++ compiler the
headers that C++ and CUDA sources include are compiled as C++ too. Headers of CUDA are left out of a build without it."""

import concurrent.futures
import json
import os
import shlex
import subprocess
import sys

import tree

CXX_HEADERS = ("kernels/ops.h", "include/dynd/status.h")
CUDA_HEADERS = "kernels/cuda/* src/device/cuda*"


def build_flags(build):
    """The compiler of the build, and every -I, -isystem and -D that any of its files is compiled with."""
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
        commands = [shlex.split(entry["command"]) for entry in json.load(file) if entry["file"].endswith(".c")]
    flags, compiler = [], None
    for words in commands:
        compiler = next(word for word in words if os.path.basename(word) not in ("ccache", "sccache"))
        for i, word in enumerate(words):
            flag = words[i:i + 2] if word in ("-isystem", "-I") else [word] if word[:2] in ("-I", "-D") else None
            if flag is not None and flag not in flags:
                flags.append(flag)
    return compiler, [word for flag in flags for word in flag]


def compile_alone(header, command):
    run = subprocess.run(command + [os.path.join(tree.root(), header)], capture_output=True, text=True)
    return None if run.returncode == 0 else "%s: does not compile alone\n%s" % (header, run.stderr)


def main():
    build, cxx = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    compiler, flags = build_flags(build)
    common = ["-fsyntax-only", "-w"] + flags + ["-I" + os.path.join(tree.root(), "tests")]
    headers = tree.files("include", "src", "kernels", "bench", "tests", ends=(".h",))
    if "-DDYND_CUDA" not in flags:
        headers = [header for header in headers if not tree.matches(header, CUDA_HEADERS)]
    jobs = [(header, [compiler, "-x", "c", "-std=c11"] + common) for header in headers]
    if cxx:
        jobs += [(header, [cxx, "-x", "c++", "-std=c++17"] + common) for header in CXX_HEADERS]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = [fault for fault in pool.map(lambda job: compile_alone(*job), jobs) if fault is not None]
    tree.report(faults, "%d headers" % len(jobs))


if __name__ == "__main__":
    main()
