"""Vocabulary of chest radiology reports: the roles of a word and the attributes that it names.

The words themselves are data, in `lexicon.toml` beside this file; `pnloc.reports.cues` and
`pnloc.reports.scope` have the rules over their roles.
"""

import re
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nltk import edit_distance

from pnloc.errors import PnlocError

# Roles are bits; in the vocabulary they go by their names in lower case. An ignored word has none.
FINDING, DENSITY, FOREIGN, LUNG, OTHER, LANDMARK, MODIFIER, ILLNESS = (1 << n for n in range(8))
NEGATION, NOT, DENIED, EITHER, ANSWER, EXCLUDE, HARD, CHANGE = (1 << n for n in range(8, 16))
PARTLY, NEARLY, AIM, HEDGE, HEDGED, DOUBT, PAST, RESOLVED = (1 << n for n in range(16, 24))
PERSISTS, HYPOTHETICAL, PERSON, PATIENT, STUDY, SHOW, ARTIFACT = (1 << n for n in range(24, 31))
JOIN, ARTICLE, COMMA, OR, WITH, PLACE, LINK, VERB, EXISTS, BREAK = (1 << n for n in range(31, 41))
WHICH, SPARED, COLON, DASH, SHADE, COPULA, LETTER, TEST, REDACTED = (1 << n for n in range(41, 50))
IGNORED = 0
ROLES = {name.lower(): value for name, value in globals().items() if name.isupper()}
# Roles that depend on the neighbours of a word, and those of a word that can label what follows.
CONTEXTUAL = COLON | NEGATION | NOT | CHANGE | EXCLUDE | SPARED | EITHER | WHICH | SHOW | ANSWER
LABEL = FINDING | LUNG | OTHER | MODIFIER

BOTH = "side:both"  # a plural, which means both sides where the finding names none
LONG = 7  # letters from which on a word is checked for misspelling


class Tag(NamedTuple):
    """Roles of a word or phrase, the attributes it names, and those of them that are places."""

    roles: int
    names: frozenset[str]
    place: frozenset[str]


def _merged(entries: Iterable[tuple[int, frozenset[str]]]) -> Tag:
    """The tag of a word in lists of these roles and attributes.

    A word with attributes is a finding or a modifier.
    """
    roles, names = 0, frozenset()
    for role, own in entries:
        roles, names = roles | role, names | own
    if names and not roles & FINDING:
        roles |= MODIFIER
    return Tag(roles, names, frozenset(n for n in names if n.startswith(("side", "zone"))))


def _phrases() -> dict[str, list[tuple[list[str], Tag]]]:
    """By first word: the rest of each phrase and its tag, the longest phrases first."""
    entries: dict[str, list] = {}
    for entry, listed in _LISTS:
        for phrase in (words for words in listed if " " in words):
            entries.setdefault(phrase, []).append(entry)
    phrases: dict[str, list[tuple[list[str], Tag]]] = {}
    for first, *rest in sorted(map(str.split, entries), key=lambda words: (-len(words), words)):
        phrase_tag = _merged(entries[" ".join([first, *rest])])
        phrases.setdefault(first, []).append((rest, phrase_tag))
    return phrases


_FILE = Path(__file__).with_suffix(".toml")
try:
    _DATA = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    _LISTS = [((ROLES[role], frozenset()), words) for role, words in _DATA["words"].items()]
    _LISTS += [((0, frozenset([name])), words) for name, words in _DATA["attributes"].items()]
    _WORDS = [
        (entry, re.compile("|".join(word for word in words if " " not in word)))
        for entry, words in _LISTS
    ]
    GROUPS: dict[str, tuple[str, ...]] = {g: tuple(v) for g, v in _DATA["groups"].items()}
    ABBREVIATIONS = frozenset(_DATA["spelling"]["abbreviations"])
    HEADS: list[str] = _DATA["spelling"]["heads"]
    SIDED = re.compile("|".join(_DATA["spelling"]["sided"]))
    HEADERS = {kind: re.compile("|".join(words)) for kind, words in _DATA["headers"].items()}
    HEADER_HEADS: list[str] = _DATA["spelling"]["header_heads"]
    LABELS = "|".join(_DATA["spelling"]["labels"])
    IMAGES = "|".join(_DATA["spelling"]["images"])
    LABELLED = re.compile(rf"(?im)^[^\S\n]*(?:{LABELS})s?:|(?<=[.;])\s+(?:{IMAGES})\b")
    CONTINUING, ENGLISH, OTHER_LANGUAGES = (
        frozenset(_DATA["language"][name]) for name in ("continuing", "english", "other")
    )
except (tomllib.TOMLDecodeError, KeyError, re.error) as error:
    raise PnlocError(f"{_FILE}: not a vocabulary ({error!r})") from None
ATTRIBUTES = tuple(f"{group}:{value}" for group, values in GROUPS.items() for value in values)
PHRASES = _phrases()


@lru_cache(1 << 16)
def tag(word: str) -> Tag:
    """The tag of a lower-case word; a misspelt head ('opactiy') has that of the word meant."""
    listed = [entry for entry, words in _WORDS if words.fullmatch(word)]
    own = _merged(listed)
    if listed or len(word) < LONG:
        return own
    meant = next((head for head in HEADS if _misspells(word, head)), None)
    return tag(meant) if meant else own


@lru_cache(1 << 16)
def entry(word: str) -> tuple[Tag, list[tuple[list[str], Tag]]]:
    """The tag of a lower-case word, and the rest and tag of each phrase that it begins."""
    return tag(word), PHRASES.get(word, [])


@lru_cache(1 << 16)
def names_finding(word: str) -> bool:
    """Whether a lower-case word, or a phrase that it begins, is a finding."""
    tags = [tag(word), *(phrase for _, phrase in PHRASES.get(word, []))]
    return any(own.roles & (FINDING | DENSITY | SHADE) for own in tags)


@lru_cache(1 << 14)
def header_kinds(word: str) -> frozenset[str]:
    """Kinds of section header that a lower-case word stands in, also where it is misspelt."""
    kinds = frozenset(kind for kind, words in HEADERS.items() if words.fullmatch(word))
    if kinds or len(word) < LONG - 1:
        return kinds
    near = (head for head in HEADER_HEADS if abs(len(word) - len(head)) <= 1)
    meant = next((h for h in near if edit_distance(word, h, transpositions=True) == 1), "")
    return header_kinds(meant) if meant else kinds


def _misspells(word: str, meant: str) -> bool:
    """Whether two words with one first letter are one letter, or one swap of neighbours, apart."""
    if word[0] != meant[0] or abs(len(word) - len(meant)) > 1:
        return False
    return edit_distance(word, meant, transpositions=True) <= 1
