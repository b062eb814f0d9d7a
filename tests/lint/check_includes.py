#!/usr/bin/env python3
"""Each include is allowed by the layer and vendor tables of docs/ARCHITECTURE.md, each file belongs to a layer, and
includes never go in a circle."""

import os
import re

import tree

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)', re.M)
SYSTEM = """
    assert.h complex.h ctype.h errno.h fenv.h float.h inttypes.h limits.h locale.h math.h setjmp.h signal.h stdalign.h
    stdarg.h stdatomic.h stdbool.h stddef.h stdint.h stdio.h stdlib.h string.h threads.h time.h
    cpuid.h dirent.h dlfcn.h elf.h endian.h fcntl.h getopt.h grp.h ifaddrs.h immintrin.h netdb.h poll.h pthread.h pwd.h
    sched.h spawn.h strings.h syslog.h termios.h unistd.h
    arpa/* linux/* net/* netinet/* sys/*
"""
TOPS = ("include", "src", "kernels", "bench")


def layer_of(path, layers):
    for name, patterns, _ in layers:
        if tree.matches(path, patterns):
            return name
    return None


def resolve(path, name):
    """The file that `#include "name"` in `path` means, or None."""
    for base in (os.path.dirname(path), "include", "src", ""):
        found = os.path.normpath(os.path.join(base, name))
        if os.path.isfile(os.path.join(tree.root(), found)):
            return found
    return None


def quoted(path, name, layers):
    found = resolve(path, name)
    if found is None:
        return None, "%s: includes %s, which does not exist" % (path, name)
    own, other = layer_of(path, layers), layer_of(found, layers)
    allowed = next(row[2] for row in layers if row[0] == own).split()
    if other == own or other in allowed:
        return found, None
    return found, "%s: layer %s may not include %s (layer %s)" % (path, own, name, other)


def angled(path, name, vendors):
    for headers, places in vendors:
        if tree.matches(name, headers):
            return None if tree.matches(path, places) else "%s: <%s> is allowed only in %s" % (path, name, places)
    if tree.matches(name, SYSTEM):
        return None
    return "%s: <%s> is in no table of docs/ARCHITECTURE.md" % (path, name)


def circles(graph):
    done, faults = set(), []

    def walk(path, trail):
        if path in trail:
            faults.append("include circle: " + " -> ".join(trail[trail.index(path):] + [path]))
        elif path not in done:
            for other in graph.get(path, ()):
                walk(other, trail + [path])
            done.add(path)

    for path in graph:
        walk(path, [])
    return faults


def main():
    layers, vendors = tree.table("layers"), tree.table("vendor")
    faults, graph = [], {}
    names = {row[0] for row in layers}
    for name, _, allowed in layers:
        faults += ["layers: %s names %s, which is no layer" % (name, other) for other in allowed.split() if other not in names]
    for path in tree.files(*TOPS):
        if layer_of(path, layers) is None:
            faults.append("%s: belongs to no layer" % path)
            continue
        for local, system in INCLUDE.findall(tree.read(path)):
            found, fault = quoted(path, local, layers) if local else (None, angled(path, system, vendors))
            if fault is not None:
                faults.append(fault)
            if found is not None and not found.endswith(".def"):
                graph.setdefault(path, []).append(found)
    tree.report(faults + circles(graph), "includes")


if __name__ == "__main__":
    main()
