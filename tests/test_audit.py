"""data check: every set is read, counted and compared; its status, output and files."""

import json
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import trees
from PIL import Image
from trees import COVID, NIH, ROCO, RSNA, draw, table

from pnloc.cli import main
from pnloc.data import openi
from pnloc.data.records import FATES, assign_splits
from pnloc.run.run import open_run

READ_ONCE = cache(openi.read)
RSNA_IMAGES = f"{RSNA}/stage_2_train_images"
MAPPING = f"{RSNA}/nih-of-rsna.csv"


@pytest.fixture
def data(tmp_path) -> Path:
    """The sets of the preset `public` and ROCOv2, sound and free of leaks."""
    root = tmp_path / "data"
    for name in ("rsna", "chestxray8", "covid19", "rocov2"):
        trees.SOUND[name](root)
    rows = [f"{name},{n:08d}_000.png" for n, name in enumerate("abcd", 101)]  # not sound_nih's
    table(root / MAPPING, "patientId,nih_image", rows)
    return root


@pytest.fixture
def check(data, tmp_path, capsys, monkeypatch):
    """Runs the command and gives its status and what it prints, parsed with --json.

    OpenI comes with a package and is the same in all tests: it is read once.
    """
    monkeypatch.setattr(openi, "read", READ_ONCE)

    def run(*options: str, folder: Path = data, preset: str = "public") -> tuple:
        where = ["--data", str(folder), "--artifacts", str(tmp_path / "a")]
        status = main(["data", "check", "--preset", preset, *where, *options])
        text = capsys.readouterr().out
        return status, json.loads(text) if "--json" in options else text

    return run


def test_a_set_of_which_nothing_is_used_is_not_well(data, check):
    """The table has ids with .dcm, the folder files without: an id and a file are named."""
    labels = data / RSNA / "stage_2_train_labels.csv"
    head, *rows = labels.read_text().splitlines()
    labels.write_text("\n".join([head, *(row.replace(",", ".dcm,", 1) for row in rows)]))
    status, text = check("--quick")
    assert status == 2 and "rsna: none of 4 images is used" in text and ".dcm'" in text


def split_of(patient: str) -> str:
    return assign_splits(pd.Series([patient]), "rsna")[0]


def test_sound_sets_end_with_0_and_every_row_is_accounted_for(check, tmp_path):
    status, out = check("--json")
    assert (status, out["status"], out["quarantine"], out["same_content"]) == (0, 0, [], [])
    assert set(out["sets"]) == {"rsna", "chestxray8", "covid19", "rocov2", "openi"}
    assert out["sets"]["openi"]["rows"]["reports"]["used"] == 3955
    for records in out["sets"].values():
        for counts in records["rows"].values():
            assert counts["rows"] == sum(counts[fate] for fate in FATES)
    split = out["sets"]["rsna"]["splits"]["all"]
    names = ("used", "patients", "positive", "with boxes", "boxes")
    assert [split[name] for name in names] == [4, 4, 2, 2, 3]
    assert len(out["sets"]["rsna"]["split_digest"]) == 16
    assert len(pd.read_csv(tmp_path / "a" / "public" / "quarantine.csv")) == 0


def test_cut_pixels_end_with_1_and_a_quick_check_says_that_it_did_not_look(data, check, tmp_path):
    path = data / RSNA_IMAGES / "a.png"
    path.write_bytes(path.read_bytes()[:-300])
    status, out = check("--json")
    rows = out["sets"]["rsna"]["rows"]
    assert status == 1 and rows["images"]["quarantined"] == 1
    assert (rows["boxes"]["used"], rows["boxes"]["quarantined"]) == (1, 2)
    quarantine = pd.read_csv(tmp_path / "a" / "public" / "quarantine.csv")
    assert quarantine.columns.tolist() == ["set", "file", "row", "reason"]
    assert quarantine[["set", "file"]].to_numpy().tolist() == [["rsna", str(path)]]
    assert "1 in quarantine" in check()[1]
    status, out = check("--json", "--quick")
    assert status == 0 and any("no image was decoded" in remark for remark in out["remarks"])


def test_a_set_that_cannot_be_used_ends_with_2_and_the_others_are_still_reported(data, check):
    (data / NIH / trees.NIH_ENTRIES).write_text("nothing")
    status, text = check("--quick")
    assert status == 2 and "UNUSABLE: chestxray8: " in text and trees.NIH_ENTRIES in text
    assert "rsna" in text and "covid19" in text


def test_a_missing_set_of_the_preset_is_unusable_and_one_beyond_it_is_read_too(data, check):
    status, out = check("--json", "--quick", preset="mimic")
    assert status == 2 and "mimic-cxr-jpg" in out["unusable"]["mimic"]
    assert {"rsna", "chestxray8", "covid19", "rocov2"} == set(out["sets"])
    trees.sound_mimic(data)
    assert "mimic" in check("--json", "--quick")[1]["sets"]


def test_training_images_of_a_test_patient_of_another_set_are_counted(data, check):
    shared = next(n for n in range(1, 99) if split_of(f"nih:{n}") == "train")
    name, entries = f"{shared:08d}_009.png", data / NIH / trees.NIH_ENTRIES
    entries.write_text(f"{entries.read_text()}{trees.entry(name, 'Mass', shared)}\n")
    draw(data / NIH / "images" / name, seed=77)
    trees.write(data / NIH / "test_list.txt", f"{name}\n00000002_000.png\n")
    mapping = data / MAPPING
    mapping.write_text(mapping.read_text().replace("00000101_000.png", f"{shared:08d}_000.png"))
    status, out = check("--json")
    assert status == 0 and out["sets"]["rsna"]["dropped_for_leak"] == 1
    assert any(remark.startswith("rsna: 1 ") for remark in out["remarks"])


def test_without_a_mapping_a_test_image_in_training_is_recognised_and_ends_with_3(
    data, check, tmp_path
):
    (data / MAPPING).unlink()
    status, text = check("--quick")
    assert status == 0 and "cannot be excluded" in text
    name = next(n for n in "abcd" if split_of(f"rsna:{n}") != "test")
    path = next((data / RSNA_IMAGES).glob(f"{name}.*"))
    path.unlink()
    nih = Image.open(data / NIH / "images" / "00000002_000.png")
    anew = nih.resize((96, 96), Image.Resampling.BICUBIC)
    anew.save(path.with_suffix(".jpg"), quality=85)
    status, out = check("--json")
    (pair,) = out["same_content"]
    assert status == 3 and pair["leak"]
    assert pair["correlation"] == round(pair["correlation"], 4)
    assert {pair["image_a"], pair["image_b"]} == {name, "00000002_000.png"}
    assert "LEAK" in check()[1]
    assert len(pd.read_csv(tmp_path / "a" / "public" / "same-content.csv")) == 1


def test_a_copy_under_another_patient_leaks_and_all_images_of_that_patient_are_left_out(
    data, check, tmp_path
):
    patients = {"a.png": 1, "d.png": 9, "e.png": 9, "f.png": 10}
    rows = [trees.study(name, patient) for name, patient in patients.items()]
    table(data / COVID / "metadata.csv", trees.COVID_HEADER, rows)
    images = data / COVID / "images"
    (images / "d.png").write_bytes((images / "a.png").read_bytes())
    for seed, name in enumerate("ef", 90):
        draw(images / f"{name}.png", seed=seed)
    status, out = check("--json")
    assert status == 3 and [pair["leak"] for pair in out["same_content"]] == [True]
    sets = open_run("public", str(data), artifacts=str(tmp_path / "a")).sets
    records = sets.records("covid19")
    assert records.images["image"].tolist() == ["a.png", "f.png"]
    assert records.counts["dropped_as_duplicate"] == 2
    assert sets.pixels("covid19").shape[0] == 2


def test_the_digest_of_the_splits_changes_with_a_split_and_not_with_the_folder(
    data, check, tmp_path
):
    def digest(folder: Path) -> str:
        return check("--json", "--quick", folder=folder)[1]["sets"]["rsna"]["split_digest"]

    first = digest(data)
    moved = data.rename(tmp_path / "elsewhere")
    assert digest(moved) == first
    lines = (moved / MAPPING).read_text().split()
    table(moved / MAPPING, f"{lines[0]},split", [f"{line},test" for line in lines[1:]])
    assert digest(moved) != first


def test_links_are_followed_and_a_loop_ends_and_labels_may_name_nothing(data, check, tmp_path):
    images = data / RSNA_IMAGES
    images.rename(tmp_path / "another-disk")
    images.symlink_to(tmp_path / "another-disk")
    (tmp_path / "another-disk" / "loop").symlink_to(images)
    assert check("--json", "--quick")[1]["sets"]["rsna"]["rows"]["images"]["used"] == 4
    table(data / RSNA / trees.RSNA_LABELS, trees.RSNA_HEADER, [])
    out = check("--json")[1]
    assert out["sets"]["rsna"]["splits"]["all"]["used"] == 0
    assert any("4 image files are named by no row" in remark for remark in out["remarks"])


def test_the_downloaded_data(check):
    if not all((trees.DATA / name).is_dir() for name in (RSNA, NIH, COVID, ROCO)):
        pytest.skip("not all public sets in ../shared/data beside the repository")
    status, out = check("--json", folder=trees.DATA)
    # Rows of files that stood before.
    files = {Path(row["file"]).name for row in out["quarantine"] if row["set"] != "rocov2"}
    assert files == {"metadata.csv"}
    # Four radiographs of one case report have two patients' names; so have two further pairs.
    leaks = [pair for pair in out["same_content"] if pair["leak"]]
    assert status == 1 and len(leaks) == 6
    assert all(pair["set_a"] == pair["set_b"] == "covid19" for pair in leaks)
    assert all(out["sets"][name]["dropped_for_leak"] for name in ("rsna", "chestxray8"))
    # Across sets: exactly the RSNA images of which the mapping names an NIH image that is here.
    names = pd.read_csv(trees.DATA / MAPPING).set_index("patientId")["nih_image"]
    here = {path.name for path in (trees.DATA / NIH).glob("images*/*")}
    across = [pair for pair in out["same_content"] if pair["set_a"] != pair["set_b"]]
    known = set(names[names.isin(here)].items())
    assert known == {(pair["image_a"], pair["image_b"]) for pair in across}
    assert max(pair["bits"] for pair in across) <= 8  # the next pair differs by more than 40
