"""The whole way on the smoke preset: data, detector, regions, attention, tables, command line."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from explorer import studies, widget, wordview
from pnloc import localizer
from pnloc.cli import main
from pnloc.errors import PnlocError
from pnloc.evaluation import localization as metrics
from pnloc.files import read_json
from pnloc.localizer import Localizer
from pnloc.regions import appearance, extract
from pnloc.run import localization, methods, results
from pnloc.run.evidence import Images
from pnloc.run.experience import CALIBRATED
from pnloc.run.run import ARMS, Run, open_run
from pnloc.run.severity import readouts
from pnloc.run.severity import tables as severity_tables

CORNERS = ["x1", "y1", "x2", "y2"]


@pytest.fixture(scope="module")
def run(smoke) -> Run:
    return open_run("smoke", artifacts=str(smoke))


@pytest.fixture
def table(smoke):
    """A table of the finished run, by name."""
    return lambda name: pd.read_csv(smoke / "smoke" / "tables" / f"{name}.csv")


@pytest.fixture
def localize(smoke, tmp_path):
    """The command that localizes images, its results in tmp_path/out; gives the exit status."""
    command = ["localize", "--checkpoint", str(smoke / "smoke"), "--out", str(tmp_path / "out")]
    return lambda *arguments: main([*command, *map(str, arguments)])


# Tables --------------------------------------------------------------------------------------


def test_reports_train_the_detector_with_its_boxes_and_what_they_add_can_be_measured(run, tmp_path):
    shutil.copytree(run.root, tmp_path / "smoke")
    config = replace(run.preset.detector, place_weight=0.5, epochs=1)
    told = Run(replace(run.preset, detector=config), run.data, run.seed, tmp_path / "smoke")
    (name,), terms = told.describing, {"places", "outside"}
    with pytest.raises(PnlocError, match="no lung is found in demo-mimic"):
        told.detector_stage.load()  # the lung finder of the smoke preset is too short of training
    cells = np.kron([[1, 4], [2, 5], [3, 6]], np.ones((32, 48))).astype(np.uint8)
    told.zones = lambda name: np.tile(cells, (len(told.sets.pixels(name)), 1, 1))
    stages = {arm: told.arm_stage(arm) for arm in ARMS}
    assert [terms <= set(stages[arm].history) for arm in ARMS] == [False, True, True]
    assert len({stage.key for stage in stages.values()}) == 3
    opacity, train = told.described(name).opacity, told.sets.rows(name, "train")
    assert np.isfinite(opacity[train]).all() and np.isfinite(opacity).sum() == len(train)
    images = Images(told, name, told.sets.rows(name, "test")[:4])
    needed = [m for m in methods.available(told) if m.places]
    assert {m.name for m in needed} == {"place-map", "detector-boxes", "detector-labels"}
    for evidence in (method.evidence(images) for method in needed):
        assert len(evidence.predictions(evidence.choose(images.truth)[0])) == 4
    assert not any(m.places for m in methods.available(run))


def test_the_localization_table_has_every_method_and_metric(run, table):
    rows = table("localization")
    assert set(rows["metric"]) == {*metrics.METRICS, "cnr"}
    for name, own in rows.groupby("dataset"):
        available = methods.available(run, reports=name == "demo-mimic")
        assert set(own["method"]) == {method.name for method in available}
    assert set(rows["dataset"]) == {"demo-mimic", "demo-chestxray8"}
    assert (rows["value"] >= 0).all() and (rows["low"] <= rows["high"]).all()
    assert (rows.loc[~rows["metric"].isin(["afp", "cnr"]), "value"] <= 1).all()
    groups = ("classifier", "labels", "pairs", "boxes", "mask", "attention")
    maps = {"heat-map"} | {m.name for m in methods.available(run) if m.group in groups}
    assert set(rows.query("metric == 'cnr'")["method"]) == maps


def test_the_best_proposal_is_a_ceiling_of_accuracy_for_what_ranks_proposals(table):
    rows = table("localization").query("metric == 'acc'")
    accuracy = rows.pivot_table(index=["dataset", "threshold"], columns="method", values="value")
    for method in ("detector", "text-attention", "image-label-attention"):
        assert (accuracy[method] <= accuracy["best-proposal"] + 1e-9).all(), method


def test_severity_is_measured_by_every_readout_and_one_is_chosen(table):
    severity, choice = table("severity"), table("severity_choice")
    assert set(severity["fit"]) == {"zero-shot", "leave-one-patient-out", "cohen-50-50"}
    assert set(severity["score"]) == {"geographic_extent", "opacity"}
    assert {"combined", "attended area", "no image", *readouts.TRIVIAL} <= set(severity["readout"])
    assert all("n" in table(f"severity_{name}") for name in severity_tables.BESIDE)
    assert choice.loc[choice["chosen"], "readout"].item() in readouts.OURS


@pytest.mark.parametrize("method", ["text-attention", "grad-cam", "whole-image", "report-anatomy"])
def test_the_command_remakes_the_table_of_a_method_from_saved_files(
    run, smoke, table, tmp_path, capsys, method
):
    saved, out = smoke / "smoke" / "predictions", tmp_path / "t.csv"
    files = [saved / f"demo-mimic--{name}.csv" for name in (method, "truth")]
    options = {"--resamples": run.preset.resamples, "--seed": run.seed, "--out": out}
    command = ["evaluate", *files, *(word for option in options.items() for word in option)]
    assert main(list(map(str, command))) == 0
    assert "counts as a patient" not in capsys.readouterr().err, "the file names the patients"
    first = table("localization").query("dataset == 'demo-mimic' and method == @method")
    first, again = first[first["metric"] != "cnr"].reset_index(drop=True), pd.read_csv(out)
    pd.testing.assert_frame_equal(again, first[again.columns])


# The run -------------------------------------------------------------------------------------


def test_a_second_run_makes_no_stage_again(smoke):
    again = open_run("smoke", artifacts=str(smoke))
    results.tables(again)
    assert again.cache.ran == []


def test_two_processes_give_the_tables_of_one(tmp_path, smoke, table):
    """Everything after the detector anew, by the command in the book, with the same seed."""
    aside = shutil.ignore_patterns("tables", "predictions")
    shutil.copytree(smoke / "smoke", tmp_path / "smoke", ignore=aside)
    for stage in (tmp_path / "smoke" / "cache").iterdir():
        if stage.name.startswith(("words", "regions", "attention", "predict", "compare")):
            shutil.rmtree(stage)
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1"
    options = "--mixed_precision no --dynamo_backend no --main_process_port 0"
    train = ["-m", "pnloc", "train", "--preset", "smoke", "--artifacts", str(tmp_path)]
    command = [sys.executable, *launch.split(), *options.split(), *train]
    place = {"cwd": Path(__file__).parents[1], "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    done = subprocess.run(command, **place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("checkpoint: ") == 1, "one process reports"
    for name in ("localization", "differences"):
        again = pd.read_csv(tmp_path / "smoke" / "tables" / f"{name}.csv")
        pd.testing.assert_frame_equal(table(name), again, rtol=0, atol=1e-4)
    facts = read_json(tmp_path / "smoke" / "run.json")
    used = facts["stages"]["regions-demo-mimic"]["environment"]
    assert facts["environments"][used]["processes"] == 2


def test_a_run_records_its_configuration_stages_and_data(smoke):
    facts = read_json(smoke / "smoke" / "run.json")
    assert facts["preset"] == "smoke" and facts["seed"] == 0
    assert set(facts["stages"]) == set(pd.read_csv(smoke / "smoke" / "timing.csv")["stage"])
    assert len(facts["stages"]["decode-demo-mimic"]["data"]) == 16
    assert read_json(smoke / "smoke" / "config.json")["detector"]["side"] == 192
    assert not list((smoke / "smoke" / "cache").rglob("*state*.safetensors")), "no checkpoint stays"


def test_no_patient_is_trained_and_tested_on(run):
    """A generated patient is an anatomical variant; its number is the same in every set."""
    images = pd.concat([run.sets.records(name).images for name in run.sets.names])
    number = images["patient"].str.split(":").str[1].astype(int) % 10_000
    tested = set(number[images["split"] == "test"])
    trained = set(number[images["split"] != "test"])
    assert trained and tested and not trained & tested


def test_a_checkpoint_knows_its_own_kind_of_image_and_warns_of_another(run, smoke):
    checkpoint = Localizer.load(smoke / "smoke")
    known, size = checkpoint.experience, {"demo-rsna": 65, "demo-mimic": 92}
    assert {n: s["images"] for n, s in known.sets.items() if s["generated"]} == size
    rows = run.sets.rows("demo-mimic", "test")
    own = np.array(run.sets.pixels("demo-mimic")[rows])
    distances = [
        known.distances(appearance(p, extract(checkpoint.detector, p, checkpoint.regions)))
        for p in (own, np.where(own > 0, 255 - own, 0).astype(np.uint8))
    ]
    assert (distances[0] > known.limit).mean() < 0.5 and (distances[1] > known.limit).all()


def test_calibration_moves_no_table_but_its_own(run, table):
    errors, curves = localization.calibrations(run)
    both = curves[curves["method"].str.startswith("text-attention")]
    both = both.pivot(index=["dataset", "bin"], columns="method", values=["right", "n", "score"])
    for column in ("right", "n"):
        assert both[column].iloc[:, 0].equals(both[column].iloc[:, 1]), "the same boxes"
    assert (both["score"].iloc[:, 0] != both["score"].iloc[:, 1]).all()
    assert not table("localization")["method"].isin([CALIBRATED]).any()


# Commands ------------------------------------------------------------------------------------


def test_localize_takes_png_jpeg_and_dicom_and_gives_original_pixels(run, localize, tmp_path):
    png, jpeg, out = tmp_path / "one.png", tmp_path / "two.jpg", tmp_path / "out"
    source = run.sets.records("demo-mimic").split("test")["path"].iloc[0]
    large = Image.open(source).resize((700, 512))
    large.save(png)
    large.convert("RGB").save(jpeg, quality=95)
    dicom = run.sets.records("demo-rsna").split("test")["path"].iloc[0]
    assert localize(png, jpeg, dicom) == 0
    boxes, attributes = pd.read_csv(out / "boxes.csv"), pd.read_csv(out / "attributes.csv")
    shown = "image file width height x1 y1 x2 y2 score label overlay warning"
    assert list(boxes.columns) == shown.split()
    assert list(attributes.columns) == ["image", "file", "attribute", "probability", "reason"]
    assert set(attributes["image"]) == {str(png), str(jpeg), dicom}
    given = attributes["reason"].isna()
    assert (attributes["probability"].between(0, 1) == given).all() and not given.all()
    first = boxes[boxes["image"] == str(png)]
    assert 256 < first["x2"].max() <= 700, "in pixels of the file, not of the model's input"
    assert first["y2"].max() <= 512 and (first["x1"] < first["x2"]).all()
    assert len(list(out.glob("*.png"))) == 3
    with Image.open(out / "one.overlay.png") as overlay:
        assert overlay.width / overlay.height == pytest.approx(700 / 512, abs=0.01)


def test_a_report_is_grounded_on_its_image(run, localize, tmp_path, capsys, monkeypatch):
    passes = []
    monkeypatch.setattr(localizer, "extract", lambda *a: passes.append(a) or extract(*a))
    image = run.sets.records("demo-mimic").split("test")["path"].iloc[0]
    report = tmp_path / "report.txt"
    report.write_text("FINDINGS: Patchy opacity in the right lower lobe. No consolidation.")
    assert localize("--report", report, image) == 0
    assert len(passes) == 1, "boxes and phrases share one pass of the detector"
    phrases = pd.read_csv(tmp_path / "out" / "phrases.csv")
    assert list(phrases.columns) == ["phrase", "assertion", *CORNERS, "score"]
    assert list(phrases["assertion"]) == ["affirmed", "negated"]
    assert phrases["phrase"].iloc[0] == "Patchy opacity in the right lower lobe"
    corners = phrases[CORNERS]
    assert corners.iloc[1].isna().all() and corners.iloc[0].between(0, 256).all()
    assert 0 < phrases["score"].iloc[0] <= 1
    assert localize("--report", report, image, image) == 2
    assert "--report goes with one image, not with 2" in capsys.readouterr().err


def test_an_empty_data_folder_says_what_it_looked_for(tmp_path):
    with pytest.raises(PnlocError, match="rsna-pneumonia-detection-challenge"):
        open_run("public", str(tmp_path), artifacts=str(tmp_path / "a")).sets.records("rsna")


# The explorer --------------------------------------------------------------------------------


def test_the_explorer_reads_an_image_as_the_command_does(run, smoke, tmp_path):
    name, rows = studies.examples(run)
    shown = studies.gather(run, name, rows)
    assert len(shown) == 6 and all(len(s.truth) and s.words for s in shown)
    assert all(s.report[w.start : w.end].lower() == w.label for s in shown for w in s.words)
    masses = [item.mass.sum() for s in shown for item in (*s.words, *s.phrases, *s.attributes)]
    assert np.allclose(masses, 1, atol=1e-4)
    assert len(wordview.html(shown, studies.starts(run))) < 3e6
    path = tmp_path / "own.png"
    shutil.copy(run.sets.records(name).images["path"].iloc[rows[0]], path)
    explorer = widget.explore(run, shown)
    explorer.load("own.png", path.read_bytes())
    checkpoint = Localizer.load(smoke / "smoke")
    boxes, attributes = checkpoint(path)
    last = explorer.view.studies[-1]
    assert [a["reason"] for a in last["attributes"]] == attributes["reason"].tolist()
    assert last["warning"] == checkpoint.unlike(checkpoint.propose(path))
    assert "Loaded own.png" in explorer.message.value
    assert last["reading"]["boxes"] == boxes.to_numpy().round(3).tolist()


def test_a_credentialed_study_is_neither_an_example_nor_in_a_page(run, monkeypatch):
    (pairs,) = run.sets.pairs
    monkeypatch.setattr(run.sets.records(pairs), "access", "credentialed")
    name, _ = studies.examples(run)
    assert name not in ("", pairs)
    hidden = studies.gather(run, pairs, [int(run.sets.rows(pairs, "test")[0])])
    assert not any(study.shown for study in hidden)
    with pytest.raises(PnlocError, match="no page may show this study"):
        wordview.html(hidden, studies.starts(run))
    data, metadata = widget.explore(run, hidden)._repr_mimebundle_()
    assert "text/html" not in data and metadata["pnloc"] == "credentialed"
