"""Data: every way in gives the right pixels, damage is repaired or named, and augmentation does what it says."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import FILES, FORMS, refusal
from PIL import Image
from sklearn.datasets import load_digits

from lowrank.data import load, sources
from lowrank.data.dataset import Data

pytestmark = pytest.mark.usefixtures("cache")

PIXELS = np.random.default_rng(0).integers(0, 256, (80, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """An image folder of two classes, 3 training and 2 test images each: PIXELS in the order of the names."""
    names = [
        f"{s}/{c}/{i}.png" for s, count in (("train", 3), ("test", 2)) for c in ("cat", "dog") for i in range(count)
    ]
    for name, pixels in zip(names, PIXELS, strict=False):
        file = tmp_path / "pets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(file)
    return tmp_path / "pets"


def packed(folder: Path, ending: str, prefix: str = "") -> Path:
    """An archive of the folder, its members in no sensible order."""
    archive = folder.with_name(folder.name + ending)
    files = sorted((each for each in folder.rglob("*") if each.is_file()), key=lambda each: each.name, reverse=True)
    is_zip = ending == ".zip"
    with zipfile.ZipFile(archive, "w") if is_zip else tarfile.open(archive, "w:" + ending[5:]) as file:
        for each in files:
            (file.write if is_zip else file.add)(each, prefix + each.relative_to(folder).as_posix())
    return archive


def same(one: Data, other: Data) -> bool:
    named = (one.fingerprint, one.classes) == (other.fingerprint, other.classes)
    tensors = ("train_images", "train_labels", "test_images", "test_labels")
    return named and all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)


def test_digits_keep_their_pixels():
    data, source = load("digits"), load_digits()
    greys = torch.from_numpy(source.images)
    assert data.classes == tuple("0123456789") and len(data.train_images) + len(data.test_images) == len(greys)
    assert data.train_images.dtype == torch.uint8 and data.train_labels.dtype == torch.int64
    assert data.test_labels.tolist() == source.target[::6].tolist()
    for channel in data.test_images.unbind(1):
        middles = channel[:, 5:28:3, 5:28:3]  # of the 3x3 that each pixel became
        torch.testing.assert_close(middles.double() * 16 / 255, greys[::6], atol=0.04, rtol=0)
        assert not channel[:, :4].any() and not channel[:, :, -4:].any()
    assert same(data, load("digits"))


def test_folder_keeps_pixels_names_and_order(folder):
    data = load(str(folder))
    assert data.classes == ("cat", "dog")
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1] and data.test_labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(torch.cat([data.train_images, data.test_images]), PIXELS[:10])


@pytest.mark.parametrize("ending", [".tar", ".tar.xz", ".tar.gz", ".tar.bz2", ".zip"])
@pytest.mark.parametrize("prefix", ["", "pets/"])
def test_archive_equals_the_folder_it_was_made_of(folder, ending, prefix):
    assert same(load(str(packed(folder, ending, prefix))), load(str(folder)))


def test_other_sizes_and_modes_become_32x32_in_colour(folder):
    Image.new("L", (100, 50), 200).save(folder / "train/cat/0.png")
    Image.new("RGBA", (7, 9), (10, 20, 30, 255)).save(folder / "train/cat/1.png")
    data = load(str(folder))
    assert (data.train_images[0] == 200).all()
    assert data.train_images[1].flatten(1).unique(dim=1).flatten().tolist() == [10, 20, 30]


@pytest.mark.parametrize("ending", ["", ".zip", ".tar.xz"])
def test_clutter_is_skipped(folder, ending):
    clean = load(str(folder))
    clutter = "train/cat/.DS_Store train/cat/._0.png test/dog/Thumbs.db train/README notes.txt train/.kept/0.png"
    for name in [*clutter.split(), "__MACOSX/train/cat/0.png"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("clutter")
    assert same(load(str(packed(folder, ending) if ending else folder)), clean)


def test_fingerprint_sees_a_pixel_a_label_and_a_split(folder):
    seen = [load(str(folder)).fingerprint]
    (folder / "test/cat/1.png").rename(folder / "train/cat/3.png")
    seen.append(load(str(folder)).fingerprint)
    (folder / "train/cat/3.png").rename(folder / "train/dog/3.png")
    seen.append(load(str(folder)).fingerprint)
    with Image.open(folder / "train/dog/3.png") as image:
        image.putpixel((5, 5), tuple(255 - value for value in image.getpixel((5, 5))))
        image.save(folder / "train/dog/3.png")
    seen.append(load(str(folder)).fingerprint)
    assert len(set(seen)) == 4 and all(len(each) == 12 and set(each) <= set("0123456789abcdef") for each in seen)


def test_real_archive(cifar10_jpeg):
    data = load(str(cifar10_jpeg))
    assert " ".join(data.classes) == "airplane automobile bird cat deer dog frog horse ship truck"
    assert data.train_labels.bincount().tolist() == [5000] * 10 and data.test_labels.bincount().tolist() == [1000] * 10
    assert data.train_images.shape == (50000, 3, 32, 32) and data.test_images.shape == (10000, 3, 32, 32)
    mean, deviation = data.moments  # the known ones of CIFAR-10, which JPEG hardly changes
    assert torch.allclose(mean.flatten() / 255, torch.tensor([0.4914, 0.4822, 0.4465]), atol=2e-3)
    assert torch.allclose(deviation.flatten() / 255, torch.tensor([0.2470, 0.2435, 0.2616]), atol=4e-3)
    assert same(load(str(cifar10_jpeg)), data)


def test_missing_path():
    assert "no such path" in refusal("nowhere/pets.tar")


@pytest.mark.parametrize("ending", ["", ".tar.xz", ".zip"])
def test_file_that_is_no_image_is_named(folder, ending):
    (folder / "train/dog/notes.txt").write_text("not an image")
    assert "train/dog/notes.txt" in refusal(packed(folder, ending) if ending else folder)


def test_16_bit_grey_is_refused(folder):
    Image.fromarray(np.full((32, 32), 40000, np.uint16)).save(folder / "test/cat/0.png")
    assert "test/cat/0.png" in refusal(folder)


def test_class_without_training_images(folder):
    (folder / "test/dog").rename(folder / "test/zebra")
    assert "test/zebra" in refusal(packed(folder, ".tar"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_split(folder, split):
    (folder / split).rename(folder / "elsewhere")
    assert f"no images in {split}/<class>/" in refusal(folder)


@pytest.mark.parametrize("ending", [".tar", ".tar.xz", ".tar.gz", ".tar.bz2", ".zip"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.8])
def test_truncated_archive(folder, ending, kept):
    archive = packed(folder, ending)
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * kept)])
    assert "it is damaged" in refusal(archive)


@pytest.mark.parametrize("damage", ["cut there", "not a header"])
def test_tar_damaged_between_two_members(folder, damage):
    archive = packed(folder, ".tar")
    with tarfile.open(archive) as file:
        header = file.getmembers()[8].offset  # all classes of both splits stand before it
    content = archive.read_bytes()
    archive.write_bytes(content[:header] + (b"" if damage == "cut there" else b"?" + content[header + 1 :]))
    assert "it is damaged" in refusal(archive)


@pytest.fixture
def no_decoding(monkeypatch):
    """From the call on, nothing may be decoded any more."""
    return lambda: monkeypatch.delattr(sources, "read_splits")


def test_second_load_comes_from_the_cache(folder, no_decoding):
    archive = packed(folder, ".tar")
    data = load(str(archive))
    no_decoding()
    assert same(load(str(archive)), data)


def test_changed_archive_or_folder_is_read_anew(folder):
    before = load(str(folder)), load(str(packed(folder, ".tar")))
    Image.new("RGB", (32, 32)).save(folder / "train/cat/0.png")
    after = load(str(folder)), load(str(packed(folder, ".tar")))
    assert same(*before) and same(*after) and not same(before[0], after[0])


def change_a_label(content: bytes) -> bytes:
    with np.load(io.BytesIO(content)) as stored:
        arrays = dict(stored)
    arrays["train_labels"][0] += 1
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [change_a_label, flip_a_bit, lambda content: content[: len(content) // 2]])
def test_damaged_cache_is_rebuilt(folder, cache, no_decoding, damage):
    data = load(str(folder))
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert same(load(str(folder)), data)
    no_decoding()
    assert same(load(str(folder)), data)


def test_unwritable_cache_stops_nothing(folder, cache):
    cache.write_text("no folder")
    assert np.array_equal(load(str(folder)).train_images, PIXELS[:6])


def test_cache_honours_xdg(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("LOWRANK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load(str(folder))
    assert [file.suffix for file in (tmp_path / "xdg/lowrank").iterdir()] == [".npz"]


def load_elsewhere(archive: str, cache: Path, ready, found) -> None:
    os.environ["LOWRANK_CACHE"] = str(cache)
    ready.wait()
    found.put(load(archive).fingerprint)


def test_two_processes_on_an_empty_cache(folder, cache, forks):
    archive, ready, found = str(packed(folder, ".tar.xz")), forks.Barrier(2), forks.Queue()
    processes = [forks.Process(target=load_elsewhere, args=[archive, cache, ready, found]) for _ in range(2)]
    for process in processes:
        process.start()
    fingerprints = [found.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert fingerprints == [load(archive).fingerprint] * 2
    assert [file.suffix for file in cache.iterdir()] == [".npz"]


@pytest.mark.parametrize("form", FORMS)
def test_images_that_lie_too_deep_are_left_out_and_said(tmp_path, form):
    deeper = {"train/cat/more/0.png": FILES["train/cat/0.png"], "test/dog/a/b/1.png": FILES["test/dog/1.png"]}
    with pytest.warns(UserWarning, match="pets.*: left out 2 files that lie deeper than <class>/[*], test/dog/a/b/1"):
        found = load(FORMS[form](tmp_path / f"pets{form}", FILES | deeper | {"train/cat/.git/x/y": b""}))
    assert found.fingerprint == load(FORMS[form](tmp_path / f"plain{form}", FILES)).fingerprint


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody who may not read")
@pytest.mark.parametrize("closed", ["train", "train/dog", "test/dog"])
def test_a_folder_that_may_not_be_read_is_named(folder, closed):
    for path in (folder, *folder.parents):
        path.chmod(0o755)
    (folder / closed).chmod(0)
    os.seteuid(65534)
    try:
        assert f"{closed} cannot be read: Permission denied" in refusal(folder)
    finally:
        os.seteuid(0)


def test_a_folder_above_the_one_that_is_meant_is_told_so(folder):
    assert refusal(folder.parent).endswith(f"allowed is train/<class>/* with test/<class>/*: give {folder}")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", bytes(600)])
def test_what_is_no_archive_is_named_with_a_whole_reason(tmp_path, content):
    path = tmp_path / "images.tar"
    path.write_bytes(content)
    assert ":)" not in refusal(path)
