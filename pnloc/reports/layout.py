"""The layout of a report: plain characters, its language, sections by header, and list items.

Reports come from PDF and web pages, with ligatures, tags and hyphens at line ends; headers stand in
capitals or not, with a colon, a dash or alone on a line; items stand one per line without full
stops. All this is undone here, before a sentence is read. Header words and the function words of
languages are data, in `lexicon.toml`.
"""

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

from pnloc.reports import lexicon as x

_LABEL = {"finding", "lung", "other", "modifier"}  # roles of a word that labels what follows
LATIN = "\u024f"  # the last letter of Latin script
LONGEST = 6  # words of a header
SHORT = 50  # characters of a line after which an abbreviation begins a new statement
_ODD = re.compile(
    r"(?P<block></?(?:br|p|div|li|ul|ol|tr|h\d)\b[^<>]{0,80}>|\\r\\n|\\[nr]|\r\n?)"
    r"|(?P<tag></?(?:b|i|u|strong|em|span|font|td)\b[^<>]{0,80}>)"
    r"|(?P<entity>&(?:\#\d{1,5}|[a-z]{2,8});)"
    r"|(?P<hyphen>(?<=[a-z])[-\u2010\xad][^\S\n]*\r?\n[^\S\n]*(?=[a-z]))"
    r"|(?P<garbled>[\xc2-\xf4][^\x00-\x7f]{1,2})"
    r"|(?P<mark>(?-i:[^\x00-\x7f]))",
    re.IGNORECASE,
)
_MARKS = {ord(mark): "-" for mark in "\u2010\u2011\u2012\u2013\u2014\u2212"}
_MARKS |= dict.fromkeys(map(ord, "\xad\u200b\u200c\u200d\u2060\ufeff"), "")
_MARKS |= dict.fromkeys(map(ord, "\u2018\u2019"), "'") | {0x130: "I"}  # its small form is longer
_ENDING = re.compile(r"[a-z]+$", re.IGNORECASE)
_LETTERS = re.compile(r"[^\W\d_]+")
_LINE = re.compile(r"^[^A-Za-z\n]*([A-Za-z]+)[^\n]*", re.MULTILINE)
_INNER = {"of", "for", "and", "or"}  # words that no header begins or ends with
_NAME = re.compile(r"([A-Za-z][A-Za-z /&-]*?)[\]*_) ]*$")
_CAPITALS = re.compile(r"(?:^|(?<=\s))[A-Z][A-Z /&-]{3,40}$")
_WORD = re.compile(r"[A-Za-z]+")
_STOP = re.compile(r"[\]*_)]*[^\S\n]*(?:[\n:.;=]|$|-|\t|(?<=\s)\s)[:*_-]*")
_RULE = re.compile(r"\n[^\S\n]*[_=-]{5,}[^\S\n]*(?=\n)")
_SENTENCE = re.compile(r"(?<=[a-z][.;])\s+(?=[A-Z])")
_BLANK = re.compile(r"\n[^\S\n]*\n")
_NUMBER = r"\(?(?:\#?\d{1,2}[.)]|[a-h]\)|i{1,3}\))(?=\s*[A-Za-z])"
_ITEM = re.compile(
    rf"\s(?:(?<=\n)[^\S\n]*(?P<bullet>[-*+>~#\u2022\u25aa\u25cf\u25e6\xb7]+|{_NUMBER})?"
    rf"|{_NUMBER}|[\u2022\u25aa\u25cf\u25e6\xb7]|(?:\||//|\*)\s)"
)
_MAY_LIST = re.compile(r"[\n\d)|*\u2022\u25aa\u25cf\u25e6\xb7]|//")
_NO_STOP = re.compile(r"^\W*\d+\.|\.\s*$", re.MULTILINE)  # after a number, or after all


class Part(NamedTuple):
    """A section: its name in capitals ('' without a header), its kind (x.HEADERS), its span."""

    name: str
    kind: str
    start: int
    end: int


def straightened(text: str) -> tuple[str, Sequence[int]]:
    """A text in plain characters, and the place in `text` that each of them comes from."""
    if text.isascii() and not any(mark in text for mark in "<&\\\r") and "-\n" not in text:
        return text, range(len(text) + 1)
    pieces, places, last = [], [], 0
    for match in _ODD.finditer(text):
        plain = _plain(match)
        pieces += text[last : match.start()], plain
        places += range(last, match.start())
        places += [match.start()] * (len(plain) - 1) + [match.end() - 1] * (plain != "")
        last = match.end()
    return "".join([*pieces, text[last:]]), [*places, *range(last, len(text) + 1)]


def _plain(match: re.Match) -> str:
    """What stands for an odd character, a tag or a broken word."""
    odd = match[0]
    if match.lastgroup in ("block", "tag"):
        return "\n" if match["block"] else ""
    if match["hyphen"]:
        before = _ENDING.search(match.string, max(0, match.start() - 30), match.start())[0]
        after = re.compile("[a-z]+", re.IGNORECASE).match(match.string, match.end())[0]
        return "" if x.entry((before + after).lower())[0].roles else "-"
    for encoding in ("cp1252", "latin-1") if match["garbled"] else ():  # UTF-8 read as Western
        with suppress(UnicodeError):
            odd = odd.encode(encoding).decode("utf-8")
    odd = html.unescape(odd) if match["entity"] else odd
    plain = unicodedata.normalize("NFKC", odd).translate(_MARKS)
    return plain if plain.isascii() else odd


def is_english(text: str) -> bool:
    """Whether the function words of a text are English rather than those of another language."""
    words = (_WORD if text.isascii() else _LETTERS).findall(text.lower())
    if text.isascii() and x.LANGUAGE["other"].isdisjoint(words):
        return True
    other = sum(
        1.0 if word in x.LANGUAGE["other"] or word[0] > LATIN else 0.5 * (not word.isascii())
        for word in words
    )
    return other < 1 or other <= sum(word in x.LANGUAGE["english"] for word in words)


@lru_cache(1 << 12)
def kind(name: str) -> str:
    """Kind of the section under a header (x.HEADERS), '' if it is none; case does not matter."""
    words = _WORD.findall(name.lower())
    kinds = [x.header_kinds(word) for word in words]
    known = bool(words) and all(kinds) and not _INNER & {words[0], words[-1]}
    deciding = (k for k in x.HEADERS if k != "filler" and any(k in own for own in kinds))
    return next(deciding, "") if known else ""


def _headers(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Start and end of each header with its name and kind, in any order."""
    seen = set()
    for line in _LINE.finditer(text):
        words = _WORD.finditer(text, line.start(1), line.end())
        known = takewhile(lambda word: x.header_kinds(word[0].lower()), words)
        for last in reversed([word.end() for word in known][:LONGEST]):
            name = text[line.start(1) : last]
            stop, role, rest = _STOP.match(text, last), kind(name), text[last : line.end()]
            plain = name.isupper() and rest[:1] == " " and not rest.isupper()
            if role and (stop or plain):
                seen.add(stop.end() if stop else last)
                yield line.start(), stop.end() if stop else last, name, role
                break
    for end in (colon.end() for colon in re.finditer(":", text)):
        run = None if end in seen else _NAME.search(text, max(0, end - 61), end - 1)
        if run:
            yield from _named(text, run, end)


def _named(text: str, run: re.Match, end: int) -> Iterator[tuple[int, int, str, str]]:
    """The header, if any, that a run of words before a colon ends in."""
    begins = text[max(0, run.start() - 3) : run.start()].rstrip(" \t")[-1:] in ("", "\n", ".", ";")
    begins = begins and len(run[1].split()) <= LONGEST // 2  # as in 'CT findings:'
    for word in _WORD.finditer(run[1]):
        name = run[1][word.start() :]
        role = kind(name)
        first = begins and (word.start() == 0 or role == "asserting")
        if role and (first or name[0].isupper()):
            yield run.start() + word.start(), end, name, role
            return
    other = _CAPITALS.search(run[1])
    if other and not any(x.entry(w.lower())[0].roles & _LABEL for w in other[0].split()):
        yield run.start() + other.start(), end, other[0], "asserting"


def parts(text: str) -> list[Part]:
    """The sections of a report in order; a name may occur twice, and a ruled line ends a section.

    Where nothing that asserts follows, a section that asks or is skipped ends at a blank line or a
    label such as 'Lungs:', and in a note without lines with its first sentence.
    """
    found = sorted(_headers(text))
    result, (name, role), start = [], ("", "asserting"), 0
    for begin, stop, label, label_kind in [*found, (len(text), len(text), "", "")]:
        if begin < start:  # within a header
            continue
        for rule in _RULE.finditer(text, start, begin):
            result.append(Part(name, role, start, rule.start()))
            (name, role), start = ("", "asserting"), rule.end()
        result.append(Part(name, role, start, begin))
        name, role, start = " ".join(label.upper().split()), label_kind, stop
    result = [part for part in result if text[part.start : part.end].strip()]
    if result and result[-1].kind != "asserting":
        last = result.pop()
        body = last.end - len(text[last.start : last.end].lstrip())
        end = x.LABELLED.search(text, body, last.end) or _BLANK.search(text, body, last.end)
        if end is None and "\n" not in text:
            end = _SENTENCE.search(text, body, last.end)
        result.append(last._replace(end=end.start() if end else last.end))
        result += [Part("", "asserting", end.start(), last.end)] if end else []
    return result


def statements(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Start and end of each list item, or each line that is a statement, in text[start:end].

    A wrapped line goes on: the next one begins in lower case, or the line ends in a function word.
    In a text without case, lines are statements where no full stop is used.
    """
    body = text[start:end].strip()
    end = start + len(text[start:end].rstrip())
    if _MAY_LIST.search(body):
        cased = body[:1].isupper() and not body.isupper()
        prose = not cased and "." in _NO_STOP.sub("", body)
        for match in _ITEM.finditer(text, start, end):
            line = match[0][:1] == "\n" and not match["bullet"]
            if line and _goes_on(text, match, max(start, match.start() - 60), cased, prose):
                continue
            yield start, match.start()
            start = match.end()
    yield start, end


def _goes_on(text: str, match: re.Match, start: int, cased: bool, prose: bool) -> bool:
    """Whether what stands before a line end continues after it."""
    line = text[start : match.start()].rpartition("\n")[2].rstrip()
    after = text[match.end() : match.end() + 2]
    last = line.rpartition(" ")[2].lower()
    word = after[:1].isupper() and (after[1:].islower() or after[1:] == " ")
    answer = word and cased and last == "no"  # 'Consolidation: No'
    if not last or (last[-1] in ",-/(" and last != "-") or after[:1] in ("", "\n"):
        return True
    if last in x.LANGUAGE["continuing"] and not answer:
        return True
    if not cased:
        return prose
    return not (word or (after.isupper() and after != "XX" and len(line) < SHORT))
