"""Which cues and attributes belong to which finding of a sentence: rules over the roles of words.

Cues reach as in ConText: forward from a negation, past a list ('no effusion or focal
consolidation'), up to a termination ('but', 'which', a semicolon, 'there is' after another
finding). Attributes go by the noun phrase: adjectives before a finding up to the next noun,
preposition or verb; what follows it by preposition or copula ('opacity in the right base') up to
the next noun, whose own adjectives that noun keeps. Joined nouns share their place; those joined by
'or' and '/' share every attribute ('bibasilar atelectasis/infiltrate'). Every walk is bounded by
`REACH`, so that time is linear in the length of a sentence.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from pnloc.reports import lexicon as x

WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?|[,;:/]|_+")
REACH = 100  # words on either side of a finding in which its cues and attributes may stand
NEAR = 8  # words before a finding in which 'prior' makes it past
RIVALS = x.FINDING | x.LUNG | x.OTHER  # nouns that compete for cues and adjectives
_ENDS_BEFORE = RIVALS | x.LINK | x.VERB | x.EXISTS | x.WITH | x.NEGATION | x.LANDMARK | x.PLACE
_ENDS_AFTER = x.NEGATION | x.DENIED | x.BREAK | x.EXISTS
_EDGES = (x.JOIN, x.COMMA, x.WITH, x.PLACE, x.LINK)  # what a noun phrase is attached by
Names = dict[int, frozenset[str]]  # attributes by the index of the item that names them


class Item(NamedTuple):
    """A tagged word or phrase: its tag, its span in the text, its word number in the sentence."""

    roles: int
    names: frozenset[str]
    place: frozenset[str]
    start: int
    end: int
    word: int

    def has(self, roles: int) -> bool:
        """Whether the item has at least one of these roles."""
        return self.roles & roles != 0


# A finding, its assertion, its attributes, and which other items give it which of them.
Scoped = tuple[Item, str, frozenset[str], list[tuple[Item, frozenset[str]]]]


@lru_cache(1 << 14)  # reports repeat themselves: 'no focal consolidation, effusion or pneumothorax'
def read(sentence: str) -> list[Scoped]:
    """The findings of a lower-case sentence, in order."""
    scoped = []
    for clause in _clauses(items(sentence)):
        for at in [k for k, item in enumerate(clause) if item.has(x.FINDING)]:
            denial = _denial(clause, at)
            assertion = _assertion(clause, at, denial)
            names = _attributes(clause, at, denial + 1)
            if assertion == "hedged" and _cue(clause, at, x.LINK, NEAR) >= 0:
                names = {k: clause[k].place if k != at else n for k, n in names.items()}
            givers = [(clause[k], names[k]) for k in sorted(names) if names[k] and k != at]
            attributes = frozenset().union(*names.values())
            scoped.append((clause[at], assertion, attributes, givers))
    return scoped


def items(sentence: str) -> list[Item]:
    """The tagged words and phrases of a lower-case sentence."""
    matches = list(WORD.finditer(sentence))
    words = [match.group() for match in matches]
    tagged, at = [], 0
    while at < len(words):
        tag, length = x.tag(words[at]), 1
        for rest, phrase in x.PHRASES.get(words[at], ()):
            if words[at + 1 : at + 1 + len(rest)] == rest:
                tag, length = phrase, 1 + len(rest)
                break
        if tag.roles:
            tagged.append(Item(*tag, matches[at].start(), matches[at + length - 1].end(), at))
        at += length
    nodule = not {"nodule", "nodules"}.isdisjoint(words)
    return [_resolved(tagged, at, nodule) for at in range(len(tagged))]


def _resolved(tagged: list[Item], at: int, nodule: bool) -> Item:
    """An item whose role depends on its neighbours.

    A density is of the lung or of something else; 'ground glass' stands alone or describes a
    finding.
    """
    item = tagged[at]
    if item.has(x.DENSITY):
        low = at
        while low > max(0, at - 5) and tagged[low - 1].has(x.MODIFIER | x.FOREIGN):
            low -= 1
        own = tagged[low:at]
        foreign = any(i.has(x.FOREIGN) or (nodule and "kind:round" in i.names) for i in own)
        return item._replace(roles=x.OTHER if foreign else x.FINDING)
    phrase = item.end - item.start > len("hazy")
    if phrase and item.has(x.MODIFIER) and item.names == {"kind:ground glass"}:
        described = next((i for i in tagged[at + 1 : at + 4] if not i.has(x.MODIFIER)), None)
        if described is None or not described.has(x.FINDING | x.DENSITY):
            return item._replace(roles=x.FINDING)
    return item


def _clauses(sentence: list[Item]) -> Iterator[list[Item]]:
    """A sentence cut where a new statement begins.

    That is at terminations, and where a comma or 'and' precedes a new negation.
    """
    start, noun = 0, False
    for at, item in enumerate(sentence):
        joined = at > start and sentence[at - 1].has(x.JOIN | x.COMMA)
        if item.has(x.BREAK) or (item.has(x.NEGATION) and joined) or (noun and item.has(x.EXISTS)):
            yield sentence[start:at]
            start, noun = at, False
        noun = noun or item.has(RIVALS)
    yield sentence[start:]


def _cue(clause: list[Item], at: int, role: int, reach: int = REACH) -> int:
    """Index of the last item before `at` that has a role, at most `reach` words away; else -1."""
    for k in range(at - 1, -1, -1):
        if clause[at].word - clause[k].word > reach:
            break
        if clause[k].has(role):
            return k
    return -1


def _denial(clause: list[Item], at: int) -> int:
    """Index of the negation that reaches the finding, or -1.

    'No effusion, right lower lobe opacity' affirms the opacity: what follows a comma or 'with' and
    has a place of its own begins anew, unless there is an 'or' ('no effusion, pneumothorax, or left
    consolidation').
    """
    cue = _cue(clause, at, x.NEGATION)
    if cue >= 0:
        placed = False
        for item in reversed(clause[cue + 1 : at]):
            placed = placed or bool(item.place)
            if item.has(x.OR):
                return cue
            if placed and item.has(x.COMMA | x.WITH):
                return -1
        return cue
    cue = _cue(clause, at, x.NOT, NEAR)
    ends = RIVALS | x.COMMA | x.JOIN | x.LINK | x.PLACE
    return -1 if any(i.has(ends) for i in clause[cue + 1 : at]) else cue


def _assertion(clause: list[Item], at: int, denial: int) -> str:
    """Assertion of a finding; `denial` is the negation that reaches it, or -1."""
    own, after = clause[at], clause[at + 1 : at + 12]
    if _cue(clause, at, x.HYPOTHETICAL) >= 0:
        return "hypothetical"
    if denial >= 0:
        return "negated"
    for item, following in pairwise([*after, None]):
        if item.has(x.DENIED) and not (following and following.has(x.PLACE)):
            return "negated"  # but 'not seen on the prior study' is new
        if item.has(x.RESOLVED) and item.word - own.word <= 3:
            return "past"
        if item.has(RIVALS | x.LINK | x.COMMA):
            break
    cue = _cue(clause, at, x.PAST, NEAR)
    persists = any(i.has(x.PERSISTS) for i in (*clause[cue:at], *after))
    cut_off = any(i.has(x.COMMA | x.LUNG | x.OTHER) for i in clause[cue + 1 : at])
    if cue >= 0 and not persists and not cut_off:
        return "past"
    hedged = any(i.has(x.HEDGED) for i in after[:8])
    return "hedged" if hedged or _cue(clause, at, x.HEDGE) >= 0 else "affirmed"


def _attributes(clause: list[Item], at: int, low: int) -> Names:
    """Which items of a clause, from `low` on, give the finding at `at` which attributes."""
    low = max(low, at - REACH)
    own, shared = _before(clause, at, low)
    names = {at: clause[at].names} | own
    names |= _after(clause, at, _has_place(clause, names | shared))
    placed = _has_place(clause, names)
    names |= {k: n - clause[k].place if placed else n for k, n in shared.items()}
    return names if _has_place(clause, names) else names | _subject(clause, at, low)


def _has_place(clause: list[Item], names: Names) -> bool:
    return any(clause[k].place for k in names)


def _before(clause: list[Item], at: int, low: int) -> tuple[Names, Names]:
    """Adjectives before a finding: its own, and those that it shares with a noun joined to it."""
    own: Names = {}
    shared: Names = {}
    names, joint, only_place, k = own, at, False, at - 1
    while k >= low:
        item, previous = clause[k], clause[k - 1] if k > low else None
        if item.has(x.MODIFIER):
            names[k] = item.place if only_place else item.names
        elif item.has(x.JOIN | x.COMMA):
            if previous and item.has(x.JOIN) and previous.has(x.LUNG | x.FINDING):
                names, only_place = shared, only_place or not item.has(x.OR)
                k -= 1
            elif previous and previous.has(x.MODIFIER):
                joint = k
            else:
                break
        elif item.has(_ENDS_BEFORE):
            break
        k -= 1
    if k >= low and clause[k].has(x.PLACE) and any(i.has(RIVALS) for i in clause[low:k]):
        # 'Scar at the left base and right opacity': the place of the scar, up to the last joint.
        return {j: n for j, n in own.items() if j > joint} if joint < at else {}, {}
    return own, shared


def _after(clause: list[Item], at: int, placed: bool) -> Names:
    """What follows a finding and describes it, up to the next noun."""
    names: Names = {}
    pending: Names = {}
    edge, in_place, only_place, shared = 0, False, False, False
    for k in range(at + 1, min(at + REACH, len(clause))):
        item = clause[k]
        if item.has(x.MODIFIER):
            pending[k] = item.place if only_place else item.names
            continue
        if item.has(RIVALS):
            pending = {}
            attached = edge & (x.JOIN | x.COMMA | x.LINK | x.WITH)
            interpreted = edge == x.LINK and item.has(x.OTHER)
            if not attached or interpreted or placed or _has_place(clause, names):
                break
            edge, in_place, only_place, shared = 0, False, True, True
            continue
        if item.has(x.LANDMARK):  # what lies over the left fifth rib lies on the left
            over = pending if edge == x.PLACE else {}
            pending = {j: frozenset(a for a in n if a[:4] == "side") for j, n in over.items()}
        ends = item.has(_ENDS_AFTER)
        new = next((role for role in _EDGES if item.has(role)), 0)
        # A redacted word is most often the verb: 'opacity in the left base XXXX atelectasis'.
        redacted = in_place and item.has(x.REDACTED)
        if not (ends or new or redacted or item.has(x.LANDMARK | x.VERB)):
            continue
        if in_place or not shared:
            names |= pending
        pending = {}
        if ends or (new == x.WITH and (placed or _has_place(clause, names))):
            break
        edge = new or edge
        in_place = (in_place or new == x.PLACE) and new not in (x.LINK, x.WITH)
        only_place = only_place or new in (x.LINK, x.WITH)
        shared = shared or new == x.WITH
    return names | pending if in_place or not shared else names


def _subject(clause: list[Item], at: int, low: int) -> Names:
    """The place of the subject, for a finding that has none.

    'The right base shows an opacity', 'left basilar atelectasis may be pneumonia'.
    """
    before = clause[low:at]
    if any(i.has(x.OTHER) for i in before):
        return {}
    rivals = [k for k, i in enumerate(before) if i.has(RIVALS)]
    if rivals and not any(i.has(x.LINK | x.WITH) for i in before[rivals[-1] :]):
        return {}
    return {low + k: i.place for k, i in enumerate(before) if i.has(x.MODIFIER) and i.place}
