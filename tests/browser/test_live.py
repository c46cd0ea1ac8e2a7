"""Notebook 8 in a real JupyterLab, in Notebook 7 and served by Voila.

A word is chosen, an image is loaded, a broken one is refused.
"""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from .conftest import NOTEBOOK, TOKEN, serving
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
        icons = (
            ("font-awesome", "fontawesome") if request.param == "voila" else ()
        )  # of Voila's own template; it does without
        left = [url for url in watched.left if not any(name in url for name in icons)]
        assert left == [], "the explorer asks for nothing from elsewhere"


def run_all(page) -> None:
    """Choose 'Run All Cells' once the kernel is there, and again while no cell has begun."""
    begun = (
        "Array.from(document.querySelectorAll('.jp-InputPrompt'))"
        ".some(p => /\\[[*0-9]+\\]/.test(p.textContent))"
    )
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=LOADED)
    page.wait_for_selector(
        ":is(.jp-Toolbar-kernelName, .jp-KernelName):has-text('Python 3')", timeout=LOADED
    )
    page.wait_for_selector("[data-status='idle']", timeout=LOADED)
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
        page.evaluate(
            "document.querySelectorAll('.jp-WindowedPanel-outer')"
            ".forEach(e => e.scrollTo(0, e.scrollHeight))"
        )
        page.wait_for_timeout(500)
    raise AssertionError(
        "the explorer did not appear: " + page.locator("body").inner_text()[-1500:]
    )


def load(page, path) -> None:
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="load an image").click()
    chosen.value.set_files(path)


def test_a_word_moves_the_attention_and_an_image_of_ones_own_is_read(live, tmp_path):
    assert "Not a medical device" in live.locator("body").inner_text()
    before = shades(live)
    word(live, 2).click()
    assert shades(live) != before
    picture = live.locator("svg.pnloc-picture image").first.get_attribute("href")
    rng = np.random.default_rng(0)
    own = tmp_path / "mine.png"
    Image.fromarray(rng.integers(40, 200, (300, 260), dtype=np.uint8)).save(own)
    load(live, own)
    live.get_by_text("Loaded mine.png, 260 × 300 pixels.").wait_for()
    live.wait_for_function(
        "was => document.querySelector('svg.pnloc-picture image').getAttribute('href') !== was",
        arg=picture,
    )
    said = live.locator(".pnloc-readout").inner_text()
    assert (
        "Severity: expected grade" in said
        and "Pneumonia: probability" in said
        and "Attributes:" in said
    )
    assert live.locator(".pnloc-readout tbody tr").count() >= 1 or "No box." in said
    broken = tmp_path / "broken.dcm"
    broken.write_text("not an image")
    load(live, broken)
    live.get_by_text("Not loaded.").wait_for()
    assert "broken.dcm" in live.locator("span[role=alert]").inner_text()


def test_the_notebook_is_the_one_that_is_committed(workplace):
    made, committed = (
        json.loads(p.read_text(encoding="utf-8"))["cells"]
        for p in (workplace / "08.ipynb", NOTEBOOK)
    )
    kept = [c["source"] for c in made if "injected-parameters" not in c["metadata"].get("tags", [])]
    assert kept == [c["source"] for c in committed]
