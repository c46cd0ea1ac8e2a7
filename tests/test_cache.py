"""Stages: run once, again when something changed or was interrupted; what is removed and what is timed."""

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import pandas as pd
import pytest

from pnloc.files import read_json
from pnloc.run import cache
from pnloc.run.cache import Cache, source_digest, tree_digest


@dataclass(frozen=True)
class Options:
    rate: float = 0.1
    depth: int = 2


class Maker:
    """Counts its calls and writes a file."""

    def __init__(self) -> None:
        self.calls = []

    def __call__(self, folder, key):
        self.calls.append((folder, key))
        (folder / "result.txt").write_text(key)


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A package of two modules and a folder in place of pnloc's own."""
    folder = tmp_path / "package"
    (folder / "many").mkdir(parents=True)
    for name in ("one.py", "two.py", "many/a.py", "many/b.py"):
        (folder / name).write_text(f"# {name}\n")
    monkeypatch.setattr(cache, "SOURCES", folder)
    source_digest.cache_clear()
    yield folder
    source_digest.cache_clear()


def folders(root) -> set[str]:
    """Names of the stages in a cache, without their digests."""
    return {p.name.rpartition("-")[0] for p in (root / "cache").iterdir()}


def test_a_stage_runs_once(tmp_path):
    make, stages = Maker(), Cache(tmp_path)
    folder, key = stages.stage("words", 1, Options(), make=make)
    assert stages.stage("words", 1, Options(), make=make) == (folder, key)
    assert Cache(tmp_path).stage("words", 1, Options(), make=make) == (folder, key)
    assert make.calls == [(folder, key)] and stages.ran == ["words"]
    assert (
        folder == tmp_path / "cache" / f"words-{key}" and (folder / "result.txt").read_text() == key
    )
    assert read_json(folder / "done.json")["stage"] == "words"


@pytest.mark.parametrize(
    "inputs",
    [
        (2, Options()),
        (1, Options(rate=0.2)),
        (1, Options(depth=3)),
        (1,),
        (Options(), 1),
        (1, Options(), ""),
    ],
)
def test_a_stage_runs_again_when_an_input_changes_and_its_old_folder_goes(tmp_path, inputs):
    make, stages = Maker(), Cache(tmp_path)
    before, first = stages.stage("words", 1, Options(), make=make)
    after, second = stages.stage("words", *inputs, make=make)
    assert first != second and len(make.calls) == 2
    assert not before.exists() and (after / "done.json").exists()


def test_a_fingerprint_carries_changes_downstream(tmp_path):
    make, stages = Maker(), Cache(tmp_path)
    keys = []
    for seed in (0, 0, 1):
        _, upstream = stages.stage("data", seed, make=make)
        keys.append(stages.stage("model", upstream, make=make)[1])
    assert keys[0] == keys[1] != keys[2]
    assert stages.ran == ["data", "model", "data", "model"]


def _slowly(root) -> list[str]:
    """Make a stage as a run in a process of its own, in a second's time; which stages it made."""

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
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        made = [name for names in pool.map(_slowly, [tmp_path] * 3) for name in names]
    assert sorted(made) == ["next", "slow"]
    assert set(pd.read_csv(tmp_path / "timing.csv")["stage"]) == {"next", "slow"}
    assert set(read_json(tmp_path / "run.json")["stages"]) == {"next", "slow"}


def test_an_interrupted_stage_is_run_again_in_the_same_folder(tmp_path):
    def breaks(folder, key):
        (folder / "state-1.safetensors").write_text("half")
        raise KeyboardInterrupt

    seen = []

    def resumes(folder, key):
        seen.append((folder, sorted(p.name for p in folder.iterdir())))

    stages = Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stages.stage("words", 1, make=breaks)
    assert stages.ran == [] and not (tmp_path / "timing.csv").exists()
    folder, _ = stages.stage("words", 1, make=resumes)
    assert seen == [(folder, ["state-1.safetensors"])]
    assert sorted(p.name for p in folder.iterdir()) == ["done.json"], (
        "the state of a finished stage is of no use"
    )
    stages.stage("words", 1, make=resumes)
    assert len(seen) == 1


def test_a_failing_stage_leaves_the_older_result(tmp_path):
    def breaks(folder, key):
        raise ValueError("no")

    make, stages = Maker(), Cache(tmp_path)
    before, _ = stages.stage("words", 1, make=make)
    with pytest.raises(ValueError, match="no"):
        stages.stage("words", 2, make=breaks)
    assert stages.stage("words", 1, make=make)[0] == before and len(make.calls) == 1


def test_only_older_folders_of_the_very_stage_are_removed(tmp_path):
    make, stages = Maker(), Cache(tmp_path)
    names = ("regions", "regions-a", "regions-ab", "regions-a-b", "region")
    for name in names:
        stages.stage(name, 1, make=make)
    for name in ("regions", "regions-a"):
        stages.stage(name, 2, make=make)
    assert folders(tmp_path) == set(names) and len(list((tmp_path / "cache").iterdir())) == len(
        names
    )
    for name in names:
        stages.stage(name, 2 if name in ("regions", "regions-a") else 1, make=make)
    assert len(make.calls) == len(names) + 2


def test_timing_has_one_row_per_stage(tmp_path):
    stages = Cache(tmp_path)
    for name, value in (("a", 1), ("b", 1), ("a", 2), ("a", 2)):
        stages.stage(name, value, make=Maker())
    timing = pd.read_csv(tmp_path / "timing.csv")
    assert list(timing.columns) == ["stage", "seconds", "peak_mib"]
    assert timing["stage"].tolist() == ["b", "a"]
    assert (timing["seconds"] >= 0).all() and (timing["peak_mib"] > 10).all()


def test_the_source_digest_changes_with_the_text_of_a_module_alone(sources):
    before = {
        names: source_digest(*names) for names in (("one",), ("two",), ("many",), ("one", "many"))
    }
    assert len(set(before.values())) == 4
    assert source_digest("many", "one") == before["one", "many"]
    (sources / "one.py").write_text("# changed\n")
    (sources / "many" / "c.txt").write_text("not a module")
    assert source_digest("one") == before["one",], "a running process runs what it has imported"
    source_digest.cache_clear()
    assert (
        source_digest("one") != before["one",]
        and source_digest("one", "many") != before["one", "many"]
    )
    assert source_digest("two") == before["two",] and source_digest("many") == before["many",]
    (sources / "many" / "b.py").write_text("# changed\n")
    source_digest.cache_clear()
    assert source_digest("many") != before["many",]


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
