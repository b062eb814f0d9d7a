#!/usr/bin/env python3
"""The two cores and the block pool are pure: check_symbols.py NM DIR, where DIR holds the layers' static libraries.

Walks the object files that they reach through undefined symbols, in their own and the lower libraries, and fails on any
symbol that is neither defined there nor in the list below. Allocation is allowed in the cores only in the object files
that create them: nothing allocates in the hot path."""

import fnmatch
import os
import re
import subprocess
import sys

import tree

PURE = ("router_core", "worker_core", "kv")
BELOW = ("wire", "base")
ALLOWED = """
    mem* __mem*_chk str* __str*_chk snprintf __snprintf_chk vsnprintf __vsnprintf_chk qsort bsearch
    malloc calloc realloc free abort __assert_fail __stack_chk_fail __*div*i3 __*mod*i3 __isoc23_strto*
    SHA256_Init SHA256_Update SHA256_Final __*san_* __sanitizer_* __sancov* _GLOBAL_OFFSET_TABLE_ __tls_get_addr
""".split()
ALLOCATE = {"malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign"}
MAY_ALLOCATE = {"router_core:core.c.o", "router_core:prefix_index.c.o", "worker_core:core.c.o", "kv:pool.c.o"}
LINE = re.compile(r"^(?:[0-9a-fA-F]+)?\s+([A-Za-z])\s+(\S+)")


def members(nm, folder, library):
    """{"library:object": (defined, undefined)} of one static library."""
    path = os.path.join(folder, "libdynd_%s.a" % library)
    text = subprocess.run([nm, path], check=True, capture_output=True, text=True).stdout
    found, current = {}, None
    for line in text.splitlines():
        match = LINE.match(line)
        if match is not None and current is not None:
            kind, name = match.groups()
            found[current][1 if kind in "Uw" else 0].add(name)
        elif line.endswith(":"):
            current = "%s:%s" % (library, os.path.basename(line[:-1]))
            found[current] = (set(), set())
    return found


def main():
    nm, folder = sys.argv[1:3]
    objects = {}
    for library in PURE + BELOW:
        objects.update(members(nm, folder, library))
    owner = {name: key for key, (defined, _) in objects.items() for name in defined}
    todo = [key for key in objects if key.split(":")[0] in PURE]
    if len({key.split(":")[0] for key in todo}) != len(PURE):
        sys.exit("symbols: a library is empty, nothing was checked")
    seen, faults = set(todo), []
    while todo:
        key = todo.pop()
        for name in sorted(objects[key][1]):
            if name in owner:
                if owner[name] not in seen:
                    seen.add(owner[name])
                    todo.append(owner[name])
            elif not any(fnmatch.fnmatchcase(name, pattern) for pattern in ALLOWED):
                faults.append("%s: uses %s" % (key, name))
            elif name in ALLOCATE and key.split(":")[0] in PURE and key not in MAY_ALLOCATE:
                faults.append("%s: uses %s outside of create" % (key, name))
    tree.report(faults, "symbols of %d object files" % len(seen))


if __name__ == "__main__":
    main()
