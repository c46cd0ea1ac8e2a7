"""One smoke run for all tests, and no deadline: how long a busy machine takes is no test."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that needs the smoke run comes first, all others that do come last.

    One worker then makes the run while the others test what needs none.
    """
    dependent = [item for item in items if "smoke" in getattr(item, "fixturenames", ())]
    others = [item for item in items if item not in dependent]
    items[:] = [*dependent[:1], *others, *dependent[1:]]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all workers have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def smoke(shared: Path) -> Path:
    """Artifacts of a finished smoke run, which is in the folder `smoke`.

    All workers share it: one makes a stage while the others wait for it.
    """
    from pnloc.cli import main

    folder = shared / "artifacts"
    assert main(["train", "--preset", "smoke", "--artifacts", str(folder)]) == 0
    return folder
