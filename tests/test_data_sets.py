"""Data sets on disk: folders by class, zip files, CIFAR-10 without unpickling, Tiny ImageNet, idx files, bad files."""
import gzip
import io
import pickle
import pickletools
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused
from standins import toy

from rlgen.data.labelled import Labelled
from rlgen.data.readers import (
    CIFAR10,
    FASHION_MNIST,
    cifar10,
    idx_images,
    image_folder,
    read_batch,
    read_idx,
    read_labelled,
    tiny_imagenet,
)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CIFAR, FASHION = DATA / "cifar10", DATA / "fashion-mnist"
real = pytest.mark.skipif(not (CIFAR / "train.zip").is_file(), reason="CIFAR-10 is not beside the repository")


def save(folder, data, suffix=".png"):
    for i, (picture, label) in enumerate(zip(data.images, data.labels, strict=True)):
        path = folder / data.classes[label] / f"{i:04}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


# Folders and zip files

def put_image(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


def test_hidden_files_are_no_class_and_links_are_followed(tmp_path):
    for name in (".ipynb_checkpoints/a.png", "__MACOSX/dog/._a.png", "dog/._a.png", "dog/.thumbs/b.png"):
        put_image(tmp_path / "set" / name)
    put_image(tmp_path / "set/dog/a.png")
    put_image(tmp_path / "cats/a.png")
    (tmp_path / "set/dog/Thumbs.db").write_bytes(b"no image")
    (tmp_path / "set/cat").symlink_to(tmp_path / "cats", target_is_directory=True)
    (tmp_path / "set/dog/loop").symlink_to(tmp_path / "set", target_is_directory=True)
    data = image_folder(tmp_path / "set", 8)
    assert data.classes == ("cat", "dog") and len(data.images) == 2


def test_a_zip_file_of_windows_and_of_a_mac(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, "PNG")
    names = ("dog\\a.png", "cat\\b.png", "__MACOSX/dog/._a.png", "..\\above.png", "../../cat/c.png")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), content.getvalue())
    with pytest.warns(UserWarning, match="1 of 4 images in set.zip lie in no folder of a class .* above.png"):
        data = image_folder(tmp_path / "set.zip", 8)
    assert data.classes == ("cat", "dog") and data.counts.tolist() == [2, 1]


def test_home_is_found_and_no_image_is_skipped_silently(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    put_image(tmp_path / "set/dog/a.png")
    (tmp_path / "set/dog/b.CR2").write_bytes(b"II*\0 raw of a camera")
    with pytest.warns(UserWarning, match="1 of 2 images in set cannot be read .* the first is dog/b.CR2"):
        assert len(image_folder("~/set", 8)) == 1


def test_splits_that_are_merged_are_named(tmp_path):
    put_image(tmp_path / "train/dog/a.png")
    put_image(tmp_path / "val/dog/a.png")
    with pytest.warns(UserWarning, match="has train and val, whose images are merged"):
        assert len(image_folder(tmp_path, 8).images) == 2
    assert len(image_folder(tmp_path / "val", 8).images) == 1


@pytest.mark.parametrize("zipped", [False, True])
def test_folder(tmp_path, zipped):
    data = toy([3, 2], size=16)
    where = save(tmp_path / "set", data)
    (where / "class 0" / "broken.png").write_bytes(b"nothing")
    (where / "class 1" / "cut.png").write_bytes((where / "class 1" / "0003.png").read_bytes()[:200])
    (where / "class 1" / "notes.txt").write_text("not an image")
    (where / "loose.png").write_bytes((where / "class 1" / "0003.png").read_bytes())  # in no class
    if zipped:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for path in where.rglob("*.*"):
                archive.write(path, path.relative_to(where))
        where = tmp_path / "set.zip"
    with pytest.warns(UserWarning) as said:
        back = image_folder(where, 16)
    loose, damaged = (str(warning.message) for warning in said)
    assert "1 of 8 images in set" in loose and loose.endswith("are left out; the first is loose.png.")
    assert "2 of 7 images in set" in damaged and damaged.endswith("the first is class 0/broken.png.")
    assert back.classes == data.classes and (back.images == data.images).all() and (back.labels == data.labels).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        turned = image_folder(where, 16, per_class=1, classes=("class 1", "class 0"))
        assert turned.images[:, 0, 0, 1].tolist() == [3, 0] and turned.labels.tolist() == [0, 1]
        with pytest.raises(ValueError, match="no images of 'dog'; its classes are class 0, class 1"):
            image_folder(where, classes=("class 0", "dog"))


def test_pictures_are_cut_in_the_middle(tmp_path):
    (tmp_path / "a").mkdir()
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 200
    Image.fromarray(wide).save(tmp_path / "a" / "wide.png")
    Image.fromarray(wide).convert("L").save(tmp_path / "a" / "x_grey.jpg", quality=95)
    data = image_folder(tmp_path, 10)
    assert data.images.shape == (2, 10, 10, 3) and (abs(data.images[:, 2:8, 2:8].astype(int) - 200) < 12).all()


def test_what_is_no_collection(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no .*nowhere: name a folder or a zip file"):
        image_folder(tmp_path / "nowhere")
    (tmp_path / "x.zip").write_bytes(b"PK no")
    with pytest.raises(ValueError, match="neither a folder nor a zip file"):
        image_folder(tmp_path / "x.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image that can be read"):
        image_folder(tmp_path / "empty")


# CIFAR-10

def old_pickle(pictures, labels):
    """A batch as Python 2 wrote it: strings of bytes (SHORT_BINSTRING, BINSTRING),
    and NumPy's _reconstruct around the long one.
    """
    def short(text):
        return b"U" + bytes([len(text)]) + text
    data = pictures.transpose(0, 3, 1, 2).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85"
        + short(b"b")
        + b"tR(K\x01"
        + b"M"
        + struct.pack("<H", len(pictures))
        + b"M\x00\x0c\x86"
        + b"cnumpy\ndtype\n("
        + short(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + short(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(data))
        + data
        + b"tb"
    )
    return (
        b"\x80\x02}("
        + short(b"batch_label")
        + short(b"training batch 1 of 5")
        + short(b"labels")
        + b"]("
        + b"".join(b"K" + bytes([k]) for k in labels)
        + b"e"
        + short(b"data")
        + array
        + short(b"filenames")
        + b"]("
        + b"".join(short(b"leptodactylus_%d.png" % i) for i in range(len(labels)))
        + b"eu."
    )


@pytest.mark.parametrize("form", ["python 2", 2, 4, 5])
def test_cifar_batches(tmp_path, form):
    chance = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    whole = []
    for name, n in (("data_batch_1", 30), ("data_batch_2", 20), ("test_batch", 10)):
        pictures, labels = chance.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), (np.arange(n) % 10).tolist()
        record = {
            b"batch_label" if form == 2 else "batch_label": "x",
            "labels": labels,
            "data": pictures.transpose(0, 3, 1, 2).reshape(n, 3072),
            "filenames": ["a.png"] * n,
        }
        (folder / name).write_bytes(
            old_pickle(pictures, labels) if form == "python 2" else pickle.dumps(record, protocol=form)
        )
        whole.append((pictures, labels))
    if form == "python 2":
        assert any(op.name == "BINSTRING" for op, *_ in pickletools.genops((folder / "test_batch").read_bytes()))
    for where in (tmp_path, folder):
        train, test = cifar10(where), cifar10(where, train=False)
        assert (
            (train.images == np.concatenate([whole[0][0], whole[1][0]])).all()
            and train.labels.tolist() == whole[0][1] + whole[1][1]
        )
        assert (test.images == whole[2][0]).all() and test.classes == CIFAR10
    assert cifar10(tmp_path, per_class=2).counts.tolist() == [2] * 10
    some = cifar10(tmp_path, classes=("ship", "cat"))
    rows = [i for i, k in enumerate(whole[0][1] + whole[1][1]) if k in (8, 3)]
    assert some.classes == ("ship", "cat") and (some.images == np.concatenate([whole[0][0], whole[1][0]])[rows]).all()
    assert some.labels.tolist() == [(8, 3).index((whole[0][1] + whole[1][1])[i]) for i in rows]
    with pytest.raises(ValueError, match="no class 'unicorn'; its classes are airplane"):
        cifar10(tmp_path, classes=("cat", "unicorn"))


def test_a_pickle_is_never_run(tmp_path):
    class Bad:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"labels": [1], "data": Bad()}))
    with pytest.raises(ValueError, match="no batch of CIFAR-10: it has 0 images and 1 labels"):
        cifar10(tmp_path)
    assert not (tmp_path / "ran").exists()
    for content in (
        b"",
        b"\x80",
        b"hello",
        old_pickle(np.zeros((2, 32, 32, 3), np.uint8), [1]),
        old_pickle(np.zeros((1, 32, 32, 3), np.uint8), [12]),
    ):
        (tmp_path / "data_batch_1").write_bytes(content)
        with pytest.raises(ValueError, match="no batch of CIFAR-10"):
            read_batch(tmp_path / "data_batch_1")


@real
def test_cifar_as_pictures():
    few = cifar10(CIFAR, per_class=3)
    assert few.images.shape == (30, 32, 32, 3) and few.classes == CIFAR10
    test = cifar10(CIFAR / "test.zip", train=False, per_class=1)
    assert test.counts.tolist() == [1] * 10


@real
def test_counts_of_cifar():
    with zipfile.ZipFile(CIFAR / "train.zip") as train, zipfile.ZipFile(CIFAR / "test.zip") as test:
        for archive, n in ((train, 5000), (test, 1000)):
            assert [sum(name.startswith(c + "/") for name in archive.namelist()) for c in CIFAR10] == [n] * 10


# Tiny ImageNet

def test_tiny_imagenet(tmp_path):
    data = Labelled(
        np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8),
        np.repeat(range(3), 2),
        ("n1", "n2", "n3"),
    )
    for i, (picture, label) in enumerate(zip(data.images, data.labels, strict=True)):
        wnid = data.classes[label]
        for folder, name in (
            (tmp_path / "train" / wnid / "images", f"{wnid}_{i}.png"),
            (tmp_path / "val" / "images", f"val_{i}.png"),
        ):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / name)
    (tmp_path / "wnids.txt").write_text("n3\nn1\nn2\n", encoding="utf-8-sig")  # as Notepad saves it
    (tmp_path / "words.txt").write_text(
        "n1\tgoldfish, Carassius auratus\nn2\tcrane\nn3\tcrane, some bird\nn4\tnot here\n"
    )
    (tmp_path / "val" / "val_annotations.txt").write_text(
        "".join(f"val_{i}.png\t{data.classes[k]}\t0\t0\t62\t62\n" for i, k in enumerate(data.labels))
    )
    train, val = tiny_imagenet(tmp_path), tiny_imagenet(tmp_path, train=False)
    named = {"crane (n2)": "n2", "crane (n3)": "n3", "goldfish": "n1"}  # both cranes by their number
    assert train.classes == val.classes == tuple(named)
    for found in (train, val):
        assert found.counts.tolist() == [2, 2, 2]
        for k, wnid in enumerate(named.values()):
            assert (found.images[found.labels == k] == data.images[data.labels == data.classes.index(wnid)]).all()
    fish = tiny_imagenet(tmp_path, train=False, per_class=1, classes=("goldfish",))
    assert (fish.images == data.images[:1]).all() and len(tiny_imagenet(tmp_path, classes=("goldfish",))) == 2
    with pytest.raises(ValueError, match="no class 'dog'"):
        tiny_imagenet(tmp_path, train=False, classes=("dog",))
    with pytest.raises(FileNotFoundError, match="no wnids.txt: name the unpacked folder"):
        tiny_imagenet(tmp_path / "train")


# idx files

def put_idx(path, array, packed=True):
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.with_name(path.name + ".gz" * packed).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files(tmp_path, packed):
    rng = np.random.default_rng(0)
    whole = {}
    for part, n in (("train", 12), ("t10k", 6)):
        images, labels = rng.integers(0, 256, (n, 28, 20), dtype=np.uint8), (np.arange(n) % 3).astype(np.uint8)
        put_idx(tmp_path / f"{part}-images-idx3-ubyte", images, packed)
        put_idx(tmp_path / f"{part}-labels-idx1-ubyte", labels, packed)
        whole[part] = images, labels
    refused(lambda: idx_images(tmp_path), "does not say what its labels mean", "classes.txt")
    (tmp_path / "classes.txt").write_text("one\ntwo\nthree\n", encoding="utf-8-sig")  # as Notepad saves it
    train, test = idx_images(tmp_path), idx_images(tmp_path, train=False)
    for found, (images, labels) in ((train, whole["train"]), (test, whole["t10k"])):
        assert found.images.shape == (len(images), 32, 32, 3) and found.classes == ("one", "two", "three")
        assert (found.images[:, 2:30, 6:26] == images[..., None]).all() and found.labels.tolist() == labels.tolist()
        assert found.images.sum() == 3 * images.sum(dtype=int)  # the margin is black
    some = idx_images(tmp_path, per_class=2, classes=("three", "one"))
    assert some.counts.tolist() == [2, 2] and (some.images == train.images[[0, 2, 3, 5]]).all()
    assert (read_labelled(tmp_path).images == train.images).all()
    refused(lambda: idx_images(tmp_path, classes=("four",)), "'four'", "one, two, three")


def test_damaged_idx_files(tmp_path):
    images, labels = np.zeros((4, 28, 28), np.uint8), np.array([0, 1, 2, 1], np.uint8)
    refused(lambda: idx_images(tmp_path), "no idx files for training", "train-images-idx3", kind=FileNotFoundError)
    put_idx(tmp_path / "train-images-idx3-ubyte", images)
    put_idx(tmp_path / "train-labels-idx1-ubyte", labels[:3])
    (tmp_path / "classes.txt").write_text("one\ntwo\n", encoding="utf-8")
    refused(lambda: idx_images(tmp_path), "(4, 28, 28)", "(3,)", "as many labels")
    put_idx(tmp_path / "train-labels-idx1-ubyte", labels)
    refused(lambda: idx_images(tmp_path), "the label 2", "names 2 classes")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content, words in (
        (whole[:-9], "damaged"),
        (gzip.compress(gzip.decompress(whole)[:-1]), "cut off"),
        (gzip.compress(b"\0\0\x0d\1" + bytes(8)), "no idx file of bytes"),
        (b"", "no idx file of bytes"),
        (gzip.compress(b"\0\0\x08\4\xff\xff\xff\xff" + b"\xff" * 12), "cut off"),
    ):
        path.write_bytes(content)
        refused(lambda: read_idx(path), words)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Fashion-MNIST is not beside the repository")
def test_fashion_mnist_is_recognised():
    test = idx_images(FASHION, train=False)
    assert test.classes == FASHION_MNIST and test.counts.tolist() == [1000] * 10
    assert test.images.shape[1:] == (32, 32, 3) and test.labels[:5].tolist() == [9, 2, 1, 1, 6]
