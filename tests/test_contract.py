"""What users rely on: commands, flags, exit statuses, presets, notebooks, files, columns."""

import re
from pathlib import Path

import pandas as pd
import pytest

from pnloc.cli import main
from pnloc.config import preset

ROOT = Path(__file__).parents[1]
RUN = {"--preset", "--data", "--seed", "--artifacts"}
COMMANDS = {
    ("data", "check"): {*RUN, "--json", "--quick"},
    ("train",): RUN,
    ("reproduce",): {*RUN, "--parameter", "-p"},
    ("localize",): {"--checkpoint", "--out", "--report"},
    ("evaluate",): {"--patients", "--out", "--resamples", "--seed"},
    ("gather",): {"--table", "--metric", "--out"},
    ("keep",): {"--out"},
    ("reports",): set(),
    ("experiment",): {"--plan", "--artifacts", "--out"},
}
TABLES = {
    "attributes": "attribute auc low high positives n",
    "choices": "method share most validation_miou rule layer",
    "differences": "dataset method against metric value low high n",
    "localization": "dataset method metric threshold value low high n seed",
    "recall": "dataset regions threshold recall n",
    "severity": "dataset readout score fit statistic value low high n",
    "severity_choice": "readout pearson spearman auc n positives chosen",
    "severity_confounders": "dataset readout score confounder level statistic value low high n",
    "severity_differences": "dataset readout against score statistic value low high n",
    "severity_lungs": "dataset finder side iou low high n",
    "severity_text": "dataset against statistic text labels value low high n",
    "severity_zones": "dataset what against zone statistic value low high n",
    "significance": "dataset method against metric value p p_holm n",
}
TARGETS = "help env book html publish pdf test browse bench experiment lab voila clean"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_has_its_flags_and_help_succeeds(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    shown = set(re.findall(r"(?<![\w-])--?[a-z]+", capsys.readouterr().out))
    assert end.value.code == 0 and COMMANDS[command] <= shown


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("train --preset nonsense", "unknown preset 'nonsense'"),
        ("train --preset public", "needs the folder"),
        ("train --preset public --data nowhere", "nowhere: no such folder"),
        ("train --seed -1", "whole number from 0"),
        ("localize x.png --checkpoint nowhere --out nowhere", "nowhere"),
        ("evaluate nowhere.csv nowhere.csv", "nowhere.csv: no such file"),
        ("gather nowhere", "nowhere: not a finished run"),
        ("keep nowhere --out nowhere", "nowhere: not a finished run (it needs run.json"),
        ("reports nowhere.txt", "nowhere.txt"),
        ("experiment --plan huge", "unknown plan 'huge'; use one of full, smoke"),
    ],
)
def test_bad_input_is_one_line_on_standard_error_and_status_2(arguments, reason, capsys):
    assert main(arguments.split()) == 2
    complaint = capsys.readouterr().err.strip()
    assert complaint.startswith("pnloc: ") and "\n" not in complaint and reason in complaint


@pytest.mark.parametrize("name", ["smoke", "demo", "public", "mimic"])
def test_a_preset_is_known_by_its_name(name):
    assert preset(name).name == name


def test_make_targets():
    rules = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(TARGETS.split()) <= set(rules)


def test_public_imports():
    from pnloc.images import read_gray
    from pnloc.reports import extract_attributes

    assert callable(read_gray) and "side:right" in extract_attributes("Right lower lobe pneumonia.")


def test_a_run_leaves_its_files_with_their_columns(smoke):
    root = smoke / "smoke"
    for name, columns in TABLES.items():
        assert list(pd.read_csv(root / "tables" / f"{name}.csv")) == columns.split(), name
    boxes = pd.read_csv(root / "predictions" / "demo-mimic--text-attention.csv")
    assert list(boxes) == ["image", "x1", "y1", "x2", "y2", "score"]
    checkpoint = {p.name for p in (root / "checkpoint").iterdir()} - {"config.json"}
    assert checkpoint == {f"{part}.safetensors" for part in ("detector", "looks", "model", "words")}
    assert list(pd.read_csv(root / "timing.csv")) == ["stage", "seconds", "peak_mib"]
    assert all((root / f).exists() for f in ("run.json", "config.json", "checkpoint/config.json"))
