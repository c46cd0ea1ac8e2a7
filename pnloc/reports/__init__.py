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
from pnloc.reports.lexicon import ATTRIBUTES, GROUPS
from pnloc.reports.sentences import tokens

__all__ = ["ATTRIBUTES", "GROUPS", "Finding", "asserting_words", "attribute_values"]
__all__ += ["extract_attributes", "findings", "has_opacity", "sections", "tokens"]
