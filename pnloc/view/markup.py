"""A report as HTML, its findings and attributes marked in colour; nothing but the colour-blind safe palette of Okabe and Ito.

Backgrounds are translucent and the text keeps the page's own colour, so that the marks read on light and dark pages alike; every
finding also carries its assertion as a word, so that no meaning hangs on colour alone.
"""

from html import escape

from pnloc import access
from pnloc.reports.findings import ASSERTIONS, findings
from pnloc.reports.sentences import Splitter

COLOURS = {
    "affirmed": "213, 94, 0",
    "hedged": "230, 159, 0",
    "negated": "0, 114, 178",
    "past": "128, 128, 128",
    "hypothetical": "204, 121, 167",
    "attribute": "0, 158, 115",
}
_BLOCK = "white-space: pre-wrap; line-height: 1.9; border-left: 3px solid rgba(128, 128, 128, .5); padding-left: .8em"


def _mark(text: str, kind: str, title: str = "", label: str = "") -> str:
    style = f"background: rgba({COLOURS[kind]}, .22); border-bottom: 2px solid rgb({COLOURS[kind]}); border-radius: 3px; padding: 0 .15em"
    small = (
        f'<sub style="font-size: .7em; padding-left: .25em">{escape(label)}</sub>' if label else ""
    )
    return f'<span style="{style}" title="{escape(title)}">{escape(text)}{small}</span>'


def legend() -> str:
    """What the colours mean, as HTML."""
    return f"<p>{' '.join(_mark(kind, kind) for kind in (*ASSERTIONS, 'attribute'))}</p>"


def report(text: str, splitter: Splitter | None = None, kind: str = "") -> str:
    """A report as HTML: findings with their assertion, and the words that give attributes to a finding asserted of today.

    `kind` is the access class of a text that does not carry its own (pnloc.access); a credentialed text is marked as such.
    """
    marks: dict[tuple[int, int], str] = {}
    found = findings(text, splitter)
    for finding in found:
        for start, end, names in finding.marks if finding.current else ():
            marks[start, end] = _mark(text[start:end], "attribute", ", ".join(sorted(names)))
    for finding in found:
        title = f"{finding.assertion}: {', '.join(sorted(finding.attributes)) or 'no attribute'}"
        marks[finding.span] = _mark(
            text[slice(*finding.span)], finding.assertion, title, finding.assertion
        )
    parts, at = [], 0
    for start, end in sorted(marks):
        if start >= at:
            parts += [escape(text[at:start]), marks[start, end]]
            at = end
    marked = f" {access.MARK}" if (kind or access.of(text)) == access.CREDENTIALED else ""
    return f'<div{marked} style="{_BLOCK}">{"".join(parts)}{escape(text[at:])}</div>'
