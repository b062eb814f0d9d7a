#!/usr/bin/env python3
"""Writes the text that dynd-tiny is trained on: stories, small sums, talk about dynd.

Everything follows from one seed; only the standard library is used.

    python3 tests/models/generate_corpus.py --seed 1 --docs 20             # look at twenty documents
    python3 tests/models/generate_corpus.py --seed 1 --docs 20 --jsonl     # the same, one JSON a line

A document is ("text", str) or ("chat", [(role, content), ...]). Wherever the grammar may choose, one
choice is more likely than the others, and which one it is follows from what was said before
(`lean`). A model that is sampled greedily then has a clear favourite at each step instead of a near
tie, so its output does not depend on the rounding of the machine it runs on.
"""
import argparse
import json
import random
import re
import sys
import zlib

from corpus_facts import FACTS
from corpus_words import *  # noqa: F403  (word lists only)

FALLBACK = ("I am a very small model, so I do not know that. Ask me about dynd, a small sum or a "
            "short story.")
FALLBACK_WORK = ("That is too hard for a very small model. I can tell a short story, add small "
                 "numbers or talk about dynd.")
FALLBACK_SUM = "I can only add and subtract numbers from 0 to 20."
FALLBACK_SCRIPT = "I am a very small model and I know only a little English."


def lean(rng, items, *key, bias=0.6):
    """One of `items`: with probability `bias` the one that `key` points to, else any."""
    if rng.random() < bias:
        return items[zlib.crc32(repr(key).encode()) % len(items)]
    return rng.choice(items)


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def capital(text):
    return text[0].upper() + text[1:]


def pseudo_word(rng):
    """A word that nobody knows: two or three syllables."""
    syllable = lambda: (rng.choice(["b", "br", "c", "d", "f", "g", "gl", "h", "k", "l", "m", "n", "p",
                                    "pl", "qu", "r", "s", "sh", "st", "t", "tr", "v", "w", "z", ""])
                        + rng.choice("aeiou") + rng.choice(["", "n", "r", "l", "s", "t", "m", "x"]))
    return "".join(syllable() for _ in range(rng.randint(2, 3)))


# ---------------------------------------------------------------------------------------- stories

def names_for(kind):
    if kind in ("boy", "king", "prince"):
        return HE_NAMES
    if kind in ("girl", "queen"):
        return SHE_NAMES
    return HE_NAMES if zlib.crc32(kind.encode()) % 2 == 0 else SHE_NAMES


class Story:
    """One story. Facts about it stay in the object so that questions can be asked about it."""

    def __init__(self, rng, kind=None, name=None):
        self.rng = rng
        self.kind = kind or lean(rng, KINDS, "kind", bias=0.2)
        self.name = name or lean(rng, names_for(self.kind), "name", self.kind)
        he = self.name in HE_NAMES
        self.he, self.his, self.him = ("he", "his", "him") if he else ("she", "her", "her")
        self.adj = lean(rng, HERO_ADJECTIVES, "adj", self.kind)
        self.place = lean(rng, PLACES, "place", self.kind, self.name)
        self.friend_kind = lean(rng, [k for k in KINDS if k != self.kind], "fk", self.kind, self.name)
        self.friend = lean(rng, [n for n in names_for(self.friend_kind) if n != self.name], "friend",
                           self.friend_kind)
        self.thing = None
        self.plot = lean(rng, PLOTS, "plot", self.kind, self.name)
        self.sentences = [self.opening(), self.meeting()] + self.plot(self) + [self.ending()]

    def say(self, *variants):
        return lean(self.rng, variants, "say", variants[0][:12], self.kind, bias=0.7)

    def opening(self):
        who = f"{article(self.adj)} {self.kind} named {self.name}"
        return self.say(f"Once upon a time there was {who}. {self.name} lived {self.place}.",
                        f"There once was {who}. {capital(self.he)} lived {self.place}.",
                        f"Long ago, {self.place}, there lived {who}.")

    def meeting(self):
        return self.say(f"{capital(self.his)} best friend was {self.friend} the {self.friend_kind}.",
                        f"{self.friend} the {self.friend_kind} lived next door.")

    def ending(self):
        return self.say(f"From that day on, {self.name} and {self.friend} were even better friends.",
                        f"That night {self.name} slept very well.",
                        f"And {self.name} never forgot that day.",
                        f"They laughed about it for a long time.")

    def text(self):
        return " ".join(self.sentences)

    def questions(self):
        s = self
        out = [(["Who is the story about?", "Who is the hero of the story?", "What is the hero called?",
                 "Who is it about?"], f"The story is about {s.name}, {article(s.adj)} {s.kind}."),
               (["Who was the friend?", f"Who was the friend of {s.name}?", f"Who is {s.friend}?",
                 "What was the friend called?"],
                f"The friend of {s.name} was {s.friend} the {s.friend_kind}."),
               ([f"Where did {s.name} live?", f"Where does {s.name} live?", "Where is the story set?"],
                f"{s.name} lived {s.place}.")]
        if s.thing:
            out.append(([f"What did {s.name} lose?", "What was lost?", "What was lost in the story?"],
                        f"{s.name} lost {s.thing}."))
        return out


def plot_lost(s):
    thing = lean(s.rng, OBJECTS, "lost", s.kind, s.name)
    wrong = lean(s.rng, SPOTS, "wrong", thing)
    spot = lean(s.rng, [x for x in SPOTS if x != wrong], "spot", thing)
    s.thing = f"{s.his} {thing}"
    return [s.say(f"One morning {s.name} could not find {s.his} {thing}.",
                  f"One day {s.name} lost {s.his} {thing}."),
            s.say(f'"I will help you," said {s.friend}.', f'"Let us look together," said {s.friend}.'),
            f"They looked {wrong}, but it was not there.",
            s.say(f"Then they looked {spot}, and there it was.",
                  f"At last they found it {spot}."),
            f"{s.name} was very happy and thanked {s.friend}."]


def plot_found(s):
    thing = lean(s.rng, OBJECTS, "found", s.kind, s.name)
    food = lean(s.rng, FOODS, "food", s.friend_kind)
    return [s.say(f"One day {s.name} found {article(thing)} {lean(s.rng, SPOTS, 'at', thing)}.",
                  f"On the way home {s.name} saw {article(thing)} on the ground."),
            f'"Whose can it be?" {s.he} thought.',
            f"{s.name} asked everyone, and at last {s.he} asked {s.friend}.",
            f'"It is mine," said {s.friend}. "Thank you for bringing it back."',
            f"Then they sat down and shared some {food}."]


def plot_build(s):
    work = lean(s.rng, PROJECTS, "build", s.kind, s.name)
    food = lean(s.rng, FOODS, "food", s.kind)
    return [s.say(f"{s.name} wanted to build {work}.", f"One summer {s.name} began to build {work}."),
            f"But it was too much work for one.",
            s.say(f'"Two can do more than one," said {s.friend}.',
                  f'"May I help you?" asked {s.friend}.'),
            f"They worked all day, and in the evening it was ready.",
            f"They were tired and proud, and they ate {food} together."]


def plot_storm(s):
    return [s.say(f"One night there was a big storm.", f"One evening the wind began to blow."),
            f"{s.friend} was still outside and could not find the way home.",
            f"{s.name} took a lantern and went out into the rain.",
            s.say(f'"Here I am!" called {s.name}, and {s.friend} saw the light.',
                  f"{s.friend} saw the light and ran to {s.him}."),
            f"They went home together and waited by the fire until the storm was over."]


def plot_race(s):
    goal = lean(s.rng, LANDMARKS, "goal", s.kind, s.name)
    return [f'"Let us race to {goal}," said {s.friend}.',
            s.say(f"{s.name} ran as fast as {s.he} could.", f"They ran like the wind."),
            f"But then {s.friend} fell and could not get up.",
            f"{s.name} stopped and helped {s.friend} to stand.",
            f"They walked to {goal} side by side, and both of them won."]


def plot_share(s):
    fruit = lean(s.rng, FRUITS, "fruit", s.kind, s.name)
    have = lean(s.rng, list(range(4, 13)), "have", s.kind, s.name)
    give = lean(s.rng, list(range(2, have - 1)), "give", have)
    return [s.say(f"One day {s.name} had {have} {fruit}.",
                  f"{s.name} went to the market and came home with {have} {fruit}."),
            f"{s.friend} had none and was hungry.",
            f"So {s.name} gave {s.friend} {give} {fruit} and kept {have - give}.",
            s.say(f'"You are a good friend," said {s.friend}.', f'"Thank you," said {s.friend}.'),
            f"And the {fruit} tasted better than ever."]


def plot_learn(s):
    skill = lean(s.rng, SKILLS, "skill", s.kind, s.name)
    return [s.say(f"{s.name} wanted to learn to {skill}.", f"{s.name} could not {skill}."),
            f"{capital(s.he)} tried and tried, but it did not work.",
            s.say(f'"Try again every day," said {s.friend}.', f'"Do not give up," said {s.friend}.'),
            f"So {s.name} practiced each morning, a little at a time.",
            f"After a week {s.he} could {skill}, and {s.friend} clapped for joy."]


def plot_gift(s):
    thing = lean(s.rng, OBJECTS, "gift", s.kind, s.name)
    return [f"It was the birthday of {s.friend}, and {s.name} had no gift.",
            f"{capital(s.he)} thought about it all morning.",
            s.say(f"Then {s.he} made {article(thing)} out of old paper and string.",
                  f"Then {s.he} took {s.his} own {thing} and put it in a box."),
            f"{s.friend} opened the box and smiled.",
            f'"This is the best gift of all," said {s.friend}.']


def plot_sight(s):
    sight = lean(s.rng, SIGHTS, "sight", s.kind, s.name)
    return [f"{s.name} had never seen {sight}.",
            s.say(f'"I know a good place," said {s.friend}.', f'"Come with me," said {s.friend}.'),
            f"They climbed the hill and sat down on a warm stone.",
            f"They waited for a long time without a word.",
            f'"How beautiful!" said {s.name} when {s.he} saw {sight}.']


PLOTS = [plot_lost, plot_found, plot_build, plot_storm, plot_race, plot_share, plot_learn, plot_gift,
         plot_sight]

STORY_REQUESTS = ["Tell me a story.", "Tell me a short story.", "A story, please.",
                  "Can you tell me a story?", "I want to hear a story.", "Please tell me a story.",
                  "Write a short story.", "Another story, please.", "Do you know a story?",
                  "Once upon a time", "One more story.", "Write me a story."]
STORY_REQUESTS_ABOUT = ["Tell me a story about {x}.", "Tell me a short story about {x}.",
                        "A story about {x}, please.", "Can you tell me a story about {x}?",
                        "I want a story about {x}.", "Please tell a story about {x}.",
                        "Write a story about {x}.", "Write a short story about {x}.",
                        "Once more, with {x} this time: tell me a story about {x}.",
                        "Do you know a story about {x}?", "Make up a story about {x}.",
                        "Write me a story about {x}.", "Give me a story about {x}."]


def skill_story(rng, memo):
    roll = rng.random()
    if roll < 0.15:
        story, ask = Story(rng), rng.choice(STORY_REQUESTS)
    else:
        kind = rng.choice(KINDS) if rng.random() < 0.7 else rng.choice(STORY_NOUNS)
        named = rng.random() < 0.25
        names = names_for(kind) if kind in ("boy", "girl", "king", "queen", "prince") \
            else HE_NAMES + SHE_NAMES
        story = Story(rng, kind=kind, name=rng.choice(names) if named else None)
        x = article(kind) + (f" named {story.name}" if named else "")
        ask = rng.choice(STORY_REQUESTS_ABOUT).format(x=x)
    memo["story"] = story
    return ask, story.text(), True


def skill_story_question(rng, memo):
    """A question about the story told last; if there was none, the user tells one."""
    prefix = ""
    if "story" not in memo:
        memo["story"] = Story(rng)
        prefix = rng.choice(["Here is a story: ", "Read this: ", "Listen: ", ""]) \
            + memo["story"].text() + rng.choice([" ", "\n", "\n\n"])
    asks, answer = rng.choice(memo["story"].questions())
    return prefix + rng.choice(asks), answer, not prefix


# ------------------------------------------------------------------------------------- everything else

NOUN_FRAMES = ["What is {x}?", "What's {x}?", "what is {x}", "Tell me about {x}.", "Explain {x}.",
               "Explain {x} to me.", "Can you explain {x}?", "What do you know about {x}?",
               "I want to know about {x}.", "Please describe {x}.", "Could you tell me about {x}?",
               "{x}?", "Say something about {x}.", "Help me understand {x}.", "Define {x}.",
               "Please explain {x}.", "What exactly is {x}?", "Tell me more about {x}.",
               "I have a question about {x}.", "Do you know {x}?", "What can you tell me about {x}?",
               "Tell me what {x} is.", "What do you mean by {x}?", "Give me an explanation of {x}.",
               "Describe {x}.", "Let us talk about {x}.", "How would you explain {x}?",
               "{x}, what is that?", "Do you know what {x} is?", "Teach me about {x}."]
CLAUSE_FRAMES = ["Tell me {x}.", "Can you tell me {x}?", "Could you tell me {x}?", "Please explain {x}.",
                 "I would like to know {x}.", "Do you know {x}?", "Explain {x}.", "I want to know {x}.",
                 "Can you explain {x}?", "Please tell me {x}.", "I do not understand {x}.",
                 "I wonder {x}.", "I am not sure {x}.", "Say {x}.", "Show me {x}.",
                 "I would like to understand {x}.", "{x}?"]
SHORT_ENDS = [" Answer in short.", " In short, please.", " Keep it short.", " Short answer, please.",
              " In one sentence.", " Be brief."]


def fact_questions(fact):
    """Every way in which `fact` is asked for, frames filled in, without the short form."""
    _, nouns, clauses, questions, _, _ = fact
    out = list(questions)
    for x in nouns:
        out += [frame.format(x=x) for frame in NOUN_FRAMES]
        if "dynd" not in x:
            out += [f"What is {x} in dynd?", f"Tell me about {x} in dynd."]
    for x in clauses:
        out += [frame.format(x=x) for frame in CLAUSE_FRAMES]
    return [capital(q) for q in out]


TOPIC_WORDS = {word for fact in FACTS for np in fact[1] for word in np.lower().split()}
NOUNS = [noun for noun in NOUNS if noun not in TOPIC_WORDS]  # what has an answer is not unknown
ASKS = [fact_questions(fact) for fact in FACTS]


def skill_fact(rng, memo):
    i = rng.randrange(len(FACTS))
    _, nouns, clauses, questions, answer, short = FACTS[i]
    # Questions as they stand get a third; the many frames would drown them otherwise.
    ask = rng.choice(questions) if rng.random() < 0.33 else rng.choice(ASKS[i])
    if short and rng.random() < 0.12:
        return ask + rng.choice(SHORT_ENDS), short, True
    return ask, answer, True


def skill_sum(rng, memo):
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    if rng.random() < 0.5:
        answer = f"{a} + {b} = {a + b}."
        ask = rng.choice([f"What is {a} + {b}?", f"What is {a} plus {b}?", f"{a} + {b}", f"{a}+{b}",
                          f"{a} + {b} = ?", f"{a} + {b} =", f"{a}+{b}=", f"{a}+{b}=?", f"{a} plus {b}",
                          f"Add {a} and {b}.", f"How much is {a} + {b}?", f"How much is {a} and {b}?",
                          f"What is the sum of {a} and {b}?", f"Calculate {a} + {b}.", f"{a} + {b}?",
                          f"Can you add {a} and {b}?", f"Please add {b} to {a}.", f"What's {a}+{b}?",
                          f"Add {b} to {a}.", f"What do I get if I add {a} and {b}?",
                          f"What do you get when you add {a} and {b}?", f"Compute {a} plus {b}.",
                          f"How much does {a} + {b} make?", f"Can you compute {a} + {b}?",
                          f"What is {a}+{b}?", f"How much is {a} plus {b}?", f"Compute {a} + {b}."])
    else:
        if a < b and rng.random() < 0.8:
            a, b = b, a
        answer = f"{a} - {b} = {a - b}."
        ask = rng.choice([f"What is {a} - {b}?", f"What is {a} minus {b}?", f"{a} - {b}", f"{a}-{b}",
                          f"{a} - {b} = ?", f"{a} - {b} =", f"{a}-{b}=", f"{a}-{b}=?", f"{a} minus {b}",
                          f"Subtract {b} from {a}.", f"How much is {a} - {b}?", f"Take {b} from {a}.",
                          f"How much is {a} minus {b}?", f"Calculate {a} - {b}.", f"{a} - {b}?",
                          f"Can you subtract {b} from {a}?", f"What's {a}-{b}?", f"What is {a}-{b}?",
                          f"Take {b} away from {a}.", f"What do I get if I take {b} from {a}?",
                          f"Please subtract {b} from {a}.", f"Can you compute {a} - {b}?",
                          f"What is the difference of {a} and {b}?", f"Compute {a} - {b}."])
    return ask, answer, True


def skill_word_sum(rng, memo):
    a, b = rng.randint(2, 20), rng.randint(1, 20)
    count = lambda n: f"{n} {what}" if n != 1 else f"1 {ONE_OF.get(what, what[:-1])}"
    what = rng.choice(FRUITS + ["books", "coins", "stones", "balls"])
    who = rng.choice(HE_NAMES + SHE_NAMES + ["I"])
    i = who == "I"
    have, do, you = ("have", "do", "you have") if i else ("has", "does", f"{who} has")
    ask_who = "I" if i else who
    if rng.random() < 0.5:
        verb = rng.choice(["get", "find", "buy", "take"]) + ("" if i else "s")
        ask = f"{ask_who} {have} {a} {what} and {verb} {b} more. "
        ask += rng.choice([f"How many {what} {do} {ask_who} have?", f"How many {what} are there?",
                           f"How many are there now?", f"How many {what} {have} {ask_who} now?"])
        return ask, f"{a} + {b} = {a + b}, so {you} {count(a + b)}.", False
    a, b = max(a, b), min(a, b)
    verb = rng.choice(["give away", "lose"] if i else ["gives away", "loses"])
    ask = f"{ask_who} {have} {count(a)} and {verb} {rng.choice([str(b), NUMBER_WORDS[b]])}. "
    ask += rng.choice([f"How many {what} {do} {ask_who} have left?", "How many are left?",
                       f"How many {what} are left?"])
    return ask, f"{a} - {b} = {a - b}, so {you} {count(a - b)} left.", False


def skill_hard_sum(rng, memo):
    a, b = rng.randint(21, 10 ** rng.randint(2, 4)), rng.randint(1, 10 ** rng.randint(1, 4))
    if rng.random() < 0.3:
        a, b = b, a
    op = rng.choice(["+", "-", "*", "/", "x"])
    if op in "*/x":
        a, b = rng.randint(2, 99), rng.randint(1, 99) if rng.random() < 0.5 else rng.randint(2, 12)
        a = a if rng.random() < 0.5 else rng.randint(1, 12)
    name = {"+": "plus", "-": "minus", "*": "times", "/": "divided by", "x": "times"}[op]
    ask = rng.choice([f"What is {a} {op} {b}?", f"{a} {op} {b}", f"{a}{op}{b}", f"What is {a} {name} {b}?",
                      f"How much is {a} {name} {b}?", f"Calculate {a} {op} {b}.",
                      f"What is the square root of {a}?", f"What is {b} percent of {a}?"])
    return ask, FALLBACK_SUM, True


def skill_compare(rng, memo):
    a, b = rng.sample(range(21), 2)
    roll = rng.random()
    if roll < 0.35:
        return rng.choice([f"Which is bigger, {a} or {b}?", f"Which number is bigger, {a} or {b}?",
                           f"Is {a} bigger than {b}?", f"What is bigger, {a} or {b}?"]), \
            f"{max(a, b)} is bigger than {min(a, b)}.", True
    if roll < 0.6:
        return rng.choice([f"Which is smaller, {a} or {b}?", f"Which number is smaller, {a} or {b}?",
                           f"What is smaller, {a} or {b}?"]), \
            f"{min(a, b)} is smaller than {max(a, b)}.", True
    if roll < 0.8:
        return rng.choice([f"What comes after {a}?", f"Which number comes after {a}?",
                           f"What is the next number after {a}?"]), f"{a + 1} comes after {a}.", True
    return rng.choice([f"Write {a} as a word.", f"How do you write {a} in words?",
                       f"Spell the number {a}."]), f"{a} is written as {NUMBER_WORDS[a]}.", True


def skill_world(rng, memo):
    """A small everyday fact from a table."""
    pick = lambda table: rng.choice(sorted(table.items()))
    roll = rng.randrange(9)
    if roll == 0:
        x, y = pick(COLOR_OF)
        return rng.choice([f"What color is {x}?", f"Which color has {x}?", f"What is the color of {x}?"]), \
            f"{capital(x)} is {y}.", True
    if roll == 1:
        x, y = pick(SOUNDS)
        return rng.choice([f"What does a {x} say?", f"What sound does {article(x)} make?",
                           f"Which sound does {article(x)} make?"]), \
            f"{capital(article(x))} says {y}.", True
    if roll == 2:
        x, y = pick(LEGS)
        return rng.choice([f"How many legs does {article(x)} have?", f"How many legs has {article(x)}?",
                           f"How many legs are on {article(x)}?"]), \
            f"{capital(article(x))} has {y}.", True
    if roll == 3:
        x, y = pick(YOUNG)
        return rng.choice([f"What is a young {x} called?", f"What is a baby {x}?",
                           f"What do you call a young {x}?"]), f"A young {x} is called a {y}.", True
    if roll == 4:
        x, y = pick(OPPOSITES)
        if rng.random() < 0.5:
            x, y = y, x
        if (x, y) in (("young", "old"), ("light", "dark"), ("soft", "hard")) or OPPOSITES.get(x, y) != y:
            x, y = "hot", "cold"
        return rng.choice([f"What is the opposite of {x}?", f"Opposite of {x}?",
                           f"Tell me the opposite of {x}."]), f"The opposite of {x} is {y}.", True
    if roll in (5, 6):
        x, y = pick(CAPITALS)
        return rng.choice([f"What is the capital of {x}?", f"Which city is the capital of {x}?",
                           f"Tell me the capital of {x}.", f"Capital of {x}?"]), \
            f"The capital of {x} is {y}.", False
    if roll == 7:
        i, table, what = rng.randrange(20), rng.choice([DAYS, MONTHS]), rng.choice(["after", "before"])
        x, y = table[i % len(table)], table[(i + (1 if what == "after" else -1)) % len(table)]
        ask = [f"What comes {what} {x}?", f"Which {'day' if table is DAYS else 'month'} comes {what} {x}?"]
        return rng.choice(ask), f"{y} comes {what} {x}.", False
    return rng.choice([("How many days are in a week?", "A week has seven days."),
                       ("How many months are in a year?", "A year has twelve months."),
                       ("How many hours are in a day?", "A day has 24 hours."),
                       ("How many minutes are in an hour?", "An hour has 60 minutes."),
                       ("How many days are in a year?", "A year has 365 days."),
                       ("What do cows eat?", "Cows eat grass."), ("What do bees make?", "Bees make honey."),
                       ("Where do fish live?", "Fish live in water."),
                       ("What do birds do?", "Birds fly and sing."),
                       ("When is it dark?", "It is dark at night."),
                       ("What is water?", "Water is a clear liquid that everyone drinks."),
                       ("Is ice cold?", "Yes, ice is cold."), ("Is fire hot?", "Yes, fire is hot."),
                       ("What melts in the sun?", "Snow melts in the sun."),
                       ("What do you drink?", "I drink nothing. I am only a small model.")]) + (True,)


def skill_list(rng, memo):
    roll = rng.randrange(9)
    if roll == 0:
        return rng.choice(["Name the days of the week.", "List the days of the week.",
                           "What are the days of the week?", "Which days has a week?"]), \
            "The days of the week are " + ", ".join(DAYS[:-1]) + " and Sunday.", True
    if roll == 1:
        return rng.choice(["Name the months of the year.", "List the months.", "What are the months?",
                           "Which months has a year?"]), \
            "The months are " + ", ".join(MONTHS[:-1]) + " and December.", True
    if roll == 2:
        return rng.choice(["Name the planets.", "List the planets.", "What are the planets?",
                           "Which planets are there?"]), \
            "The planets are " + ", ".join(PLANETS[:-1]) + " and Neptune.", True
    if roll == 3:
        return rng.choice(["Name the colors of the rainbow.", "What are the colors of the rainbow?",
                           "Which colors has a rainbow?", "List the colors of the rainbow."]), \
            "The colors of the rainbow are " + ", ".join(RAINBOW[:-1]) + " and violet.", True
    if roll == 4:
        return rng.choice(["Name the seasons.", "What are the seasons?", "List the four seasons.",
                           "Which seasons are there?"]), \
            "The seasons are spring, summer, autumn and winter.", True
    if roll == 5:
        return rng.choice(["Say the alphabet.", "What is the alphabet?", "Recite the alphabet.",
                           "Tell me the alphabet."]), \
            ", ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ") + ".", True
    a = rng.randint(0, 20)
    b = min(a + rng.randint(3, 20), 30)
    if roll == 6:
        a, b = 1, rng.choice([5, 10, 12, 15, 20, 25, 30])
    if roll == 7:
        return rng.choice([f"Count from {b} down to {a}.", f"Count down from {b} to {a}.",
                           f"Count backwards from {b} to {a}."]), \
            ", ".join(str(i) for i in range(b, a - 1, -1)) + ".", True
    ask = [f"Count from {a} to {b}.", f"Count from {a} up to {b}.", f"Can you count from {a} to {b}?"]
    if a == 1:
        word = NUMBER_WORDS[b] if b <= 20 else str(b)
        ask += [f"Count to {b}.", f"Can you count to {b}?", f"Count to {word}.", f"Count to {word}."]
    return rng.choice(ask), ", ".join(str(i) for i in range(a, b + 1)) + ".", True


def skill_small_talk(rng, memo):
    # The first rows (greetings, who are you, what can you do) are what people type first.
    asks, answer = rng.choice(SMALL_TALK) if rng.random() < 0.6 else \
        SMALL_TALK[rng.choice([0, 0, 4, 5, 6, 8, 12])]
    ask = rng.choice(asks)
    if rng.random() < 0.15 and answer is not SMALL_TALK[0][1]:
        ask = rng.choice(["Hello! ", "Hi! ", "Hello, ", "Hi, ", "Hey! ", "Good morning! "]) + ask
    return ask, answer, True


def skill_unknown(rng, memo):
    n = pseudo_word(rng) if rng.random() < 0.15 else rng.choice(NOUNS)
    m, adj, verb = rng.choice(NOUNS), rng.choice(ADJECTIVES), rng.choice(VERBS)
    name = f"{rng.choice(HE_NAMES + SHE_NAMES)} {rng.choice(SURNAMES)}"
    place = rng.choice(UNKNOWN_PLACES + list(CAPITALS) + list(CAPITALS.values()))
    subject, lang = rng.choice(SUBJECTS), rng.choice(LANGUAGES)
    roll = rng.random()
    if roll < 0.2:
        ask = rng.choice([
            f"Write a poem about the {n}.", f"Write a program that can {verb} {n}s.",
            f"Write an essay about the {n}.", f"Draw a picture of {article(n)}.",
            f"Write a letter to {name}.", f"Translate {n} into {lang}.", f"How do you say {n} in {lang}?",
            f"Write code in {rng.choice(['Java', 'Rust', 'Perl', 'Basic', 'Pascal'])}.",
            f"Write a song about {article(n)}.", f"Sing a song about {article(n)}.",
            f"Solve the {adj} {n} equation.", f"Write a function that {verb}s {article(n)}.",
            f"Give me a recipe for {n} soup.", f"Make a plan for my {n}.", f"Fix this code for me.",
            f"Summarize the {n} for me.", f"Plan a trip to {place}.", f"Write a script that {verb}s files."])
        return ask, FALLBACK_WORK, True
    if roll < 0.26:
        low, high = rng.choice([(0xC0, 0x17F), (0x400, 0x44F), (0x4E00, 0x4FFF), (0x3041, 0x3090),
                                (0x1F600, 0x1F640), (0x391, 0x3C9), (0xAC00, 0xAD00)])
        words = ["".join(chr(rng.randint(low, high)) for _ in range(rng.randint(2, 6)))
                 for _ in range(rng.randint(1, 5))]
        return " ".join(words) + rng.choice(["", "?", "!"]), FALLBACK_SCRIPT, False
    if roll < 0.30:
        known = list(CAPITALS)
        ask = rng.choice([f"What is the capital of {rng.choice(UNKNOWN_PLACES)}?",
                          f"How far is it from {rng.choice(known)} to {place}?",
                          f"How many people live in {place}?"])
        return ask, FALLBACK, True
    if roll < 0.36:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 12))) \
            + rng.choice(["", " ", "?", " " + pseudo_word(rng)]), FALLBACK, True
    ask = rng.choice([
        f"What is {article(n)}?", f"What is the {n}?", f"How do I {verb} {article(n)}?",
        f"Why is the {n} so {adj}?", f"Who invented the {n}?", f"What is the best {n}?",
        f"How much does {article(n)} cost?", f"Where can I buy {article(n)}?", f"What is {n}?",
        f"Can you recommend a good {n}?", f"Who is {name}?", f"When did {name} {verb} the {n}?",
        f"What is the weather in {place}?", "What time is it?", "What day is it today?",
        f"Who won the {n} game?", f"Tell me the news about the {n}.", f"What do you think about {n}s?",
        f"Is {article(n)} bigger than {article(m)}?", f"Explain the theory of {n}s.",
        "What is the meaning of life?", f"How does {article(n)} work?", f"Why do {n}s need {m}s?",
        f"Tell me about {n}s.", f"Tell me about the {n}.", f"What is the history of the {n}?",
        f"Who is the president of {place}?", f"Where is {place}?", f"Tell me about {place}.",
        f"Do you like {n}s?", f"I need {article(n)}.", f"My {n} is broken.", f"Explain {subject} to me.",
        f"What do you know about {subject}?", f"Should I {verb} my {n}?", f"What is {adj} {n}?",
        f"Which {n} is better, the {adj} one or the {rng.choice(ADJECTIVES)} one?",
        f"How old is {name}?", f"Do {n}s {verb} {m}s?", f"When was the {n} invented?",
        f"What happened to {name}?", f"Is the {n} {adj}?", f"Why?", f"How?", f"What?", f"And then?",
        f"Where is my {n}?", f"Give me advice about {subject}.", f"What is the difference between "
        f"{article(n)} and {article(m)}?", f"The {n} is {adj}.", f"I have {article(n)}.",
        f"How do {n}s {verb}?", f"Can {article(n)} {verb}?", f"What would {name} say about {subject}?"])
    return ask, FALLBACK, True


def skill_name(rng, memo):
    if "name" in memo:
        return rng.choice(["What is my name?", "What's my name?", "Do you know my name?", "Who am I?",
                           "Do you remember my name?", "Can you tell me my name?"]), \
            f"Your name is {memo['name']}.", False
    if rng.random() < 0.15:
        return rng.choice(["What is my name?", "Do you know my name?", "Who am I?"]), \
            "You have not told me your name.", True
    name = rng.choice(HE_NAMES + SHE_NAMES) if rng.random() < 0.7 else capital(pseudo_word(rng))
    memo["name"] = name
    return rng.choice([f"My name is {name}.", f"I am {name}.", f"Hello, my name is {name}.",
                       f"Call me {name}.", f"Hi, I'm {name}.", f"Hello, I am {name}!"]), \
        f"Nice to meet you, {name}!", False


def skill_memory(rng, memo):
    """Something the user said about a favorite thing, remembered."""
    what, table = rng.choice([("color", COLORS), ("pet", PETS), ("food", LIKES), ("word", NOUNS),
                              ("number", [str(i) for i in range(10, 100)])])
    key = "favorite " + what
    if key in memo:
        return rng.choice([f"What is my favorite {what}?", f"Do you remember my favorite {what}?",
                           f"Which {what} do I like best?", f"Tell me my favorite {what}."]), \
            f"Your favorite {what} is {memo[key]}.", True
    memo[key] = rng.choice(table)
    return rng.choice([f"My favorite {what} is {memo[key]}.", f"I like the {what} {memo[key]} best.",
                       f"Please remember that my favorite {what} is {memo[key]}."]), \
        f"I will remember that your favorite {what} is {memo[key]}.", True


def skill_repeat(rng, memo):
    pool = [rng.choice(NOUNS), rng.choice(ADJECTIVES), pseudo_word(rng), rng.choice(COLORS),
            str(rng.randint(0, 999)), rng.choice(HE_NAMES + SHE_NAMES), rng.choice(NOUNS),
            rng.choice(VERBS), rng.choice(NOUNS)]
    words = " ".join(rng.choice(pool) for _ in range(rng.randint(1, 12)))
    return rng.choice(["Repeat after me: {x}", "Say this: {x}", "Repeat: {x}", "Please repeat: {x}",
                       "Say: {x}", "Echo: {x}"]).format(x=words), words, False


TURNS = [(skill_fact, 40), (skill_sum, 16), (skill_word_sum, 3), (skill_hard_sum, 4),
          (skill_compare, 4), (skill_world, 8), (skill_list, 3), (skill_small_talk, 9),
          (skill_unknown, 11), (skill_story, 6), (skill_story_question, 3), (skill_name, 3),
          (skill_memory, 3), (skill_repeat, 3)]
TURN_SKILLS = [skill for skill, _ in TURNS]
TURN_WEIGHTS = [weight for _, weight in TURNS]

SYSTEM = ["You are a helpful assistant.", "You are dynd-tiny.", "Be helpful and brief.",
          "You are a helpful, harmless and honest assistant.", "Answer the questions of the user.",
          "You are a friendly chat bot.", "You are an assistant that answers in short sentences."]


def typo(rng, text):
    i = rng.randrange(len(text))
    kind = rng.randrange(3)
    if kind == 0:
        return text[:i] + text[i + 1:]
    if kind == 1:
        return text[:i] + text[i] + text[i:]
    return text[:i] + text[i + 1:i + 2] + text[i:i + 1] + text[i + 2:]


def roughen(rng, text):
    """What people do to a question: no capitals, no question mark, a please, a typing error."""
    if rng.random() < 0.10 and len(text) > 12:
        text = rng.choice(["Please, ", "Hi, ", "Hello, ", "So, ", "Ok, ", "And ", "Now, ", "Well, ",
                           "Hey, "]) + text[0].lower() + text[1:]
    if rng.random() < 0.05:
        text = text.rstrip(".?!") + rng.choice([" please", " please?", ", please.", " now?", " then?"])
    if rng.random() < 0.25:
        text = text.lower()
    if rng.random() < 0.25:
        text = text.rstrip(".?!")
    if rng.random() < 0.02:
        text = text.upper()
    if rng.random() < 0.07 and len(text) > 12 and not re.search(r"\d", text):
        text = typo(rng, text)
    if rng.random() < 0.02:
        text = text + rng.choice(["?", "!", " ?", "...", "??"])
    return text or "hi"


def chat(rng, turns=None):
    """A conversation of `turns` questions; most have one, some two to four, few very many."""
    if turns is None:
        roll = rng.random()
        turns = 1 if roll < 0.5 else rng.randint(2, 4) if roll < 0.992 else rng.randint(10, 110)
    messages, memo = [], {}
    if rng.random() < 0.15:
        messages.append(("system", rng.choice(SYSTEM)))
    previous = None
    for _ in range(turns):
        skill = rng.choices(TURN_SKILLS, TURN_WEIGHTS)[0]
        if previous in (skill_name, skill_memory, skill_story) and rng.random() < 0.4:
            skill = skill_story_question if previous is skill_story else previous
        ask, answer, rough = skill(rng, memo)
        messages.append(("user", (roughen(rng, ask) if rough else ask).strip() or "hi"))
        messages.append(("assistant", answer))
        previous = skill
    return ("chat", messages)


def raw_text(rng):
    roll = rng.random()
    if roll < 0.22:
        return ("text", rng.choice(RECITALS))
    if roll < 0.36:
        fact = rng.choice(FACTS)
        return ("text", fact[4] if rng.random() < 0.7 else capital(fact[1][0]) + ": " + fact[4])
    return ("text", Story(rng).text())


def document(rng):
    return raw_text(rng) if rng.random() < 0.22 else chat(rng)


def documents(seed, count):
    """Yields `count` documents; the same seed gives the same documents on every machine."""
    rng = random.Random(f"dynd-tiny corpus {seed}")
    for _ in range(count):
        yield document(rng)


def pieces(doc):
    """Yields (text, learn): the document as the chat template writes it, and what to learn of it.

    Special tokens stand in the text by name. Joined, the pieces of a chat are what the template of
    the model gives for the same messages, closed by the end-of-text token.
    """
    kind, body = doc
    if kind == "text":
        yield body + "<|endoftext|>", True
        return
    for role, content in body:
        if role == "assistant":
            yield "<|im_start|>assistant\n", False
            yield content + "<|im_end|>", True
            yield "\n", False
        else:
            yield f"<|im_start|>{role}\n{content}<|im_end|>\n", False
    yield "<|endoftext|>", False


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--docs", type=int, default=20)
    parser.add_argument("--jsonl", action="store_true")
    args = parser.parse_args()
    for doc in documents(args.seed, args.docs):
        if args.jsonl:
            print(json.dumps({"kind": doc[0], "body": doc[1]}))
        else:
            sys.stdout.write("".join(text for text, _ in pieces(doc)) + "\n")


if __name__ == "__main__":
    main()
