"""A report as HTML: all of its text is there, marked and escaped."""

import re
from html import unescape

from pnloc.view import markup

FINDINGS = "Patchy opacity in the right base, 5 < 6 & <b>. No consolidation on the left."
TEXT = f"INDICATION: Pneumonia?\nFINDINGS: {FINDINGS}"


def plain(html: str) -> str:
    return unescape(re.sub(r"<sub.*?</sub>|<[^>]+>", "", html))


def test_the_text_of_a_report_is_whole_and_escaped():
    assert plain(markup.report(TEXT)) == TEXT
    assert "<b>" not in markup.report(TEXT)


def test_findings_carry_their_assertion_as_a_word_and_attributes_their_colour():
    html = markup.report(TEXT)
    assert re.findall(r"<sub[^>]*>(\w+)</sub>", html) == ["hypothetical", "affirmed", "negated"]
    attributes = re.findall(r'pnloc-attribute"[^>]*>([^<]*)<', html)
    assert attributes == ["Patchy", "right", "base"]  # 'left' belongs to what is denied
