#!/usr/bin/env python3
"""The text of the sources: no marks of unfinished work, ASCII, no tabs, no trailing blanks, main.c under 150 lines.
Warns of files over 800 lines and functions over 70."""

import re

import tree

TOPS = ("include", "src", "kernels", "bench")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
FILE_LINES, FUNCTION_LINES, MAIN_LINES, COLUMNS = 800, 70, 150, 100


def lines_of(path):
    faults = []
    for number, line in enumerate(tree.read(path).splitlines(), 1):
        where = "%s:%d: " % (path, number)
        if UNFINISHED.search(line):
            faults.append(where + "unfinished work is an issue, not a comment")
        if not line.isascii():
            faults.append(where + "not ASCII")
        if "\t" in line or line != line.rstrip():
            faults.append(where + "tab or trailing blank")
        if len(line) > COLUMNS and not path.endswith(".def"):
            faults.append(where + "over %d columns" % COLUMNS)
    return faults


def warnings_of(path):
    lines = tree.read(path).splitlines()
    found = ["%s: %d lines" % (path, len(lines))] if len(lines) > FILE_LINES else []
    start = None
    for number, line in enumerate(lines, 1):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            if number - start - 1 > FUNCTION_LINES:
                found.append("%s:%d: a function of %d lines" % (path, start, number - start - 1))
            start = None
    return found


def main():
    faults = []
    for path in tree.files(*TOPS):
        faults += lines_of(path)
        for warning in warnings_of(path):
            print("warning: " + warning)
    if len(tree.read("src/main.c").splitlines()) >= MAIN_LINES:
        faults.append("src/main.c: %d lines or more" % MAIN_LINES)
    tree.report(faults, "text")


if __name__ == "__main__":
    main()
