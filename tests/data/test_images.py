"""Image folders and archives as users and strangers make them: the right pixels, or a line that names the file."""

import os
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import FILES, FORMS, NAMES, PIXELS, encoded, refusal, tarred, unpacked, zipped
from PIL import Image

from lowrank.config import Config, dataset_name
from lowrank.data import load
from lowrank.data.images import MOST_PIXELS
from lowrank.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")


# --- the layout


def renamed(**folders: str) -> dict[str, bytes]:
    return {folders.get(split := name.split("/")[0], split) + name[len(split) :]: FILES[name] for name in NAMES}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("train", ["train", "Train", "TRAIN"])
@pytest.mark.parametrize("test", ["Test", "val", "Val", "valid", "validation"])
def test_case_does_not_matter_and_val_stands_in_for_test(tmp_path, form, train, test):
    data = load(FORMS[form](tmp_path / f"pets{form}", renamed(train=train, test=test)))
    assert data.fingerprint == load(unpacked(tmp_path / "plain", FILES)).fingerprint


@pytest.mark.parametrize("form", FORMS)
def test_beside_a_test_val_is_left_out(tmp_path, form):
    val = {f"val/cat/{k}.png": FILES[NAMES[0]] for k in range(3)}
    data = load(FORMS[form](tmp_path / f"pets{form}", val | FILES))
    assert data.fingerprint == load(unpacked(tmp_path / "plain", FILES)).fingerprint


@pytest.mark.parametrize("ending", [".ZIP", ".Zip", ".TAR", ".tar.XZ", ".Tar.Gz", ".TGZ"])
def test_the_case_of_an_ending_does_not_matter(tmp_path, ending):
    path = tmp_path / f"pets{ending}"
    kind = {"xz": "xz", "gz": "gz", "tgz": "gz"}.get(ending.rpartition(".")[2].lower(), "")
    zipped(path, FILES) if "zip" in ending.lower() else tarred(path, FILES, kind=kind)
    assert Config(dataset=path).dataset == str(path)
    assert load(path).fingerprint == load(unpacked(tmp_path / "plain", FILES)).fingerprint


WRONG = {
    "no splits": ({f"{name[6:]}": content for name, content in FILES.items()}, "train/<class>/; there is "),
    "no test": (
        renamed(test="exam"),
        "no images in test/<class>/ or val/<class>/; there is exam/cat/*, exam/dog/*, train/",
    ),
    "a folder too deep": (
        {f"train/{k}/images/0.png": FILES[NAMES[0]] for k in range(9)},
        "train/<class>/; there is train/0/images/*, train/1/images/*, train/2/images/*, train/3/images/* and 5 more",
    ),
    "no folders": ({"0.png": FILES[NAMES[0]]}, "train/<class>/; there is *; allowed is train/<class>/* with test"),
    "nothing": ({}, "train/<class>/; there is no file; allowed is"),
    "a name of two lines": ({"a\nb/0.png": b""}, "there is a b/*"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("files", "said"), WRONG.values(), ids=WRONG)
def test_another_layout_is_said_with_what_there_is(tmp_path, form, files, said):
    (tmp_path / "pets").mkdir()
    assert said in refusal(FORMS[form](tmp_path / f"pets{form}", files))


@pytest.mark.parametrize("form", FORMS)
def test_classes_of_other_alphabets_with_spaces_and_an_empty_one(tmp_path, form):
    files = {name.replace("cat", "große Katze").replace("dog", "犬 и 'x'"): FILES[name] for name in NAMES}
    path = FORMS[form](tmp_path / f"my pets ☃{form}", files)
    if not form:
        (path / "train" / "empty").mkdir()
    assert load(path).classes == ("große Katze", "犬 и 'x'")


# --- images


def rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(PIXELS[0]), exif=exif)


def huge(width: int, height: int) -> bytes:
    """A PNG of so many pixels, all black, in a few kB."""
    packer = zlib.compressobj(9)
    line = bytes(1 + width // 8)
    data = b"".join([*(packer.compress(line) for _ in range(height)), packer.flush()])
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


colour = Image.new("RGB", (40, 40), (200, 100, 50))
READ = {
    "grey": (encoded(Image.new("L", (9, 9), 77)), (77, 77, 77)),
    "one bit": (encoded(Image.new("1", (9, 9), 1)), (255, 255, 255)),
    "palette": (encoded(colour.quantize(4)), (200, 100, 50)),
    "transparent": (encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 9))), (1, 2, 3)),
    "CMYK": (encoded(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "jpeg"), (254, 0, 0)),
    "animated": (encoded(colour, "gif", save_all=True, append_images=[Image.new("RGB", (40, 40))]), (200, 100, 50)),
    "webp": (encoded(colour, "webp", lossless=True), (200, 100, 50)),
}


@pytest.mark.parametrize(("content", "expected"), READ.values(), ids=READ)
def test_kinds_of_images_keep_their_colour(tmp_path, content, expected):
    data = load(unpacked(tmp_path / "pets", FILES | {"train/cat/0.png": content}))
    assert np.abs(data.train_images[0].numpy().astype(int) - np.reshape(expected, (3, 1, 1))).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(tmp_path, orientation):
    data = load(unpacked(tmp_path / "pets", FILES | {"train/cat/0.png": rotated(orientation)}))
    turns = [lambda x: x, np.fliplr, lambda x: np.rot90(x, 2), np.flipud, lambda x: np.swapaxes(x, 0, 1)]
    turns += [lambda x: np.rot90(x, 3), lambda x: np.rot90(np.swapaxes(x, 0, 1), 2), lambda x: np.rot90(x, 1)]
    assert np.array_equal(data.train_images[0].permute(1, 2, 0), turns[orientation - 1](PIXELS[0]))


REFUSED = {
    "20,000 x 20,000": (huge(20_000, 20_000), "pixels"),
    "just too large": (huge(9_464, 9_464), f"allowed are {MOST_PIXELS:,}"),
    "16 bit": (encoded(Image.fromarray(np.full((9, 9), 40000, np.uint16))), "mode I;16"),
    "float": (encoded(Image.new("F", (9, 9)), "tiff"), "mode F"),
    "empty": (b"", "it is empty"),
    "a text": (b"hello", "no known kind of image"),
    "cut": (FILES[NAMES[0]][:500], "train/cat/0.png cannot be read"),
    "a drawing": (encoded(colour, "eps"), "a drawing"),
}


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_image_of_8_bits_is_named_in_bounded_memory(tmp_path, form, content, said):
    path = FORMS[form](tmp_path / f"pets{form}", FILES | {"train/cat/0.png": content})
    line = refusal(path, memory=2**25)
    assert "train/cat/0.png cannot be read as an image of 8 bits a channel (" in line and said in line


# --- archives


def member(name: str, kind: bytes, target: str = "", size: int = 0) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.size = kind, target, size
    return header


LINKS = {
    "hard": member("train/cat/9.png", tarfile.LNKTYPE, "train/cat/0.png"),
    "soft": member("train/cat/9.png", tarfile.SYMTYPE, "../dog/../cat/0.png"),
}


@pytest.mark.parametrize("kind", ["", "xz"])
@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_a_link_to_another_image_of_the_archive_is_that_image(tmp_path, link, kind):
    path = tarred(tmp_path / "pets.tar", FILES, link, kind=kind)
    plain = unpacked(tmp_path / "plain", FILES | {"train/cat/9.png": FILES["train/cat/0.png"]})
    assert load(path).fingerprint == load(plain).fingerprint


STRANGE = {
    "a link to itself": member("train/cat/9.png", tarfile.SYMTYPE, "9.png"),
    "a link outside": member("train/cat/9.png", tarfile.SYMTYPE, "/etc/passwd"),
    "a link far outside": member("train/cat/9.png", tarfile.LNKTYPE, "../../../etc/passwd"),
    "a device": member("train/cat/9.png", tarfile.CHRTYPE),
    "a fifo": member("train/cat/9.png", tarfile.FIFOTYPE),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("other", STRANGE.values(), ids=STRANGE)
def test_what_is_no_file_of_the_archive_is_named(tmp_path, other):
    assert "train/cat/9.png is a" in refusal(tarred(tmp_path / "pets.tar", FILES, other))


def linked_class(path, ending):
    """FILES and a class that is a link to another's folder, as tar and zip --symlinks pack it."""
    if ending == "tar":
        return tarred(path, FILES, member("train/dog", tarfile.SYMTYPE, "cat"))
    link = zipfile.ZipInfo("train/dog")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        archive.writestr(link, "cat")
    return path


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_a_class_that_is_a_link_is_named_and_not_left_out(tmp_path, ending):
    assert "train/dog is a link in the place of a class" in refusal(linked_class(tmp_path / f"pets.{ending}", ending))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_a_header_that_promises_too_much_is_refused_in_bounded_memory(tmp_path, kind):
    path = tmp_path / "pets.tar"
    path.write_bytes(member("README", kind, size=2**33).tobuf(tarfile.GNU_FORMAT) + bytes(10**5))
    assert "README has 8,589,934,592 bytes" in refusal(path, memory=2**25)


@pytest.mark.parametrize("form", [".tar", ".zip"])
@pytest.mark.parametrize("prefix", ["/", "../", "../../etc/", "a/../../", "C:\\"])
def test_names_that_lead_outside_lead_nowhere(tmp_path, form, prefix):
    """Nothing is unpacked, so such a name is as good as any."""
    (tmp_path / "here").mkdir()
    path = FORMS[form](tmp_path / "here" / f"pets{form}", {prefix + name: FILES[name] for name in NAMES})
    before = sorted(tmp_path.rglob("*"))
    if prefix == "C:\\":
        assert "C:\\train/cat/*" in refusal(path)
    else:
        assert load(path).fingerprint == load(unpacked(tmp_path / "plain", FILES)).fingerprint
        before += [tmp_path / "plain", *(tmp_path / "plain").rglob("*"), tmp_path / "cache"]
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} | set(before) == set(before)


@pytest.mark.parametrize("ending", [".tar", ".tar.xz", ".tar.gz", ".tar.bz2", ".zip"])
def test_no_flipped_bit_is_a_traceback(tmp_path, ending):
    """Either a line, or images; from an archive with checksums the same ones."""
    path = tmp_path / f"pets{ending}"
    zipped(path, FILES) if ending == ".zip" else tarred(path, FILES, kind=ending[5:])
    right, content = load(path).fingerprint, path.read_bytes()
    refused = 0
    for k in range(120):
        at = k * (len(content) - 1) // 119
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << k % 8]) + content[at + 1 :])
        try:
            found = load(path).fingerprint
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"dataset={str(path)!r}: ") and "\n" not in str(error)
        else:
            assert found == right or ending == ".tar"
    assert refused > 20


NO_FILES = {
    "a fifo": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a circle": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_among_the_images_of_a_folder_is_named_and_not_left_out(tmp_path, make):
    path = unpacked(tmp_path / "pets", FILES)
    make(path / "train/cat/9.png")
    assert "train/cat/9.png cannot be read" in refusal(path)


@pytest.mark.parametrize("form", ["", ".tar"])
@pytest.mark.parametrize("old", ["0.png", "cat", "pets"])
def test_names_in_another_encoding_are_names(tmp_path, form, old):
    """Linux takes any bytes, and UTF-8 has not all."""
    new = os.fsdecode(b"ch\xe2t")
    files = {name.replace(old, new): content for name, content in FILES.items()}
    path = FORMS[form](tmp_path / f"pets{form}".replace(old, new), files)
    data = load(path)
    assert data.fingerprint == load(path).fingerprint and len(data.train_labels) == 6
    shown = " ".join([dataset_name(str(path)), *data.classes])
    assert ("ch\\udce2t" in shown) == (old != "0.png") and shown.encode()


def test_a_dataset_that_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pets.tar")
    for path in (tmp_path / "pets.tar", "/dev/zero", "x" * 300, "a\0b", ""):
        with pytest.raises(InputError, match="dataset=.*(no such path|no images|; allowed: cifar10, )"):
            load(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, Path.touch], ids=["folder", "fifo", "empty"])
def test_a_cache_file_that_is_none_stops_nothing(tmp_path, cache, make):
    path = unpacked(tmp_path / "pets", FILES)
    right = load(path).fingerprint
    [file] = cache.iterdir()
    file.unlink()
    make(file)
    assert load(path).fingerprint == load(path).fingerprint == right
    assert not list(cache.glob(".*.tmp"))
