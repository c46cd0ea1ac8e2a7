"""The tagged words of a sentence and its clauses: what each word means beside its neighbours.

A word has the roles that the lexicon gives it. Some of them depend on what stands near, and are
decided here: 'no change' denies nothing, 'not excluded' is a doubt, 'partially resolved' persists,
'absent' denies what stands before it or else what follows, and a colon parts a label from what is
said of it ('Pneumonia: none', 'Left lung: lower lobe consolidation').
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from pnloc.reports import lexicon as x

WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?|\([+-]\)|(?<=\s)-+(?=\s)|(?:(?<=\()|\s)\?+|[,;:/?=<>]|_+")
CLOSE = 5  # words between two cues that make one, as in 'cannot be entirely ruled out'
RIVALS = x.FINDING | x.LUNG | x.OTHER  # nouns that compete for cues and adjectives
_NOUNS = RIVALS | x.DENSITY
_ENDS = x.COMMA | x.BREAK
_PARTED = _NOUNS | x.LANDMARK | x.JOIN | _ENDS  # what parts two cues
_CUES = x.NEGATION | x.HEDGE | x.HYPOTHETICAL | x.PAST | x.DENIED
_UNSETTLED = x.CONTEXTUAL | x.DENSITY | x.SHADE
_NONE = frozenset()


class Item(NamedTuple):
    """A tagged word or phrase: its tag, its span in the text, its word numbers in the sentence."""

    roles: int
    names: frozenset[str]
    place: frozenset[str]
    start: int
    end: int
    word: int
    last: int

    def has(self, roles: int) -> bool:
        """Whether the item has at least one of these roles."""
        return self.roles & roles != 0

    def into(self, roles: int) -> "Item":
        """The item with these roles and no attributes."""
        return self._replace(roles=roles, names=_NONE, place=_NONE)


def items(sentence: str) -> list[Item]:
    """The tagged words and phrases of a lower-case sentence."""
    matches = list(WORD.finditer(sentence))
    words = [match.group() for match in matches]
    tagged: list[Item] = []
    after, contextual, nodule = 0, False, "nodule" in words or "nodules" in words
    for at, word in enumerate(words):
        tag, phrases = x.entry(word)
        if at < after or not (tag.roles or phrases):
            continue
        after = at + 1
        for rest, phrase in phrases:
            if words[at + 1 : at + 1 + len(rest)] == rest:
                tag, after = phrase, at + 1 + len(rest)
                break
        roles = tag.roles
        if roles & x.LETTER and after == at + 1:  # 'R base', but not 'L4' or '2 L'
            roles = roles if x.SIDED.fullmatch("".join(words[after : after + 1])) else 0
        if roles:
            contextual = contextual or roles & _UNSETTLED > 0
            span = matches[at].start(), matches[after - 1].end()
            tagged.append(Item(roles, tag.names, tag.place, *span, at, after - 1))
    if not contextual:
        return tagged
    for at, item in enumerate(tagged):
        if item.roles & (x.DENSITY | x.SHADE):
            tagged[at] = _density(tagged, at, nodule)
    for at, item in enumerate(tagged):
        if item.roles & x.CONTEXTUAL:
            _resolve(tagged, at, len(words))
    return [item for item in tagged if item.roles]


def _density(tagged: list[Item], at: int, nodule: bool) -> Item:
    """A density is of the lung or not, and 'ground glass' is a finding or describes one."""
    item = tagged[at]
    if item.has(x.SHADE):
        described = next((i for i in tagged[at + 1 : at + 4] if not i.has(x.MODIFIER)), None)
        alone = described is None or not described.has(x.FINDING | x.DENSITY)
        return item._replace(roles=x.FINDING if alone else x.MODIFIER)
    low = at
    while low > max(0, at - 5) and tagged[low - 1].has(x.MODIFIER | x.FOREIGN | x.ARTIFACT):
        low -= 1
    own = tagged[low:at]
    foreign = any(
        i.has(x.FOREIGN | x.ARTIFACT) or (nodule and "kind:round" in i.names) for i in own
    )
    return item._replace(roles=x.OTHER if foreign else x.FINDING)


def _near(tagged: list[Item], at: int, roles: int, step: int) -> int:
    """Index of the nearest item with one of the roles on one side (step -1 or 1), or -1.

    At most CLOSE words away, with no noun, comma or joint between.
    """
    k = at + step
    while 0 <= k < len(tagged) and abs(tagged[k].word - tagged[at].word) <= CLOSE:
        if tagged[k].has(roles):
            return k
        if tagged[k].has(_PARTED):
            break
        k += step
    return -1


def _resolve(tagged: list[Item], at: int, words: int) -> None:
    """Give an item, and those that it goes with, the roles that its neighbours leave it."""
    item = tagged[at]
    following = tagged[at + 1] if at + 1 < len(tagged) else None
    if item.has(x.COLON):
        tagged[at] = item.into(_colon(tagged, at))
    elif item.has(x.NEGATION | x.NOT) and _excepts(tagged, at):
        return
    elif item.has(x.CHANGE):
        _change(tagged, at)
    elif item.has(x.EXCLUDE):
        doubt = _near(tagged, at, x.NEGATION | x.NOT | x.HARD, -1)
        if doubt >= 0:
            tagged[doubt] = tagged[doubt].into(x.HEDGE)
        aims = x.DENIED if not item.has(x.HYPOTHETICAL) else x.HYPOTHETICAL
        tagged[at] = item.into(x.HEDGE | x.HEDGED if doubt >= 0 else aims)
    elif item.has(x.SPARED):
        k = at - 1
        while k >= 0 and not tagged[k].has(_PARTED | x.EXISTS):
            tagged[k] = tagged[k].into(tagged[k].roles & ~x.MODIFIER)
            k -= 1
    elif item.has(x.EITHER):
        tagged[at] = item.into(_direction(tagged, at))
    elif item.has(x.WHICH | x.SHOW):
        k = at - 1
        while k >= 0 and tagged[k].has(x.COMMA | x.PLACE | x.REDACTED):
            k -= 1
        if k >= 0 and tagged[k].has(x.STUDY):
            tagged[at] = item._replace(roles=item.roles | x.PAST)
    if item.has(x.ANSWER):  # 'Pneumonia: no', but not 'no effusion' nor 'no acute disease'
        end = words if following is None else following.word
        ends = following is None or following.has(_ENDS)
        if at and ends and item.last + 1 == end and tagged[at - 1].has(_NOUNS | x.COLON | x.HEDGED):
            tagged[at] = item.into(x.DENIED)


def _is_place(item: Item) -> bool:
    return item.has(x.PLACE) or (item.has(x.MODIFIER) and item.names == item.place)


def _excepts(tagged: list[Item], at: int) -> bool:
    """Whether an item excepts places, whose words then name none ('left, not right, opacity')."""
    k = end = at + 1
    while k < len(tagged) and _is_place(tagged[k]):
        k += 1
        if at and {n[:4] for n in tagged[k - 1].place} & {n[:4] for n in tagged[at - 1].place}:
            end = k  # 'right rather than left basilar opacity'
    if k < len(tagged) and not tagged[k].has(_ENDS):
        k = end
    if not any(item.place for item in tagged[at + 1 : k]):
        return False
    k += k < len(tagged) and at > 0 and tagged[at - 1].has(x.COMMA)  # of two commas one remains
    tagged[at:k] = [item.into(0) for item in tagged[at:k]]
    return True


def _change(tagged: list[Item], at: int) -> None:
    """A change or resolution that is denied, or is not complete, tells that a finding persists."""
    item, following = tagged[at], tagged[at + 1 : at + 2]
    partly = _near(tagged, at, x.PARTLY, -1)
    denied = _near(tagged, at, x.NEGATION | x.NOT, -1)
    aimed = _near(tagged, at, x.HYPOTHETICAL | x.AIM, -1)
    adjective = following and following[0].has(_NOUNS | x.MODIFIER) and not item.has(x.RESOLVED)
    if denied >= 0 and not adjective and not (following and following[0].has(x.OR)):
        tagged[denied], tagged[at] = tagged[denied].into(x.PERSISTS), item.into(x.PERSISTS)
    elif partly >= 0 and item.has(x.RESOLVED):
        names = frozenset(["severity:mild"]) if tagged[partly].has(x.NEARLY) else _NONE
        roles = x.PERSISTS | (x.MODIFIER if names else 0)
        tagged[at], tagged[partly] = item._replace(roles=roles, names=names), tagged[partly].into(0)
    elif aimed >= 0 and item.has(x.RESOLVED):
        tagged[at] = item.into(x.HYPOTHETICAL)


def _direction(tagged: list[Item], at: int) -> int:
    """Whether a cue that can stand on either side denies what precedes it or what follows."""
    for item in reversed(tagged[:at]):
        if item.has(_NOUNS):
            return x.DENIED
        if item.has(_ENDS | x.JOIN):
            break
    after = any(item.has(_NOUNS) for item in tagged[at + 1 :])
    return x.NEGATION if after else x.DENIED


def _colon(tagged: list[Item], at: int) -> int:
    """Roles of a colon, or of a dash between blanks.

    After a finding it leads to a place or an answer, after a place to what is there; after a cue
    it means nothing; else a new statement begins.
    """
    low = next((k + 1 for k in range(at - 1, -1, -1) if tagged[k].has(x.BREAK)), 0)
    comma = next((k + 1 for k in range(at - 1, low, -1) if tagged[k].has(x.COMMA)), low)
    low = comma if comma < at and all(map(_is_place, tagged[comma:at])) else low
    high = next((k for k in range(at + 1, len(tagged)) if tagged[k].has(x.BREAK)), len(tagged))
    label, body = tagged[low:at], tagged[at + 1 : high]
    colon = not tagged[at].has(x.DASH)
    begins = x.BREAK if colon else 0
    finding = any(item.has(x.FINDING) for item in body)
    if any(item.has(x.FINDING) for item in label):
        answers = bool(body) and body[0].has(x.NEGATION | x.EITHER | x.DENIED | x.ANSWER | x.HEDGE)
        if finding or not (colon or answers):
            return begins | (x.COLON if begins else 0)
        return x.PLACE | x.COLON
    if label and all(_is_place(item) for item in label):
        if low and tagged[low - 1].has(x.COMMA):  # 'RLL: opacity, LLL: clear'
            tagged[low - 1] = tagged[low - 1].into(x.BREAK)
        return x.VERB
    return 0 if any(item.has(_CUES) for item in label) else begins


def clauses(sentence: list[Item]) -> Iterator[list[Item]]:
    """A sentence cut where a new statement begins.

    That is at terminations, where a comma or 'and' precedes a new negation, and, after a negation,
    where what they join has a verb of its own ('no effusion and the left opacity is stable').
    """
    start, noun, denied, previous = 0, False, False, 0
    for at, item in enumerate(sentence):
        roles = item.roles
        anew = roles & (x.BREAK | x.EXISTS if noun else x.BREAK)
        if at > start and previous & (x.JOIN | x.COMMA):
            open_to = denied and not previous & x.OR and (noun or previous & x.ARTICLE)
            states = open_to and _states(sentence, at)
            anew = anew or roles & x.NEGATION or states
        if anew:
            yield sentence[start:at]
            start, noun, denied = at, False, False
        noun, previous = noun or roles & RIVALS > 0, roles
        denied = denied or roles & (x.NEGATION | x.NOT) > 0
    yield sentence[start:]


def _states(sentence: list[Item], at: int) -> bool:
    """Whether what begins at an item, after 'and' or a comma, is a statement of its own."""
    if sentence[at - 1].has(x.ARTICLE):
        return True
    own = noun = verb = False
    for item in sentence[at:]:
        if item.has(x.JOIN | _ENDS):
            break
        own = own or bool(item.place and not noun) or item.has(x.PERSISTS)
        verb = verb or (noun and item.has(x.VERB | x.SHOW | x.PERSISTS)) or item.has(x.PERSISTS)
        noun = noun or item.has(RIVALS)
    return own and verb and noun
