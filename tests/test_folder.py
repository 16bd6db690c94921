"""Folders of pictures: real digits as JPEG and PNG, through the same training, conversion and evaluation as tensors."""

from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from command import exit_code
from PIL import Image
from torch import nn

from equispike.errors import DataError
from equispike.zoo import data
from equispike.zoo.data import load
from equispike.zoo.data.folder import Pictures, centre, crop, read_folder
from equispike.zoo.data.own import from_folder
from equispike.zoo.models import MODELS, plain
from equispike.zoo.recipes import RECIPES, Recipe
from equispike.zoo.train import train

FLIPPED = Recipe(epochs=1, flip=True)
CPU = torch.device("cpu")
SUFFIXES = (".JPEG", ".jpg", ".png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits 0, 1 and 2, enlarged to 40 x 50 pixels: 10 of each to train with and 4 to test with."""
    root = tmp_path_factory.mktemp("pictures")
    digits = load("mnist-sample").train
    for kind in range(3):
        for number, image in enumerate(digits.images[digits.labels == kind][:14, 0].numpy()):
            path = root / ("train" if number < 10 else "val") / f"digit{kind}" / f"{number:02}{SUFFIXES[number % 3]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).resize((40, 50)).convert("RGB" if number % 2 else "L").save(path)
        (root / "train" / f"digit{kind}" / "notes.txt").write_text("no picture")
    return root


def small(folder: Path, workers: int = 0) -> Pictures:
    return read_folder(folder, "digits", size=28, workers=workers)[0]


def shuffled(part: Pictures, batches: list[torch.Tensor], seed: int = 0, how: Recipe = FLIPPED) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [images for images, _ in part.shuffled(batches, how, CPU)]


def test_parts_classes_and_labels(folder):
    dataset = load("imagenet", folder)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [27, 3, 12]
    assert [part.name for part in (dataset.train, dataset.test)] == ["imagenet/train", "imagenet/test"]
    assert dataset.test.classes == ("digit0", "digit1", "digit2")
    numbers = torch.cat([dataset.train.indices, dataset.validation.indices])
    assert torch.equal(numbers.sort().values, torch.arange(30))
    for part in (dataset.train, dataset.validation, dataset.test):
        assert [part.files[i].split("/")[0] for i in part.indices] == [f"digit{k}" for k in part.labels]
    again = load("imagenet", folder)
    assert torch.equal(again.validation.indices, dataset.validation.indices)
    assert dataset.test.take(2).floats().shape == (2, 3, 224, 224)


def test_batches_are_the_pictures_in_order_for_any_number_of_workers(folder):
    part = small(folder)[torch.tensor([29, 0, 3, 17, 5])]
    alone = part.floats()
    assert alone.shape == (5, 3, 28, 28)
    assert 0 <= alone.min() < 0.1
    assert 0.8 < alone.max() <= 1
    batches = replace(part, workers=2).batches(2)
    assert len(batches) == 3
    for _ in range(2):
        images, labels = (torch.cat(values) for values in zip(*batches, strict=True))
        assert torch.equal(images, alone)
        assert labels.tolist() == [2, 0, 0, 1, 0]
    assert part[:0].floats().shape == (0, 3, 28, 28)
    with pytest.raises(DataError, match="batches of 0"):
        part.batches(0)


def test_pictures_are_read_from_wherever_fsspec_finds_them(folder):
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/digits", recursive=True)
    here, parts = small(folder), {}
    for place in ("memory://bucket/digits", f"file://{folder}"):
        train, test = parts[place] = read_folder(place, "digits", 28, workers=0)
        assert (train.files, len(test)) == (here.files, 12)
        assert torch.equal(train.take(3).floats(), here.take(3).floats())
        assert from_folder(place, 28).name == Path(place).name
    shard = next(train.batches(2).shards())
    assert torch.equal(shard.read((3, 28, 28))[0], here.take(2).floats())
    memory.rm("/bucket/digits/train/digit0/00.JPEG")
    with pytest.raises(DataError, match=r"/bucket/digits/train/digit0/00.JPEG: cannot be decoded: FileNotFound"):
        parts["memory://bucket/digits"][0].take(1).floats()
    for place, reason in (
        ("nowhere://x", "cannot be listed: ValueError: Protocol not known"),
        ("memory://x", "no such"),
    ):
        with pytest.raises(DataError, match=reason):
            read_folder(place, "digits")


def test_normalised_pictures_have_imagenets_mean_and_deviation_taken_off(folder):
    dataset = load("imagenet", folder)
    before, after = (d.test.take(3).floats() for d in (dataset, dataset.normalised()))
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert torch.allclose(after, (before - mean) / std, atol=1e-6)


def test_evaluation_is_resize_then_centre_crop(folder):
    part = small(folder)
    for number in (0, 11):
        with Image.open(Path(part.folder, part.files[number])) as picture:
            resized = picture.convert("RGB").resize((32, 40), Image.Resampling.BILINEAR)
        expected = np.asarray(resized.crop((2, 6, 30, 34)), np.float32) / 255
        found = part[torch.tensor([number])].floats()[0].permute(1, 2, 0).numpy()
        assert np.abs(found - expected).max() < 0.02


def test_the_centres_box():
    assert centre(256, 512, 224) == (16, 144, 240, 368)
    assert centre(1024, 512, 224) == (288, 32, 736, 480)


def test_crops_depend_on_seed_and_picture_alone(folder):
    """Not on workers, on the batch that a picture is in, or on its place there."""
    still = Recipe(epochs=1)
    order = torch.tensor([4, 9, 2, 25, 13])
    one = torch.cat(shuffled(small(folder), [order], how=still))
    several = torch.cat(shuffled(small(folder, workers=2), list(order.split(2)), how=still))
    assert torch.equal(one, several)
    backwards = torch.cat(shuffled(small(folder), [order.flip(0)], how=still))
    assert torch.equal(one, backwards.flip(0))
    subset = torch.cat(shuffled(small(folder)[order], [torch.arange(5)], how=still))
    assert torch.equal(one, subset)
    other = torch.cat(shuffled(small(folder), [order], seed=1, how=still))
    assert all(not torch.equal(a, b) for a, b in zip(one, other))


def test_an_epoch_takes_the_same_draws_from_torch_for_any_number_of_workers(folder):
    states = []
    for workers in (0, 2):
        flipped = shuffled(small(folder, workers), list(torch.arange(30).split(8)))
        states.append((torch.get_rng_state(), torch.cat(flipped)))
    assert torch.equal(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])


def test_crops_have_the_areas_and_ratios_that_were_asked_for():
    """Over 4,000 crops: inside, uniform in area where all ratios fit, symmetric in the ratio's logarithm."""
    random = np.random.default_rng(0)
    boxes = np.array([crop(400, 300, random) for _ in range(4000)])
    left, upper, right, lower = boxes.T
    width, height = right - left, lower - upper
    assert (left.min(), upper.min()) == (0, 0)
    assert (right.max(), lower.max()) == (400, 300)
    assert (width > 0).all()
    assert (height > 0).all()
    area, ratio = width * height / (400 * 300), width / height
    assert 0.079 < area.min() < 0.09
    assert area.max() > 0.95
    assert 0.73 < ratio.min() < 0.76
    assert 1.31 < ratio.max() < 1.36
    small_ones = area[area < 0.5]
    assert np.histogram(small_ones, 4, (0.08, 0.5))[0] == pytest.approx(len(small_ones) / 4, rel=0.15)
    assert abs(np.log(ratio[area < 0.5]).mean()) < 0.02
    places = left[(width < 200)] / (400 - width[width < 200])
    assert np.histogram(places, 4, (0, 1))[0] == pytest.approx(len(places) / 4, rel=0.15)


@pytest.mark.parametrize(("width", "height"), [(1000, 1), (1, 1000), (1, 1)])
def test_crops_of_stripes_are_inside(width, height):
    for seed in range(20):
        left, upper, right, lower = crop(width, height, np.random.default_rng(seed))
        assert 0 <= left < right <= width
        assert 0 <= upper < lower <= height
        assert right - left <= 2


# Pictures of other kinds


def saved(folder: Path, tmp_path: Path, name: str, write) -> Pictures:
    """A folder with one class and that one picture to train with."""
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
    (tmp_path / "val" / "a" / "x.png").write_bytes((folder / "val" / "digit0" / "11.png").read_bytes())
    write(tmp_path / "train" / "a" / name)
    return small(tmp_path)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("L", "x.jpg"), ("CMYK", "x.JPEG"), ("P", "x.png"), ("LA", "x.png"), ("RGBA", "x.png"), ("1", "x.png")],
)
def test_other_colour_modes_become_rgb(folder, tmp_path, mode, name):
    red = Image.new("RGB", (40, 30), (250, 10, 10))
    part = saved(folder, tmp_path, name, lambda path: red.convert(mode).save(path))
    image = part.floats()[0]
    assert image.shape == (3, 28, 28)
    if mode in ("CMYK", "P", "RGBA"):
        assert image.mean((1, 2)).tolist() == pytest.approx([250 / 255, 10 / 255, 10 / 255], abs=0.03)
    else:
        assert torch.equal(image[0], image[1])


def test_grey_of_sixteen_bits_keeps_its_shades(folder, tmp_path):
    half = Image.fromarray(np.full((30, 30), 32768, np.uint16))
    part = saved(folder, tmp_path, "x.png", half.save)
    assert part.floats().mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["text", "truncated", "empty", "altered", "gone"])
def test_a_corrupt_picture_is_named_in_one_line(folder, tmp_path, damage, workers):
    whole = (folder / "train" / "digit0" / ("02.png" if damage == "altered" else "00.JPEG")).read_bytes()
    content = {
        "text": b"no picture at all",
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "altered": whole[:60] + bytes(b ^ 255 for b in whole[60:120]) + whole[120:],
        "gone": whole,
    }[damage]
    part = replace(saved(folder, tmp_path, "broken.jpg", lambda path: path.write_bytes(content)), workers=workers)
    if damage == "gone":
        (tmp_path / "train" / "a" / "broken.jpg").unlink()
    message = r"train/a/broken\.jpg: cannot be decoded: .*Replace or remove it"
    for read in (lambda: list(part.batches(1)), lambda: shuffled(part, [torch.tensor([0])])):
        with pytest.raises(DataError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_decompression_bombs_are_not_decoded(folder, tmp_path, monkeypatch, recwarn):
    """A few kilobytes that say 9,000 x 9,000; and 20,000 x 20,000, which Pillow refuses by itself."""
    part = saved(folder, tmp_path, "x.png", Image.new("1", (9000, 9000)).save)
    assert (tmp_path / "train" / "a" / "x.png").stat().st_size < 100_000
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(DataError, match=r"x\.png: 9000 x 9000 pixels, too many"):
        part.floats()
    Image.new("1", (20000, 20000)).save(tmp_path / "train" / "a" / "x.png")
    with pytest.raises(DataError, match=r"x\.png: .*DecompressionBomb"):
        part.floats()
    assert not recwarn.list


def test_a_long_stripe_stays_small(folder, tmp_path):
    part = saved(folder, tmp_path, "x.png", Image.new("L", (1, 60_000)).save)
    assert part.floats().shape == (1, 3, 28, 28)


def test_no_other_format_is_opened(folder, tmp_path):
    """Pillow reads dozens of formats, some with the help of other programs."""
    part = saved(folder, tmp_path, "x.jpg", lambda path: Image.new("L", (9, 9)).save(path, format="BMP"))
    with pytest.raises(DataError, match="cannot be decoded"):
        part.floats()


# Folders that do not fit


def test_folders_that_do_not_fit_are_refused_in_one_line(folder, tmp_path):
    def refusal() -> str:
        with pytest.raises(DataError) as caught:
            load("imagenet", tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    picture = (folder / "val" / "digit0" / "11.png").read_bytes()
    assert "train: no such folder. Pictures belong in train/CLASS/" in refusal()
    (tmp_path / "train").mkdir()
    assert "train: no folder of a class" in refusal()
    (tmp_path / "train" / "cat").mkdir()
    assert "train/cat: no pictures" in refusal()
    (tmp_path / "train" / "cat" / "x.PNG").write_bytes(picture)
    assert "val: no such folder" in refusal()
    (tmp_path / "val" / "dog").mkdir(parents=True)
    (tmp_path / "val" / "dog" / "x.png").write_bytes(picture)
    assert "train and val have other classes, e.g. 'cat'" in refusal()


# The whole way


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return plain((4, "pool", 4, "pool"), 28, 3, (8,), 3)


def test_training_repeats_bit_for_bit_with_workers(folder):
    recipe = Recipe(epochs=2, batch=7, lr=0.02, flip=True, cutout=4)
    weights = []
    for workers in (0, 2):
        train_part, test_part = read_folder(folder, "digits", size=28, workers=workers)
        weights.append(train(network(), train_part, test_part, recipe).model.state_dict())
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_from_the_command_line(folder, tmp_path, monkeypatch, capsys):
    """Training, conversion and evaluation of pictures with 28 pixels a side."""
    monkeypatch.setattr(data, "read_folder", lambda path, name: read_folder(path, name, 28, 0))
    monkeypatch.setitem(MODELS, "tiny", network)
    monkeypatch.setitem(RECIPES, "tiny", Recipe(epochs=2, batch=9, lr=0.02, normalise=True))

    def call(*arguments: str) -> tuple[int, str]:
        code = exit_code(*arguments, "--data", "imagenet", "--data-folder", str(folder))
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    model, net = str(tmp_path / "model.safetensors"), str(tmp_path / "net.safetensors")
    code, text = call("train", "--model", "tiny", "--recipe", "tiny", "--out", model)
    assert code == 0, text
    assert "12 images" in text
    code, text = call("convert", model, "--images", "10", "--out", net)
    assert code == 0, text
    code, text = call("evaluate", net, "--timesteps", "4", "--images", "5")
    assert code == 0, text
    assert "5 images of imagenet/test" in text
    code, text = call("convert", model, "--images", "28", "--out", net)  # there are 27, and 27 are taken
    assert code == 0, text
    code, text = call("train", "--model", "vgg11-cifar10", "--recipe", "tiny", "--out", str(tmp_path / "x"))
    assert (code, text.count("\n")) == (2, 1)
    assert "has 3 classes, but the model gives scores of shape (1, 10)" in text
