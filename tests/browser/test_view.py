"""The word-to-region view on the built page of notebook 8: no kernel, no network."""

import json
import re

import numpy as np
import pytest

REGIONS = "Array.from(document.querySelectorAll('.pnloc-panel:first-child .pnloc-region'))"
KEPT = ".pnloc-panel:first-child .pnloc-kept rect"


@pytest.fixture
def page(site, opened):
    watched = opened(f"file://{site}/pages/08_explorer.html")
    watched.page.wait_for_selector(".pnloc-panel")
    yield watched.page
    assert watched.left == [] and not [e for e in watched.errors if "pnloc" in e]


def shades(page) -> list[str]:
    return page.evaluate(REGIONS + ".map(r => r.style.fillOpacity)")


def data(page) -> dict:
    return json.loads(page.locator("script[id^='pnloc-'][type='application/json']").text_content())


def word(page, number: int = 0):
    return page.locator(".pnloc-panel:first-child button.pnloc-word").nth(number)


def test_hovering_a_word_shades_the_regions_by_its_attention_until_the_pointer_leaves(page):
    before = shades(page)
    word(page, 2).hover()
    mass = data(page)["studies"][0]["words"][2]["mass"]
    opacity = np.array(shades(page), dtype=float)
    assert opacity / opacity.max() == pytest.approx(np.array(mass) / max(mass), abs=0.01)
    assert shades(page) != before
    page.mouse.move(0, 0)
    assert shades(page) == before


def test_words_are_reached_and_chosen_by_keyboard_alone(page):
    before = shades(page)
    page.get_by_label("truth (dashed)").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "pnloc-word"
    assert shades(page) != before, "the focused word is shown"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert word(page, 1).get_attribute("aria-pressed") == "true"
    report = page.get_by_role("button", name="report", exact=True)
    assert report.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")  # all words of a report are one stop
    assert page.evaluate("document.activeElement.className") != "pnloc-word"


def test_a_word_is_tapped_on_a_phone_and_the_picture_stays_in_sight(site, opened):
    page = opened(f"file://{site}/pages/08_explorer.html", 390, 844, touch=True).page
    before = shades(page)
    word(page, 3).tap()
    assert shades(page) != before
    box = page.locator("svg.pnloc-picture").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= 844 and box["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_attribute_threshold_and_number_select_the_boxes(page):
    attributes = data(page)["studies"][0]["attributes"]
    page.get_by_role("button", name=re.compile("^zone:lower")).click()
    ranked = next(a["ranked"] for a in attributes if a["label"] == "zone:lower")
    for share, most in ((0.05, 5), (0.5, 5), (1.0, 5), (0.05, 1)):
        page.get_by_label("threshold, as").fill(str(share))
        page.get_by_label("number of boxes").fill(str(most))
        wanted = min(most, sum(relative >= share - 1e-6 for relative, *_ in ranked))
        assert page.locator(KEPT).count() == wanted, (share, most)


def test_each_source_starts_with_its_choice_on_validation_images(page):
    starts, labels = data(page)["starts"], ("threshold, as", "number of boxes")
    ways = {"attribute": "image alone", "cam": "Grad-CAM", "detector": "detector", "word": "report"}
    for source, name in ways.items():
        page.get_by_role("button", name=name, exact=True).click()
        values = [float(page.get_by_label(label).input_value()) for label in labels]
        assert values == pytest.approx(starts[source]), source


def test_source_truth_and_a_second_study_can_be_switched(page):
    found = data(page)
    truth = page.locator(".pnloc-panel:first-child .pnloc-truth rect")
    assert truth.count() == len(found["studies"][0]["truth"]) and truth.first.is_visible()
    page.get_by_label("truth (dashed)").uncheck()
    assert not truth.first.is_visible()
    page.get_by_role("button", name="Grad-CAM").click()
    assert page.locator(".pnloc-panel:first-child .pnloc-heat").is_visible()
    page.get_by_role("button", name="detector").click()
    assert not page.locator(".pnloc-panel:first-child .pnloc-heat").is_visible()
    assert "detector: most score" in page.locator(".pnloc-status").first.inner_text()
    page.get_by_label("compare with").select_option("1")
    names = [p.get_attribute("aria-label") for p in page.locator(".pnloc-panel").all()]
    assert names == [f"study {s['name']}" for s in found["studies"][:2]]
    page.get_by_label("study", exact=True).select_option("2")
    name = page.locator(".pnloc-panel").first.get_attribute("aria-label")
    assert name == f"study {found['studies'][2]['name']}"


def test_the_description_of_the_picture_follows_the_selection(page):
    picture, status = page.locator("svg.pnloc-picture"), page.locator(".pnloc-status")
    assert status.get_attribute("aria-live") == "polite"
    word(page, 2).click()
    assert f"“{data(page)['studies'][0]['words'][2]['label']}”" in status.inner_text()
    assert status.inner_text() in picture.get_attribute("aria-label")
