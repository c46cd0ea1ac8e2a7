"""The explorer, in Chromium: milliseconds from a change to the picture that shows it.

They stand beside drawing the same picture with matplotlib. A study is generated: 20 regions, 48
words, all attributes, a picture of 384 x 384. A change in the view ends when the frame that shows
it has been painted (two animation frames, so that 17 to 33 ms of it are waiting). An image of one's
own is read by untrained networks of the demo's size, whose time is that of trained ones; it ends
where the view has been given its values. Without Chromium and playwright only that is measured.
"""

import io
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image

from bench import COLUMNS
from explorer import wordview
from explorer.studies import SOURCES, Item, Study, Viewer
from pnloc.baselines.classifier import Classifier
from pnloc.boxes import group, select
from pnloc.config import preset
from pnloc.detector import Detector
from pnloc.localizer import Choice, Localizer
from pnloc.model import CrossAttention
from pnloc.regions import feature_size
from pnloc.reports.words import WordVectors
from pnloc.run.sets import NAMES
from pnloc.training import name_vectors
from pnloc.view import figures

BAR, REPEATS, REGIONS, WORDS = 150.0, 15, 20, 48
STARTS = {source: (0.5, 2) for source in SOURCES}
# What is done in the page, k counting the repeats; each time to another value than the last one.
CHANGES = {
    "hover a word": "panel().querySelectorAll('button.pnloc-word')[K % 48]"
    ".dispatchEvent(new Event('mouseenter'))",
    "choose a word": "panel().querySelectorAll('button.pnloc-word')[K % 48].click()",
    "choose an attribute": "panel().querySelectorAll('button.pnloc-attribute')[K % 20].click()",
    "move the threshold": "turn('[aria-label^=threshold]', 0.05 + 0.05 * (K % 19), 'input')",
    "change the number of boxes": "turn('[aria-label^=number]', 1 + K % 5, 'input')",
    "switch to Grad-CAM and back": "document"
    ".querySelectorAll('.pnloc-by-cam, .pnloc-by-detector')[K % 2].click()",
    "choose another study": "turn('[aria-label=study]', K % 6, 'change')",
    "compare with another study": "turn('[aria-label^=compare]', K % 6, 'change')",
}
TIMED = """async () => {
  const panel = () => document.querySelector('.pnloc-panel');
  const turn = (which, value, name) => {
    const e = document.querySelector(which);
    e.value = value;
    e.dispatchEvent(new Event(name));
  };
  const frame = () => new Promise(requestAnimationFrame), found = [];
  for (let K = 0; K < REPEATS; K++) {
    await frame();
    const started = performance.now();
    CHANGE;
    await frame(); await frame();
    found.push(performance.now() - started);
  }
  return found;
}"""


def study(seed: int) -> Study:
    """A generated study of the usual size."""
    rng, side = np.random.default_rng(seed), preset("demo").detector.side
    corners = rng.uniform(0, side * 0.7, (REGIONS, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, side * 0.3, (REGIONS, 2))], axis=1)
    mass = rng.dirichlet(np.ones(REGIONS), WORDS + len(NAMES))
    words = [f"word{k:02}" for k in range(WORDS)]
    names = zip(NAMES, mass[WORDS:], rng.random(len(NAMES)), strict=True)
    return Study(
        f"study {seed}",
        rng.integers(0, 255, (384, 384), dtype=np.uint8),
        side,
        boxes,
        rng.random(REGIONS),
        [Item(name, own, probability=p) for name, own, p in names],
        rng.random((side, side)),
        " ".join(words),
        [
            Item(w, own, 7 * k, 7 * k + 6)
            for k, (w, own) in enumerate(zip(words, mass, strict=False))
        ],
        shown=True,
    )


def drawn(one: Study) -> bytes:
    """The picture as one draws it first: matplotlib, saved as PNG."""
    mass = one.words[3].mass
    kept = select(one.boxes, group(one.boxes, mass, one.scores), 0.5, 2)
    figure = Figure(figsize=(4.2, 4.2), dpi=100)
    ax = figures.attention(one.image, one.boxes * one.zoom, mass, figure.subplots())
    figures.boxes(one.boxes[kept] * one.zoom, ax, figures.OURS)
    kept_bytes = io.BytesIO()
    figure.savefig(kept_bytes, format="png")
    return kept_bytes.getvalue()


def own_image(folder: Path) -> Callable[[], object]:
    """What happens to an image of one's own, 1024 x 1024, from the file to the values drawn."""
    demo = preset("demo")
    vectors = WordVectors(["", "right"], np.zeros((2, demo.words.size), dtype=np.float32))
    detector = Detector(demo.detector).eval()
    features = feature_size(demo.detector.pyramid)
    model = CrossAttention(
        features, torch.from_numpy(vectors.vectors), name_vectors(NAMES, vectors), demo.model
    ).eval()
    localizer = Localizer(detector, model, NAMES, Choice(), demo.regions)
    classifier, path = Classifier(detector).eval(), folder / "own.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1024, 1024), dtype=np.uint8)).save(
        path
    )
    viewer = Viewer(localizer, vectors, classifier)
    return lambda: wordview.values(viewer.read(path))


def milliseconds(work: Callable[[], object]) -> float:
    """The least of REPEATS, so that a busy machine is fair; after one that does not count."""
    work()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1000)
    return min(times)


def in_chromium() -> dict[str, list[float]]:
    """Milliseconds of each change, REPEATS times; empty without Chromium or playwright."""
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None or find_spec("playwright") is None:
        print("explorer: no Chromium or no playwright here; the view is not measured", flush=True)
        return {}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.set_content(wordview.html([study(k) for k in range(6)], STARTS))
        page.wait_for_selector(".pnloc-panel")
        script = TIMED.replace("REPEATS", str(REPEATS))
        times = {
            name: page.evaluate(script.replace("CHANGE", change))
            for name, change in CHANGES.items()
        }
        browser.close()
    return times


def run() -> pd.DataFrame:
    """Each kind of change beside matplotlib's picture; and an image of one's own beside the bar."""
    slow = milliseconds(lambda: drawn(study(0)))
    rows = [
        (
            f"{name}, median of {REPEATS} (slowest {max(times):.0f} ms), against matplotlib",
            float(np.median(times)),
            slow,
        )
        for name, times in in_chromium().items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows.append(
            (
                "an image of one's own, from file to view, against matplotlib",
                milliseconds(own_image(Path(folder))),
                slow,
            )
        )
    made = [
        (what, ours, other, "ms", other / ours, f"< {BAR:.0f} ms", ours < BAR)
        for what, ours, other in rows
    ]
    return pd.DataFrame(made, columns=COLUMNS)
