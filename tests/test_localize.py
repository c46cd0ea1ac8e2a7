"""`python -m pnloc localize`: many images into one folder, stopped and gone on with."""

import json
import os
import shutil
import signal
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from forks import commanded, start
from PIL import Image
from test_confidence import MODEL, untrained
from trees import draw

from pnloc.cli import main
from pnloc.evaluation.files import read_predictions
from pnloc.files import read_json, write_json
from pnloc.localizer import Localizer
from pnloc.view import batch, overlays

CORNERS = ["x1", "y1", "x2", "y2"]
TABLES = ("boxes", "attributes", "failures")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    untrained().save(folder, model=asdict(MODEL))
    return folder


@pytest.fixture
def images(tmp_path) -> list[str]:
    """40 images of several sizes and formats."""
    paths = [tmp_path / f"{n:02}{'.png' if n % 3 else '.jpg'}" for n in range(40)]
    sizes = np.random.default_rng(0).integers(50, 300, (40, 2)).tolist()
    return [str(draw(path, *sizes[n], seed=n)) for n, path in enumerate(paths)]


@pytest.fixture
def localize(checkpoint, tmp_path):
    """The command with that checkpoint, its results in tmp_path/out; gives the exit status."""
    command = ["localize", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    return lambda *arguments: main([*command, *map(str, arguments)])


def tables(out: Path) -> dict[str, list]:
    """The rows of the tables, in any order."""
    return {name: sorted((out / f"{name}.csv").read_text().splitlines()) for name in TABLES}


def test_a_batch_gives_what_one_image_at_a_time_does(localize, images, checkpoint, tmp_path):
    assert localize(*images) == 0
    boxes = pd.read_csv(tmp_path / "out" / "boxes.csv")
    attributes = pd.read_csv(tmp_path / "out" / "attributes.csv")
    localizer = Localizer.load(checkpoint)
    assert boxes["image"].drop_duplicates().tolist() == images
    for path in images:
        located, named = localizer(path)
        rows, own = boxes[boxes["image"] == path], attributes[attributes["image"] == path]
        np.testing.assert_allclose(rows[CORNERS], located[CORNERS], atol=0.06)
        np.testing.assert_allclose(rows["score"], located["score"], atol=2e-4)
        np.testing.assert_allclose(own["probability"], named["probability"], atol=2e-4)
        with Image.open(path) as image:
            assert (rows[["width", "height"]] == image.size).all(axis=None)
        assert (rows["file"] == Path(path).name).all()
        assert (tmp_path / "out" / rows["overlay"].iloc[0]).is_file()
    assert len(list((tmp_path / "out").glob("*.overlay.png"))) == len(images)


def test_images_of_one_name_have_an_overlay_each_and_keep_it(localize, images, tmp_path):
    for number in range(3):
        folder = tmp_path / f"p{number}" / "study1"
        folder.mkdir(parents=True)
        shutil.copy(images[1], folder / "view1_frontal.png")
    paths = [str(p) for p in sorted(tmp_path.glob("p*/study1/*"))]
    assert localize(*paths[:2]) == 0
    first = pd.read_csv(tmp_path / "out" / "boxes.csv").groupby("image")["overlay"].first()
    assert localize(*paths) == 0
    boxes = pd.read_csv(tmp_path / "out" / "boxes.csv").groupby("image")["overlay"].first()
    assert set(boxes.index) == set(paths) and boxes.nunique() == 3
    assert all(boxes[image] == name for image, name in first.items())
    assert len(list((tmp_path / "out").glob("*.overlay.png"))) == 3


def test_names_of_overlays_are_unlike_each_other_whatever_the_images_are_called():
    images = ["a/x.png", "b/x.png", "X.png", "x.jpg", "y.png", "/a/x.png", "../y.png", "a.b/x.png"]
    images += [f"{'é' * 200}.png", f"{'é' * 200}/x.png", "a-b/x.png", ".png", "x", "x-png.png"]
    names = overlays.names(images, ["y.overlay.png"])
    assert len({name.casefold() for name in names.values()} | {"y.overlay.png"}) == len(images) + 1
    assert all(len(name.encode()) < 230 and "/" not in name for name in names.values())


def unpaused(arguments: list[str], spoken: Path) -> None:
    batch.PAUSE = 0.0
    commanded(arguments, spoken)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_what_was_done_before_the_end_stays_and_the_same_command_goes_on(
    end, localize, images, checkpoint, tmp_path, capsys
):
    many, out = [*images], tmp_path / "half"
    for number in range(600):  # links, so that there is time to stop
        many.append(str(tmp_path / f"link-{number}.png"))
        os.symlink(images[1], many[-1])
    command = ["localize", "--checkpoint", str(checkpoint), "--out", str(out), *many]
    process = start(unpaused, command, tmp_path / "spoken.txt")
    while not (out / "boxes.csv").exists():
        time.sleep(0.01)
        assert process.is_alive()
    os.kill(process.pid, end)
    process.join(60)
    done = set(pd.read_csv(out / "boxes.csv")["image"])
    assert 0 < len(done) < len(many), "the tables grow as images are done"
    if end == signal.SIGINT:
        last = (tmp_path / "spoken.txt").read_text().splitlines()[-1]
        assert process.exitcode == 130 and last.startswith("pnloc: stopped")
        assert f"{len(done)} of {len(many)} images are done" in last
    else:
        assert process.exitcode == -signal.SIGKILL
    last = len(done) + batch.BATCH
    assert main([*command[:5], *many[:last]]) == 0
    assert "were done before" in capsys.readouterr().out
    assert localize(*many[:last]) == 0
    assert tables(out) == tables(tmp_path / "out")


def test_what_is_done_is_not_done_again_but_a_changed_image_is(
    localize, images, tmp_path, monkeypatch, capsys
):
    decoded = []
    real = batch._decode
    monkeypatch.setattr(batch, "_decode", lambda i, side: decoded.append(i) or real(i, side))
    assert localize(*images[:5]) == 0 and len(decoded) == 5
    before = tables(tmp_path / "out")
    assert localize(*images[:5], images[0]) == 0 and len(decoded) == 5
    assert "5 of 5 images (5 of them were done before)" in capsys.readouterr().out
    assert tables(tmp_path / "out") == before
    Image.new("L", (70, 60), 9).save(images[2])
    (tmp_path / "out" / "03.overlay.png").unlink()
    assert localize(*images[:5]) == 0 and decoded[5:] == [images[2], images[3]]
    after = pd.read_csv(tmp_path / "out" / "boxes.csv")
    assert (after.loc[after["image"] == images[2], "width"] == 70).all()
    assert localize(images[7]) == 0, "further images join those that are done"
    assert set(pd.read_csv(tmp_path / "out" / "boxes.csv")["image"]) == {*images[:5], images[7]}


def test_a_line_cut_short_costs_its_own_image_alone(localize, images, tmp_path, capsys):
    assert localize(*images[:5]) == 0
    lines, before = tmp_path / "out" / ".localize.jsonl", tables(tmp_path / "out")
    lines.write_bytes(lines.read_bytes()[:-20])
    assert localize(*images[:5]) == 0 and "(4 of them" in capsys.readouterr().out
    assert tables(tmp_path / "out") == before


def test_another_checkpoint_does_its_own_work_and_an_image_without_a_box_has_a_row(
    localize, images, checkpoint, tmp_path, capsys
):
    assert localize(*images[:3]) == 0
    other, boxes = tmp_path / "other", tmp_path / "out" / "boxes.csv"
    shutil.copytree(checkpoint, other)
    config = read_json(other / "config.json")
    config["choice"]["most"] = 0
    write_json(other / "config.json", config)
    assert localize("--checkpoint", other, images[0]) == 0
    assert "3 images were localized by another checkpoint" in capsys.readouterr().err
    rows = pd.read_csv(boxes)
    assert rows["image"].tolist() == [images[0]] and rows[CORNERS].isna().all(axis=None)
    assert read_predictions(boxes).empty


def test_a_second_run_into_the_same_folder_is_refused(localize, images, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".localize.lock"):
        assert localize(images[0]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("pnloc: ") and complaint.count("\n") == 1
    assert not (tmp_path / "out" / "boxes.csv").exists()
    assert localize(images[0]) == 0


def test_a_broken_image_costs_its_own_row_alone(localize, images, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(images[0]).read_bytes()[:300])
    (tmp_path / "folder.png").mkdir()
    bad = [str(broken), str(tmp_path / "none.png"), str(tmp_path / "folder.png"), ""]
    assert localize(bad[0], images[0], *bad[1:], images[1]) == 2
    complaints = capsys.readouterr().err.splitlines()
    assert all(line.startswith("pnloc: ") for line in complaints)
    good = tuple(f"pnloc: {image}: " for image in images[:2])  # which may have a warning
    assert len([line for line in complaints if not line.startswith(good)]) == len(bad)
    failures = pd.read_csv(tmp_path / "out" / "failures.csv", keep_default_na=False)
    assert failures["image"].tolist() == bad and (failures["error"] != "").all()
    assert set(pd.read_csv(tmp_path / "out" / "boxes.csv")["image"]) == set(images[:2])
    shutil.copy(images[0], broken)
    assert localize(broken) == 0
    assert str(broken) not in set(pd.read_csv(tmp_path / "out" / "failures.csv")["image"])


def test_a_name_that_is_no_text_and_one_with_a_line_break_are_rows(localize, images, tmp_path):
    names = [os.fsencode(tmp_path) + b"/\xff.png", os.fsencode(tmp_path) + b"/a\nb,c.png"]
    for name in names:
        shutil.copy(images[1], name)
    assert localize(*map(os.fsdecode, names)) == 0
    boxes = pd.read_csv(tmp_path / "out" / "boxes.csv")
    assert set(boxes["file"]) == {"\\udcff.png", "a\nb,c.png"}


def test_a_warning_is_a_line_a_column_and_a_note_on_the_overlay(
    localize, images, tmp_path, monkeypatch, capsys
):
    notes, odd = {}, {images[1]: ["odd", "very odd"]}

    def noted(*drawing):
        *_, path, lines, _ = drawing
        notes[path.name] = " ".join(lines)

    monkeypatch.setattr(batch, "oddities", lambda image, gray: odd.get(image, []))
    monkeypatch.setattr(Localizer, "unlike", lambda self, proposals: "")
    monkeypatch.setattr(overlays, "draw", noted)
    assert localize(*images[:3]) == 0
    assert capsys.readouterr().err == f"pnloc: {images[1]}: odd; very odd\n"
    boxes = pd.read_csv(tmp_path / "out" / "boxes.csv", keep_default_na=False)
    warnings = boxes.groupby("image")["warning"].first()
    assert warnings.tolist() == ["", "odd; very odd", ""]
    assert "very odd" in notes["01.overlay.png"] and "odd" not in notes["00.overlay.png"]
    assert json.loads((tmp_path / "out" / ".localize.jsonl").read_text().splitlines()[1])
