"""Notebook 8 in a real JupyterLab, in Notebook 7 and served by Voila.

A word is chosen, an image is loaded, a broken one is refused.
"""

import re
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from .conftest import TOKEN, serving
from .test_view import shades, word

SERVERS = {
    "jupyterlab": ("lab/tree/08.ipynb", f"--IdentityProvider.token={TOKEN}", "--allow-root"),
    "notebook": ("notebooks/08.ipynb", f"--IdentityProvider.token={TOKEN}", "--allow-root"),
    "voila": ("", "08.ipynb", "--Voila.ip=127.0.0.1"),
}
LOADED = 300_000  # milliseconds within which a notebook has run, on a busy machine as well


@pytest.fixture(params=SERVERS)
def live(request, workplace, opened):
    """Notebook 8, run, in a page of each server."""
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed: make voila, or pip install {request.param}")
    path, *options = SERVERS[request.param]
    with serving(workplace, request.param, *options) as address:
        watched = opened(f"{address}/{path}?token={TOKEN}", height=1400, home=address)
        page = watched.page
        if request.param != "voila":
            run_all(page)
        show(page)
        yield page
        # Voila's own template asks for icons, and does without.
        voila = request.param == "voila"
        left = [u for u in watched.left if not (voila and re.search("font-?awesome", u))]
        assert left == [], "the explorer asks for nothing from elsewhere"


def run_all(page) -> None:
    """Choose 'Run All Cells' once the kernel is there, and again while no cell has begun."""
    prompts = "Array.from(document.querySelectorAll('.jp-InputPrompt'))"
    begun = prompts + ".some(p => /\\[[*0-9]+\\]/.test(p.textContent))"
    kernel = ":is(.jp-Toolbar-kernelName, .jp-KernelName):has-text('Python 3')"
    for selector in (".jp-Notebook .jp-CodeCell", kernel, "[data-status='idle']"):
        page.wait_for_selector(selector, timeout=LOADED)
    for _ in range(15):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator("[data-command='runmenu:run-all']").click()
        page.wait_for_timeout(2000)
        if page.evaluate(begun):
            return
    raise AssertionError("no cell began to run: " + page.locator("body").inner_text()[-1500:])


def show(page) -> None:
    """Scroll until the view is there: JupyterLab keeps cells that are out of sight off the page."""
    panel = page.locator(".pnloc-view .pnloc-panel").first
    for _ in range(LOADED // 500):
        if panel.is_visible():
            return panel.scroll_into_view_if_needed()
        panels = "document.querySelectorAll('.jp-WindowedPanel-outer')"
        page.evaluate(panels + ".forEach(e => e.scrollTo(0, e.scrollHeight))")
        page.wait_for_timeout(500)
    raise AssertionError("no explorer appeared: " + page.locator("body").inner_text()[-1500:])


def load(page, path) -> None:
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="load an image").click()
    chosen.value.set_files(path)


def test_a_word_moves_the_attention_and_an_uploaded_image_is_read(live, tmp_path):
    assert "Not a medical device" in live.locator("body").inner_text()
    before = shades(live)
    word(live, 2).click()
    assert shades(live) != before
    image = "svg.pnloc-picture image"
    picture = live.locator(image).first.get_attribute("href")
    rng = np.random.default_rng(0)
    own = tmp_path / "mine.png"
    Image.fromarray(rng.integers(40, 200, (300, 260), dtype=np.uint8)).save(own)
    load(live, own)
    live.get_by_text("Loaded mine.png, 260 × 300 pixels.").wait_for()
    changed = f"old => document.querySelector('{image}').getAttribute('href') !== old"
    live.wait_for_function(changed, arg=picture)
    reading = live.locator(".pnloc-readout").inner_text()
    assert all(f"{part}:" in reading for part in ("Severity", "Pneumonia", "Attributes"))
    assert live.locator(".pnloc-readout tbody tr").count() >= 1 or "No box." in reading
    broken = tmp_path / "broken.dcm"
    broken.write_text("not an image")
    load(live, broken)
    live.get_by_text("Not loaded.").wait_for()
    assert "broken.dcm" in live.locator("span[role=alert]").inner_text()
