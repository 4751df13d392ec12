"""Baselines of support sets that use real, hard or distorted images: how many, of what, and what they cost."""
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from rlgen.data.labelled import Labelled, labelled_scenes
from rlgen.envs.support import SupportTask, labelled_additions
from rlgen.experiments.support_baselines import distorted_copies, practice, retrieved
from rlgen.experiments.support_set import SupportSettings, learn_support_set, load_data, load_pool
from rlgen.models.classifier import Network, Recipe, mix_up, prediction_entropy, rand_augment
from rlgen.models.loading import ModelSettings
from rlgen.runs import Run

WORDS = ("dog", "bus", "tree")


class Flat:
    "A generator whose images tell their seed, and a classifier that is unsure of bright ones."
    selects = False

    def generate(self, prompts, seeds, negative=None):
        return [Image.new("RGB", (16, 16), (s % 251, 0, 0)) for s in seeds]

    def prepare(self, images):
        return images[:, 0, 0, 0].astype(float)

    def join(self, parts):
        return np.concatenate(parts)

    def state(self):
        return None

    def fit(self, inputs, labels, val=None, start=None, seed=0):
        self.seen = len(inputs)
        return self

    def probabilities(self, inputs):
        sure = 1 - inputs / 251 / 2
        return np.column_stack([sure, (1 - sure) / 2, (1 - sure) / 2])

    def evaluate(self, inputs, labels):
        from rlgen.models.classifier import evaluate_predictions
        return evaluate_predictions(self.probabilities(inputs), labels)


@pytest.fixture
def task():
    data = Labelled(np.zeros((9, 16, 16, 3), np.uint8), np.arange(9) % 3, WORDS)
    flat = Flat()
    return SupportTask(data, data, flat, flat, per_step=4, max_images=30)


def test_practice_keeps_the_least_sure_of_each_round(task):
    kept = practice(task, seed=1, candidates=3, rounds=2)
    assert sum(len(a.image_seeds) for a in kept) == 30
    assert task.unique_generator_calls == 90, "every candidate is paid for"
    assert all(len(a.image_seeds) == len(a.images) and a.images.shape[1:] == (16, 16, 3) for a in kept)
    assert all((a.images[:, 0, 0, 0] == np.array(a.image_seeds) % 251).all() for a in kept), "images of their seeds"
    assert len({(a.prompt, s) for a in kept for s in a.image_seeds}) == 30
    def doubt_of(levels):
        return prediction_entropy(task.model.probabilities(np.array(levels, float)))
    doubt = doubt_of(labelled_additions(kept, WORDS).images[:, 0, 0, 0])
    typical = doubt_of([s % 251 for _, s in task.generated])
    assert doubt.mean() > typical.mean()
    again = practice(SupportTask(task.train, task.val, Flat(), Flat(), per_step=4, max_images=30), 1, 3, 2)
    assert [a.image_seeds for a in again] == [a.image_seeds for a in kept]

def test_one_candidate_for_each_is_no_choice(task):
    kept = practice(task, seed=1, candidates=1)
    counts = labelled_additions(kept, WORDS).counts
    assert task.unique_generator_calls == 30 and counts.max() - counts.min() <= 4

def test_retrieved_images_are_real_balanced_and_not_twice(task):
    pool = Labelled(np.arange(60, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8),
                    np.arange(60) % 3, WORDS)
    found = labelled_additions(retrieved(task, pool, 0), WORDS)
    values = found.images[:, 0, 0, 0]
    assert found.counts.tolist() == [10, 10, 10] and len(set(values.tolist())) == 30
    assert (values % 3 == found.labels).all(), "each has its own label"
    assert task.unique_generator_calls == 0
    refused(lambda: retrieved(task, pool[:20], 0), "are asked for")
    refused(lambda: retrieved(task, Labelled(pool.images, pool.labels, WORDS[::-1]), 0), "same order")

def test_the_pool_shares_no_image_with_the_data():
    settings = SupportSettings(classes=WORDS, max_images=30)
    known = {image.tobytes() for part in load_data(settings) for image in part.images}
    for arm in ("retrieved", "labelled"):
        pool = load_pool(arm, settings)
        assert not known & {image.tobytes() for image in pool.images} and pool.counts.tolist() == [10, 10, 10]
    assert (load_pool("labelled", settings).images != load_pool("retrieved", settings).images).any()

def test_distorted_copies_have_their_labels_and_are_reproducible():
    data = labelled_scenes(2, classes=WORDS)
    copies, again = distorted_copies(data, 10, 3), distorted_copies(data, 10, 3)
    assert (copies.images == again.images).all() and (copies.labels == again.labels).all() and len(copies) == 10
    assert copies.counts.max() - copies.counts.min() <= 2
    assert not any((copy == data.images).all(axis=(1, 2, 3)).any() for copy in copies.images[:3])

def test_augmented_training_is_that_of_torchvision_and_reproducible():
    import torch
    images = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    assert rand_augment(images).shape == images.shape
    mixed, shares = mix_up(images.float(), torch.tensor([0, 1, 2, 0, 1, 2]), 3)
    assert mixed.shape == images.shape and torch.allclose(shares.sum(1), torch.ones(6))
    data = labelled_scenes(4, classes=WORDS)
    nets = [Network("small", 3, recipe=Recipe(epochs=2, augment=augment)) for augment in (True, True, False)]
    states = [net.fit(net.prepare(data.images), data.labels, seed=5).state() for net in nets]
    same = [all((states[0][k] == other[k]).all() for k in states[0]) for other in states[1:]]
    assert same == [True, False]


SMALL = SupportSettings(
    classes=WORDS, updates=0, epochs=1, real=2, validation=3, test=4, per_step=4, max_images=12,
    arms=("pretrained", "balanced", "retrieved", "labelled", "practice", "augmented"),
    test_classifiers=("probe", "small"),
    models=ModelSettings(inference_steps=2),
)

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("more_arms")
    return folder, learn_support_set(SMALL, folder / "whole", folder / "pictures.sqlite")

def test_more_arms_are_tested_beside_the_others(whole):
    _, result = whole
    assert set(result.accuracy) == set(SMALL.arms)
    assert [result.generated[arm] for arm in SMALL.arms] == [0, 12, 0, 0, 60, 0]
    assert len({tuple(result.entropy[arm].values()) for arm in SMALL.arms}) == 6, "six different trainings"

def test_a_killed_run_with_more_arms_goes_on_to_the_same_result(whole, tmp_path, monkeypatch):
    folder, result = whole
    save = Run.save_checkpoint
    def kill(run, name, *contents):
        save(run, name, *contents)
        if name == "set practice": raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "save_checkpoint", kill)
        learn_support_set(SMALL, tmp_path / "run", folder / "pictures.sqlite")
    resumed = learn_support_set(SMALL, tmp_path / "run", folder / "pictures.sqlite")
    assert resumed.accuracy == result.accuracy and resumed.generated == result.generated

def test_bad_settings_of_more_arms(tmp_path):
    refused(lambda: replace(SMALL, data=str(tmp_path)), "retrieved", "test_part")
    refused(lambda: replace(SMALL, arms=("retrieve",)), "'retrieve'", "retrieved")
    refused(lambda: replace(SMALL, test_classifiers=("probes",)), "probe, small")

def test_images_for_testing_and_the_generators_own(tmp_path):
    for part, level in (("train", 10), ("test", 200)):
        for k, name in enumerate(WORDS):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(12):
                Image.new("RGB", (16, 16), (level, i, 50 * k)).save(tmp_path / part / name / f"{i:02}.png")
    settings = replace(SMALL, data=str(tmp_path), test_part=True, image_size=16, test=1, validation=1, real=1)
    assert {int(image[0, 0, 0]) for part in load_data(settings) for image in part.images} == {200}
    assert {int(image[0, 0, 0]) for image in load_pool("retrieved", settings).images} == {10}
    more = load_pool("labelled", settings)
    assert more.counts.tolist() == [9, 9, 9], "those for testing that are not in D, V or the test set"
    assert not {x.tobytes() for x in more.images} & {x.tobytes() for part in load_data(settings) for x in part.images}
    (tmp_path / "train.zip").write_bytes(b"")  # a folder and a zip file: the zip file counts
    refused(lambda: load_pool("retrieved", settings), "zip")
    (tmp_path / "train.zip").unlink()
    (tmp_path / "both").mkdir()
    refused(lambda: load_data(replace(settings, data=str(tmp_path / "both"))), "for testing", kind=FileNotFoundError)
