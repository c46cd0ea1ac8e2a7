"""Attributes of texts by spaCy with negspacy, with the same vocabulary as ours.

Run inside the benchmark's own environment: `python _spacy_extract.py IN.json OUT.json`. IN holds a
list of texts, OUT gets {"seconds", "attributes": [[...], ...]}. Targets are the words that our
lexicon tags as findings, and 'airspace disease' and its like; attributes are those of all words of
a sentence that has a target which negspacy (termset 'en_clinical') does not negate: the library
knows negations and leaves what modifies what to its user.
"""

import json
import sys
import time

import spacy
from negspacy.negation import Negex  # noqa: F401 (registers the component)
from negspacy.termsets import termset

from pnloc.reports import lexicon as x


def pipeline(texts):
    """A blank English pipeline with sentences by rules, targets by phrase and negex."""
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    words = {word.strip(".,;:()").lower() for text in texts for word in text.split()}
    targets = {w for w in words if w and x.tag(w).roles & (x.FINDING | x.DENSITY)}
    patterns = [{"label": "OPACITY", "pattern": [{"LOWER": word}]} for word in sorted(targets)]
    for first, entries in x.PHRASES.items():
        patterns += [
            {"label": "OPACITY", "pattern": [{"LOWER": w} for w in (first, *rest)]}
            for rest, tag in entries
            if tag.roles & x.FINDING
        ]
    nlp.add_pipe("entity_ruler").add_patterns(patterns)
    nlp.add_pipe("negex", config={"neg_termset": termset("en_clinical").get_patterns()})
    return nlp


def attributes(doc):
    """Attributes of the words of sentences with a target that is not negated."""
    found = set()
    for sentence in doc.sents:
        if any(not entity._.negex for entity in sentence.ents):
            for token in sentence:
                for word in token.lower_.split("-"):
                    found |= x.tag(word).names
    if x.BOTH in found:
        found = found - {x.BOTH} | (
            set() if found & {"side:right", "side:left"} else {"side:bilateral"}
        )
    if "side:bilateral" in found or {"side:right", "side:left"} <= found:
        found = found - {"side:right", "side:left"} | {"side:bilateral"}
    return sorted(found)


def main(source, target):
    """Read texts, extract, write."""
    with open(source, encoding="utf-8") as stream:
        texts = json.load(stream)
    nlp = pipeline(texts)
    for _ in nlp.pipe(texts[:50]):
        pass
    started = time.process_time()
    found = [attributes(doc) for doc in nlp.pipe(texts)]
    seconds = time.process_time() - started
    with open(target, "w", encoding="utf-8") as stream:
        json.dump({"seconds": seconds, "attributes": found}, stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
