"""What lies beside a run: versions, commit, machine, data; no host, no user, no path."""

import getpass
import platform
import socket
import subprocess
from importlib.metadata import version

import numpy as np
import pandas as pd

from pnloc.files import read_json
from pnloc.run import cache, provenance
from pnloc.run.cache import Cache
from pnloc.run.provenance import PACKAGES, commit, data_digest, environment


def test_the_environment_names_versions_and_the_machine_but_no_host_nor_user():
    facts = environment()
    assert facts["packages"] == {name: version(name) for name in PACKAGES}
    assert facts["python"] == platform.python_version() and facts["processes"] == 1
    words = [str(value) for value in facts.values()]
    assert socket.gethostname() not in words and getpass.getuser() not in words
    assert not any("/" in word for word in words)


def test_the_commit_is_that_of_the_repository_or_unknown(tmp_path):
    settings = {"user.name": "n", "user.email": "e@example.org", "commit.gpgsign": "false"}
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]

    def git(*words):
        command = ["git", "-C", tmp_path, *options, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert commit(tmp_path / "nowhere") == "unknown"
    git("init", "-q")
    assert commit(tmp_path) == "unknown", "no commit yet"
    (tmp_path / "a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-qm", "one")
    assert commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "a.txt").write_text("2")
    assert commit(tmp_path) == git("rev-parse", "HEAD") + "+", "what ran is not what was committed"
    (tmp_path / "inside").mkdir()
    assert commit(tmp_path / "inside") == "unknown", "a package inside somebody else's repository"


def test_the_data_digest_is_of_the_content_alone():
    pixels = np.arange(600 * 4, dtype=np.uint8).reshape(600, 2, 2)
    table = pd.DataFrame({"image": ["a", "b"], "label": [1.0, np.nan]})
    first = data_digest(pixels, table)
    assert first == data_digest(pixels.copy(), table.set_axis([5, 9])) and len(first) == 16
    changed = pixels.copy()
    changed[599, 1, 1] += 1
    other_pixels = [changed, pixels.reshape(600, 4, 1), pixels[:0]]
    others = [data_digest(other, table) for other in other_pixels]
    assert len({first, *others, data_digest(pixels, table.assign(label=0))}) == 5


def test_run_json_names_the_environment_of_each_stage(tmp_path, monkeypatch):
    def make(folder, key):
        return {"data": "abc"}

    first = Cache(tmp_path, preset="smoke", seed=3)
    _, key = first.stage("data", 1, make=make)
    first.stage("model", 1, make=make)
    older = provenance.environment()
    monkeypatch.setattr(cache, "environment", lambda: {**older, "python": "3.99"})
    again = Cache(tmp_path, preset="smoke", seed=3)
    again.stage("data", 1, make=make)
    again.stage("model", 2, make=make)
    run = read_json(tmp_path / "run.json")
    stages, used = run["stages"], run["environments"]
    assert run["preset"] == "smoke" and run["seed"] == 3
    assert stages["data"]["fingerprint"] == key and stages["data"]["data"] == "abc"
    pythons = {name: used[stage["environment"]]["python"] for name, stage in stages.items()}
    assert pythons == {"data": platform.python_version(), "model": "3.99"}
    again.stage("data", 2, make=make)
    assert len(read_json(tmp_path / "run.json")["environments"]) == 1, "unused ones go"
