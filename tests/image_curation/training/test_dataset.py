"""Places to train on: what is listed, how it is labelled, what is left out, what is refused."""

import hashlib
import json

import numpy as np
import pytest

from image_curation.errors import ConfigError, TrainingError
from image_curation.training.dataset import open_dataset
from image_curation.training.readable import image_bytes, unreadable


def by_key(dataset):
    return {key: dataset.classes[label] for key, label in zip(dataset.keys, dataset.labels, strict=True)}


def test_class_folders_name_the_classes(folders, workshop):
    dataset = open_dataset(str(folders))
    assert dataset.classes == ("ash", "beech", "cedar")
    assert len(dataset) == 139
    assert by_key(dataset)["beech/004.jpg"] == "beech"
    row = dataset.keys.index("beech/004.jpg")
    assert image_bytes(dataset, row) == workshop.photo(4, (40, 30))


@pytest.mark.parametrize(("field", "expected"), [("cls", ("0", "1", "2")), ("tree.genus", ("ash", "beech", "cedar"))])
def test_tars_are_labelled_by_cls_or_by_a_field_of_their_json(tars, workshop, field, expected):
    dataset = open_dataset(str(tars), field)
    assert dataset.classes == expected
    assert [by_key(dataset)[f"part-50/{i:03d}"] for i in (50, 51, 52)] == [expected[i % 3] for i in (50, 51, 52)]
    row = dataset.keys.index("part-100/138")
    assert image_bytes(dataset, row) == workshop.photo(138, (40, 30))


def test_whole_numbers_are_sorted_as_numbers(tmp_path, workshop):
    members = {
        f"{i}.{field}": data for i in range(11) for field, data in (("jpg", workshop.photo(i)), ("cls", b"%d" % i))
    }
    assert open_dataset(str(workshop.source(tmp_path, {"a": members}))).classes == tuple(map(str, range(11)))


def test_release_is_read_by_its_index_and_named_by_its_manifest(release, workshop):
    dataset = open_dataset(str(release), "tree")
    assert len(dataset) == 50
    assert len(dataset.files) == 3
    assert by_key(dataset)["025"] == "beech"
    assert image_bytes(dataset, dataset.keys.index("025")) == workshop.photo(25, (96, 72))
    manifest = (release / "manifest.json").read_bytes()
    assert dataset.source["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert dataset.source["selection_hash"] == json.loads(manifest)["selection_hash"]


def test_samples_without_the_field_are_named(tars):
    with pytest.raises(
        TrainingError, match=r"139 of 139 samples have no class in 'tree.age'.*part-0/000, part-0/001.*134 more"
    ):
        open_dataset(str(tars), "tree.age")


def test_a_field_that_holds_an_object_is_no_class(tars):
    with pytest.raises(TrainingError, match="139 of 139 samples have no class in 'tree'"):
        open_dataset(str(tars), "tree")


def test_validation_samples_of_a_strange_class_are_named(tars):
    with pytest.raises(
        TrainingError, match=r"46 of 139 samples have a class that the model is not trained on: part-0/002 \(cedar\)"
    ):
        open_dataset(str(tars), "tree.genus", classes=("ash", "beech"))


@pytest.mark.parametrize("place", ["s3://bucket/release", "nowhere"])
def test_a_place_that_is_no_folder_on_disk_is_refused(place):
    with pytest.raises(ConfigError, match="copy it to one first"):
        open_dataset(place)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no folder in it holds an image"):
        open_dataset(str(tmp_path))


def test_a_release_with_a_torn_tar_is_refused(release, tmp_path):
    for path in release.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(release)
            target.parent.mkdir(exist_ok=True, parents=True)
            target.write_bytes(path.read_bytes())
    tar = sorted(tmp_path.rglob("*.tar"))[1]
    tar.write_bytes(tar.read_bytes()[:-1])
    with pytest.raises(TrainingError, match=f"{tar.name} is missing or has not"):
        open_dataset(str(tmp_path), "tree")


def test_what_dali_cannot_decode_is_left_out_and_counted(tmp_path, workshop, write_folders):
    good = {
        f"a/{i}.{ending}": workshop.photo(i, kind=kind)
        for i, (ending, kind) in enumerate([("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
    }
    bad = {
        "b/cut.jpg": workshop.photo(5)[:-40],
        "b/text.jpg": b"<html>",
        "b/empty.jpg": b"",
        "b/moving.gif": workshop.photo(6, kind="GIF"),
        "b/scan.tif": workshop.photo(7, kind="TIFF"),
        "b/bitmap.bmp": workshop.photo(8, kind="BMP"),
        "b/strip.png": workshop.photo(9, (3000, 2), kind="PNG"),
    }
    dataset = open_dataset(str(write_folders(tmp_path, good | bad)))
    kept = dataset.leave_out(unreadable(dataset, range(len(dataset)), threads=2))
    assert kept.keys == tuple(sorted(good))
    assert kept.left_out == {"decode_failed": 1, "extreme_aspect": 1, "format_not_trained_on": 3, "not_an_image": 2}
    assert [image_bytes(kept, row) for row in range(3)] == [good[key] for key in kept.keys]


def test_hostile_images_leave_only_what_dali_decodes(shared_data, tmp_path):
    from nvidia.dali import fn, pipeline_def

    files = [path for path in sorted((shared_data / "hostile-images").rglob("*")) if path.is_file()]
    (tmp_path / "all").mkdir()
    for number, path in enumerate(files):
        (tmp_path / "all" / f"{number:03d}.jpg").write_bytes(path.read_bytes())
    dataset = open_dataset(str(tmp_path))
    kept = dataset.leave_out(unreadable(dataset, range(len(dataset)), threads=2))
    assert len(kept) + sum(kept.left_out.values()) == len(files) > 100
    assert len(kept) > 20

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():
        encoded, _ = fn.readers.file(files=[kept.files[i] for i in kept.file])
        return fn.decoders.image_random_crop(encoded, device="cpu")

    pipe = pipeline()
    shapes = [pipe.run()[0].at(0).shape for _ in range(len(kept))]  # raises where DALI cannot decode one
    assert all(shape[2] == 3 for shape in shapes)


def test_split_is_by_key_alone_and_loses_nothing(dataset):
    train, held_out = dataset.split(0.2)
    assert 10 < len(held_out) < 50
    assert sorted(train.keys + held_out.keys) == sorted(dataset.keys)
    half = dataset.take(np.arange(0, len(dataset), 2))
    assert set(half.split(0.2)[1].keys) == set(held_out.keys) & set(half.keys)
