"""`python -m pnloc evaluate`: the table from files alone, and errors of files in one line."""

import json
import re
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from pnloc.cli import main
from pnloc.errors import PnlocError
from pnloc.evaluation import localization as metrics
from pnloc.evaluation.files import evaluate, read_predictions, read_truth

FILES = tomllib.loads(Path(__file__).with_name("evaluation.toml").read_text(encoding="utf-8"))
TRUTH, PREDICTED = FILES["truth"], FILES["predicted"]
HEAD = PREDICTED.partition("\n")[0] + "\n"
BAD = FILES["bad"] + [[TRUTH + line, reason] for line, reason in FILES["added"]]


@pytest.fixture
def write(tmp_path):
    def put(name: str, text: str) -> Path:
        (tmp_path / name).write_bytes(text.encode())
        return tmp_path / name

    return put


@pytest.fixture
def run(write):
    def evaluated(predicted: str = PREDICTED, truth: str = TRUTH, *options: str) -> int:
        files = write("f.csv", predicted), write("t.csv", truth)
        return main(["evaluate", *map(str, files), "--resamples", "20", *options])

    return evaluated


def test_files_give_the_table_of_the_tables(write):
    files = write("f.csv", PREDICTED), write("t.csv", TRUTH)
    table, remarks = evaluate(*files, resamples=30, seed=3)
    predicted, truth = (pd.read_csv(path) for path in files)
    owners = {"a": "p", "b": "p", "c": "q", "n": "r"}
    known = metrics.Truth(truth.dropna(), owners, ["n"])
    expected = metrics.localization(predicted, known, resamples=30, seed=3)
    pd.testing.assert_frame_equal(table, expected)
    assert len(remarks) == 1 and "1 boxes lie on 1 images" in remarks[0] and "'z'" in remarks[0]


def test_without_patients_each_image_is_one_and_a_line_says_so(run, capsys):
    assert run(truth="image,x1,y1,x2,y2\na,0,0,10,10\nb,0,0,10,10\n") == 0
    printed = capsys.readouterr().err
    assert "each image counts as a patient of its own" in printed
    assert "names no image without a box" in printed


def test_patients_may_come_from_a_file_of_their_own(write):
    truth = write("t.csv", TRUTH)
    owners = write("p.csv", "image,patient\na,same\nb,same\nc,same\nn,other\n")
    known, _, _ = read_truth(truth, owners)
    assert known.patients == {"a": "same", "b": "same", "c": "same", "n": "other"}
    assert [*known.negatives] == ["n"]
    with pytest.raises(PnlocError, match=r"t.csv: row 5: image 'c' has no patient in .*p.csv"):
        read_truth(truth, write("p.csv", "image,patient\na,x\nb,x\n"))


def test_names_stay_as_they_are_written(write):
    """Names like numbers or like nothing, a byte order mark, Windows lines, and further columns."""
    text = "\ufeff" + HEAD.replace("\n", ",label\r\n")
    text += "007,0,0,1,1,0.5,x\r\nNA,0,0,1,1,1e-1,y\r\n\r\n 1.0 ,0,0,1,1,1,\r\n"
    table = read_predictions(write("f.csv", text))
    assert table["image"].tolist() == ["007", "NA", "1.0"]
    assert table["score"].tolist() == [0.5, 0.1, 1.0]


@pytest.mark.parametrize("text", [HEAD, HEAD + "a,,,,,\nb,,,,,\n"])
def test_an_image_without_corners_predicts_nothing_and_none_at_all_misses_everything(write, text):
    table, _ = evaluate(write("f.csv", text), write("t.csv", TRUTH), resamples=10)
    assert (table.loc[table["metric"] != "afp", "value"] == 0).all()


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_a_bad_file_is_named_in_one_line(run, capsys, text, reason):
    assert run(*([text] if reason.startswith("f.csv") else [PREDICTED, text])) == 2
    printed = capsys.readouterr().err.strip()
    assert "\n" not in printed and re.search(reason, printed), printed


def test_files_of_coco_and_rsna_give_the_table_of_the_same_boxes(write):
    ours = write("f.csv", PREDICTED), write("t.csv", TRUTH)
    results, truth = write("results.json", FILES["coco_results"]), json.loads(FILES["coco_truth"])
    named = write("named.json", json.dumps(truth))
    for image in truth["images"]:
        del image["file_name"]
    numbered = write("numbered.json", json.dumps(truth))
    rsna = [write(f"{name}.csv", FILES[name]) for name in ("submission", "labels")]
    patients = write("p.csv", "image,patient\na,p\nb,p\nc,q\nn,r\n")
    expected, _ = evaluate(*ours, resamples=20)
    for files in ((results, named), (results, numbered), (ours[0], named), (*rsna, patients)):
        pd.testing.assert_frame_equal(evaluate(*files, resamples=20)[0], expected)


@pytest.mark.parametrize(
    ("case", "name", "status", "said"),
    [("ap_ties", "predictions", 0, ""), ("evaluate_relative", "relative", 2, "within 0 and 1")],
)
def test_a_case_that_went_wrong_is_right(case, name, status, said, tmp_path, capsys):
    folder, out = Path(__file__).parent / "cases" / case, tmp_path / "t.csv"
    files = [str(folder / f"{name}.csv"), str(folder / "truth.csv")]
    assert main(["evaluate", *files, "--out", str(out)]) == status
    assert said in capsys.readouterr().err
    if not status:
        table = pd.read_csv(out)
        assert (table.loc[table["metric"] == "coco_ap", "value"] == 0.5).all()


def test_missing_files_and_senseless_options_are_one_line(write, run, capsys):
    there = str(write("t.csv", TRUTH))
    for files in (["gone.csv", there], [there, "gone.csv"], [there, there, "--patients", "gone"]):
        assert main(["evaluate", *files]) == 2
    assert run(PREDICTED, TRUTH, "--resamples", "0") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 4 and "gone.csv: no such file" in lines[0] and "--resamples" in lines[3]
