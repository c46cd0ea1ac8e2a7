"""Which cues and attributes belong to which finding of a sentence: rules over the roles of words.

Cues reach as in ConText (Harkema et al. 2009): forward from a negation, past a list ('no effusion
or focal consolidation'), up to the end of the clause, or backward ('is not seen', 'unlikely',
': none'). Attributes go by the noun phrase: adjectives before a finding up to the next noun,
preposition or verb; what follows it by preposition or copula ('opacity in the right base') up to
the next noun, whose own adjectives that noun keeps. Joined nouns share their place; those joined by
'or' and '/' share every attribute ('bibasilar atelectasis/infiltrate'). Every walk is bounded by
`REACH`, so that time is linear in the length of a sentence.
"""

from functools import lru_cache
from itertools import pairwise

from pnloc.reports import lexicon as x
from pnloc.reports.cues import RIVALS, WORD, Item, clauses, items

REACH = 100  # words on either side of a finding in which its cues and attributes may stand
NEAR = 8  # words before a finding in which 'prior' makes it past
AFTER = 12  # items after a finding in which a cue may stand
_ENDS_BEFORE = RIVALS | x.LINK | x.VERB | x.EXISTS | x.WITH | x.NEGATION | x.LANDMARK | x.PLACE
_ENDS_AFTER = x.NEGATION | x.DENIED | x.BREAK | x.EXISTS
_EDGES = (x.JOIN, x.COMMA, x.WITH, x.PLACE, x.LINK)  # what a noun phrase is attached by
SIDES = frozenset(["side:right", "side:left", "side:bilateral"])
Names = dict[int, frozenset[str]]  # attributes by the index of the item that names them
# A finding, its assertion, its attributes, and which other items give it which of them.
Scoped = tuple[Item, str, frozenset[str], list[tuple[Item, frozenset[str]]]]


@lru_cache(1 << 14)  # reports repeat themselves: 'no focal consolidation, effusion or pneumothorax'
def read(sentence: str) -> list[Scoped]:
    """The findings of a lower-case sentence, in order."""
    scoped: list[Scoped] = []
    if not any(map(x.names_finding, WORD.findall(sentence))):
        return scoped
    for clause, following in pairwise([*clauses(items(sentence)), []]):
        for at in [k for k, item in enumerate(clause) if item.has(x.FINDING)]:
            denial = _denial(clause, at)
            names = _attributes(clause, at, denial + 1)
            assertion = _assertion(clause, at, denial, following)
            if assertion == "hedged" and _cue(clause, at, x.LINK, NEAR) >= 0:
                names = {k: clause[k].place if k != at else n for k, n in names.items()}
            elif assertion == "affirmed" and not _has_place(clause, names):
                assertion = "hypothetical" if _illness(clause, at) else assertion
            givers = [(clause[k], names[k]) for k in sorted(names) if names[k] and k != at]
            scoped.append((clause[at], assertion, frozenset().union(*names.values()), givers))
    return scoped


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
    ends = RIVALS | x.COMMA | x.JOIN | x.WITH | x.PLACE
    return -1 if any(i.has(ends) for i in clause[cue + 1 : at]) else cue


def _assertion(clause: list[Item], at: int, denial: int, following: list[Item]) -> str:
    """Assertion of a finding; `denial` is the negation that reaches it, or -1."""
    own, after = clause[at], clause[at + 1 : at + AFTER]
    shown = _cue(clause, at, x.SHOW | x.EXISTS)
    if _cue(clause, at, x.HYPOTHETICAL | x.PERSON) > shown:
        return "hypothetical"
    if denial >= 0:
        return "negated"
    said = next((k for k, item in enumerate(following) if item.has(x.FINDING)), -1)
    if said > 0 and following[0].has(x.COLON):  # 'Pneumonia: no evidence of pneumonia'
        return _assertion(following, said, _denial(following, said), [])
    judged = _judged(own, after)
    if judged:
        return judged
    if following and following[0].has(x.WHICH):
        if _judged(following[0], following[1:4]):
            return (
                "past"  # 'which has since cleared', but not 'which was not seen on the prior film'
            )
        after = [*after, *following[: AFTER // 2]]
    cue = _cue(clause, at, x.PAST, NEAR)
    persists = any(i.has(x.PERSISTS) for i in (*clause[max(cue, 0) : at], *after))
    cut_off = any(i.has(x.COMMA | x.LUNG | x.OTHER) for i in clause[cue + 1 : at])
    if cue >= 0 and not persists and not cut_off:
        return "past"
    hedged = any(i.has(x.HEDGED) for i in after[:8]) or _cue(clause, at, x.HEDGE) >= 0
    return _not_lung(after) or ("hedged" if hedged else "affirmed")


def _judged(own: Item, after: list[Item]) -> str:
    """What a cue after a finding makes of it: 'negated', 'past', 'hedged', or '' without one."""
    for label, answer in pairwise(after):
        if label.has(x.COLON) and answer.has(x.NEGATION | x.DENIED | x.HEDGE):
            return "hedged" if answer.has(x.HEDGE) else "negated"
    previous = own
    for item, following in pairwise([*after, None]):
        if item.has(x.DENIED) and not (following and following.has(x.PLACE | x.STUDY)):
            return "negated"  # but 'not seen on the prior study' is new
        if item.has(x.PERSISTS):
            break
        if item.has(x.RESOLVED):
            return "past"
        joined = previous.has(x.JOIN) and item.has(RIVALS)
        ends = item.has(x.COMMA) and not (following and following.has(x.DENIED | x.RESOLVED))
        if ends or (item.has(RIVALS | x.LINK) and not joined):
            break
        previous = item
    return ""


def _not_lung(after: list[Item]) -> str:
    """'negated' or 'hedged' for a finding that is said to be no lung tissue, else ''."""
    linked = doubted = False
    for previous, item in pairwise([None, *after]):
        if item.has(x.ARTIFACT) and linked:
            return "hedged" if doubted else "negated"
        located = item.has(x.PLACE) and linked and not (previous and previous.has(x.LINK | x.HEDGE))
        if located or item.has(RIVALS | x.NEGATION | x.NOT | x.HARD):
            break
        linked = linked or item.has(x.LINK | x.COPULA | x.HEDGE)
        doubted = doubted or item.has(x.DOUBT)
    return ""


def _illness(clause: list[Item], at: int) -> bool:
    """Whether a pneumonia is what a patient has, and not what an image shows."""
    shown = _cue(clause, at, x.SHOW | x.LINK | x.EXISTS | x.PERSISTS)
    known = _cue(clause, at, x.PATIENT | x.TEST) > shown
    tested = any(item.has(x.TEST) for item in clause[at + 1 : at + 6])
    return clause[at].has(x.ILLNESS) and (known or tested)


def _attributes(clause: list[Item], at: int, low: int) -> Names:
    """Which items of a clause, from `low` on, give the finding at `at` which attributes."""
    low = max(low, at - REACH)
    own, shared = _before(clause, at, low)
    names = {at: clause[at].names} | own
    names |= _after(clause, at, _has_place(clause, names | shared))
    placed = _has_place(clause, names)
    names |= {k: n - clause[k].place if placed else n for k, n in shared.items()}
    if any(clause[k].place & (SIDES | {x.BOTH}) for k in names):
        return names
    return _subject(clause, at, low, _has_place(clause, names)) | names


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


def _subject(clause: list[Item], at: int, low: int, fronted: bool) -> Names:
    """The place of the subject, for a finding that has none.

    'The right base shows an opacity', 'left basilar atelectasis may be pneumonia'. A finding with a
    zone has the side of what the clause begins with: 'Left lung: lower lobe opacity' (`fronted`).
    """
    commas = [k for k in range(low, at) if clause[k].has(x.COMMA)]
    if commas and any(i.has(x.VERB | x.SHOW) for i in clause[commas[-1] : at]):
        low = commas[-1]  # 'The right lung is clear, the left base shows an opacity'
    before = clause[low:at]
    if any(i.has(x.OTHER) for i in before):
        return {}
    rivals = [k for k, i in enumerate(before) if i.has(RIVALS)]
    linked = rivals and any(i.has(x.LINK | x.WITH) for i in before[rivals[-1] :])
    if rivals and (fronted or not linked):
        return {}
    places = {low + k: i.place for k, i in enumerate(before) if i.has(x.MODIFIER) and i.place}
    if fronted:
        places = {k: names & SIDES for k, names in places.items()}
    return places
