"""Stages: made once, and again when something changed or was interrupted; what a digest covers."""

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from forks import CONTEXT
from torch import nn

from pnloc.files import read_json
from pnloc.run import cache
from pnloc.run.cache import PLUMBING, STAGES, Cache, imports, source_digest, tree_digest


@dataclass(frozen=True)
class Options:
    rate: float = 0.1
    depth: int = 2


def make(folder, key):
    """Fill a stage; the file counts how often it was called."""
    with open(folder / "result.txt", "a") as file:
        file.write(key)


def forget() -> None:
    """Have sources read again, as another process would."""
    imports.cache_clear()
    source_digest.cache_clear()


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A package of a few modules in place of pnloc's own."""
    files = {
        "top.py": "from pnloc import files, middle\nfrom pnloc.run.sets import Sets",
        "middle.py": "def later():\n    import pnloc.bottom",
        "bottom.py": "import json",
        "bottom.toml": "a = 1",
        "other.py": "",
        "files.py": "",
        "run/__init__.py": "",
        "run/sets.py": "from pnloc import other",
    }
    for name, text in files.items():
        path = tmp_path / "sources" / "pnloc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(cache, "ROOT", tmp_path / "sources")
    forget()
    yield tmp_path / "sources" / "pnloc"
    forget()


def test_a_stage_is_made_once(tmp_path):
    stages = Cache(tmp_path)
    folder, key = stages.stage("words", 1, Options(), make=make)
    assert stages.stage("words", 1, Options(), make=make) == (folder, key)
    assert Cache(tmp_path).stage("words", 1, Options(), make=make) == (folder, key)
    assert (folder / "result.txt").read_text() == key and stages.ran == ["words"]
    assert folder == tmp_path / "cache" / f"words-{key}"
    assert read_json(folder / "done.json")["stage"] == "words"


@pytest.mark.parametrize(
    "inputs",
    [(2, Options()), (1, Options(rate=0.2)), (1,), (Options(), 1), (1, Options(), "")],
    ids=str,
)
def test_a_stage_is_made_again_when_an_input_changes_and_its_old_folder_goes(tmp_path, inputs):
    stages = Cache(tmp_path)
    before, first = stages.stage("words", 1, Options(), make=make)
    after, second = stages.stage("words", *inputs, make=make)
    assert first != second and stages.ran == ["words", "words"]
    assert not before.exists() and (after / "done.json").exists()


def _slowly(root) -> list[str]:
    """The stages that one of several runs in the same folder made, each in a second."""

    def make(folder, key):
        assert not (folder / "scratch").exists(), "another run is making this stage"
        (folder / "scratch").touch()
        time.sleep(1)
        (folder / "scratch").unlink()
        (folder / "result.txt").write_text(key)

    run = Cache(root)
    for name in ("slow", "next"):
        folder, key = run.stage(name, 1, make=make)
        assert (folder / "result.txt").read_text() == key
    return run.ran


def test_of_runs_in_one_folder_one_makes_a_stage_and_the_others_wait(tmp_path):
    with ProcessPoolExecutor(2, mp_context=CONTEXT) as pool:
        ran = [name for names in pool.map(_slowly, [tmp_path] * 2) for name in names]
    assert sorted(ran) == ["next", "slow"]
    assert set(pd.read_csv(tmp_path / "timing.csv")["stage"]) == {"next", "slow"}
    assert set(read_json(tmp_path / "run.json")["stages"]) == {"next", "slow"}


def test_an_interrupted_stage_leaves_the_older_one_and_is_made_again_in_its_folder(tmp_path):
    contents = []

    def halting(folder, key):
        contents.append([p.name for p in folder.iterdir()])
        (folder / "state-1.safetensors").write_text("half")
        if len(contents) == 1:
            raise KeyboardInterrupt

    stages = Cache(tmp_path)
    before, _ = stages.stage("words", 0, make=make)
    with pytest.raises(KeyboardInterrupt):
        stages.stage("words", 1, make=halting)
    assert stages.stage("words", 0, make=make)[0] == before and stages.ran == ["words"]
    folder, _ = stages.stage("words", 1, make=halting)
    assert contents == [[], ["state-1.safetensors"]]
    assert [p.name for p in folder.iterdir()] == ["done.json"], "its checkpoint is of no more use"


def test_only_older_folders_of_the_very_stage_are_removed(tmp_path):
    stages = Cache(tmp_path)
    names = ("regions", "regions-a", "regions-ab", "regions-a-b", "region")
    for name in names:
        stages.stage(name, 1, make=make)
    for name in ("regions", "regions-a"):
        stages.stage(name, 2, make=make)
    folders = sorted(p.name.rpartition("-")[0] for p in (tmp_path / "cache").iterdir())
    assert folders == sorted(names)


def test_a_trained_module_and_its_history_are_read_back(tmp_path):
    def build():
        return nn.Linear(2, 1)

    def fit(folder, fingerprint, seed):
        fitted.append(fingerprint)
        return module, history

    module, history, fitted = build(), pd.DataFrame({"epoch": [0], "loss": [0.5]}), []
    for _ in range(2):
        stage = Cache(tmp_path).trained("line", 1, seed=0, build=build, fit=fit, code=(build,))
        assert torch.equal(stage.load().weight, module.weight) and not stage.load().training
        pd.testing.assert_frame_equal(stage.history, history)
    assert fitted == [stage.key] and stage[:2] == (stage.folder, stage.key)


# What a fingerprint covers -------------------------------------------------------------------


def test_a_closure_follows_imports_everywhere_in_a_file(sources):
    assert imports("pnloc.top") == {"pnloc.top", "pnloc.middle", "pnloc.bottom"}
    assert imports("pnloc.run.sets") == {"pnloc.run.sets", "pnloc.other"}, "a stage by itself"
    assert imports("json") == set()


@pytest.mark.parametrize(
    ("changed", "covered"),
    [("top.py", True), ("bottom.py", True), ("bottom.toml", True)]
    + [("files.py", False), ("run/sets.py", False), ("other.py", False)],
)
def test_a_digest_changes_with_any_source_or_table_in_the_closure(sources, changed, covered):
    before = source_digest("pnloc.top")
    (sources / changed).write_text("# changed")
    assert source_digest("pnloc.top") == before, "a running process runs what it has imported"
    forget()
    assert (source_digest("pnloc.top") != before) == covered


def test_what_is_left_out_of_closures_exists_and_every_table_has_its_module_beside_it():
    assert all(cache._source(name) for name in PLUMBING | STAGES)
    tables = [*(cache.ROOT / "pnloc").glob("[!v]*/**/*.toml")]  # but for those of the view
    tables += (cache.ROOT / "phantoms").glob("*.toml")
    assert all(path.with_suffix(".py").exists() for path in tables)


def test_a_tree_digest_changes_with_any_file_below(tmp_path):
    assert tree_digest(tmp_path / "none") == ""
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "a.txt").write_text("1")
    first = tree_digest(tree)
    assert tree_digest(tree) == first != ""
    (tree / "deep" / "a.txt").write_text("12")
    second = tree_digest(tree)
    (tree / "deep" / "b.txt").write_text("")
    assert len({first, second, tree_digest(tree)}) == 3
