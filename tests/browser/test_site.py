"""Every page of the built book, as a reader's browser sees it with the network off."""

import pytest

from book._ext.check import toc

from .conftest import ROOT

PAGES = toc(ROOT / "book" / "_toc.yml")
EMPTY = "Array.from(document.images).filter(i => i.complete && i.naturalWidth === 0)"
BROKEN = EMPTY + ".map(i => i.src.slice(0, 120))"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("name", [*PAGES, "search"])
def test_a_page_loads_without_errors_broken_images_or_a_request_that_leaves_the_site(
    site, opened, name
):
    watched = opened(f"file://{site}/{name}.html")
    watched.page.wait_for_load_state("load")
    watched.page.wait_for_timeout(300)  # scripts that begin after the page has loaded
    assert watched.left == [], f"{name} asks for what is not its own"
    assert watched.errors == [], name
    assert watched.page.evaluate(BROKEN) == [], name


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_page_fits_a_phone_and_its_text_stands_out(site, opened, name, dark):
    page = opened(f"file://{site}/{name}.html", 390, 844, dark).page
    assert page.evaluate(WIDER) <= 0, f"{name} is wider than a phone"
    words = "querySelector('article p, article li')"
    back, text = (
        page.evaluate(f"getComputedStyle(document.{shown}.match(/[0-9.]+/g).map(Number)")
        for shown in ("body).backgroundColor", f"{words}).color")
    )
    assert abs(luminance(back) - luminance(text)) > 0.5, (back, text)
    assert (luminance(back) < 0.2) == dark


def luminance(colour: list[float]) -> float:
    """0 black to 1 white, of red, green and blue up to 255; good enough to tell dark from light."""
    red, green, blue = colour[:3]
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_a_search_finds_a_page_without_a_network(site, opened):
    watched = opened(f"file://{site}/search.html?q=radiograph")
    watched.page.wait_for_selector("#search-results li a")
    assert watched.left == []
