#!/usr/bin/env python3
"""Makes tests/golden/templates/expected.json.

Needs the Debian package python3-jinja2 (3.1). The result is committed; test_template_golden.c reads nothing else
but the inputs beside it, all of them written for this test:

    *.jinja             chat templates in the shapes of model families
    conversations.json  [{name, messages, tools, add_generation_prompt, kwargs}]; numbers with a zero fraction are
                        left out, since the C side cannot tell 2.0 from 2
    snippets.json       {"inputs": one conversation, "sources": [small templates]}

Templates are rendered as Hugging Face does it: the immutable sandbox with trim_blocks, lstrip_blocks and loop
controls, json.dumps without ASCII escapes as tojson, raise_exception, strftime_now (in UTC, at a fixed time here),
the generation tag, and bos_token and eos_token of the tokenizer.

expected.json:
    {"outcomes": [text, ...],                      each different outcome once
     "templates": {name: [index of outcome, ...]}, in the order of conversations.json
     "snippets": [index of outcome, ...]}
An outcome is "=" and the text, "!" and the text that raise_exception was given, "?" for another error at run time,
or "#" for a template that does not compile.
"""

import copy
import datetime
import glob
import json
import os

import jinja2
import jinja2.nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")
NOW_UNIX_S = 1753401600
BOS, EOS = "<s>", "</s>"


class Raised(Exception):
    """What raise_exception raises."""


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise Raised(message)


def strftime_now(form):
    return datetime.datetime.fromtimestamp(NOW_UNIX_S, datetime.timezone.utc).strftime(form)


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def outcome(env, source, conversation):
    try:
        template = env.from_string(source)
    except (jinja2.TemplateError, SyntaxError):
        return "#"
    inputs = copy.deepcopy(conversation)
    names = {"documents": None, **inputs["kwargs"]}
    names.update(messages=inputs["messages"], tools=inputs["tools"], bos_token=BOS, eos_token=EOS,
                 add_generation_prompt=inputs["add_generation_prompt"])
    try:
        return "=" + template.render(names)
    except Raised as error:
        return "!" + str(error)
    except Exception:  # whatever Python makes of a wrong type
        return "?"


def read(name):
    with open(os.path.join(HERE, name), encoding="utf-8", newline="") as file:
        return file.read()


def main():
    env = environment()
    conversations = json.loads(read("conversations.json"))
    snippets = json.loads(read("snippets.json"))
    outcomes = {}

    def index(source, conversation):
        return outcomes.setdefault(outcome(env, source, conversation), len(outcomes))

    templates = {}
    for path in sorted(glob.glob(os.path.join(HERE, "*.jinja"))):
        name = os.path.basename(path)
        templates[name] = [index(read(name), conversation) for conversation in conversations]
    rendered = [index(source, snippets["inputs"]) for source in snippets["sources"]]
    result = {"outcomes": list(outcomes), "templates": templates, "snippets": rendered}
    with open(os.path.join(HERE, "expected.json"), "w", encoding="utf-8") as file:
        json.dump(result, file, ensure_ascii=False, indent=0)
        file.write("\n")
    print("%d templates, %d conversations, %d snippets, %d outcomes" %
          (len(templates), len(conversations), len(rendered), len(outcomes)))


if __name__ == "__main__":
    main()
