"""What the lint checks share: the files of the repository, the tables of docs/ARCHITECTURE.md, and the report."""

import fnmatch
import os
import re
import sys


def root():
    return os.path.abspath(os.environ.get("DYND_LINT_ROOT", os.path.join(os.path.dirname(__file__), "..", "..")))


def files(*tops, ends=(".c", ".h", ".inc", ".def", ".cu", ".cuh")):
    """Paths under the folders `tops`, relative to the root, sorted."""
    found = []
    for top in tops:
        for folder, _, names in os.walk(os.path.join(root(), top)):
            found += [os.path.relpath(os.path.join(folder, name), root()) for name in names if name.endswith(ends)]
    return sorted(found)


def read(path):
    with open(os.path.join(root(), path), encoding="utf-8") as file:
        return file.read()


def table(name):
    """Rows of the table between `<!-- lint: NAME -->` and `<!-- lint: end -->`, header left out."""
    text = read("docs/ARCHITECTURE.md")
    match = re.search(r"<!-- lint: %s -->\n(.*?)<!-- lint: end -->" % name, text, re.S)
    if match is None:
        sys.exit("docs/ARCHITECTURE.md: the table %r is missing" % name)
    lines = [line for line in match.group(1).splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    if not rows:
        sys.exit("docs/ARCHITECTURE.md: the table %r is empty" % name)
    return rows


def matches(text, patterns):
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns.split())


def report(faults, what):
    """Prints the faults and ends the program: 1 when there are some."""
    for fault in faults:
        print(fault)
    print("%s: %s" % (what, "%d faults" % len(faults) if faults else "clean"))
    sys.exit(1 if faults else 0)
