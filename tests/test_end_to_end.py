"""The whole way on the smoke preset: data, detector, regions, attention, tables, checkpoint, command line, bad input."""

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

from pnloc import localizer
from pnloc.cli import main
from pnloc.errors import PnlocError
from pnloc.evaluation import localization as metrics
from pnloc.files import read_json
from pnloc.localizer import Localizer
from pnloc.regions import extract
from pnloc.run import localization, methods, results, seeds
from pnloc.run import predictions as predict
from pnloc.run.run import Run, open_run
from pnloc.run.severity import readouts
from pnloc.run.severity import tables as severity_tables
from pnloc.view.explorer import studies, wordview
from pnloc.view.explorer import widget as explorer

LOCALIZATION = ["dataset", "method", "metric", "threshold", "value", "low", "high", "n", "seed"]
DIFFERENCES = ["dataset", "method", "against", "metric", "value", "low", "high", "n"]
SEVERITY = ["dataset", "readout", "score", "fit", "statistic", "value", "low", "high", "n"]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Path:
    """A finished smoke run, made by the command line as a user would."""
    folder = tmp_path_factory.mktemp("artifacts")
    assert main(["train", "--preset", "smoke", "--artifacts", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def run(artifacts):
    return open_run("smoke", artifacts=str(artifacts))


def table(artifacts: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(artifacts / "smoke" / "tables" / f"{name}.csv")


def test_what_text_adds_is_averaged_over_seeds_of_the_attention(run, artifacts, tmp_path):
    """The run's own seed gives the run's own figures; the mean over seeds is that of its rows; two seeds do not give the same."""
    shutil.copytree(run.root, tmp_path / "smoke")
    several = Run(replace(run.preset, seeds=2), run.data, run.seed, tmp_path / "smoke")
    found = seeds.table(several)
    assert (
        list(found.columns) == seeds.COLUMNS
        and (found["low"] <= found["value"]).all()
        and (found["value"] <= found["high"]).all()
    )
    own = (
        table(artifacts, "localization")
        .query("metric == 'miou'")
        .set_index(["dataset", "method"])["value"]
    )
    for name, rows in found.groupby("dataset"):
        rows = rows.set_index("seed")
        assert list(rows.index) == [seeds.MEAN, "0", "1000"]
        for column, method in (("text", "text-attention"), ("labels", "image-label-attention")):
            assert rows.loc["0", column] == pytest.approx(own[name, method], abs=1e-6)
            assert rows.loc[seeds.MEAN, column] == pytest.approx(
                rows.loc[["0", "1000"], column].mean()
            )
        np.testing.assert_allclose(rows["value"], rows["text"] - rows["labels"])
    assert (
        found[found["seed"] == "0"]["text"].to_numpy()
        != found[found["seed"] == "1000"]["text"].to_numpy()
    ).any()
    assert seeds.table(run).empty, "a preset with one seed has no such table"


def test_the_localization_table_has_every_method_and_metric(run, artifacts):
    found = table(artifacts, "localization")
    assert list(found.columns) == LOCALIZATION
    assert set(found["dataset"]) == {"demo-mimic", "demo-chestxray8"}
    assert set(found["metric"]) == {*metrics.METRICS, "cnr"}
    for name, rows in found.groupby("dataset"):
        expected = {m.name for m in methods.available(run, reports=name == "demo-mimic")}
        assert set(rows["method"]) == expected
    assert (
        (found["value"] >= 0).all()
        and (found["low"] <= found["high"]).all()
        and (found["n"] > 0).all()
    )
    assert (found.loc[~found["metric"].isin(["afp", "cnr"]), "value"] <= 1).all()
    heats = {m for m, rows in found.groupby("method") if "cnr" in set(rows["metric"])}
    groups = ("classifier", "labels", "pairs", "boxes", "mask", "attention")
    assert heats == {"heat-map"} | {m.name for m in methods.available(run) if m.group in groups}


def test_the_best_proposal_is_a_ceiling_of_accuracy_for_what_ranks_proposals(artifacts):
    acc = (
        table(artifacts, "localization")
        .query("metric == 'acc'")
        .pivot_table(index=["dataset", "threshold"], columns="method", values="value")
    )
    for method in ("detector", "text-attention", "image-label-attention"):
        assert (acc[method] <= acc["best-proposal"] + 1e-9).all(), method


def test_tables_have_the_columns_that_other_things_rely_on(artifacts):
    assert list(table(artifacts, "differences").columns) == DIFFERENCES
    severity = table(artifacts, "severity")
    assert list(severity.columns) == SEVERITY
    assert set(severity["fit"]) == {"zero-shot", "leave-one-patient-out", "cohen-50-50"}
    assert set(severity["score"]) == {"geographic_extent", "opacity"}
    assert {"combined", "attended area", "no image", *readouts.TRIVIAL} <= set(severity["readout"])
    for name in severity_tables.BESIDE:
        assert set(table(artifacts, f"severity_{name}").columns) >= {"n"}, name
    choice = table(artifacts, "severity_choice")
    assert (
        choice["chosen"].sum() == 1
        and choice.loc[choice["chosen"], "readout"].item() in readouts.OURS
    )
    assert list(pd.read_csv(artifacts / "smoke" / "timing.csv").columns) == [
        "stage",
        "seconds",
        "peak_mib",
    ]


@pytest.mark.parametrize("method", ["text-attention", "grad-cam", "whole-image", "report-anatomy"])
def test_tables_can_be_made_again_from_the_saved_files_by_the_command(
    run, artifacts, tmp_path, capsys, method
):
    saved = artifacts / "smoke" / "predictions"
    assert list(pd.read_csv(saved / f"demo-mimic--{method}.csv").columns) == predict.BOX_TABLE
    command = [
        "evaluate",
        str(saved / f"demo-mimic--{method}.csv"),
        str(saved / "demo-mimic--truth.csv"),
    ]
    command += [
        "--resamples",
        str(run.preset.resamples),
        "--seed",
        str(run.seed),
        "--out",
        str(tmp_path / "t.csv"),
    ]
    assert main(command) == 0
    assert "counts as a patient" not in capsys.readouterr().err, "the file names the patients"
    again = pd.read_csv(tmp_path / "t.csv")
    first = table(artifacts, "localization").query("dataset == 'demo-mimic' and method == @method")
    first = first[first["metric"] != "cnr"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, first[again.columns])


def test_the_saved_truth_holds_boxes_and_images_that_are_known_to_have_none(run, artifacts):
    found = pd.read_csv(artifacts / "smoke" / "predictions" / "demo-mimic--truth.csv")
    assert list(found.columns) == ["image", "patient", "x1", "y1", "x2", "y2"]
    images = run.sets.records("demo-mimic").split("test").set_index("image")
    none = found[found["x1"].isna()]
    assert len(none) and len(none) < len(found) and (images.loc[none["image"], "label"] == 0).all()
    assert not set(none["image"]) & set(run.sets.records("demo-mimic").boxes["image"])
    assert (images.loc[found["image"], "patient"].to_numpy() == found["patient"].to_numpy()).all()


def test_p_values_are_of_the_same_comparisons_and_corrected_upwards(run, artifacts):
    found, compared = table(artifacts, "significance"), table(artifacts, "differences")
    assert list(found.columns) == [
        "dataset",
        "method",
        "against",
        "metric",
        "value",
        "p",
        "p_holm",
        "n",
    ]
    shared = ["dataset", "method", "against", "metric", "value", "n"]
    pd.testing.assert_frame_equal(found[shared], compared[shared])
    assert (
        (found["p_holm"] >= found["p"]).all()
        and found["p"].between(0, 1).all()
        and found["p_holm"].max() <= 1
    )
    first = found.groupby(["dataset", "metric"]).size()
    count = sum(method.group != "ungrouped" for method in methods.available(run))
    assert first.nunique() == 2 and first.max() == count, (
        "all others, and report given minus detector"
    )


def test_a_second_run_repeats_nothing(artifacts):
    again = open_run("smoke", artifacts=str(artifacts))
    results.tables(again)
    assert again.cache.ran == []


def test_the_same_seed_gives_the_same_regions_and_weights(run, tmp_path, artifacts):
    """Everything after the detector, made anew from the kept data and detector."""
    shutil.copytree(artifacts / "smoke", tmp_path / "smoke")
    for stage in (tmp_path / "smoke" / "cache").iterdir():
        if stage.name.startswith(("regions", "attention", "words", "predict", "compare")):
            shutil.rmtree(stage)
    again = open_run("smoke", artifacts=str(tmp_path))
    localization.localization(again)
    pd.testing.assert_frame_equal(
        table(artifacts, "localization"),
        pd.read_csv(tmp_path / "smoke" / "tables" / "localization.csv"),
    )


def test_two_processes_make_the_tables_of_one(tmp_path, artifacts):
    """By the command that the book gives: regions split over two CPU processes, localizers by the first, from the kept detector."""
    shutil.copytree(
        artifacts / "smoke",
        tmp_path / "smoke",
        ignore=shutil.ignore_patterns("tables", "predictions"),
    )
    for stage in (tmp_path / "smoke" / "cache").iterdir():
        if stage.name.startswith(("regions", "attention", "predict", "compare")):
            shutil.rmtree(stage)
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
    ]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0"]
    command += ["-m", "pnloc", "train", "--preset", "smoke", "--artifacts", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("checkpoint: ") == 1, "one process speaks"
    for arm in ("text", "labels"):
        one, two = (
            next((p / "smoke" / "cache").glob(f"attention-{arm}-*")) for p in (artifacts, tmp_path)
        )
        one, two = (pd.read_csv(folder / "history.csv") for folder in (one, two))
        pd.testing.assert_frame_equal(one, two, rtol=0, atol=1e-4)
    for name in ("localization", "differences"):
        found = pd.read_csv(tmp_path / "smoke" / "tables" / f"{name}.csv")
        pd.testing.assert_frame_equal(table(artifacts, name), found, rtol=0, atol=1e-4)
    stages = read_json(tmp_path / "smoke" / "run.json")
    made = stages["environments"][stages["stages"]["attention-text"]["environment"]]
    assert made["processes"] == 2


def test_what_a_run_was_made_with_lies_beside_it(artifacts):
    found = read_json(artifacts / "smoke" / "run.json")
    timing = pd.read_csv(artifacts / "smoke" / "timing.csv")
    assert found["preset"] == "smoke" and found["seed"] == 0
    assert set(found["stages"]) == set(timing["stage"])
    assert {
        len(stage["data"]) for name, stage in found["stages"].items() if name.startswith("decode")
    } == {16}
    assert read_json(artifacts / "smoke" / "config.json")["detector"]["side"] == 192
    assert not list((artifacts / "smoke" / "cache").rglob("*state*.safetensors")), (
        "no checkpoint stays behind"
    )


def test_no_patient_is_trained_and_tested_on(run):
    trained, tested = set(), set()
    for name in run.sets.names:
        images = run.sets.records(name).images
        trained |= set(
            images.loc[images["split"] != "test", "patient"].str.split(":").str[1].astype(int)
            % 10_000
        )
        tested |= set(
            images.loc[images["split"] == "test", "patient"].str.split(":").str[1].astype(int)
            % 10_000
        )
    # A generated patient is an anatomical variant; its number is the same in every set.
    assert trained and tested and not trained & tested


def test_inference_reads_no_report(run):
    """Localizing needs no word: other words change nothing."""
    from pnloc.localizer import image_attention

    model, _ = run.localizer(True)
    regions = run.regions("demo-mimic").rows(np.arange(3))
    before = image_attention(model, regions)
    model.vectors.add_(1.0)
    after = image_attention(model, regions)
    model.vectors.sub_(1.0)
    assert np.array_equal(before[0], after[0]) and np.array_equal(before[1], after[1])


def test_localize_takes_png_jpeg_and_dicom_and_gives_original_pixels(
    run, artifacts, tmp_path, capsys
):
    images = run.sets.records("demo-mimic").split("test")
    large = Image.open(images["path"].iloc[0]).resize((700, 512))
    large.save(tmp_path / "one.png")
    large.convert("RGB").save(tmp_path / "two.jpg", quality=95)
    dicom = run.sets.records("demo-rsna").split("test")["path"].iloc[0]
    out = tmp_path / "out"
    status = main(
        [
            "localize",
            "--checkpoint",
            str(artifacts / "smoke"),
            "--out",
            str(out),
            str(tmp_path / "one.png"),
            str(tmp_path / "two.jpg"),
            dicom,
        ]
    )
    assert status == 0
    boxes, attributes = pd.read_csv(out / "boxes.csv"), pd.read_csv(out / "attributes.csv")
    assert list(boxes.columns) == ["image", "x1", "y1", "x2", "y2", "score", "label"]
    assert list(attributes.columns) == ["image", "attribute", "probability"]
    assert set(attributes["image"]) == {str(tmp_path / "one.png"), str(tmp_path / "two.jpg"), dicom}
    assert attributes["probability"].between(0, 1).all() and len(attributes) % 3 == 0
    first = boxes[boxes["image"] == str(tmp_path / "one.png")]
    assert (
        len(first)
        and first["x2"].max() <= 700
        and first["y2"].max() <= 512
        and (first["x1"] < first["x2"]).all()
    )
    assert first["x2"].max() > 256, "boxes are in pixels of the file, not of the model's input"
    overlays = sorted(p.name for p in out.glob("*.png"))
    assert len(overlays) == 3
    with Image.open(out / "one.overlay.png") as overlay:
        assert overlay.width / overlay.height == pytest.approx(700 / 512, abs=0.01)


def test_a_given_report_is_grounded_on_its_image(run, artifacts, tmp_path, capsys, monkeypatch):
    looks = []
    monkeypatch.setattr(localizer, "extract", lambda *given: looks.append(given) or extract(*given))
    image = run.sets.records("demo-mimic").split("test")["path"].iloc[0]
    report = tmp_path / "report.txt"
    report.write_text(
        "FINDINGS: Patchy opacity in the right lower lobe. No consolidation on the left."
    )
    command = ["localize", "--checkpoint", str(artifacts / "smoke"), "--out", str(tmp_path / "out")]
    assert main([*command, "--report", str(report), image]) == 0
    assert len(looks) == 1, "boxes and phrases share one pass of the detector"
    found = pd.read_csv(tmp_path / "out" / "phrases.csv")
    assert list(found.columns) == ["phrase", "assertion", "x1", "y1", "x2", "y2", "score"]
    assert list(found["assertion"]) == ["affirmed", "negated"]
    assert found["phrase"].iloc[0] == "Patchy opacity in the right lower lobe"
    corners = ["x1", "y1", "x2", "y2"]
    assert found[corners].iloc[1].isna().all() and found[corners].iloc[0].between(0, 256).all()
    assert 0 < found["score"].iloc[0] <= 1
    assert main([*command, "--report", str(report), image, image]) == 2
    assert main([*command, "--report", str(tmp_path / "none.txt"), image]) == 2
    said = capsys.readouterr().err
    assert "--report goes with one image, not with 2" in said and "none.txt: no such file" in said


def test_a_broken_image_is_named_and_the_others_are_still_localized(
    run, artifacts, tmp_path, capsys
):
    good = run.sets.records("demo-mimic").split("test")["path"].iloc[0]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(good).read_bytes()[:900])
    status = main(
        [
            "localize",
            "--checkpoint",
            str(artifacts / "smoke"),
            "--out",
            str(tmp_path / "out"),
            str(broken),
            good,
        ]
    )
    said = capsys.readouterr().err
    assert status == 2 and "broken.jpg" in said and "Traceback" not in said
    assert set(pd.read_csv(tmp_path / "out" / "attributes.csv")["image"]) == {good}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--preset", "smok"], "unknown preset 'smok'"),
        (["train", "--preset", "public"], "needs the folder"),
        (["train", "--preset", "public", "--data", "nowhere"], "nowhere: no such folder"),
        (["train", "--seed", "-1"], "whole number from 0"),
        (["localize", "--checkpoint", "nowhere", "--out", "x", "y.png"], "no checkpoint here"),
        (["reproduce", "--preset", "public", "--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_line_and_a_status(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    extra = [] if arguments[0] == "localize" else ["--artifacts", str(tmp_path)]
    assert main([*arguments, *extra]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said


def test_an_empty_data_folder_says_what_it_looked_for(tmp_path):
    with pytest.raises(PnlocError, match="rsna-pneumonia-detection-challenge"):
        open_run("public", str(tmp_path), artifacts=str(tmp_path / "a")).sets.records("rsna")


def test_data_check_counts_and_quarantines(artifacts, tmp_path, capsys):
    assert main(["data", "check", "--preset", "smoke", "--artifacts", str(artifacts)]) == 0
    said = capsys.readouterr().out
    assert "mimic" in said and "0 in quarantine" in said


def test_the_explorer_shows_a_run_without_a_kernel_and_reads_an_image_as_the_command_does(
    run, artifacts, tmp_path
):
    name, rows = studies.examples(run)
    found = studies.gather(run, name, rows)
    assert len(found) == 6 and all(len(s.truth) and s.words for s in found)
    assert all(s.report[w.start : w.end].lower() == w.label for s in found for w in s.words)
    masses = [item.mass.sum() for s in found for item in (*s.words, *s.phrases, *s.attributes)]
    assert np.allclose(masses, 1, atol=1e-4)
    assert len(wordview.html(found, studies.starts(run))) < 3e6
    path = tmp_path / "own.png"
    shutil.copy(run.sets.records(name).images["path"].iloc[rows[0]], path)
    shown = explorer.explore(run, found)
    shown.load("own.png", path.read_bytes())
    boxes, _ = Localizer.load(artifacts / "smoke")(path)
    assert "Loaded own.png" in shown.message.value
    assert shown.view.studies[-1]["reading"]["boxes"] == boxes.to_numpy().round(3).tolist()


def test_what_is_declared_credentialed_is_neither_an_example_nor_in_a_page(run, monkeypatch):
    monkeypatch.setattr(run.sets.records(run.sets.pairs), "access", "credentialed")
    name, _ = studies.examples(run)
    assert name not in ("", run.sets.pairs)
    hidden = studies.gather(run, run.sets.pairs, [int(run.sets.rows(run.sets.pairs, "test")[0])])
    assert not any(s.shown for s in hidden)
    with pytest.raises(PnlocError, match="no page may show this study"):
        wordview.html(hidden, studies.starts(run))
    data, metadata = explorer.explore(run, hidden)._repr_mimebundle_()
    assert "text/html" not in data and metadata["pnloc"] == "credentialed"
