"""Sentences and tokens of a report: Punkt (Kiss and Strunk 2006), trained without labels on the corpus at hand.

`train` learns from texts which words are abbreviations; `Splitter` cuts by what was learnt. NLTK's own loop over all full stops reads
some 5,000 OpenI reports a second and would be the slowest part of all, so that a full stop after an ordinary word (two letters
or more, no abbreviation) is cut at once, as Punkt would, and Punkt itself is asked about the rest alone: abbreviations, initials,
numbers, ellipses. Two marks end a sentence in reports whatever Punkt says: a blank line, and a full stop glued to a capital.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from nltk.tokenize import RegexpTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer, PunktTrainer

from pnloc.errors import PnlocError
from pnloc.files import read_json, write_json

ABBREVIATIONS = {
    "dr",
    "drs",
    "mr",
    "mrs",
    "ms",
    "vs",
    "e.g",
    "i.e",
    "approx",
    "cm",
    "mm",
    "pt",
    "a.m",
    "p.m",
    "ca",
    "resp",
}
MOST = 20_000  # texts from which Punkt is trained at the most
_CANDIDATE = re.compile(
    r"[.?!][)\]\"']{0,3}(?:\s+|(?<=[a-z]\.)(?=[A-Z][a-z])|(?<=XXXX\.)(?=[A-Z]))|(?P<blank>\n[^\S\n]*\n\s*)"
)
_BEFORE = re.compile(r"(?:^|[\s(])([^\W\d_]{2,30})$")
_CONTEXT = 40  # characters on either side of a full stop that Punkt is shown
_TOKENS = RegexpTokenizer(r"[a-z]+(?:[-'][a-z]+)*|_+|\d+(?:\.\d+)?")
_ANY_WORD = re.compile(r"\w")


class Splitter:
    """Cuts texts into sentences by the parameters of a Punkt model; those of `train`, or a list of abbreviations alone."""

    def __init__(self, parameters: PunktParameters | None = None) -> None:
        parameters = parameters or PunktParameters()
        parameters.abbrev_types = parameters.abbrev_types | ABBREVIATIONS
        self.punkt = PunktSentenceTokenizer(parameters)
        self._short = parameters.abbrev_types
        self._breaks = lru_cache(1 << 14)(self.punkt.text_contains_sentbreak)

    def spans(self, text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
        """Start and end of each sentence within text[start:end], without outer white space; those without a word are left out."""
        end = len(text) if end is None else end
        found, begin = [], start
        for match in _CANDIDATE.finditer(text, start, end):
            if self._ends(text, match, begin, end):
                found.append((begin, match.end()))
                begin = match.end()
        return [span for span in (_trimmed(text, a, b) for a, b in (*found, (begin, end))) if span]

    def __call__(self, text: str) -> list[str]:
        """The sentences of a text, their white space made single; an empty text has none."""
        return [" ".join(text[a:b].split()) for a, b in self.spans(text)]

    def _ends(self, text: str, match: re.Match, begin: int, end: int) -> bool:
        """Whether a sentence ends at a mark that may end it."""
        if match["blank"] is not None or match[0][0] in "?!":
            return True
        before = text[max(begin, match.start() - _CONTEXT) : match.start()]
        word = _BEFORE.search(before)
        if word and word[1].lower() not in self._short:
            return True
        last = before.split()[-1] if before.strip() else ""
        following = text[match.end() : min(end, match.end() + _CONTEXT)].split(None, 1)
        return self._breaks(f"{last}. {following[0] if following else ''}")

    def save(self, path: str | Path) -> None:
        """Write what was learnt as JSON."""
        known = self.punkt._params
        write_json(
            path,
            {
                "abbreviations": sorted(known.abbrev_types),
                "collocations": sorted(map(list, known.collocations)),
                "starters": sorted(known.sent_starters),
                "orthography": dict(known.ortho_context),
            },
        )

    @staticmethod
    def load(path: str | Path) -> "Splitter":
        """Read what `save` wrote; PnlocError names a file that is missing or something else."""
        given, known = read_json(path), PunktParameters()
        try:
            known.abbrev_types = set(given["abbreviations"])
            known.collocations = {(first, second) for first, second in given["collocations"]}
            known.sent_starters = set(given["starters"])
            known.ortho_context.update(
                {str(word): int(flags) for word, flags in given["orthography"].items()}
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PnlocError(f"{path}: holds no Punkt parameters ({error!r})") from None
        return Splitter(known)


def train(texts: Sequence[str]) -> Splitter:
    """A splitter trained on texts, or on 20,000 spread evenly over more: their abbreviations, numbered lists, openings of sentences.

    Texts without a word are no error: what is learnt is then nothing, and the list of abbreviations remains.
    """
    trainer = PunktTrainer()
    for text in texts[:: max(1, -(-len(texts) // MOST))]:
        if _ANY_WORD.search(text):
            trainer.train(text, finalize=False)
    trainer.finalize_training()
    return Splitter(trainer.get_params())


@lru_cache(1)
def plain() -> Splitter:
    """The splitter that has seen no corpus: a list of abbreviations."""
    return Splitter()


def tokens(sentence: str) -> list[str]:
    """Lower-case words and numbers; de-identification marks (___, XXXX) stay as words of their own."""
    return _TOKENS.tokenize(sentence.lower())


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    part = text[start:end]
    if not _ANY_WORD.search(part):
        return None
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
