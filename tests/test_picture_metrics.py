"""Sets of pictures: FID, KID, precision and recall, diversity and CLIP score against independent calculations;
extractors, weights, folders, the command.
"""
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from refusals import refused
from safetensors.torch import save_file

from rlgen import cli
from rlgen.clone.run import clone_dataset
from rlgen.clone.shards import clone_rows, labelled_clone
from rlgen.data.labelled import labelled_scenes, shifted_scenes
from rlgen.experiments.clone_quality import images_in
from rlgen.metrics import (
    Inception,
    clip_score,
    compare_images,
    extractor_name,
    features,
    fid,
    kid,
    load_extractor,
    precision_recall,
    vendi_score,
)
from rlgen.models.perception import Perception

rng = np.random.default_rng(0)
A, B = rng.normal(size=(300, 12)), rng.normal(.4, 1.3, size=(250, 12)) @ rng.normal(size=(12, 12))


class Colours:
    "An extractor that anybody could write: mean and spread of the colours."
    name = "colours"

    def embed_images(self, pictures):
        return np.array([[*np.asarray(p).mean((0, 1)), *np.asarray(p).std((0, 1))] for p in pictures], np.float32)


@pytest.fixture(scope="module")
def tiny():
    return Perception.load("tiny", device="cpu")

@pytest.fixture(scope="module")
def scenes():
    return {
        "a": labelled_scenes(8, 1, 0).images,
        "b": labelled_scenes(8, 2, 0).images,
        "sketch": shifted_scenes("sketch", 8).images,
    }

def saved(folder, pictures):
    folder.mkdir(parents=True)
    for i, p in enumerate(pictures):
        Image.fromarray(p).save(folder / f"{i:03}.png")
    return str(folder)


# FID

def frechet(a, b):
    "The formula as it is printed, with the root of a matrix."
    return (
        np.sum((a.mean(0) - b.mean(0)) ** 2)
        + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real)
    )

def test_fid_is_the_formula():
    assert fid(A, B) == pytest.approx(frechet(A, B), rel=1e-9)

def test_fid_of_bell_curves():
    "In one dimension, with samples that have exactly the mean m and the deviation s: (m - m')^2 + (s - s')^2."
    z = scipy.stats.zscore(rng.normal(size=500), ddof=1)[:, None]
    assert fid(3 + 2 * z, -1 + .5 * z) == pytest.approx(16 + 1.5**2)
    scales, shift = np.array([1., 3, .2]), np.array([0., 1, 2])
    q = np.linalg.qr(rng.normal(size=(600, 3)) - 0)[0]
    white = (q - q.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov((q - q.mean(0)).T))).T
    assert np.cov(white.T) == pytest.approx(np.eye(3), abs=1e-9)
    assert fid(white * scales + shift, white) == pytest.approx((shift**2).sum() + ((scales - 1)**2).sum())

@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(-1e4, 1e4))
def test_fid_is_a_distance_that_a_shift_of_both_does_not_change(seed, shift):
    r = np.random.default_rng(seed)
    a, b = r.normal(size=(40, 4)), r.normal(1, 2, size=(50, 4))
    assert fid(a, b) == pytest.approx(fid(b, a), rel=1e-8) == pytest.approx(fid(a + shift, b + shift), rel=1e-5)
    assert 0 <= fid(a, a) < 1e-5 < fid(a, b)

def test_too_few_pictures_for_fid_are_said():
    with pytest.warns(UserWarning, match="12 images are too few for a Fréchet distance of 12 features"):
        assert np.isfinite(fid(A[:12], B))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fid(A[:13], B)


# KID

def mmd(x, y):
    "Unbiased in each set (Bińkowski et al., equation 4)."
    k = lambda u, v: (u @ v.T / x.shape[1] + 1)**3
    off = lambda m: (m.sum() - np.trace(m)) / (len(m) * (len(m) - 1))
    return off(k(x, x)) + off(k(y, y)) - 2 * k(x, y).mean()

def test_kid_is_the_formula():
    mean, spread = kid(A[:250], B, subsets=4, subset_size=250)
    assert mean == pytest.approx(mmd(A[:250], B)) and spread == pytest.approx(0, abs=1e-9 * abs(mean))

def test_kid_is_drawn_from_subsets_by_its_seed_and_leaves_the_generator_alone():
    state = torch.get_rng_state()
    assert kid(A, B, 20, 50) == kid(A, B, 20, 50) != kid(A, B, 20, 50, seed=1)
    assert (torch.get_rng_state() == state).all()
    mean, spread = kid(A, B, 200, 60)
    assert spread > 0 and mean == pytest.approx(mmd(A, B), abs=4 * spread / np.sqrt(200) + .05 * abs(mean))

def test_kid_of_one_world_is_nought_in_the_mean():
    found = [
        kid(r.normal(size=(40, 5)), r.normal(size=(40, 5)), 1, 40)[0] for r in map(np.random.default_rng, range(200))
    ]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(200) and min(found) < 0

@pytest.mark.parametrize("n", [2, 3, 7])
def test_kid_takes_no_more_than_there_are(n):
    assert np.isfinite(kid(A[:n], B)).all()
    refused(lambda: kid(A[:n], B, subset_size=n + 1), f"2 to {n} images")
    refused(lambda: kid(A, B, subsets=0), "0 subsets")


# Precision, recall, diversity

def test_precision_and_recall_by_hand():
    square, far = np.array([[0., 0], [0, 1], [1, 0], [1, 1]]), np.array([[.5, .5], [9, 9], [9, 10], [10, 9]])
    # the ball around the middle reaches to (9, 9), and so holds the square
    assert precision_recall(far, square, 1) == (.25, 1)
    assert precision_recall(far[1:], square, 1) == (0, 0)
    assert precision_recall(square, square, 1) == (1, 1)
    assert precision_recall(square[:2], square, 1) == (1, 1)
    # one picture again and again: good, and poor
    assert precision_recall(square[:1].repeat(4, 0), square, 1) == (1, .25)
    refused(lambda: precision_recall(square, square, 4), "give 5 or more")
    refused(lambda: precision_recall(square, square, 0), "neighbours")

def balls(a, b, k):
    "Share of a inside a ball of b, pair by pair."
    d = lambda x, y: np.sqrt(((x[:, None] - y[None])**2).sum(-1))
    return (d(a, b) <= np.sort(d(b, b), 1)[:, k]).any(1).mean()

@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_the_definition(k):
    assert precision_recall(A, B, k) == pytest.approx((balls(A, B, k), balls(B, A, k)))

def test_diversity_counts_different_pictures():
    assert vendi_score(np.eye(6)) == pytest.approx(6) and vendi_score(np.ones((5, 3))) == pytest.approx(1)
    assert vendi_score(np.eye(3).repeat(4, 0)) == pytest.approx(3)  # four of each kind are no more than one
    assert vendi_score([[1, 0], [1, 1]]) == pytest.approx(
        np.exp(scipy.stats.entropy([1 + np.sqrt(.5), 1 - np.sqrt(.5)]))
    )
    assert vendi_score(A[:9]) == pytest.approx(vendi_score(A[:9] * np.arange(1, 10)[:, None]))
    refused(lambda: vendi_score(np.eye(3)[:1]), "2 images")
    refused(lambda: vendi_score(np.zeros((3, 3))), "all 0")


# Bad sets

@pytest.mark.parametrize("measure", [fid, kid, precision_recall])
def test_what_cannot_be_compared_is_refused(measure):
    refused(lambda: measure(A[:1], B), "1 image:")
    refused(lambda: measure(A, B[:, :5]), "12 and 5", "one extractor")
    refused(lambda: measure(np.where(A > 2, np.nan, A), B), "NaN")
    refused(lambda: measure(A[0], B), "shape (12,)")


# Extractors

def test_features_are_those_of_one_call_however_large_the_set(tiny, scenes):
    many = np.concatenate([scenes["a"], scenes["b"]])
    found = features(many, tiny)
    whole = tiny.embed_images([Image.fromarray(p) for p in many]).astype(float)
    assert (found == whole * np.sqrt(128)).all() and (found == features(iter(many), tiny)).all()
    assert extractor_name(tiny) == "tiny CLIP" and extractor_name(Colours()) == "colours"
    # longer than 1: left alone
    assert features(many[:3], Colours())[0] == pytest.approx([*many[0].mean((0, 1)), *many[0].std((0, 1))], rel=1e-5)
    refused(lambda: features([], tiny), "no images")

def test_an_extractor_that_gives_nonsense_is_refused(scenes):
    class Bad(Colours):
        def __init__(self, give):
            self.give = give

        def embed_images(self, pictures):
            return self.give
    refused(lambda: features(scenes["a"][:4], Bad(np.zeros((3, 2)))), "colours", "(3, 2)")
    refused(lambda: features(scenes["a"][:4], Bad(np.full((4, 2), np.nan))), "NaN")

@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "Inception with random weights, as a file of safetensors."
    import torch_fidelity.feature_extractor_inceptionv3 as theirs
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(theirs, "load_state_dict_from_url", lambda *a, **k: {})
        m.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        net = theirs.FeatureExtractorInceptionV3("x", ["2048"])
    save_file({name: w.contiguous() for name, w in net.state_dict().items()}, path)
    return path

def test_images_of_any_library_have_the_same_features(scenes):
    arrays = scenes["a"][:4]
    tensor = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    wanted = features([Image.fromarray(p) for p in arrays], Colours())
    for images in (arrays, arrays / 255, list(arrays / 255), tensor, tensor / 255, (image for image in tensor)):
        assert np.array_equal(features(images, Colours()), wanted)
    with pytest.warns(UserWarning, match="4 images are too few"):
        table = compare_images(tensor, {"b": arrays / 255}, Colours())
    assert table["FID by colours"][0] < 1e-6

def test_what_is_no_set_of_images_is_a_sentence(scenes):
    arrays = scenes["a"][:4]
    refused(lambda: features(arrays * 1., Colours()), "images[0]", "floats must be from 0 to 1")
    refused(lambda: features([arrays[0], np.full((4, 4, 3), np.nan)], Colours()), "images[1]", "NaN")
    refused(lambda: features([arrays], Colours()), "images[0]", "[4, 64, 64, 3]")
    refused(lambda: features(arrays[0], Colours()), "single image into a list")
    refused(lambda: features(torch.from_numpy(arrays[0]).permute(2, 0, 1), Colours()), "single image into a list")
    refused(lambda: features(Image.fromarray(arrays[0]), Colours()), "a list of images", kind=TypeError)
    refused(lambda: features("photos", Colours()), "a list of images", kind=TypeError)
    refused(lambda: features(["a.png"], Colours()), "images[0]", "open_image", kind=TypeError)

def test_inception_reads_safetensors_and_is_the_network_of_torchmetrics(weights, scenes, monkeypatch, tmp_path):
    from torchmetrics.image.fid import FrechetInceptionDistance
    def forbidden(*args, **kwargs):
        raise AssertionError("nothing is unpickled")
    with monkeypatch.context() as m:
        m.setattr(torch, "load", forbidden)
        net = load_extractor(str(weights), "cpu")
    assert isinstance(net, Inception) and extractor_name(net) == "Inception"
    pictures = [Image.fromarray(p) for p in scenes["a"][:3]] + [Image.fromarray(scenes["b"][0]).resize((50, 30))]
    found = net.embed_images(pictures)
    assert found.shape == (4, 2048) and np.isfinite(found).all()
    theirs = FrechetInceptionDistance(net.net)  # their module, on a batch by itself
    assert (
        theirs.inception(torch.tensor(scenes["a"][:3]).permute(0, 3, 1, 2)).numpy()
        == pytest.approx(found[:3], rel=1e-4, abs=1e-6)
    )
    # features that stand for its own, since the roots of 2,048 x 2,048 numbers take a minute
    table = compare_images(A, {"b": B}, net)
    assert {"FID", "KID"} <= set(table) and table["extractor"].tolist() == ["Inception"]
    refused(lambda: clip_score(found, ["x"] * 4, net), "cannot read prompts")

def test_other_weights_are_refused(tmp_path):
    refused(lambda: Inception("nowhere.safetensors"), "nowhere.safetensors", kind=FileNotFoundError)
    refused(lambda: load_extractor("weights.pth"), "pickle", "save_file")
    (tmp_path / "text.safetensors").write_text("no weights")
    refused(lambda: Inception(tmp_path / "text.safetensors"), "safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused(lambda: Inception(tmp_path / "other.safetensors"), "other tensors")


# CLIP score and the table

def test_clip_score_is_the_scaled_cosine(tiny, scenes):
    pictures, prompts = (
        [Image.fromarray(p) for p in scenes["a"][::40]],
        ["a photo of one dog and no people in farm"] * 4,
    )
    cosines = (tiny.embed_images(pictures) * tiny.embed_texts(prompts)).sum(1)
    assert clip_score(features(pictures, tiny), prompts, tiny) == pytest.approx(max(0, 100 * cosines.mean()), rel=1e-5)
    refused(lambda: clip_score(A[:4], prompts[:2], tiny), "4 images came with 2 prompts")
    refused(lambda: clip_score(A[:4], prompts, tiny), "one perception")

def test_the_table_has_a_row_for_each_reference_and_names_the_extractor(scenes):
    table = compare_images(scenes["a"], {name: scenes[name] for name in ("a", "b", "sketch")}, Colours())
    assert table["reference"].tolist() == ["a", "b", "sketch"] and "FID" not in table
    near, other, far = table["FID by colours"]
    assert near < 1e-6 < other < far and table.loc[0, ["precision", "recall"]].tolist() == [1, 1]
    assert table.loc[2, "diversity of reference"] == pytest.approx(vendi_score(features(scenes["sketch"], Colours())))
    ready = {name: features(scenes[name], Colours()) for name in scenes}
    pd.testing.assert_frame_equal(
        table, compare_images(ready["a"], {name: ready[name] for name in ("a", "b", "sketch")}, Colours())
    )
    refused(lambda: compare_images(scenes["a"], {}, Colours()), "nothing to compare")


# Shifted sets

@pytest.mark.parametrize("kind", ["sketch", "rendition", "crops", "unknown"])
def test_shifted_sets_come_from_their_seed(kind):
    few = ("dog", "bus", "tree")
    data, again, other = (shifted_scenes(kind, 5, seed, few) for seed in (3, 3, 4))
    assert (data.images == again.images).all() and (data.images != other.images).any((1, 2, 3)).mean() > .9
    assert len(data) == 15 and data.images.shape[1:] == (64, 64, 3)
    if kind == "unknown":
        assert not set(data.classes) & set(few) and max(data.counts) - min(data.counts) <= 1
    else:
        assert data.classes == few and data.counts.tolist() == [5] * 3
    if kind == "sketch":
        assert (np.ptp(data.images, axis=-1) == 0).all() and data.images.mean() > 150

def test_the_objects_are_still_there_in_a_rendition():
    from rlgen.models.evaluators import load_evaluator, seen
    judge = load_evaluator()
    clean = labelled_scenes(3, 0, 0)
    right = np.mean([
        clean.classes[k] in facts
        for k, facts in zip(clean.labels, seen([Image.fromarray(p) for p in clean.images], judge), strict=True)
    ])
    looks = shifted_scenes("rendition", 3)
    still = np.mean([
        looks.classes[k] in facts
        for k, facts in zip(looks.labels, seen([Image.fromarray(p) for p in looks.images], judge), strict=True)
    ])
    assert right > .95 > still > .3  # harder, and far from the twentieth that guessing gives

def test_bad_shifts_are_refused():
    refused(lambda: shifted_scenes("photo", 1), "sketch, rendition, crops, unknown")
    refused(lambda: shifted_scenes("sketch", 0), "per_class is 0")
    refused(lambda: shifted_scenes("crops", 1, classes=("unicorn",)), "'unicorn'")


# Folders and the command

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clones")
    common = {
        "classes": ["dog", "a/b", "bus"],
        "splits": {"train": 2, "val": 1},
        "inference_steps": 1,
        "device": "cpu",
        "batch_size": 3,
        "shard": 3,
        "templates": ["a photo of one {class} and no people in farm"],
    }
    for form in ("parquet", "folder", "webdataset"):
        clone_dataset(common | {"out": str(folder / form), "format": form})
    return folder

@pytest.mark.parametrize("form", ["parquet", "folder", "webdataset"])
def test_a_clone_is_read_in_any_format(made, form):
    data, prompts = labelled_clone(made / form, "train")
    assert data.classes == ("dog", "a/b", "bus") and data.counts.tolist() == [2, 2, 2]
    assert prompts == [f"a photo of one {data.classes[k]} and no people in farm" for k in data.labels]
    assert (labelled_clone(made / form)[0].images == labelled_clone(made / "parquet")[0].images).all()
    assert len(list(clone_rows(made / form))) == 9 and {prompt for _, prompt in images_in(made / form)} == set(prompts)
    assert labelled_clone(made / form, "val", size=20)[0].images.shape == (3, 20, 20, 3)
    refused(lambda: labelled_clone(made / form, "test"), "'test'")

def test_folders_are_read_with_and_without_classes(tmp_path, scenes):
    saved(tmp_path / "set" / "dog", scenes["a"][:3])
    saved(tmp_path / "set" / "cat", scenes["a"][3:5])
    Image.fromarray(scenes["a"][5]).save(tmp_path / "set" / "alone.png")
    (tmp_path / "set" / "broken.jpg").write_text("no picture")
    with pytest.warns(UserWarning, match="1 of 7 images in set.*broken.jpg"):
        assert len(list(images_in(tmp_path / "set"))) == 6
    (tmp_path / "empty").mkdir()
    refused(lambda: next(images_in(tmp_path / "empty")), "no images")
    refused(lambda: next(images_in(tmp_path / "set" / "alone.png")), "is a file")
    refused(lambda: list(clone_rows(tmp_path / "set")), "no clone", kind=FileNotFoundError)

def test_the_command_compares_folders(tmp_path, scenes, capsys):
    a, b, sketch = (saved(tmp_path / name, pictures) for name, pictures in scenes.items())
    assert (
        cli.main([
            "compare",
            a,
            f"first={b}",
            sketch,
            "--out",
            str(tmp_path / "new" / "table.csv"),
        ])
        == 0
    )
    out = capsys.readouterr().out
    assert "FID by tiny CLIP" in out and "CLIP score" not in out
    table = pd.read_csv(tmp_path / "new" / "table.csv")
    assert (
        table["reference"].tolist() == ["first", "sketch"]
        and table["FID by tiny CLIP"].is_monotonic_increasing
        and table["pictures"].tolist() == [160, 160]
    )

def test_the_command_gives_a_clone_its_clip_score(made, tmp_path, scenes, capsys):
    with pytest.warns(UserWarning, match="too few"):
        assert (
            cli.main(["compare", str(made / "folder"), f"real={saved(tmp_path / 'real', scenes['a'][:9])}"])
            == 0
        )
    assert "CLIP score by tiny CLIP" in capsys.readouterr().out

def test_the_command_answers_bad_input_with_one_sentence(tmp_path, scenes, capsys):
    a = saved(tmp_path / "a", scenes["a"][:4])
    (tmp_path / "empty").mkdir()
    one = saved(tmp_path / "one", scenes["a"][:1])
    for options, words in (
        ([a], "nothing to compare"),
        (["nowhere", a], "nowhere"),
        ([a, str(tmp_path / "empty")], "no images"),
        ([a, f"x={a}", f"x={one}"], "NAME=FOLDER"),
        ([a, a, "--extractor", "net.pth"], "pickle"),
        ([a, a, "--extractor", "nowhere"], "nowhere"),
        ([a, one], "1 "),
        ([a, a, "--out", "table.txt"], ".csv"),
    ):
        assert cli.main(["compare", *options]) == 2, options
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and words in error, error
