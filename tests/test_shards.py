"""Regions in shards on disk read as those in memory do; what is whole is not made again; what is broken is named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pnloc.config import DetectorConfig, ModelConfig, RegionConfig
from pnloc.errors import PnlocError
from pnloc.regions import Regions, feature_size
from pnloc.reports.words import WordVectors
from pnloc.run.feature_store import NAMES, Chosen, Shards, build, join, load
from pnloc.training import train_localizer

COUNT = 23


def some(count: int = COUNT, seed: int = 0) -> Regions:
    rng = torch.Generator().manual_seed(seed)
    return Regions(
        torch.rand(count, 4, 4, generator=rng),
        torch.rand(count, 4, generator=rng),
        torch.rand(count, 4, generator=rng) < 0.8,
        torch.rand(count, 4, 12, generator=rng).half(),
        torch.rand(count, 3, 3, generator=rng).half(),
        torch.rand(count, generator=rng),
    )


def equal(one: Regions, other: Regions) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in NAMES)


def sharded(folder, regions: Regions, length: int = 5) -> Shards:
    build(
        folder,
        len(regions),
        lambda rows: regions.rows(np.arange(len(regions))[rows]),
        length=length,
        small=0,
    )
    return load(folder)


@pytest.mark.parametrize("rows", [[0], [22, 0, 7, 7], [-1, 4, 5], [], range(COUNT)], ids=str)
def test_rows_are_those_of_the_regions_in_memory(rows, tmp_path):
    whole, found = some(), sharded(tmp_path, some())
    assert isinstance(found, Shards) and len(found) == COUNT
    assert equal(found.rows(list(rows)), whole.rows(list(rows)))


@pytest.mark.parametrize("name", NAMES)
def test_every_field_reads_as_a_tensor_does(name, tmp_path):
    whole, found = getattr(some(), name), getattr(sharded(tmp_path, some()), name)
    assert tuple(found.shape) == tuple(whole.shape) and len(found) == COUNT
    for index in (3, slice(4, 11), np.array([20, 1]), np.arange(COUNT) % 3 == 0, slice(None)):
        assert torch.equal(found[index], whole[index])


def test_a_row_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(IndexError, match="row 23 of 23 images"):
        sharded(tmp_path, some()).rows([COUNT])


@pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="the system does not say what is resident"
)
def test_no_shard_stays_resident_after_a_reading(tmp_path):
    found = sharded(tmp_path, some())
    assert equal(found.rows(range(COUNT)), some())
    resident, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = str(tmp_path) in line
        elif inside and line.startswith("Rss:"):
            resident += int(line.split()[1])
    assert resident == 0
    assert equal(found.rows(range(COUNT)), some()), "and can be read again"


@pytest.mark.parametrize("count", [0, 1, 5, COUNT])
def test_a_small_set_is_one_file_like_any_other(count, tmp_path):
    build(tmp_path, count, lambda rows: some().rows(np.arange(count)[rows]), length=5)
    assert [p.name for p in tmp_path.iterdir()] == ["regions.safetensors"]
    assert isinstance(load(tmp_path), Regions) and equal(load(tmp_path), some().rows(range(count)))


def test_shards_that_are_whole_are_not_made_again_and_half_written_ones_go(tmp_path):
    made, stops = [], [15]

    def make(rows: slice) -> Regions:
        if rows.start in stops:
            raise KeyboardInterrupt
        made.append(rows.start)
        return some().rows(np.arange(COUNT)[rows])

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, COUNT, make, length=5, small=0)
    stops.clear()
    (tmp_path / "parts" / ".00003-abc.safetensors").write_bytes(b"half")
    build(tmp_path, COUNT, make, length=5, small=0)
    assert made == [0, 5, 10, 15, 20] and equal(load(tmp_path).rows(range(COUNT)), some())
    assert len(list((tmp_path / "parts").iterdir())) == 5


@pytest.mark.parametrize("harm", ["gone", "short", "noise", "other"])
def test_a_shard_that_is_missing_or_broken_is_named(harm, tmp_path):
    sharded(tmp_path, some())
    path = tmp_path / "parts" / "00001.safetensors"
    content = path.read_bytes()
    path.unlink()
    if harm == "short":
        path.write_bytes(content[:-10])
    elif harm == "noise":
        path.write_bytes(b"\xff" * 200)
    elif harm == "other":
        some(3).save(path)
    with pytest.raises(PnlocError, match=r"00001\.safetensors: .* run again") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_rows_of_several_sets_join_in_memory_or_on_disk_alike(tmp_path):
    first, second = some(), some(9, seed=1)
    rows = [(np.array([4, 0, 22]), np.array([8, 8, 1]))]
    for one, two in rows:
        memory = join([(first, one), (second, two)])
        disk = join([(sharded(tmp_path, first), one), (second, two)])
        assert (
            isinstance(memory, Regions)
            and isinstance(disk, Chosen)
            and len(memory) == len(disk) == 6
        )
        assert disk.features.shape == memory.features.shape
        for index in ([5, 0, 3, 3, 1], [2], [3, 4], [], np.arange(6)):
            assert equal(disk.rows(index), memory.rows(index)), index
    assert equal(join([(first, None)]), first)


def test_the_localizer_learns_the_same_from_disk_as_from_memory(tmp_path):
    rng = np.random.default_rng(0)
    vectors = WordVectors(["", "left"], rng.normal(size=(2, 6)).astype(np.float32))
    labels = (rng.uniform(size=(COUNT, 2)) < 0.5).astype(np.float32)
    rows = np.arange(COUNT)[::-1]
    models = [
        train_localizer(
            regions,
            rng.integers(0, 2, (COUNT, 3)) * 0,
            np.ones((COUNT, 1, 6)),
            labels,
            np.ones_like(labels),
            vectors,
            ("pneumonia", "left"),
            ModelConfig(width=8, epochs=2, batch=6),
            text=True,
            seed=0,
            folder=tmp_path / name,
            fingerprint="s",
        )[0].state_dict()
        for name, regions in (
            ("a", join([(some(), rows)])),
            ("b", join([(sharded(tmp_path / "parts", some()), rows)])),
        )
    ]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_regions_of_shards_are_those_of_the_whole_set(tmp_path):
    from pnloc.detector import Detector
    from pnloc.regions import extract

    torch.manual_seed(0)
    detector = Detector(DetectorConfig(side=64, width=8, pyramid=8)).eval()
    images = np.random.default_rng(0).integers(0, 255, (9, 64, 64), dtype=np.uint8)
    config = RegionConfig(count=6)
    build(
        tmp_path,
        9,
        lambda rows: extract(detector, images[rows], config, batch=4),
        length=4,
        small=0,
    )
    assert equal(load(tmp_path).rows(range(9)), extract(detector, images, config, batch=4))


def test_377110_studies_fit_into_20_gb():
    """At R = 20 and the widest preset; pnloc.run.feature_store keeps nothing beside the fields."""
    from pnloc.config import preset

    wide = preset("mimic")
    features = feature_size(wide.detector.pyramid)
    per_image = 20 * (features * 2 + 4 * 4 + 4 + 1) + (wide.detector.side // 8) ** 2 * 2 + 4
    assert wide.regions.count == 20 and 377_110 * per_image < 20e9
