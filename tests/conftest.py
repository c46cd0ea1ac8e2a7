"""One smoke run for all tests; Hypothesis judges what a test says, not how long a busy machine takes to say it."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, worker_id) -> Path:
    """Artifacts folder of a finished smoke run, shared by all workers: one makes a stage while the others wait for it."""
    from pnloc.cli import main

    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "artifacts"
    assert main(["train", "--preset", "smoke", "--artifacts", str(folder)]) == 0
    return folder
