"""What is said of each finding in a sentence: its assertion and its attributes, by rules.

Cues reach as in ConText (Harkema et al. 2009): forward from a negation, past a list ('no effusion
or focal consolidation'), up to the end of the clause, or backward ('is not seen', 'unlikely',
': none'). Attributes go by the noun phrase: adjectives before a finding up to the next noun,
preposition or verb; what follows it by preposition or copula ('opacity in the right base') up to
the next noun, whose own adjectives that noun keeps. Joined nouns share their place; those joined by
'or' and '/' share every attribute ('bibasilar atelectasis/infiltrate'). The rules themselves are
in `lexicon.toml`; they see at most `REACH` words, so that time is linear in the length of a
sentence.
"""

import re
from functools import lru_cache
from itertools import pairwise

from pnloc.reports.cues import Item, clauses, items, written
from pnloc.reports.lexicon import ASSERTIONS, DESCRIPTIONS, names_finding, roles

REACH = 100  # tagged words on either side of a finding in which its cues and attributes may stand
NEAR = 5  # and after a link, which leaves a doubtful finding only its place
AFTER = 12  # tagged words after a finding in which a cue may stand
SIDES = frozenset(["side:right", "side:left", "side:bilateral"])
_FINDING, _DENIES, _LINK, _MODIFIER, _GOES_ON = map(
    roles, ("finding", "negation|not", "link", "modifier", "which|reply")
)
_LETTERS = re.compile("[a-z]+")
Names = dict[Item, frozenset[str]]  # attributes by the item that names them
# A finding, its assertion, its attributes, and which other items give it which of them.
Scoped = tuple[Item, str, frozenset[str], list[tuple[Item, frozenset[str]]]]


@lru_cache(1 << 14)  # reports repeat themselves: 'no focal consolidation, effusion or pneumothorax'
def read(sentence: str) -> list[Scoped]:
    """The findings of a lower-case sentence, in order."""
    scoped: list[Scoped] = []
    if not any(map(names_finding, _LETTERS.findall(sentence))):
        return scoped
    for clause, following in pairwise([*clauses(items(sentence)), []]):
        more = following[: AFTER // 2] if following and following[0].has(_GOES_ON) else []
        for at in [k for k, item in enumerate(clause) if item.has(_FINDING)]:
            before, own, after = clause[max(0, at - REACH) : at], clause[at], clause[at + 1 :]
            this = own._replace(roles=own.roles | {"this"})
            names = _attributes(before, this, after[: REACH - 1])
            if any(given & item.place for item, given in names.items()):
                this = this._replace(roles=this.roles | {"located"})
            assertion = _assertion([*before, this, *after[: AFTER - 1], *more])
            if assertion == "hedged" and any(item.has(_LINK) for item in before[-NEAR:]):
                names = {item: names[item] & item.place for item in names}
            givers = [(i, names[i]) for i in sorted(names, key=lambda i: i.start) if names[i]]
            scoped.append((own, assertion, own.names.union(*names.values()), givers))
    return scoped


def _assertion(around: list[Item]) -> str:
    """What the words around a finding, which has the role 'this', assert of it."""
    line, present = written(around), frozenset().union(*(item.roles for item in around))
    rules = (rule for rule in ASSERTIONS if not rule[0].isdisjoint(present))
    return next((given for _, pattern, given in rules if pattern.search(line)), "affirmed")


def _attributes(before: list[Item], this: Item, after: list[Item]) -> Names:
    """Which words give a finding which attributes; what stands before a denial gives none."""
    denials = [at for at, item in enumerate(before, 1) if item.has(_DENIES)]
    around = [*before[max(denials, default=0) :], this, *after]
    line, names, done = written(around), {}, set()
    for step, pattern, gives in DESCRIPTIONS:
        match = None if step in done else pattern.search(line)
        if match:
            done.add(step)
            first, last = (line.count(" ", 0, end) for end in match.span(1))
            given = [item for item in around[first:last] if item.has(_MODIFIER)]
            known = this.names.union(*names.values()) if given else frozenset()
            names = {item: _given(item, gives, known) for item in given} | names
    return names


def _given(item: Item, gives: str, known: frozenset[str]) -> frozenset[str]:
    """The attributes that a rule of some kind takes from an item, beside the known ones."""
    groups = {name.split(":")[0] for name in known}
    placed = not groups.isdisjoint({"side", "zone"})
    if gives == "all" or (gives == "shared" and not placed):
        return item.names
    if gives == "shared":
        return item.names - item.place
    if not placed:
        return item.place
    return item.place & SIDES if gives == "subject" and "side" not in groups else frozenset()
