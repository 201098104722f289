import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from components.data.site_data import open_site_data
from components.data.sources import plan_sources, pooled_source
from components.errors import DataError, StorageError
from components.rounds import ItemCounts
from components.site_source import SiteSource
from components.study import Study

SPLITS = ("train", "validation", "test")


def quarantine(state: Path) -> list[list[str]]:
    with (state / "quarantine.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def test_a_site_is_opened_whole(tmp_path: Path, make_study: Callable[..., Study], source: SiteSource) -> None:
    data = open_site_data(make_study(), source, tmp_path / "state")
    assert data.counts == ItemCounts(expected=40, usable=40, quarantined=0)
    assert quarantine(tmp_path / "state") == []
    assert sum(data.size(split) for split in SPLITS) == 40
    for split in SPLITS:
        images, labels = data.images(split), data.labels(split)
        assert images.shape == (data.size(split), 1, 16, 16)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert data.class_counts[split] == torch.bincount(labels, minlength=2).tolist()
        batches = list(data.evaluation_batches(split, batch_size=3))
        assert torch.equal(torch.cat([batch for batch, _ in batches]), images)
        assert torch.equal(torch.cat([batch for _, batch in batches]), labels)


def test_opened_again_nothing_is_decoded_and_nothing_differs(
    tmp_path: Path, make_study: Callable[..., Study], source: SiteSource
) -> None:
    first = open_site_data(make_study(), source, tmp_path / "state")
    again = open_site_data(make_study(), source, tmp_path / "state")
    assert (first.decoded, again.decoded) == (40, 0)
    assert again.digest == first.digest
    for split in SPLITS:
        assert torch.equal(again.images(split), first.images(split))
        assert torch.equal(again.labels(split), first.labels(split))


def test_a_second_process_decodes_nothing_and_imports_no_reader(
    tmp_path: Path, make_study: Callable[..., Study], source: SiteSource
) -> None:
    study = make_study()
    data = open_site_data(study, source, tmp_path / "state")
    code = """
import json, sys
from pathlib import Path
from components.data.site_data import open_site_data
from components.site_source import SiteSource
from components.study import Study
study, source = json.loads(sys.argv[1]), json.loads(sys.argv[2])
data = open_site_data(Study.model_validate(study), SiteSource.model_validate(source), Path(sys.argv[3]))
readers = [name for name in ("monai", "pydicom", "nibabel", "PIL", "pooch") if name in sys.modules]
print(json.dumps([data.decoded, data.digest, readers]))
"""
    arguments = [study.model_dump_json(), source.model_dump_json(), str(tmp_path / "state")]
    output = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True, text=True)
    assert json.loads(output.stdout) == [0, data.digest, []]


def test_a_damaged_cache_is_made_anew(tmp_path: Path, make_study: Callable[..., Study], source: SiteSource) -> None:
    first = open_site_data(make_study(), source, tmp_path / "state")
    (cache,) = (tmp_path / "state/cache").glob("*.safetensors")
    expected = first.images("train")
    cache.write_bytes(cache.read_bytes()[:-100] + b"\1" * 100)
    again = open_site_data(make_study(), source, tmp_path / "state")
    assert again.decoded == 40
    assert torch.equal(again.images("train"), expected)
    assert open_site_data(make_study(), source, tmp_path / "state").decoded == 0


def test_other_settings_decode_anew_and_leave_one_cache(
    tmp_path: Path, make_study: Callable[..., Study], source: SiteSource
) -> None:
    first = open_site_data(make_study(), source, tmp_path / "state")
    other = open_site_data(make_study(intensity="zscore"), source, tmp_path / "state")
    assert other.decoded == 40
    assert other.digest != first.digest
    assert len(list((tmp_path / "state/cache").glob("*.safetensors"))) == 1


def test_the_digest_follows_content_labels_patients_and_splits(
    tmp_path: Path, hospital: Path, make_study: Callable[..., Study], source: SiteSource
) -> None:
    digests = [open_site_data(make_study(), source, tmp_path / "state").digest]
    lines = (hospital / "items.csv").read_text().splitlines()
    for old, new in (("0.png,0,P0", "0.png,1,P0"), ("0.png,1,P0", "0.png,1,P1")):
        lines = [new if line == old else line for line in lines]
        (hospital / "items.csv").write_text("\n".join(lines))
        digests.append(open_site_data(make_study(), source, tmp_path / "state").digest)
    Image.new("L", (20, 20), 7).save(hospital / "0.png")
    digests.append(open_site_data(make_study(), source, tmp_path / "state").digest)
    splits = {"train": 0.5, "validation": 0.25, "test": 0.25}
    digests.append(open_site_data(make_study(splits=splits), source, tmp_path / "state").digest)
    assert len(set(digests)) == len(digests)


def test_no_patient_is_in_two_splits(tmp_path: Path, make_study: Callable[..., Study], source: SiteSource) -> None:
    images = np.stack([np.asarray(Image.open(Path(source.parts[0].path) / f"{n}.png")) for n in range(40)])
    data = open_site_data(make_study(spatial_size=[20, 18], intensity="none"), source, tmp_path / "state")
    homes: dict[int, set[str]] = {}
    for split in SPLITS:
        for image in data.images(split)[:, 0].numpy():
            number = int(np.flatnonzero((images == image).all((1, 2)))[0])
            homes.setdefault(number // 2, set()).add(split)
    assert len(homes) == 20
    assert all(len(splits) == 1 for splits in homes.values())


def test_broken_items_are_set_aside_with_their_reason(
    tmp_path: Path, hospital: Path, make_study: Callable[..., Study], source: SiteSource, add_row: Callable[..., None]
) -> None:
    (hospital / "half.png").write_bytes((hospital / "0.png").read_bytes()[:100])
    (hospital / "text.png").write_text("Mrs Jane Doe")
    add_row("half.png")
    add_row("text.png")
    add_row("0.png")
    data = open_site_data(make_study(), source, tmp_path / "state")
    assert data.counts == ItemCounts(expected=43, usable=40, quarantined=3)
    assert quarantine(tmp_path / "state") == [
        ["0.png", "listed twice"],
        ["half.png", "cannot be read: truncated, damaged, or of a kind that is not supported"],
        ["text.png", "not a DICOM, NIfTI, PNG or JPEG file"],
    ]
    assert open_site_data(make_study(), source, tmp_path / "state").counts == data.counts


def test_too_few_usable_items_keep_a_site_out_and_leave_the_list(
    tmp_path: Path, make_study: Callable[..., Study], source: SiteSource, add_row: Callable[..., None]
) -> None:
    for number in range(5):
        add_row(f"gone{number}.png")
    with pytest.raises(
        DataError, match=r"site north: 40 of 45 .*0.89.*at least 0.9.*5 x file is missing.*quarantine.csv"
    ):
        open_site_data(make_study(), source, tmp_path / "state")
    assert len(quarantine(tmp_path / "state")) == 5
    lowered = make_study(minimum_usable_fraction=0.8)
    assert open_site_data(lowered, source, tmp_path / "state").counts.usable == 40


@pytest.mark.parametrize(
    ("table", "changes", "says"),
    [
        ("file,label,patient\n0.png,1,P1\n2.png,1,P2\n", {}, r"all of one class \(sick\)"),
        ("file,label,patient\nx.png,1,P1\n", {"minimum_usable_fraction": 0.0}, "0 of 1 items can be used"),
        ("file,label,patient\n0.png,1,\n", {}, "an empty data.columns.patient"),
        (
            "file,label,patient,split\n0.png,1,P1,test\n1.png,0,P2,val\n",
            {"columns": {"split": "split"}},
            "no training items",
        ),
    ],
)
def test_data_from_which_nothing_can_be_learned_is_refused(
    tmp_path: Path,
    hospital: Path,
    make_study: Callable[..., Study],
    source: SiteSource,
    table: str,
    changes: dict[str, Any],
    says: str,
) -> None:
    (hospital / "items.csv").write_text(table)
    with pytest.raises(DataError, match=says) as caught:
        open_site_data(make_study(**changes), source, tmp_path / "state")
    assert str(tmp_path) not in str(caught.value)


def test_several_classes_that_never_vary_are_refused(
    tmp_path: Path, hospital: Path, make_study: Callable[..., Study], source: SiteSource
) -> None:
    text = (hospital / "items.csv").read_text()
    (hospital / "items.csv").write_text(text.replace(",1,", ",a,").replace(",0,", ",a,"))
    task = {"kind": "multilabel", "classes": ["a", "b"]}
    with pytest.raises(DataError, match="nothing to tell apart"):
        open_site_data(make_study(task=task), source, tmp_path / "state")
    (hospital / "items.csv").write_text(text.replace(",1,", ",a|b,").replace(",0,", ",none,"))
    data = open_site_data(make_study(task=task), source, tmp_path / "state")
    assert data.labels("train").dtype == torch.float32
    assert data.class_counts["train"] == data.labels("train").sum(0).tolist()


def test_a_state_folder_that_cannot_be_written_is_said(
    tmp_path: Path, make_study: Callable[..., Study], source: SiteSource
) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(StorageError, match="site's state folder"):
        open_site_data(make_study(), source, tmp_path / "state")


def test_the_pooled_data_is_the_sites_data_split_by_split(
    tmp_path: Path, hospital: Path, make_study: Callable[..., Study]
) -> None:
    study = make_study(sites={"count": 2}, path="north")
    sources = plan_sources(study, hospital.parent)
    sites = [open_site_data(study, source, tmp_path / source.name) for source in sources]
    pooled = open_site_data(study, pooled_source(sources), tmp_path / "pooled")
    assert pooled.counts.usable == 40
    for split in SPLITS:
        assert torch.equal(pooled.images(split), torch.cat([site.images(split) for site in sites]))
        assert torch.equal(pooled.labels(split), torch.cat([site.labels(split) for site in sites]))
    assert open_site_data(study, pooled_source(sources), tmp_path / "pooled").decoded == 0


def test_a_list_that_became_shorter_is_said(tmp_path: Path, hospital: Path, make_study: Callable[..., Study]) -> None:
    study = make_study(sites={"count": 2}, path="north")
    sources = plan_sources(study, hospital.parent)
    (hospital / "items.csv").write_text("file,label,patient\n0.png,1,P1\n")
    with pytest.raises(DataError, match="become shorter"):
        open_site_data(study, sources[0], tmp_path / "state")


def test_training_batches_repeat_with_their_seed(
    tmp_path: Path, make_study: Callable[..., Study], source: SiteSource
) -> None:
    data = open_site_data(make_study(augment=["flip", "rotate", "noise", "contrast"]), source, tmp_path / "state")

    def drawn(seed: int) -> torch.Tensor:
        return torch.cat([images for images, _ in data.train_batches(batch_size=8, seed=seed, balanced=True)])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_real_pneumonia_films_keep_their_own_splits(
    tmp_path: Path, public_data: Path, make_study: Callable[..., Study]
) -> None:
    sites = {"partition": "sizes:0.6,0.25,0.15"}
    study = make_study(sites=sites, source="npz", path="pneumoniamnist", spatial_size=[28, 28])
    sources = plan_sources(study, Path(), public_data)
    data = [open_site_data(study, source, tmp_path / source.name) for source in sources]
    for split, items, sick in (("train", 4708, 3494), ("validation", 524, 389), ("test", 624, 390)):
        assert sum(site.size(split) for site in data) == items
        assert sum(site.class_counts[split][1] for site in data) == sick
        assert data[0].size(split) == pytest.approx(0.6 * items, abs=2)
    assert [open_site_data(study, source, tmp_path / source.name).decoded for source in sources] == [0, 0, 0]
    with np.load(sources[0].parts[0].path) as file:
        first = file["train_images"][(sources[0].parts[0].rows or [])[0]].astype(np.float32)
    expected = torch.from_numpy((first - first.min()) / (first.max() - first.min()))
    torch.testing.assert_close(data[0].images("train")[0, 0], expected)
