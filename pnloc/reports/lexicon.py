"""Vocabulary of chest radiology reports: the roles of a word and the attributes that it names.

The words themselves are data, in `lexicon.toml` beside this file; `pnloc.reports.scope` has the
rules over their roles.
"""

import re
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pnloc.errors import PnlocError

# Roles are bits; in the vocabulary they go by their names in lower case. An ignored word has none.
FINDING, DENSITY, FOREIGN, LUNG, OTHER, LANDMARK, MODIFIER = (1 << n for n in range(7))
NEGATION, NOT, DENIED, FREE = (1 << n for n in range(7, 11))
HEDGE, HEDGED, PAST, RESOLVED, PERSISTS, HYPOTHETICAL = (1 << n for n in range(11, 17))
JOIN, COMMA, OR, WITH, PLACE, LINK, VERB, EXISTS, BREAK, REDACTED = (1 << n for n in range(17, 27))
IGNORED = 0
ROLES = {name.lower(): value for name, value in globals().items() if name.isupper()}

BOTH = "side:both"  # a plural, which means both sides where the finding names none
LONG = 7  # letters from which on a word is checked for misspelling


class Tag(NamedTuple):
    """Roles of a word or phrase, the attributes it names, and those of them that are places."""

    roles: int
    names: frozenset[str]
    place: frozenset[str]


class _Entry(NamedTuple):
    """The words and phrases of one role (a bit) or one attribute."""

    role: int
    names: frozenset[str]
    words: re.Pattern[str]
    phrases: list[str]


def _entry(listed: list[str], role: int = 0, *names: str) -> _Entry:
    words = re.compile("|".join(word for word in listed if " " not in word))
    return _Entry(role, frozenset(names), words, [p for p in listed if " " in p])


def _tag(entries: Iterable[_Entry]) -> Tag:
    """The tag of a word in these entries; with attributes, it is a finding or a modifier."""
    roles, names = 0, frozenset()
    for entry in entries:
        roles, names = roles | entry.role, names | entry.names
    if names and not roles & FINDING:
        roles |= MODIFIER
    return Tag(roles, names, frozenset(n for n in names if n.startswith(("side", "zone"))))


def _phrases() -> dict[str, list[tuple[tuple[str, ...], Tag]]]:
    """By first word: the rest of each phrase and its tag, the longest phrases first."""
    found: dict[str, list[tuple[tuple[str, ...], Tag]]] = {}
    for phrase in sorted({p for e in _ENTRIES for p in e.phrases}, key=str.split):
        first, *rest = phrase.split()
        tagged = (tuple(rest), _tag(e for e in _ENTRIES if phrase in e.phrases))
        found.setdefault(first, []).append(tagged)
    return {first: sorted(rests, key=lambda r: -len(r[0])) for first, rests in found.items()}


_FILE = Path(__file__).with_suffix(".toml")
try:
    _DATA = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    _ENTRIES = [_entry(listed, ROLES[role]) for role, listed in _DATA["words"].items()]
    _ENTRIES += [_entry(listed, 0, name) for name, listed in _DATA["attributes"].items()]
    GROUPS: dict[str, tuple[str, ...]] = {g: tuple(v) for g, v in _DATA["groups"].items()}
    ASKING, SKIPPED = (frozenset(_DATA["sections"][kind]) for kind in ("asking", "skipped"))
    ABBREVIATIONS = frozenset(_DATA["spelling"]["abbreviations"])
    HEADS: list[str] = _DATA["spelling"]["heads"]
except (tomllib.TOMLDecodeError, KeyError, re.error) as error:
    raise PnlocError(f"{_FILE}: not a vocabulary ({error!r})") from None
ATTRIBUTES = tuple(f"{group}:{value}" for group, values in GROUPS.items() for value in values)
PHRASES = _phrases()
# First words of phrases that may be a finding; 'ground glass' may stand alone.
OPENERS = {
    first
    for first, rests in PHRASES.items()
    if any(tag.roles & FINDING or "kind:ground glass" in tag.names for _, tag in rests)
}


@lru_cache(1 << 16)
def tag(word: str) -> Tag:
    """The tag of a lower-case word; a misspelt head ('opactiy') has that of the word meant."""
    found = _tag(entry for entry in _ENTRIES if entry.words.fullmatch(word))
    if found.roles or len(word) < LONG:
        return found
    meant = next((head for head in HEADS if _misspells(word, head)), None)
    return tag(meant) if meant else found


def _misspells(word: str, meant: str) -> bool:
    """Whether two words with one first letter are one letter, or one swap of neighbours, apart."""
    if word[0] != meant[0] or abs(len(word) - len(meant)) > 1:
        return False
    pairs = zip(word, meant, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(word), len(meant)))
    one, two = word[same:], meant[same:]
    swapped = one[:2] == two[:2][::-1] and one[2:] == two[2:]
    return one[1:] == two[1:] or one[1:] == two or one == two[1:] or swapped
