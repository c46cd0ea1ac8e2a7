"""`python -m pnloc evaluate`: the table from files alone, and files that are not as they should be."""

import re
from pathlib import Path

import pandas as pd
import pytest

from pnloc.cli import main
from pnloc.errors import PnlocError
from pnloc.evaluation import localization as metrics
from pnloc.evaluation.files import evaluate, read_predictions, read_truth

TRUTH = "image,patient,x1,y1,x2,y2\na,p,0,0,10,10\na,p,20,20,30,30\nb,p,0,0,10,10\nc,q,0,0,4,4\nn,r,,,,\n"
FOUND = "image,x1,y1,x2,y2,score\na,0,0,10,5,0.5\na,0,0,10,10,0.9\nb,6,0,16,10,0.8\nn,1,1,5,5,0.4\nz,0,0,9,9,1\n"


@pytest.fixture
def write(tmp_path):
    def put(name: str, text: str, encoding: str = "utf-8") -> Path:
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    return put


def test_files_give_the_table_of_the_tables(write):
    table, remarks = evaluate(write("f.csv", FOUND), write("t.csv", TRUTH), resamples=30, seed=3)
    found = pd.read_csv(write("f.csv", FOUND))
    truth = pd.read_csv(write("t.csv", TRUTH)).dropna()
    owners = {"a": "p", "b": "p", "c": "q", "n": "r"}
    expected = metrics.localization(found, truth, owners, resamples=30, seed=3, negatives=["n"])
    pd.testing.assert_frame_equal(table, expected)
    assert len(remarks) == 1 and "1 boxes lie on 1 images" in remarks[0] and "'z'" in remarks[0]


def test_the_command_prints_and_writes_the_table(write, tmp_path, capsys):
    out = tmp_path / "deep" / "table.csv"
    given = [
        "evaluate",
        str(write("f.csv", FOUND)),
        str(write("t.csv", TRUTH)),
        "--out",
        str(out),
        "--resamples",
        "20",
    ]
    assert main(given) == 0
    said = capsys.readouterr()
    assert "rsna_map" in said.out and "Traceback" not in said.err
    written = pd.read_csv(out)
    assert list(written.columns) == ["metric", "threshold", "value", "low", "high", "n"]
    assert set(written["metric"]) == set(metrics.METRICS)


def test_without_patients_each_image_is_one_and_a_line_says_so(write, capsys):
    plain = "image,x1,y1,x2,y2\na,0,0,10,10\nb,0,0,10,10\n"
    assert (
        main(
            [
                "evaluate",
                str(write("f.csv", FOUND)),
                str(write("t.csv", plain)),
                "--resamples",
                "20",
            ]
        )
        == 0
    )
    said = capsys.readouterr().err
    assert (
        "each image counts as a patient of its own" in said
        and "names no image without a box" in said
    )


def test_patients_may_come_from_a_file_of_their_own(write):
    owners = write("p.csv", "image,patient\na,same\nb,same\nc,same\nn,other\n")
    truth = read_truth(write("t.csv", TRUTH), owners)
    assert truth.patients == {
        "a": "same",
        "b": "same",
        "c": "same",
        "n": "other",
    } and truth.negatives == ("n",)
    with pytest.raises(PnlocError, match=r"t.csv: row 5: image 'c' has no patient in .*p.csv"):
        read_truth(write("t.csv", TRUTH), write("p.csv", "image,patient\na,x\nb,x\n"))


def test_names_stay_as_they_are_written(write):
    """Names that look like numbers or like nothing, a byte order mark, Windows lines, blanks, and further columns."""
    text = "\ufeffimage, x1,y1,x2,y2,score,label\r\n007,0,0,1,1,0.5,x\r\nNA,0,0,1,1,1e-1,y\r\n\r\n 1.0 ,0,0,1,1,1,\r\n"
    found = read_predictions(write("f.csv", text.replace(", x1", ",x1")))
    assert found["image"].tolist() == ["007", "NA", "1.0"] and found["score"].tolist() == [
        0.5,
        0.1,
        1.0,
    ]


def test_a_prediction_without_corners_predicts_nothing_and_none_at_all_misses_everything(write):
    empty = "image,x1,y1,x2,y2,score\n"
    for text in (empty, empty + "a,,,,,\nb,,,,,\n"):
        table, _ = evaluate(write("f.csv", text), write("t.csv", TRUTH), resamples=10)
        hits = table[~table["metric"].isin(["afp"])]
        assert (hits["value"] == 0).all()


HEAD = "image,x1,y1,x2,y2,score\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,x1,y1,x2,y2\na,0,0,1,1\n", r"f.csv: lacks the column\(s\) score"),
        (
            HEAD + "a,0,0,1,1,1\nb,0,0,1,wide,1\n",
            r"f.csv: row 3: y2 is 'wide', not a finite number",
        ),
        (
            HEAD + "a,0,0,1,1,1\n\nb,0,0,1,inf,1\n",
            r"f.csv: row 4: y2 is 'inf', not a finite number",
        ),
        (HEAD + "a,0,0,1,1,nan\n", r"f.csv: row 2: score is 'nan', not a finite number"),
        (HEAD + "a,0,0,1,1,\n", r"f.csv: row 2: a box without a score"),
        (HEAD + "a,0,0,,1,1\n", r"f.csv: row 2: x2 is empty"),
        (HEAD + ",0,0,1,1,1\n", r"f.csv: row 2: names no image"),
        (HEAD + "a,5,0,1,1,1\n", r"f.csv: row 2: x2 is less than x1"),
        (HEAD + "k,0,0,1,1,1\n", r"f.csv: no image of it is named in .*t.csv"),
        (HEAD + "a,0,0,1,1,1,7,8\n", r"f.csv: row 2 has more fields than the header names"),
        (HEAD + "a,0,0,1,1,1\na,0,0,1,1,1,7\n", r"f.csv: not readable as a table .*line 3"),
        ("", r"f.csv: not readable as a table"),
    ],
)
def test_a_bad_prediction_is_named_in_one_line(write, capsys, text, reason):
    given = ["evaluate", str(write("f.csv", text)), str(write("t.csv", TRUTH))]
    assert main(given) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and re.search(reason, said), said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,x1,y1,x2\na,0,0,1\n", r"t.csv: lacks the column\(s\) y2"),
        ("image,x1,y1,x2,y2\nn,,,,\n", r"t.csv: there is no true box"),
        (
            TRUTH + "a,p,,,,\n",
            r"t.csv: row 7: image 'a' has no corners here and a box in another row",
        ),
        (TRUTH + "a,q,0,0,1,1\n", r"t.csv: row 7: image 'a' has two patients, 'p' and 'q'"),
        (TRUTH + "e,,0,0,1,1\n", r"t.csv: row 7: image 'e' has no patient"),
        (TRUTH + "e,s,0,,1,1\n", r"t.csv: row 7: y1 is empty"),
    ],
)
def test_a_bad_truth_is_named_in_one_line(write, capsys, text, reason):
    assert main(["evaluate", str(write("f.csv", FOUND)), str(write("t.csv", text))]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and re.search(reason, said), said


def test_missing_files_and_senseless_options_are_one_line(write, capsys):
    there = str(write("t.csv", TRUTH))
    for given in (
        ["gone.csv", there],
        [there, "gone.csv"],
        [there, there, "--patients", "gone.csv"],
    ):
        assert main(["evaluate", *given]) == 2
    assert main(["evaluate", str(write("f.csv", FOUND)), there, "--resamples", "0"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 4 and "gone.csv: no such file" in said[0] and "--resamples" in said[3]
