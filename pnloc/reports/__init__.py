"""Radiology reports: findings with their assertion, attributes and places; word vectors."""

from pnloc.reports.findings import attribute_values, extract_attributes, findings, has_opacity
from pnloc.reports.lexicon import ATTRIBUTES, GROUPS
from pnloc.reports.sentences import tokens

__all__ = ["ATTRIBUTES", "GROUPS", "attribute_values", "extract_attributes", "findings"]
__all__ += ["has_opacity", "tokens"]
