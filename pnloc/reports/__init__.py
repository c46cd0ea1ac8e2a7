"""Radiology reports: findings with their assertion, attributes and places; word vectors."""

from pnloc.reports.findings import (
    Finding,
    asserting_words,
    attribute_values,
    extract_attributes,
    findings,
    has_opacity,
    sections,
)
from pnloc.reports.lexicon import ATTRIBUTES
from pnloc.reports.sentences import tokens

__all__ = ["ATTRIBUTES", "Finding", "asserting_words", "attribute_values", "extract_attributes"]
__all__ += ["findings", "has_opacity", "sections", "tokens"]
