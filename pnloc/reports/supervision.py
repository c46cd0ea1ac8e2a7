"""Supervision of a study from its report and its image label: words, labels and loss weights."""

import numpy as np

from pnloc.model import PNEUMONIA
from pnloc.reports.findings import asserting_words, extract_attributes, findings, has_opacity
from pnloc.reports.lexicon import ATTRIBUTES
from pnloc.reports.sentences import Splitter
from pnloc.reports.words import WordVectors
from pnloc.training import pad_words, supervision

# The paper has size beside severity. Elsewhere a small opacity is a mild one, a large one severe.
SIZES = {"size:small": ("small", "tiny"), "size:large": ("large", "massive")}
NAMES = (PNEUMONIA, *ATTRIBUTES, *SIZES)


def sizes(text: str, splitter: Splitter | None = None) -> set[str]:
    """SIZES of the opacities that a report asserts, hedged or not."""
    told = [text[a:b] for f in findings(text, splitter) if f.current for a, b, _ in f.marks]
    words = set(" ".join(told).lower().split())
    return {name for name, own in SIZES.items() if words & {*own}}


def supervise(
    texts: list[str], own: np.ndarray, splitter: Splitter, vectors: WordVectors, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words [N, W], labels and weights [N, A] of N studies; A follows NAMES, W is at most `most`.

    texts: the reports, '' for none; own [N]: image labels, NaN for unknown. An opacity is present
    if the report asserts one; else the image label counts; else it is absent where a report
    mentions none, and unknown without a report. Without a report nothing is known of what a
    pneumonia looks like, so its attributes have no weight.
    """
    asserted = np.array([has_opacity(text, splitter) for text in texts], dtype=float)
    opacity = np.where(asserted == 1, 1.0, np.where(np.isnan(own), asserted, own))
    attributes = [extract_attributes(text, splitter) | sizes(text, splitter) for text in texts]
    labels, weights = supervision(attributes, opacity, NAMES)
    silent = np.array([not text for text in texts]) & (labels[:, 0] > 0)
    weights[silent, 1:] = 0
    words = [vectors.index(asserting_words(text, splitter)) for text in texts]
    return pad_words(words, most), labels, weights
