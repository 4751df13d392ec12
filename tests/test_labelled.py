"""Labelled pictures: scenes, stratified parts, long tails, folders, zip files, CIFAR-10 without unpickling,
Tiny ImageNet, bad files.
"""
import io
import pickle
import pickletools
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from rlgen.data.labelled import (
    CIFAR10,
    Labelled,
    cifar10,
    degrade,
    image_folder,
    labelled_scenes,
    long_tail,
    read_batch,
    small,
    stratified,
    tiny_imagenet,
)
from rlgen.scenes import NOUNS, render_array

CIFAR = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"
real = pytest.mark.skipif(not (CIFAR / "train.zip").is_file(), reason="CIFAR-10 is not beside the repository")


def toy(counts, size=4, seed=0):
    "Pictures that are all different: their number is in the first pixel."
    labels = np.repeat(np.arange(len(counts)), counts)
    pictures = np.random.default_rng(seed).integers(0, 256, (len(labels), size, size, 3), dtype=np.uint8)
    pictures[:, 0, 0] = np.stack([np.arange(len(labels)) // 256, np.arange(len(labels)) % 256, labels], 1)
    return Labelled(pictures, labels, tuple(f"class {k}" for k in range(len(counts))))


def numbers(data):
    return [int(p[0, 0, 0]) * 256 + int(p[0, 0, 1]) for p in data.images]


def save(folder, data, suffix=".png"):
    for i, (picture, label) in enumerate(zip(data.images, data.labels, strict=True)):
        path = folder / data.classes[label] / f"{i:04}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


# One form for all

def test_labelled():
    data = toy([3, 0, 2])
    assert len(data) == 5 and data.counts.tolist() == [3, 0, 2] and "5 images of 4 x 4, 3 classes" in repr(data)
    assert numbers(data[[4, 0]]) == [4, 0] and data[data.labels == 2].counts.tolist() == [0, 0, 2]
    assert numbers(data[:2] + data[4:]) == [0, 1, 4]
    with pytest.raises(ValueError, match="do not go together"):
        data + toy([1, 1])
    with pytest.raises(ValueError, match="do not go together"):
        data + toy([3, 0, 2], size=5)
    with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 3\], not float64"):
        Labelled(np.zeros((1, 4, 4, 3)), [0], ("a",))
    with pytest.raises(ValueError, match="one label for each"):
        Labelled(np.zeros((2, 4, 4, 3), np.uint8), [0], ("a",))
    with pytest.raises(ValueError, match="run from 1 to 1, but there are 1"):
        Labelled(np.zeros((1, 4, 4, 3), np.uint8), [1], ("a",))


# Scenes

def test_scenes_show_their_class():
    from rlgen.models.evaluators import load_evaluator, seen
    data = labelled_scenes(4, seed=3, strength=0)
    assert data.counts.tolist() == [4] * 20 and data.classes == tuple(NOUNS) and data.images.shape == (80, 64, 64, 3)
    assert (
        np.mean([
            NOUNS[k] in facts
            for k, facts in zip(data.labels, seen(map(Image.fromarray, data.images), load_evaluator()), strict=True)
        ])
        > .95
    )


def test_scenes_come_from_their_seed():
    assert (labelled_scenes(2, seed=5).images == labelled_scenes(2, seed=5).images).all()
    assert (labelled_scenes(2, seed=5).images != labelled_scenes(2, seed=6).images).any((1, 2, 3)).all()
    few = labelled_scenes(1, classes=("dog", "cat"))
    assert few.classes == ("dog", "cat") and few.labels.tolist() == [0, 1]


def test_snapshots_get_worse():
    drawing = render_array("a photo of one dog and no people in farm", 0)
    same = [degrade(drawing, np.random.default_rng(i), 0) for i in range(6)]
    assert all((p == drawing).all() or (p == drawing[:, ::-1]).all() for p in same)
    def far(strength):
        return np.mean([
            np.abs(degrade(drawing, np.random.default_rng(i), strength).astype(float) - drawing).mean()
            for i in range(60)
        ])
    assert far(0) < far(.3) < far(.6) < far(1)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: labelled_scenes(0), ("per_class is 0", "1 image or more")),
        (lambda: labelled_scenes(1, strength=1.5), ("1.5", "0 to 1")),
        (lambda: labelled_scenes(1, classes=("dog", "unicorn")), ("no scenes of 'unicorn'", "dog")),
        (lambda: long_tail(1, 10, 2), ("2 classes or more",)),
        (lambda: long_tail(5, 10, 11), ("ratio",)),
        (lambda: small(toy([3, 3]), 4), ("4 images of 'class 0'", "there are 3")),
        (lambda: small(toy([3, 3]), -1), ("0 to 3",)),
        (lambda: stratified(toy([9, 2])), ("'class 1' has 2 images", "one of 3 parts would be empty")),
        (lambda: stratified(toy([9, 9]), (.9, 0)), ("above 0",)),
        (lambda: stratified(toy([9, 0])), ("'class 1' has 0",)),
    ],
)
def test_bad_numbers(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


# Parts

@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(3, 40), min_size=2, max_size=5),
    st.lists(st.floats(.05, 5), min_size=1, max_size=3),
    st.integers(0, 9),
)
def test_parts_are_disjoint_whole_and_stratified(counts, shares, seed):
    data = toy(counts)
    parts = stratified(data, shares, seed)
    assert sorted(sum(map(numbers, parts), [])) == list(range(len(data)))
    shares = np.array(shares) / sum(shares)
    for part, share in zip(parts, shares, strict=True):
        assert (part.images[:, 0, 0, 2] == part.labels).all() and (part.counts >= 1).all()
        assert all(abs(n - share * total) < 3 for n, total in zip(part.counts, counts, strict=True))
    again = stratified(data, shares * 7, seed)
    assert [numbers(p) for p in parts] == [numbers(p) for p in again]


def test_usual_parts():
    data = toy([100, 50])
    assert [p.counts.tolist() for p in stratified(data)] == [[80, 40], [10, 5], [10, 5]]
    assert numbers(stratified(data, seed=1)[2]) != numbers(stratified(data, seed=2)[2])


def test_small_and_long_tail():
    data = toy([30] * 5)
    assert (
        small(data, 4).counts.tolist() == [4] * 5
        and numbers(small(data, 4, seed=1)) == numbers(small(data, 4, seed=1)) != numbers(small(data, 4, seed=2))
    )
    sizes = long_tail(5, 30, 10, seed=3)
    assert sorted(sizes)[::-1] == [30, 17, 9, 5, 3] and long_tail(5, 30, 1).tolist() == [30] * 5  # 30 x 10^(-k/4)
    assert (small(data, sizes).counts == sizes).all()
    assert {tuple(long_tail(5, 30, 10, seed=s)) for s in range(20)} > {tuple(sizes)}


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
    data = image_folder(tmp_path / "set.zip", 8)
    assert data.classes == ("cat", "dog") and data.counts.tolist() == [2, 1]


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
    with pytest.warns(
        UserWarning, match=r"2 of 7 images in set.* cannot be read and are left out; the first is class 0/broken.png"
    ):
        back = image_folder(where, 16)
    assert back.classes == data.classes and (back.images == data.images).all() and (back.labels == data.labels).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        turned = image_folder(where, 16, per_class=1, classes=("class 1", "class 0"))
        assert numbers(turned) == [3, 0] and turned.labels.tolist() == [0, 1]
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
    (tmp_path / "wnids.txt").write_text("n3\nn1\nn2\n")
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
