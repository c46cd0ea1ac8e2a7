"""Radiology reports: sections, sentences, findings with their assertion, attributes, places and word vectors."""

from pnloc.reports.findings import (
    ASSERTIONS,
    ATTRIBUTES,
    GROUPS,
    Finding,
    asserting_words,
    attribute_values,
    attribute_words,
    describe,
    extract_attributes,
    findings,
    forget,
    has_opacity,
    one_side,
    sections,
    tokens,
)

__all__ = [
    "ASSERTIONS",
    "ATTRIBUTES",
    "GROUPS",
    "Finding",
    "asserting_words",
    "attribute_values",
    "attribute_words",
    "describe",
    "extract_attributes",
    "findings",
    "forget",
    "has_opacity",
    "one_side",
    "sections",
    "tokens",
]
