"""A report as HTML, with findings and attributes marked in colours; the style is in `legend`.

Every finding also carries its assertion as a word, so that no meaning depends on colour alone.
"""

from html import escape
from pathlib import Path

from pnloc import access
from pnloc.reports.findings import ASSERTIONS, findings
from pnloc.reports.sentences import Splitter

CSS = Path(__file__).with_name("markup.css")


def _mark(text: str, kind: str, title: str = "", label: str = "") -> str:
    small = f"<sub>{label}</sub>" if label else ""
    head = f'<span class="pnloc-mark pnloc-{kind}" title="{escape(title)}">'
    return f"{head}{escape(text)}{small}</span>"


def legend() -> str:
    """What the colours mean, as HTML."""
    marks = " ".join(_mark(kind, kind) for kind in (*ASSERTIONS, "attribute"))
    return f"<style>{CSS.read_text(encoding='utf-8')}</style><p>{marks}</p>"


def report(text: str, splitter: Splitter | None = None, kind: str = "") -> str:
    """A report as HTML: findings with their assertion, and the words that give them attributes.

    `kind` is the access class of a text that does not carry its own (pnloc.access); credentialed
    texts are marked as such.
    """
    marks: dict[tuple[int, int], str] = {}
    mentions = findings(text, splitter)
    for start, end, names in [mark for f in mentions if f.current for mark in f.marks]:
        marks[start, end] = _mark(text[start:end], "attribute", ", ".join(sorted(names)))
    for finding in mentions:
        phrase, assertion = text[slice(*finding.span)], finding.assertion
        title = f"{assertion}: {', '.join(sorted(finding.attributes)) or 'no attribute'}"
        marks[finding.span] = _mark(phrase, assertion, title, assertion)
    parts, at = [], 0
    for start, end in sorted(marks):
        if start >= at:
            parts += [escape(text[at:start]), marks[start, end]]
            at = end
    marked = f" {access.MARK}" if (kind or access.of(text)) == access.CREDENTIALED else ""
    return f'<div{marked} class="pnloc-marked">{"".join(parts)}{escape(text[at:])}</div>'
