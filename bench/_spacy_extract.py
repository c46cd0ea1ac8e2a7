"""Attributes of texts by medspaCy (ConText and section detection), with the same words as ours.

Run inside the benchmark's own environment: `python _spacy_extract.py IN.json OUT.json`. IN holds
`texts`, `targets` (words and phrases for an opacity) and `attributes` (those of each word); OUT
gets `seconds`, and per text whether an opacity is `asserted` and which attributes it has
(`found`). Asserted is a target that medspaCy calls neither negated nor historical, hypothetical or
of a family member, outside the sections that ask; a doubtful one counts, as it does for us.
Attributes are those of all words of its sentence: the library leaves what modifies what to its
user.
"""

import json
import re
import sys
import time

import medspacy
from loguru import logger
from medspacy.ner import TargetRule

ASKING = {"history_of_present_illness", "past_medical_history", "chief_complaint", "family_history"}
WORD = re.compile(r"[a-z]+")


def pipeline(targets):
    """medspaCy's default pipeline with its section detection, and the targets."""
    nlp = medspacy.load()
    nlp.add_pipe("medspacy_sectionizer")
    matcher = nlp.get_pipe("medspacy_target_matcher")
    matcher.add([TargetRule(target, "OPACITY") for target in targets])
    return nlp


def asserted(doc):
    """The targets of a text that are said to be there."""
    for entity in doc.ents:
        own = entity._
        denied = own.is_negated or own.is_historical or own.is_hypothetical or own.is_family
        if not denied and own.section_category not in ASKING:
            yield entity


def main(source, target):
    """Read texts, extract, write."""
    logger.disable("PyRuSH")
    logger.disable("medspacy")
    with open(source, encoding="utf-8") as stream:
        given = json.load(stream)
    nlp = pipeline(given["targets"])
    started = time.process_time()
    kept = [list(asserted(nlp(text))) for text in given["texts"]]
    seconds = time.process_time() - started
    found = []
    for entities in kept:
        sentences = {entity.sent.start: entity.sent.text.lower() for entity in entities}
        words = {word for text in sentences.values() for word in WORD.findall(text)}
        found.append(sorted({n for word in words for n in given["attributes"].get(word, ())}))
    result = {"seconds": seconds, "asserted": [bool(e) for e in kept], "found": found}
    with open(target, "w", encoding="utf-8") as stream:
        json.dump(result, stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
