"""The tagged words of a sentence and its clauses: what each word means beside its neighbours.

A word has the roles that the lexicon gives it. Some of them depend on what stands near: 'no change'
denies nothing, 'not excluded' is a doubt, a colon parts a label from what is said of it. The rules
for these are in `lexicon.toml`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pnloc.reports import lexicon as x

WORD = re.compile(
    r"[a-z]+|\d+(?:\.\d+)?|\([+-]\)|(?<=\s)-+(?=\s|$)|(?:(?<=\()|\s)\?+|[,;:/?=<>]|_+"
)
_BEGINS = x.roles("begins|break")


class Item(NamedTuple):
    """A tagged word or phrase: its tag, and its span in the text."""

    roles: frozenset[str]
    names: frozenset[str]
    place: frozenset[str]
    start: int
    end: int

    def has(self, roles: frozenset[str]) -> bool:
        """Whether the item has at least one of these roles."""
        return not roles.isdisjoint(self.roles)

    def given(self, tag: x.Tag, added: bool) -> "Item":
        """The item with another tag, or with more roles."""
        return self._replace(roles=self.roles | tag.roles) if added else Item(*tag, *self[3:])


def written(items: Sequence[Item]) -> str:
    """Items as rules see them."""
    return "".join([x.letters(item.roles) for item in items])


def items(sentence: str) -> list[Item]:
    """The tagged words and phrases of a lower-case sentence, with the roles of their context."""
    tagged = list(_tagged(sentence))
    line, present = written(tagged), frozenset().union(*(item.roles for item in tagged))
    for needed, pattern, tags in x.CONTEXT:
        found = [] if needed.isdisjoint(present) else list(pattern.finditer(line))
        for match in found:
            for group, (tag, added) in enumerate(tags, 1):
                first, last = (line.count(" ", 0, end) for end in match.span(group))
                tagged[first:last] = [item.given(tag, added) for item in tagged[first:last]]
        line = written(tagged) if found else line
    return [item for item in tagged if item.roles]


def _tagged(sentence: str) -> Iterator[Item]:
    matches = list(WORD.finditer(sentence))
    words = [match.group() for match in matches]
    after = 0
    for at, word in enumerate(words):
        if at < after:
            continue
        tag, phrases = x.entry(word)
        after = at + 1
        for rest, phrase in phrases:
            if words[at + 1 : at + 1 + len(rest)] == rest:
                tag, after = phrase, at + 1 + len(rest)
                break
        if "letter" in tag.roles and not x.SIDED.fullmatch("".join(words[after : after + 1])):
            tag = x.merged([])  # 'R base', but not 'L4' or '2 L'
        yield Item(*tag, matches[at].start(), matches[after - 1].end())


def clauses(sentence: list[Item]) -> Iterator[list[Item]]:
    """A sentence cut where a new statement begins."""
    cuts = [at for at, item in enumerate(sentence) if at and item.has(_BEGINS)]
    for start, end in zip([0, *cuts], [*cuts, len(sentence)], strict=True):
        yield sentence[start:end]
