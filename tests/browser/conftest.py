"""A real Chromium, the built book and real Jupyter servers.

What is not there is skipped, with the command that makes it.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
NOTEBOOK = ROOT / "notebooks" / "08_explorer.ipynb"
OWN = ("file:", "data:", "blob:", "about:")
TOKEN = "for-the-tests"


class Watched:
    """What a page says and asks for that it should not.

    Errors of its scripts, pictures that fail, requests that leave the site.
    """

    def __init__(self, page, home: str = "file:") -> None:
        self.page, self.errors, self.left = page, [], []
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: self.errors.append(str(e)))
        page.on("requestfailed", self.failed)

        def route(asked):
            outside = not asked.request.url.startswith((*OWN, home))
            if outside:
                self.left.append(asked.request.url)
            return asked.abort() if outside else asked.continue_()

        page.route("**/*", route)

    def failed(self, request) -> None:
        if request.url.startswith(OWN):
            self.errors.append(f"{request.url}: {request.failure}")


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium, or another one on the path, driven by Playwright."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium fonts-dejavu")
    if find_spec("playwright") is None:
        pytest.skip("no playwright here: pip install 'pnloc[test]', or make env")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium) -> Iterator[Callable]:
    """Opens pages: opened(url, width=.., height=.., dark=.., touch=..) -> Watched."""
    contexts = []

    def open_page(url, width=1300, height=900, dark=False, touch=False, home="file:") -> Watched:
        view = {"viewport": {"width": width, "height": height}, "has_touch": touch}
        contexts.append(chromium.new_context(**view, color_scheme="dark" if dark else "light"))
        contexts[-1].set_default_timeout(120_000)
        watched = Watched(contexts[-1].new_page(), home)
        watched.page.goto(url)
        return watched

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built book."""
    if not (SITE / "pages" / "08_explorer.html").exists():
        pytest.skip("the book is not built: make book PRESET=smoke")
    return SITE


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    """A folder with notebook 8 at the smoke preset and the results of `make book PRESET=smoke`."""
    if not (ROOT / "artifacts" / "smoke" / "tables" / "choices.csv").exists():
        pytest.skip("no results of the smoke preset: make book PRESET=smoke")
    import papermill

    folder = tmp_path_factory.mktemp("jupyter")
    values = {"PRESET": "smoke", "ARTIFACTS": str(ROOT / "artifacts")}
    options = {"prepare_only": True, "progress_bar": False}
    papermill.execute_notebook(NOTEBOOK, folder / "08.ipynb", values, **options)
    return folder


@contextmanager
def serving(folder: Path, *command: str) -> Iterator[str]:
    """A Jupyter server in its own settings folder, ended with its kernels; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = ("CONFIG", "DATA", "RUNTIME")
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in names}
    environment = {**os.environ, **own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", *command, "--no-browser", f"--port={port}"]
    options = {"cwd": folder, "env": environment, "start_new_session": True}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(start, stdout=log, stderr=subprocess.STDOUT, **options)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/static/favicon.ico", timeout=1)
                break
            except urllib.error.HTTPError:
                break  # it answers
            except OSError:
                assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
