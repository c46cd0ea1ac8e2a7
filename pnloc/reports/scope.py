"""Which cue and which attribute belongs to which finding of a sentence: rules over the tags of `pnloc.reports.lexicon`.

Cues reach as in ConText: forward from a negation, past a list ('no effusion or focal consolidation'), up to a termination ('but', 'which',
a semicolon, 'there is' after another finding). Attributes go by the noun phrase: adjectives before a finding up to the next noun,
preposition or verb; what follows it by preposition or copula ('opacity in the right base') up to the next noun, whose own adjectives
that noun keeps. Joined nouns share their place, those joined by 'or' and '/' all ('bibasilar atelectasis/infiltrate'). Every walk
is bounded by `REACH`, so that time is linear in the length of a sentence.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from pnloc.reports import lexicon as x

WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?|[,;:/]|_+")
REACH = 100  # words to either side of a finding in which its cues and attributes may stand
NEAR = 8  # words before a finding in which 'prior' makes it past
_RIVALS = frozenset(x.FINDING + x.LUNG + x.OTHER)
_ENDS = frozenset(x.LINK + x.VERB + x.EXISTS + x.WITH + x.NEGATION + x.LANDMARK) | _RIVALS
_AFTER_ENDS = frozenset(x.NEGATION + x.DENIED + x.BREAK + x.EXISTS)
_EDGES = x.PLACE + x.JOIN + x.COMMA + x.LINK + x.WITH
_NOT_ENDS = frozenset(x.COMMA + x.JOIN + x.LINK + x.PLACE) | _RIVALS


class Item(NamedTuple):
    """A tagged word or phrase: roles, attributes named, start and end in the text, number of its word in the sentence."""

    roles: str
    names: frozenset[str]
    start: int
    end: int
    word: int

    def has(self, role: str) -> bool:
        """Whether the item has a role."""
        return role in self.roles

    def any(self, roles: frozenset[str]) -> bool:
        """Whether the item has one of some roles."""
        return not roles.isdisjoint(self.roles)

    @property
    def place(self) -> frozenset[str]:
        """Sides and zones that it names."""
        return frozenset(name for name in self.names if name[:4] in ("side", "zone"))


class Scoped(NamedTuple):
    """A finding within its sentence: the item, its assertion, and the items that give it attributes (itself among them)."""

    item: Item
    assertion: str
    givers: list[tuple[Item, frozenset[str]]]


def read(text: str, start: int, end: int) -> Iterator[Scoped]:
    """The findings of the sentence at start:end of a lower-case text, in order."""
    for clause in _clauses(items(text, start, end, True)):
        last: dict[str, int] = {}  # where each role stood last
        for at, item in enumerate(clause):
            if item.has(x.FINDING):
                denial = _denial(clause, at, last)
                assertion = "negated" if denial >= 0 else _assertion(clause, at, last)
                if denial >= 0 and _reached(clause, at, last.get(x.HYPOTHETICAL)):
                    assertion = "hypothetical"
                found = _attributes(clause, at, denial + 1)
                if assertion == "hedged" and _reached(clause, at, last.get(x.LINK), NEAR):
                    found = {k: clause[k].place if k != at else names for k, names in found.items()}
                yield Scoped(
                    item,
                    assertion,
                    [(clause[k], names) for k, names in sorted(found.items()) if names],
                )
            for role in item.roles:
                last[role] = at


def items(text: str, start: int, end: int, only_findings: bool = False) -> list[Item]:
    """The tagged words and phrases of the lower-case text[start:end]; with `only_findings`, none where no word can be a finding."""
    found = list(WORD.finditer(text, start, end))
    words = [match.group() for match in found]
    tags = [x.tag(word) for word in words]
    if (
        only_findings
        and x.OPENERS.isdisjoint(words)
        and not any(x.FINDING in t.roles or x.DENSITY in t.roles for t in tags)
    ):
        return []
    kept, at = [], 0
    while at < len(words):
        chosen, length = tags[at], 1
        for rest, phrase in x.PHRASES.get(words[at], ()):
            if tuple(words[at + 1 : at + 1 + len(rest)]) == rest:
                chosen, length = phrase, 1 + len(rest)
                break
        if chosen.roles:
            kept.append(Item(*chosen, found[at].start(), found[at + length - 1].end(), at))
        at += length
    nodule = any(word in ("nodule", "nodules") for word in words)
    return [_settled(kept, at, nodule) for at in range(len(kept))]


def _settled(kept: list[Item], at: int, nodule: bool) -> Item:
    """An item, its part in the sentence known: a density is of the lung or not, ground glass stands alone or describes."""
    item = kept[at]
    if item.has(x.DENSITY):
        low = at
        while low > max(0, at - 5) and (
            kept[low - 1].has(x.MODIFIER) or kept[low - 1].has(x.FOREIGN)
        ):
            low -= 1
        own = kept[low:at]
        foreign = any(i.has(x.FOREIGN) for i in own) or (
            nodule and any("kind:round" in i.names for i in own)
        )
        return item._replace(roles=x.OTHER if foreign else x.FINDING)
    if item.names == x.GROUND_GLASS and item.has(x.MODIFIER) and item.end - item.start > 5:
        described = next((i for i in kept[at + 1 : at + 4] if not i.has(x.MODIFIER)), None)
        if described is None or not (described.has(x.FINDING) or described.has(x.DENSITY)):
            return item._replace(roles=x.FINDING)
    return item


def _clauses(sentence: list[Item]) -> Iterator[list[Item]]:
    """A sentence cut where a new statement begins: at terminations, and where a comma or 'and' precedes a new negation."""
    start, said = 0, False
    for at, item in enumerate(sentence):
        denial = (
            item.has(x.NEGATION)
            and at > start
            and (sentence[at - 1].has(x.JOIN) or sentence[at - 1].has(x.COMMA))
        )
        if item.has(x.BREAK) or denial or (said and item.has(x.EXISTS)):
            yield sentence[start:at]
            start, said = at, False
        said = said or item.any(_RIVALS)
    yield sentence[start:]


def _reached(clause: list[Item], at: int, cue: int | None, reach: int = REACH) -> bool:
    return cue is not None and clause[at].word - clause[cue].word <= reach


def _denial(clause: list[Item], at: int, last: dict[str, int]) -> int:
    """Where the negation stands that reaches the finding, or -1.

    'No effusion, right lower lobe opacity' affirms the opacity: what follows a comma or 'with' and has a place of its own, without
    'or', begins anew; 'no effusion, pneumothorax, or left consolidation' does not.
    """
    cue = last.get(x.NEGATION)
    if _reached(clause, at, cue):
        placed = False
        for k in range(at - 1, cue, -1):
            item = clause[k]
            placed = placed or bool(item.place)
            if item.has(x.OR):
                return cue
            if placed and (item.has(x.COMMA) or item.has(x.WITH)):
                return -1
        return cue
    cue = last.get(x.NOT)
    near = _reached(clause, at, cue, NEAR)
    return cue if near and not any(i.any(_NOT_ENDS) for i in clause[cue + 1 : at]) else -1


def _assertion(clause: list[Item], at: int, last: dict[str, int]) -> str:
    """Assertion of a finding that no cue before it negates."""
    own, after = clause[at], clause[at + 1 : at + 12]
    if _reached(clause, at, last.get(x.HYPOTHETICAL)):
        return "hypothetical"
    for item, following in zip(after, [*after[1:], None], strict=False):
        if item.has(x.DENIED) and not (
            following and following.has(x.PLACE)
        ):  # 'not seen on the prior study' is new
            return "negated"
        if item.has(x.RESOLVED) and item.word - own.word <= 3:
            return "past"
        if item.any(_RIVALS) or item.has(x.LINK) or item.has(x.COMMA):
            break
    cue = last.get(x.PAST)
    if _reached(clause, at, cue, NEAR):
        persists = any(i.has(x.PERSISTS) for i in (*clause[cue:at], *after))
        if not persists and not any(
            i.has(x.COMMA) or i.has(x.LUNG) or i.has(x.OTHER) for i in clause[cue + 1 : at]
        ):
            return "past"
    if _reached(clause, at, last.get(x.HEDGE)) or any(i.has(x.HEDGED) for i in after[:8]):
        return "hedged"
    return "affirmed"


def _attributes(clause: list[Item], at: int, low: int) -> dict[int, frozenset[str]]:
    """Which items of a clause, from `low` on, give the finding at `at` which attributes."""
    low = max(low, at - REACH)
    own, shared = _before(clause, at, low)
    found = {at: clause[at].names} | own
    found |= _after(clause, at, _has_place(clause, found | shared))
    placed = _has_place(clause, found)
    found |= {k: names - clause[k].place if placed else names for k, names in shared.items()}
    if not _has_place(clause, found):
        found |= _subject(clause, at, low)
    return found


def _has_place(clause: list[Item], found: dict[int, frozenset[str]]) -> bool:
    return any(clause[k].place for k in found)


def _before(
    clause: list[Item], at: int, low: int
) -> tuple[dict[int, frozenset[str]], dict[int, frozenset[str]]]:
    """What stands before a finding and describes it: its own adjectives, and those that it shares with a noun joined to it."""
    own: dict[int, frozenset[str]] = {}
    shared: dict[int, frozenset[str]] = {}
    found, joint, only_place, k = own, at, False, at - 1
    while k >= low:
        item, previous = clause[k], clause[k - 1] if k > low else None
        if item.has(x.MODIFIER):
            found[k] = item.place if only_place else item.names
        elif item.has(x.JOIN) or item.has(x.COMMA):
            if previous and item.has(x.JOIN) and (previous.has(x.LUNG) or previous.has(x.FINDING)):
                found, only_place = shared, only_place or not item.has(x.OR)
                k -= 1
            elif previous and previous.has(x.MODIFIER):
                joint = k
            else:
                break
        elif item.any(_ENDS) or item.has(x.PLACE):
            break
        k -= 1
    if k >= low and clause[k].has(x.PLACE) and any(i.any(_RIVALS) for i in clause[low:k]):
        # 'Scar at the left base and right opacity': the place of what stands before, up to the last joint.
        return {j: names for j, names in own.items() if j > joint} if joint < at else {}, {}
    return own, shared


def _after(clause: list[Item], at: int, placed: bool) -> dict[int, frozenset[str]]:
    """What stands after a finding and describes it, up to the next noun, whose own adjectives it leaves alone."""
    found: dict[int, frozenset[str]] = {}
    pending: dict[int, frozenset[str]] = {}
    edge, in_place, only_place, shared = "", False, False, False
    for k in range(at + 1, min(at + REACH, len(clause))):
        item = clause[k]
        if item.has(x.MODIFIER):
            pending[k] = item.place if only_place else item.names
            continue
        if item.any(_RIVALS):
            pending = {}
            if (
                edge not in (x.JOIN, x.COMMA, x.LINK, x.WITH)
                or placed
                or _has_place(clause, found)
                or (edge == x.LINK and item.has(x.OTHER))
            ):
                break
            only_place = shared = True
            edge, in_place = "", False
            continue
        if item.has(x.LANDMARK):
            if edge != x.PLACE:
                pending = {}
            else:
                pending = {
                    j: frozenset(n for n in names if n.startswith("side"))
                    for j, names in pending.items()
                }
        ends = item.any(_AFTER_ENDS)
        new = next((role for role in item.roles if role in _EDGES), "")
        redacted = in_place and item.has(
            x.REDACTED
        )  # most often the verb: 'opacity in the left base XXXX atelectasis'
        if not (ends or new or redacted or item.has(x.LANDMARK) or item.has(x.VERB)):
            continue
        if in_place or not shared:
            found |= pending
        pending = {}
        if ends or (new == x.WITH and (placed or _has_place(clause, found))):
            break
        edge = new or edge
        in_place = (in_place or new == x.PLACE) and new not in (x.LINK, x.WITH)
        only_place = only_place or new in (x.LINK, x.WITH)
        shared = shared or new == x.WITH
    if in_place or not shared:
        found |= pending
    return found


def _subject(clause: list[Item], at: int, low: int) -> dict[int, frozenset[str]]:
    """The place of a subject, for a finding that has none: 'the right base shows', 'left basilar atelectasis may be pneumonia'."""
    before = clause[low:at]
    if any(i.has(x.OTHER) for i in before):
        return {}
    rivals = [k for k, i in enumerate(before) if i.any(_RIVALS)]
    if rivals and not any(i.has(x.LINK) or i.has(x.WITH) for i in before[rivals[-1] :]):
        return {}
    return {
        low + k: item.place for k, item in enumerate(before) if item.has(x.MODIFIER) and item.place
    }
