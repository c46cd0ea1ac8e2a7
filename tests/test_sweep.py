"""Presets with a number changed, several runs beside each other, and the main numbers of one."""

import json

import numpy as np
import pandas as pd
import pytest

from pnloc import cli
from pnloc.config import preset
from pnloc.errors import PnlocError
from pnloc.run import sweep
from pnloc.view import tables as pages

# Presets with other numbers -------------------------------------------------------------------------------


def test_a_presets_name_may_change_numbers_and_nothing_else():
    plain, changed = preset("smoke"), preset("smoke+model.distill_weight=0+detector.epochs=2")
    assert changed.name == "smoke+model.distill_weight=0+detector.epochs=2"
    assert (changed.model.distill_weight, changed.detector.epochs) == (0.0, 2)
    assert isinstance(changed.model.distill_weight, float) and isinstance(
        changed.detector.epochs, int
    )
    before, after = plain.as_dict(), changed.as_dict()
    before["model"]["distill_weight"], before["detector"]["epochs"], before["name"] = (
        0.0,
        2,
        changed.name,
    )
    assert before == after


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smok+model.epochs=1", "unknown preset 'smok'; use one of smoke"),
        (
            "smoke+model.epoch=1",
            "setting 'model.epoch=1': no number 'epoch' here; there are width, tau",
        ),
        ("smoke+model=1", "setting 'model=1': no number 'model' here"),
        ("smoke+name=x", "setting 'name=x': no number 'name' here"),
        ("smoke+detector.anchor_sizes=1", "no number 'anchor_sizes' here"),
        ("smoke+model.epochs=2.5", "setting 'model.epochs=2.5': '2.5' is no whole number"),
        ("smoke+model.tau=", "setting 'model.tau=': '' is no number"),
        ("smoke+model.tau=nan", "'nan' is no number"),
        ("smoke+", "setting '': no number '' here"),
    ],
)
def test_a_setting_that_cannot_be_is_named(name, message):
    with pytest.raises(PnlocError) as error:
        preset(name)
    assert message in str(error.value) and "\n" not in str(error.value)


# Several runs ---------------------------------------------------------------------------------------------


def run(folder, seed, value, weight=0.5, name="smoke"):
    (folder / "tables").mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"name": name, "seed": seed, "model": {"weight": weight, "width": 96}})
    )
    rows = [
        ("s", "detector", "miou", np.nan, value, seed),
        ("s", "detector", "acc", 0.3, 0.9, seed),
        ("s", "cam", "miou", np.nan, 0.1, seed),
    ]
    table = pd.DataFrame(
        rows, columns=["dataset", "method", "metric", "threshold", "value", "seed"]
    )
    table.to_csv(folder / "tables" / "localization.csv", index=False)
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        run(tmp_path / "a", 0, 0.2),
        run(tmp_path / "b", 1, 0.4),
        run(tmp_path / "c", 0, 0.3, weight=0.0, name="smoke+model.weight=0"),
    ]


def test_runs_are_gathered_with_what_differs_between_them(runs):
    table = sweep.gather(runs)
    assert list(table.columns) == [
        "run",
        "preset",
        "seed",
        "model.weight",
        "dataset",
        "method",
        "metric",
        "threshold",
        "value",
    ]
    assert len(table) == 9 and table["seed"].tolist() == [0] * 3 + [1] * 3 + [0] * 3
    assert table["model.weight"].tolist() == [0.5] * 6 + [0.0] * 3


def test_the_summary_is_over_seeds_of_each_preset_and_method(runs):
    table = sweep.summary(sweep.gather(runs)).set_index(["preset", "method"])
    row = table.loc[("smoke", "detector")]
    assert (
        row["runs"] == 2
        and row["mean"] == pytest.approx(0.3)
        and row["sd"] == pytest.approx(0.2 / 2**0.5)
    )
    assert (row["lowest"], row["highest"]) == (0.2, 0.4)
    single = table.loc[("smoke+model.weight=0", "detector")]
    assert single["runs"] == 1 and np.isnan(single["sd"])
    assert sweep.summary(sweep.gather(runs), "acc")["threshold"].tolist() == [0.3, 0.3]


def test_what_cannot_be_gathered_is_named(runs, tmp_path):
    with pytest.raises(PnlocError, match="nothing: no finished run"):
        sweep.gather([*runs, tmp_path / "nothing"])
    with pytest.raises(PnlocError, match="no run to gather"):
        sweep.gather([])
    with pytest.raises(PnlocError, match="no row with the metric 'iou'; there are miou, acc"):
        sweep.summary(sweep.gather(runs), "iou")
    with pytest.raises(PnlocError, match="unknown table 'choices'"):
        sweep.gather(runs, "choices")


def test_the_command_prints_means_and_writes_every_row(runs, tmp_path, capsys):
    assert cli.main(["gather", *map(str, runs), "--out", str(tmp_path / "all.csv")]) == 0
    assert "0.3000" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "all.csv")) == 9
    assert cli.main(["gather", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("pnloc: ")


def test_tables_over_patients_are_kept_with_what_made_them_and_those_of_images_are_not(
    runs, tmp_path, capsys
):
    environments = {
        k: {"commit": c * 40, "packages": {"torch": "2"}} for k, c in (("x", "b"), ("y", "a"))
    }
    (runs[0] / "run.json").write_text(
        json.dumps({"preset": "smoke", "seed": 0, "environments": environments})
    )
    for name in ("recall", "failures", "quarantine"):
        (runs[0] / "tables" / f"{name}.csv").write_text("image\n1\n")
    out = tmp_path / "kept"
    assert (
        cli.main(["keep", str(runs[0]), "--out", str(out)]) == 0
        and str(out) in capsys.readouterr().out
    )
    assert sorted(p.name for p in out.iterdir()) == ["localization.csv", "made.json", "recall.csv"]
    assert (out / "localization.csv").read_bytes() == (
        runs[0] / "tables" / "localization.csv"
    ).read_bytes()
    found = pages.published(out)
    assert pages.made(found["made"]).endswith(
        f"preset `smoke`, seed 0, commit {'a' * 10}, {'b' * 10}."
    )
    assert cli.main(["keep", str(runs[1]), "--out", str(out)]) == 2
    assert "no finished run (it needs run.json" in capsys.readouterr().err


def test_the_kept_run_on_real_data_has_no_row_of_an_image():
    found = pages.published(pages.RESULTS / "public")
    tables = {name: table for name, table in found.items() if name != "made"}
    assert set(tables) == set(sweep.KEPT) and all(
        len(t) and "image" not in t and "patient" not in t for t in tables.values()
    )
