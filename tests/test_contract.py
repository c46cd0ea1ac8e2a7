"""What users rely on: commands, flags, exit statuses, presets, notebooks, files, columns."""

import re
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from pnloc.cli import main
from pnloc.config import preset
from pnloc.errors import PnlocError

ROOT = Path(__file__).parents[1]
CONTRACT = tomllib.loads(Path(__file__).with_name("contract.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("command", "flags"), CONTRACT["commands"].items())
def test_a_command_has_its_flags_and_help_succeeds(command, flags, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    shown = set(re.findall(r"(?<![\w-])--?[a-z]+", capsys.readouterr().out))
    assert end.value.code == 0 and set(flags.split()) <= shown


@pytest.mark.parametrize(("arguments", "reason"), CONTRACT["refused"].items())
def test_bad_input_is_one_line_on_standard_error_and_status_2(arguments, reason, capsys):
    assert main(arguments.split()) == 2
    complaint = capsys.readouterr().err.strip()
    assert complaint.startswith("pnloc: ") and "\n" not in complaint and reason in complaint


@pytest.mark.parametrize("name", ["smoke", "demo", "public", "mimic"])
def test_a_preset_is_known_by_its_name(name):
    assert preset(name).name == name


@pytest.mark.parametrize(("name", "message"), CONTRACT["settings"].items())
def test_a_setting_that_cannot_be_is_named(name, message):
    with pytest.raises(PnlocError) as error:
        preset(name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_make_targets():
    rules = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(CONTRACT["targets"].split()) <= set(rules)


def test_public_imports():
    from pnloc.images import read_gray
    from pnloc.reports import extract_attributes

    assert callable(read_gray) and "side:right" in extract_attributes("Right lower lobe pneumonia.")


def test_a_run_leaves_its_files_with_their_columns(smoke):
    root = smoke / "smoke"
    for name, columns in CONTRACT["tables"].items():
        assert list(pd.read_csv(root / "tables" / f"{name}.csv")) == columns.split(), name
    boxes = pd.read_csv(root / "predictions" / "demo-mimic--text-attention.csv")
    assert list(boxes) == ["image", "x1", "y1", "x2", "y2", "score"]
    checkpoint = {p.name for p in (root / "checkpoint").iterdir()} - {"config.json"}
    assert checkpoint == {f"{part}.safetensors" for part in ("detector", "looks", "model", "words")}
    assert list(pd.read_csv(root / "timing.csv")) == ["stage", "seconds", "peak_mib"]
    assert all((root / f).exists() for f in ("run.json", "config.json", "checkpoint/config.json"))
