"""Vocabulary of chest radiology reports, and the rules that read them: all of `lexicon.toml`.

A word has roles and names attributes. A rule is a regular expression over words: a sentence is
written as the letters of each word's roles and a blank, and `<negation|not>` in a rule stands for a
word with one of these roles.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from nltk import edit_distance

from pnloc.errors import PnlocError

BOTH = "side:both"  # a plural, which means both sides where the finding names none
_FIRST = ord("\u0100")  # the letter of the first role
LONG = 7  # letters from which on a word is checked for misspelling


class Tag(NamedTuple):
    """Roles of a word or phrase, the attributes it names, and those of them that are places."""

    roles: frozenset[str]
    names: frozenset[str]
    place: frozenset[str]


def merged(listed: Sequence[str]) -> Tag:
    """The tag of a word in lists of these roles and attributes.

    A word with attributes is a finding or describes one.
    """
    names = frozenset(name for name in listed if ":" in name)
    place = frozenset(name for name in names if name.startswith(("side", "zone")))
    roles = frozenset(listed) - names - {"ignored"} | {name.split(":")[0] for name in place}
    if names and roles.isdisjoint({"finding", "shade"}):
        roles |= {"modifier", "spot"} if names == place else {"modifier"}
    return Tag(roles | {"both"} if names & {BOTH, "side:bilateral"} else roles, names, place)


def _phrases() -> dict[str, list[tuple[list[str], Tag]]]:
    """By first word: the rest of each phrase and its tag, the longest phrases first."""
    entries: dict[str, list] = {}
    for name, listed in _LISTS.items():
        for phrase in (words for words in listed if " " in words):
            entries.setdefault(phrase, []).append(name)
    phrases: dict[str, list[tuple[list[str], Tag]]] = {}
    for first, *rest in sorted(map(str.split, entries), key=lambda words: (-len(words), words)):
        phrase_tag = merged(entries[" ".join([first, *rest])])
        phrases.setdefault(first, []).append((rest, phrase_tag))
    return phrases


def roles(names: str) -> frozenset[str]:
    """Roles and sets of roles, such as 'noun|verb', as roles; KeyError for what is neither."""
    found: set[str] = set()
    for name in names.split("|"):
        found |= {name} if name in _LETTERS else roles(_SETS[name])
    return frozenset(found)


@lru_cache(1 << 12)
def letters(own: frozenset[str]) -> str:
    """The word with these roles as rules see it."""
    return "".join(sorted(_LETTERS[role] for role in own)) + " "


def _pattern(source: str) -> re.Pattern:
    """The regular expression of a rule; KeyError for a role that does not exist."""

    def word(match: re.Match) -> str:
        tests = (re.fullmatch("(!?)(.*)", test).groups() for test in match[1].split("&"))
        sets = ((no, letters(roles(own)).strip()) for no, own in tests)
        *more, last = (f"[^ {s}]* " if no else f"[^ {s}]*[{s}][^ ]* " for no, s in sets)
        return "".join(f"(?={test})" for test in more) + last

    source = re.sub(r"\{([a-z]+)\}", lambda part: _DATA["parts"][part[1]], source)
    source = source.replace("\n", "").replace(" ", " *")
    return re.compile("(?<![^ ])" + re.sub("<(.*?)>", word, source))


def _tag(given: str) -> Tag:
    """The tag that a rule gives, such as 'persists severity:mild'."""
    words = given.strip("+").split()
    return merged([word for word in words if ":" in word or roles(word)])


def _rules(part: str) -> Iterator[tuple[str, re.Pattern, Any]]:
    """The rules of a part of the file: the name of each, its pattern, and what it gives."""
    for name, rules in _DATA[part].items():
        for rule in rules:
            yield name, _pattern(rule["pattern"]), rule["gives"]


_FILE = Path(__file__).with_suffix(".toml")
try:
    _DATA = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    GROUPS: dict[str, tuple[str, ...]] = {g: tuple(v) for g, v in _DATA["groups"].items()}
    _LISTS: dict[str, list[str]] = _DATA["words"] | _DATA["attributes"]
    _WORDS = {
        name: re.compile("|".join(word for word in words if " " not in word))
        for name, words in _LISTS.items()
    }
    _SETS: dict[str, str] = _DATA["sets"]
    _ROLES = [*_DATA["words"], *_DATA["derived"]]
    _LETTERS = {role: chr(_FIRST + n) for n, role in enumerate(_ROLES)}
    # Roles of which a sentence needs one, a pattern, and what its groups become: their tags, and
    # whether these are added.
    CONTEXT = [
        (roles(name), rule, [(_tag(to), "+" in to) for to in gives])
        for name, rule, gives in _rules("context")
    ]
    ASSERTIONS = [(roles(name), rule, gives) for name, rule, gives in _rules("assertions")]
    DESCRIPTIONS = list(_rules("descriptions"))
    SPELLING = _DATA["spelling"]
    SIDED = re.compile("|".join(SPELLING["sided"]))
    HEADERS = {kind: re.compile("|".join(words)) for kind, words in _DATA["headers"].items()}
    _LABELS, _IMAGES = ("|".join(SPELLING[name]) for name in ("labels", "images"))
    LABELLED = re.compile(rf"(?im)^[^\S\n]*(?:{_LABELS})s?:|(?<=[.;])\s+(?:{_IMAGES})\b")
    LANGUAGE = {name: frozenset(words) for name, words in _DATA["language"].items()}
except (tomllib.TOMLDecodeError, KeyError, re.error) as error:
    raise PnlocError(f"{_FILE}: not a vocabulary ({error!r})") from None
ATTRIBUTES = tuple(f"{group}:{value}" for group, values in GROUPS.items() for value in values)
PHRASES = _phrases()


@lru_cache(1 << 16)
def entry(word: str) -> tuple[Tag, list[tuple[list[str], Tag]]]:
    """The tag of a lower-case word, and the rest and tag of each phrase that it begins.

    A misspelt head ('opactiy') has the tag of the word meant.
    """
    listed = [name for name, words in _WORDS.items() if words.fullmatch(word)]
    meant = None if listed or len(word) < LONG else _meant(word, SPELLING["heads"])
    return entry(meant) if meant else (merged(listed), PHRASES.get(word, []))


@lru_cache(1 << 16)
def names_finding(word: str) -> bool:
    """Whether a lower-case word, or a phrase that it begins, is a finding."""
    tag, phrases = entry(word)
    tags = [tag, *(phrase for _, phrase in phrases)]
    return any(own.roles & {"finding", "density", "shade"} for own in tags)


@lru_cache(1 << 14)
def header_kinds(word: str) -> frozenset[str]:
    """Kinds of section header that a lower-case word stands in, also where it is misspelt."""
    kinds = frozenset(kind for kind, words in HEADERS.items() if words.fullmatch(word))
    meant = None if kinds or len(word) < LONG - 1 else _meant(word, SPELLING["header_heads"])
    return header_kinds(meant) if meant else kinds


def _meant(word: str, heads: list[str]) -> str | None:
    """The first of some words that is one letter, or one swap of neighbours, away."""
    near = (head for head in heads if abs(len(word) - len(head)) <= 1)
    return next((h for h in near if edit_distance(word, h, transpositions=True) == 1), None)
