"""Every path that a command takes: one that cannot be is one line and exit status 2, at once."""

import os
import tomllib
from pathlib import Path

import pytest

from pnloc import cli, files
from pnloc.cli import main
from pnloc.errors import PnlocError

TABLE = tomllib.loads(Path(cli.__file__).with_name("commands.toml").read_text(encoding="utf-8"))
LONG = "n" * 300
ARGUMENTS = {
    command: entry["arguments"] | (TABLE["run"] if "run" in entry["arguments"] else {})
    for command, entry in TABLE["commands"].items()
    if "arguments" in entry
}
PATHS = [  # command, argument, 'reads' or 'writes', 'file' or 'folder'
    (command, name, use, settings[use])
    for command, arguments in ARGUMENTS.items()
    for name, settings in arguments.items()
    for use in ("reads", "writes")
    if use in settings
]
WRONG = {
    "reads file": ["", "folder", "file.csv/x", LONG, f"{LONG}/x"],
    "reads folder": ["", "file.csv", "file.csv/x", LONG, f"{LONG}/x"],
    "writes file": ["", "folder", "file.csv/t.csv", f"{LONG}.csv", f"new/{LONG}", "/dev/null"],
    "writes folder": ["", "file.csv", "file.csv/x/y", LONG, f"new/{LONG}"],
}
CASES = [(*path, wrong) for path in PATHS for wrong in WRONG[" ".join(path[2:])]]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder: a file and a folder in it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.csv").write_text("image,x1,y1,x2,y2,score\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaint(arguments: list[str], capsys) -> str:
    """What a command that ends with 2 says, a line without a traceback."""
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("pnloc: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize(("command", "name", "use", "kind", "wrong"), CASES)
def test_a_path_that_cannot_be_is_one_line_before_any_work(
    command, name, use, kind, wrong, here, capsys, monkeypatch
):
    def work(args):
        raise AssertionError("the command has begun")

    monkeypatch.setattr(cli, f"_{command.partition(' ')[0]}", work)
    arguments, options = command.split(), []
    for other, settings in ARGUMENTS[command].items():
        right = "file.csv" if settings.get("reads") == "file" else "folder"
        value = wrong if other == name else "new" if "writes" in settings else right
        if other.startswith("-") and (settings.get("required") or other == name):
            options += [other, value]
        elif other != "run" and not other.startswith("-"):
            arguments.append(value)
    said = complaint([*arguments, *options], capsys)
    assert wrong in said and "Errno" not in said
    assert sorted(p.name for p in here.iterdir()) == ["file.csv", "folder"], "nothing is made"


def test_every_argument_that_names_a_place_says_what_it_must_be():
    for command, arguments in ARGUMENTS.items():
        for name, settings in arguments.items():
            place = name in ("--out", "--artifacts", "--data") or "FILE" in settings.get(
                "metavar", ""
            )
            each = command == "reports"  # a bad file costs its own line alone
            assert not place or each or {"reads", "writes"} & settings.keys(), (command, name)


@pytest.mark.parametrize("name", ["", "folder", "file.csv/x", "none.txt", LONG])
def test_a_report_that_cannot_be_read_costs_its_own_line_alone(name, here, capsys):
    (here / "good.txt").write_text("FINDINGS: Right lower lobe pneumonia.")
    assert main(["reports", name, "good.txt"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("pnloc: ") and printed.err.count("\n") == 1
    assert "Traceback" not in printed.err and "right" in printed.out


@pytest.mark.parametrize("name", ["t.csv", "deep/t.csv"])
def test_a_place_where_nothing_can_be_made_is_one_line(name, here, capsys):
    """/proc takes no files, whoever asks, and says so only when asked."""
    (here / "truth.csv").write_text("image,x1,y1,x2,y2\na,0,0,1,1\n")
    evaluate = ["evaluate", "file.csv", "truth.csv", "--resamples", "2", "--out", f"/proc/{name}"]
    assert main(evaluate) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"pnloc: /proc/{name}: cannot be written")
    complaint(["train", "--preset", "smoke", "--artifacts", f"/proc/{name}"], capsys)


def test_a_folder_that_one_may_not_write_to_is_named(here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    for path, kind in (("folder/a/t.csv", "file"), ("folder/a", "folder"), ("folder", "folder")):
        with pytest.raises(PnlocError, match=r"cannot be written \(no right to write in folder\)"):
            files.check_path(path, kind, written=True)
    files.check_path("folder", "folder")


def test_paths_that_can_be_pass(here):
    (here / "link").symlink_to("folder")
    for path, kind in (("new", "folder"), ("new/deep", "folder"), ("link", "folder")):
        files.check_path(path, kind, written=True)
    for path in ("t.csv", "link/t.csv", "new/t.csv", "file.csv", f"{'n' * 251}.csv"):
        files.check_path(path, "file", written=True)
        files.write_text(path, "x")
    files.check_path("missing", "file")


def test_home_is_written_as_a_tilde(here, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(here / "folder"))
    (here / "truth.csv").write_text("image,x1,y1,x2,y2\na,0,0,1,1\n")
    evaluate = ["evaluate", "file.csv", "truth.csv", "--resamples", "2", "--out", "~/t.csv"]
    assert main(evaluate) == 0 and (here / "folder" / "t.csv").exists()


def test_control_c_promises_no_more_than_is_so(here, monkeypatch, capsys):
    def stopped(args):
        raise KeyboardInterrupt

    for name in ("_train", "_evaluate"):
        monkeypatch.setattr(cli, name, stopped)
    assert main(["train"]) == 130 and "goes on" in capsys.readouterr().err
    assert main(["evaluate", "file.csv", "file.csv"]) == 130
    assert capsys.readouterr().err == "pnloc: stopped\n"
