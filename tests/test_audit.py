"""data check: every set is read, counted and compared; what it ends with, what it prints, what it writes."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from test_damaged import RSNA, noise, sound_covid, sound_mimic, sound_nih, sound_rsna
from test_datasets import COVID_HEADER, NIH_ENTRIES, RSNA_LABELS, entry, study, write

from pnloc.cli import main
from pnloc.data import rsna
from pnloc.data.readers import FOLDERS
from pnloc.data.records import FATES, assign_splits

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def data(tmp_path) -> Path:
    """The sets of the preset `public`, sound and free of leaks."""
    root = tmp_path / "data"
    sound_rsna(root)
    sound_nih(root)
    sound_covid(root)
    patients = [f"{n:08d}_000.png" for n in (101, 102, 103, 104)]  # not those of sound_nih
    rows = [f"{image},{nih}" for image, nih in zip("abcd", patients, strict=True)]
    write(root / RSNA / "nih-of-rsna.csv", "\n".join(["patientId,nih_image", *rows, ""]))
    return root


def check(data: Path, tmp_path: Path, *options: str, preset: str = "public") -> int:
    return main(
        [
            "data",
            "check",
            "--preset",
            preset,
            "--data",
            str(data),
            "--artifacts",
            str(tmp_path / "a"),
            *options,
        ]
    )


def told(data: Path, tmp_path: Path, capsys, *options: str, preset: str = "public") -> dict:
    status = check(data, tmp_path, "--json", *options, preset=preset)
    out = json.loads(capsys.readouterr().out)
    assert out["status"] == status
    return out


def test_sound_sets_end_with_0_and_every_row_is_accounted_for(data, tmp_path, capsys):
    out = told(data, tmp_path, capsys)
    assert (
        out["status"] == 0
        and out["quarantine"] == []
        and out["unusable"] == {}
        and out["same_content"] == []
    )
    assert set(out["sets"]) == {"rsna", "chestxray8", "covid19", "openi"}
    assert out["sets"]["openi"]["rows"]["reports"]["used"] == 3955
    for found in out["sets"].values():
        for counts in found["rows"].values():
            assert counts["rows"] == sum(counts[fate] for fate in FATES)
    split = out["sets"]["rsna"]["splits"]["all"]
    assert [split[k] for k in ("used", "patients", "positive", "with boxes", "boxes")] == [
        4,
        4,
        2,
        2,
        3,
    ]
    assert len(out["sets"]["rsna"]["split_digest"]) == 16
    assert len(pd.read_csv(tmp_path / "a" / "public" / "quarantine.csv")) == 0


def test_what_is_in_quarantine_ends_with_1_and_is_in_the_table(data, tmp_path, capsys):
    (data / RSNA / "stage_2_train_images" / "b.jpg").write_bytes(b"\xff\xd8\xff")
    assert check(data, tmp_path) == 1
    table = pd.read_csv(tmp_path / "a" / "public" / "quarantine.csv")
    assert table.columns.tolist() == ["set", "file", "row", "reason"]
    assert [(row.set, Path(row.file).name) for row in table.itertuples()] == [("rsna", "b.jpg")]
    assert "1 in quarantine" in capsys.readouterr().out


def test_pixels_that_are_cut_are_found_by_decoding_and_a_quick_check_says_that_it_did_not_look(
    data, tmp_path, capsys
):
    path = data / RSNA / "stage_2_train_images" / "a.png"
    path.write_bytes(path.read_bytes()[:-300])
    out = told(data, tmp_path, capsys)
    assert out["status"] == 1 and out["sets"]["rsna"]["rows"]["images"]["quarantined"] == 1
    assert out["sets"]["rsna"]["rows"]["boxes"] == {
        "rows": 3,
        "used": 1,
        "missing": 0,
        "excluded": 0,
        "quarantined": 2,
    }
    quick = told(data, tmp_path, capsys, "--quick")
    assert quick["status"] == 0
    assert any("no image was decoded" in remark for remark in quick["remarks"])


def test_a_set_that_cannot_be_used_ends_with_2_and_the_others_are_still_reported(
    data, tmp_path, capsys
):
    (data / FOLDERS["chestxray8"] / NIH_ENTRIES).write_text("nothing")
    assert check(data, tmp_path) == 2
    said = capsys.readouterr().out
    assert "chestxray8: UNUSABLE: " in said and NIH_ENTRIES in said
    assert "rsna" in said and "covid19" in said


def test_a_set_of_the_preset_that_is_not_there_is_unusable_and_one_beyond_the_preset_is_read_too(
    data, tmp_path, capsys
):
    out = told(data, tmp_path, capsys, preset="mimic")
    assert out["status"] == 2 and "mimic-cxr-jpg" in out["unusable"]["mimic"]
    assert {"rsna", "chestxray8", "covid19"} == set(out["sets"])
    sound_mimic(data)
    assert "mimic" in told(data, tmp_path, capsys)["sets"]


def test_training_images_of_a_test_patient_of_another_set_are_counted_and_left_out(
    data, tmp_path, capsys
):
    shared = next(
        n for n in range(1, 99) if assign_splits(pd.Series([f"nih:{n}"]), "rsna")[0] == "train"
    )
    (data / FOLDERS["chestxray8"] / NIH_ENTRIES).write_text(
        (data / FOLDERS["chestxray8"] / NIH_ENTRIES).read_text()
        + entry(f"{shared:08d}_009.png", "Mass", shared)
        + "\n"
    )
    Image.fromarray(noise(77)).save(
        data / FOLDERS["chestxray8"] / "images" / f"{shared:08d}_009.png"
    )
    write(
        data / FOLDERS["chestxray8"] / "test_list.txt", f"{shared:08d}_009.png\n00000002_000.png\n"
    )
    path = data / RSNA / "nih-of-rsna.csv"
    path.write_text(path.read_text().replace("00000101_000.png", f"{shared:08d}_000.png"))
    out = told(data, tmp_path, capsys)
    assert out["status"] == 0
    assert out["sets"]["rsna"]["dropped_for_leak"] == 1
    assert any(
        remark.startswith("rsna: 1 training or validation images are of test patients")
        for remark in out["remarks"]
    )


def test_the_official_mapping_and_the_csv_name_the_same_patients(data):
    rows = pd.read_csv(data / RSNA / "nih-of-rsna.csv")
    by_csv = rsna.read(data / RSNA).images
    entries = [
        {
            "subset_img_id": r.patientId,
            "img_id": r.nih_image,
            "orig_labels": ["Pneumonia"],
            "StudyInstanceUID": "1.2.3",
        }
        for r in rows.itertuples()
    ]
    (data / RSNA / "nih-of-rsna.csv").unlink()
    write(data / RSNA / rsna.MAPPING, json.dumps(entries))
    assert rsna.read(data / RSNA).images.equals(by_csv)


def test_without_a_mapping_the_check_says_that_a_leak_cannot_be_excluded(data, tmp_path, capsys):
    (data / RSNA / "nih-of-rsna.csv").unlink()
    assert check(data, tmp_path) == 0
    assert "cannot be excluded" in capsys.readouterr().out


def test_without_a_mapping_a_test_image_in_training_is_found_by_content_and_ends_with_3(
    data, tmp_path, capsys
):
    (data / RSNA / "nih-of-rsna.csv").unlink()
    name = next(n for n in "abcd" if assign_splits(pd.Series([f"rsna:{n}"]), "rsna")[0] != "test")
    path = next((data / RSNA / "stage_2_train_images").glob(f"{name}.*"))
    nih = Image.open(data / FOLDERS["chestxray8"] / "images" / "00000002_000.png")
    path.unlink()
    nih.resize((96, 96), Image.Resampling.BICUBIC).save(path.with_suffix(".jpg"), quality=85)
    out = told(data, tmp_path, capsys)
    assert out["status"] == 3
    (pair,) = out["same_content"]
    assert pair["leak"] and {pair["image_a"], pair["image_b"]} == {name, "00000002_000.png"}
    assert check(data, tmp_path) == 3
    assert "LEAK" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "a" / "public" / "same-content.csv")) == 1


def test_a_copy_under_another_patient_of_the_same_set_leaks_too(data, tmp_path, capsys):
    folder = data / FOLDERS["covid19"]
    write(
        folder / "metadata.csv", "\n".join([COVID_HEADER, study("a.png", 1), study("d.png", 9), ""])
    )
    (folder / "images" / "d.png").write_bytes((folder / "images" / "a.png").read_bytes())
    out = told(data, tmp_path, capsys)
    assert out["status"] == 3
    assert [p["leak"] for p in out["same_content"]] == [True]


def test_the_digest_of_the_splits_changes_with_a_split_and_not_with_the_folder(
    data, tmp_path, capsys
):
    first = told(data, tmp_path, capsys)["sets"]["rsna"]["split_digest"]
    moved = data.rename(tmp_path / "elsewhere")
    assert told(moved, tmp_path, capsys)["sets"]["rsna"]["split_digest"] == first
    path = moved / RSNA / "nih-of-rsna.csv"
    path.write_text(
        "\n".join(
            f"{line},{s}"
            for line, s in zip(path.read_text().split(), ("split", *["test"] * 4), strict=True)
        )
    )
    assert told(moved, tmp_path, capsys)["sets"]["rsna"]["split_digest"] != first


def test_links_are_followed_and_a_loop_ends(data, tmp_path, capsys):
    images = data / RSNA / "stage_2_train_images"
    images.rename(tmp_path / "another-disk")
    images.symlink_to(tmp_path / "another-disk")
    (tmp_path / "another-disk" / "loop").symlink_to(images)
    assert told(data, tmp_path, capsys)["sets"]["rsna"]["rows"]["images"]["used"] == 4


def test_training_leaves_out_every_image_of_a_patient_of_whom_one_is_a_test_image_under_another_name(
    data, tmp_path
):
    from pnloc.run.run import open_run

    folder = data / FOLDERS["covid19"]
    rows = [study("a.png", 1), study("d.png", 9), study("e.png", 9), study("f.png", 10)]
    write(folder / "metadata.csv", "\n".join([COVID_HEADER, *rows, ""]))
    (folder / "images" / "d.png").write_bytes((folder / "images" / "a.png").read_bytes())
    for n, name in enumerate("ef", 90):
        Image.fromarray(noise(n)).save(folder / "images" / f"{name}.png")
    run = open_run("public", str(data), artifacts=str(tmp_path / "a"))
    records = run.sets.records("covid19")
    assert records.images["image"].tolist() == ["a.png", "f.png"]
    assert records.counts["dropped_as_duplicate"] == 2
    assert run.sets.pixels("covid19").shape[0] == 2


def test_the_real_data_that_is_here(tmp_path, capsys):
    if not all((DATA / FOLDERS[name]).is_dir() for name in ("rsna", "chestxray8", "covid19")):
        pytest.skip("not all public sets in ../shared/data beside the repository")
    out = told(DATA, tmp_path, capsys)
    rsna_found, nih, covid = (out["sets"][n] for n in ("rsna", "chestxray8", "covid19"))
    split = rsna_found["splits"]["all"]
    assert [split[k] for k in ("used", "positive", "boxes")] == [1035, 266, 417]
    assert [nih["splits"]["all"][k] for k in ("used", "with boxes")] == [84, 24]
    assert covid["rows"]["severity scores"] == {
        "rows": 94,
        "used": 94,
        "missing": 0,
        "excluded": 0,
        "quarantined": 0,
    }
    assert out["sets"]["openi"]["rows"]["reports"]["used"] == 3955
    assert {Path(q["file"]).name for q in out["quarantine"]} == {
        "metadata.csv"
    }  # rows of files that stood before
    # Four radiographs of one case report are filed under two patients; a fifth and a sixth pair likewise.
    assert out["status"] == 1 and sum(p["leak"] for p in out["same_content"]) == 6
    assert all(p["set_a"] == p["set_b"] == "covid19" for p in out["same_content"] if p["leak"])
    assert (rsna_found["dropped_for_leak"], nih["dropped_for_leak"]) == (15, 1)


def test_rsna_labels_that_name_nothing_leave_a_set_without_images_and_not_a_traceback(
    data, tmp_path, capsys
):
    write(data / RSNA / RSNA_LABELS, "patientId,x,y,width,height,Target\n")
    out = told(data, tmp_path, capsys)
    assert out["sets"]["rsna"]["splits"]["all"]["used"] == 0
    assert any("4 image files are named by no row" in remark for remark in out["remarks"])
