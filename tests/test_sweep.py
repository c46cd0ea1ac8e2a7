"""Presets with a number changed, and several finished runs side by side."""

import json

import numpy as np
import pandas as pd
import pytest

from experiments import sweep
from pnloc import cli
from pnloc.config import preset
from pnloc.view import tables as pages

OWN = ["dataset", "method", "metric", "threshold", "value"]


def test_a_presets_name_may_change_numbers_and_nothing_else():
    name = "smoke+model.distill_weight=0+detector.epochs=2"
    changed, expected = preset(name), preset("smoke").as_dict()
    expected["model"]["distill_weight"], expected["detector"]["epochs"] = 0.0, 2
    assert changed.as_dict() == expected | {"name": name}
    assert isinstance(changed.model.distill_weight, float)
    assert isinstance(changed.detector.epochs, int)


def run(folder, seed, value, weight=0.5, name="smoke"):
    """The files of a finished run as far as they are read."""
    (folder / "tables").mkdir(parents=True)
    config = {"name": name, "seed": seed, "model": {"weight": weight, "width": 96}}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [("s", "detector", "miou", np.nan, value), ("s", "detector", "acc", 0.3, 0.9)]
    table = pd.DataFrame([*rows, ("s", "cam", "miou", np.nan, 0.1)], columns=OWN)
    table.assign(seed=seed).to_csv(folder / "tables" / "localization.csv", index=False)
    return folder


@pytest.fixture
def runs(tmp_path):
    other = run(tmp_path / "c", 0, 0.3, weight=0.0, name="smoke+model.weight=0")
    return [run(tmp_path / "a", 0, 0.2), run(tmp_path / "b", 1, 0.4), other]


def test_runs_are_gathered_with_what_differs_between_them(runs, tmp_path, capsys):
    assert cli.main(["gather", *map(str, runs), "--out", str(tmp_path / "all.csv")]) == 0
    assert "0.3000" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "all.csv")
    assert list(table.columns) == ["run", "preset", "seed", "model.weight", *OWN]
    assert table["seed"].tolist() == [0] * 3 + [1] * 3 + [0] * 3
    assert table["model.weight"].tolist() == [0.5] * 6 + [0.0] * 3


def test_the_summary_is_over_seeds_of_each_preset_and_method(runs):
    table = sweep.summary(sweep.gather(runs)).set_index(["preset", "method"])
    columns = ["runs", "mean", "sd", "lowest", "highest"]
    row = table.loc[("smoke", "detector"), columns].tolist()
    assert row == pytest.approx([2, 0.3, 0.2 / 2**0.5, 0.2, 0.4])
    single = table.loc[("smoke+model.weight=0", "detector")]
    assert single["runs"] == 1 and np.isnan(single["sd"])
    assert sweep.summary(sweep.gather(runs), "acc")["threshold"].tolist() == [0.3, 0.3]


def test_severity_is_gathered_by_readout_score_and_statistic(runs):
    columns = ["dataset", "readout", "score", "fit", "statistic", "value"]
    for folder, value in zip(runs, (0.5, 0.7, 0.9), strict=True):
        rows = [("s", "area", score, "zero-shot", "spearman", value) for score in ("a", "b")]
        table = pd.DataFrame(rows, columns=columns)
        table.to_csv(folder / "tables" / "severity.csv", index=False)
    table = sweep.summary(sweep.gather(runs[:2], "severity"), "spearman")
    assert table["score"].tolist() == ["a", "b"]
    assert table["mean"].tolist() == pytest.approx([0.6, 0.6])


def test_tables_over_patients_are_kept_with_their_provenance(runs, tmp_path, capsys):
    torch = {"packages": {"torch": "2"}}
    environments = {"x": {"commit": "b" * 40, **torch}, "y": {"commit": "a" * 40, **torch}}
    record = {"preset": "smoke", "seed": 0, "environments": environments}
    (runs[0] / "run.json").write_text(json.dumps(record))
    tables, out = runs[0] / "tables", tmp_path / "kept"
    for name in ("recall", "failures", "quarantine"):
        (tables / f"{name}.csv").write_text("image\n1\n")
    assert cli.main(["keep", str(runs[0]), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    # No table of single images is among them.
    assert sorted(p.name for p in out.iterdir()) == ["localization.csv", "made.json", "recall.csv"]
    kept, source = (folder / "localization.csv" for folder in (out, tables))
    assert kept.read_bytes() == source.read_bytes()
    facts = pages.published(out)["made"]
    assert (facts["preset"], facts["seed"]) == ("smoke", 0)
    assert {commit[0] for commit in facts["commits"]} == {"a", "b"}


def test_the_kept_run_on_real_data_has_no_row_of_an_image():
    kept = pages.published(pages.RESULTS / "public")
    assert set(kept) == {*sweep.KEPT, "made"}
    assert all(len(kept[t]) and not {"image", "patient"} & set(kept[t]) for t in sweep.KEPT)
