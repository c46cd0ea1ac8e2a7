"""Sentences and tokens of a report, by Punkt (Kiss and Strunk 2006) trained on a corpus.

`train` learns from texts which words are abbreviations, and a `Splitter` cuts accordingly. NLTK's
own loop over all full stops reads some 5,000 OpenI reports a second and would be the slowest step
of all. So a full stop after an ordinary word (two letters or more, no abbreviation) is cut at once,
as Punkt would, and Punkt itself decides only about the rest: abbreviations, initials, numbers,
ellipses. Two marks end a sentence in reports whatever Punkt says: a blank line, and a full stop
glued to a capital.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer, PunktTrainer

from pnloc.files import form, read_json, write_json
from pnloc.reports.lexicon import SPELLING

MOST = 20_000  # texts from which Punkt is trained at most
_CANDIDATE = re.compile(
    r"[.?!][)\]\"']{0,3}(?:\s+|(?<=[a-z]\.)(?=[A-Z][a-z])|(?<=XXXX\.)(?=[A-Z]))"
    r"|(?P<blank>\n[^\S\n]*\n\s*)"
)
_BEFORE = re.compile(r"(?:^|[\s(])([^\W\d_]{2,30})$")
_DENIES = re.compile(r"(?:no|none|negative|nil)\b[^\S\n]*(?:[.;,]|$)", re.IGNORECASE | re.MULTILINE)
_CONTEXT = 40  # characters on either side of a full stop that Punkt gets
_TOKENS = re.compile(r"[a-z]+(?:[-'][a-z]+)*|_+|\d+(?:\.\d+)?")
_ANY_WORD = re.compile(r"\w")


class Splitter:
    """Cuts texts into sentences by a Punkt model, or by a list of abbreviations alone."""

    def __init__(self, parameters: PunktParameters | None = None) -> None:
        parameters = parameters or PunktParameters()
        parameters.abbrev_types = parameters.abbrev_types.union(SPELLING["abbreviations"])
        self.punkt = PunktSentenceTokenizer(parameters)
        self._short = parameters.abbrev_types
        self._breaks = lru_cache(1 << 14)(self.punkt.text_contains_sentbreak)

    def spans(self, text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
        """Start and end of each sentence in text[start:end], without outer white space.

        Sentences without a word are left out.
        """
        end = len(text) if end is None else end
        cuts = [start]
        for match in _CANDIDATE.finditer(text, start, end):
            if self._ends(text, match, cuts[-1], end):
                cuts.append(match.end())
        parts = ((a, b, text[a:b]) for a, b in pairwise([*cuts, end]))
        return [
            (b - len(part.lstrip()), a + len(part.rstrip()))
            for a, b, part in parts
            if _ANY_WORD.search(part)
        ]

    def __call__(self, text: str) -> list[str]:
        """The sentences of a text, their white space made single; an empty text has none."""
        return [" ".join(text[a:b].split()) for a, b in self.spans(text)]

    def _ends(self, text: str, match: re.Match, begin: int, end: int) -> bool:
        """Whether a sentence ends at a mark that may end it."""
        if match["blank"] is not None or match[0][0] == "!":
            return True
        if match[0][0] == "?":  # but not in 'Pneumonia? No.' and 'Opacity, ? pneumonia'
            asks = match.start() == begin or text[match.start() - 1] in " \n("
            return not asks and not _DENIES.match(text, match.end())
        before = text[max(begin, match.start() - _CONTEXT) : match.start()]
        word = _BEFORE.search(before)
        if word and word[1].lower() not in self._short:
            return True
        last = before.split()[-1] if before.strip() else ""
        following = text[match.end() : min(end, match.end() + _CONTEXT)].split(None, 1)
        return self._breaks(f"{last}. {following[0] if following else ''}")

    def save(self, path: str | Path) -> None:
        """Write the model as JSON."""
        fields = vars(self.punkt._params)
        write_json(path, {k: sorted(v) if isinstance(v, set) else v for k, v in fields.items()})

    @staticmethod
    def load(path: str | Path) -> "Splitter":
        """Read what `save` wrote; PnlocError if the file is missing or holds something else."""
        fields, model = read_json(path), PunktParameters()
        with form(path, "holds no Punkt parameters"):
            model.abbrev_types = set(fields["abbrev_types"])
            model.collocations = {(first, second) for first, second in fields["collocations"]}
            model.sent_starters = set(fields["sent_starters"])
            model.ortho_context.update({str(w): int(n) for w, n in fields["ortho_context"].items()})
        return Splitter(model)


def train(texts: Sequence[str]) -> Splitter:
    """A splitter trained on texts, or on 20,000 of them, evenly spread, where there are more.

    It learns their abbreviations, numbered lists and sentence openings. Texts without a word are no
    error: then nothing is learnt, and the list of abbreviations remains.
    """
    trainer = PunktTrainer()
    for text in texts[:: max(1, -(-len(texts) // MOST))]:
        if _ANY_WORD.search(text):
            trainer.train(text, finalize=False)
    trainer.finalize_training()
    return Splitter(trainer.get_params())


@lru_cache(1)
def plain() -> Splitter:
    """The splitter without a corpus: a list of abbreviations."""
    return Splitter()


def tokens(sentence: str) -> list[str]:
    """Lower-case words and numbers; de-identification marks (___, XXXX) are words, too."""
    return _TOKENS.findall(sentence.lower())
