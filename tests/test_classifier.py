"""The classifier: evaluation by hand, the probe at its optimum, networks of all backbones, early stopping,
seeds, warm starts, files.
"""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from rlgen.data.labelled import Labelled
from rlgen.models import classifier
from rlgen.models.classifier import (
    BACKBONES,
    Network,
    Probe,
    Recipe,
    backbone,
    evaluate_predictions,
    jitter,
    load_classifier,
    prediction_entropy,
    save_classifier,
)

class Stand:
    "Embeddings that can be foreseen: the mean colour of the upper and the lower half."
    def embed_images(self, images):
        return (
            np.array([[*np.asarray(i)[:8].mean((0, 1)), *np.asarray(i)[8:].mean((0, 1))] for i in images], np.float32)
            / 255
        )


def blobs(n, classes=3, size=16, seed=0, noise=40):
    "Each class has a colour of its own, and much noise."
    chance = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    colours = np.array([(200, 60, 60), (60, 200, 60), (60, 60, 200), (180, 180, 60)])[labels]
    pictures = (
        colours[:, None, None] + chance.normal(0, noise, (n, size, size, 3)) + chance.normal(0, noise, (n, 1, 1, 3))
    )
    return Labelled(pictures.clip(0, 255).astype(np.uint8), labels, tuple("abcd"[:classes]))


# Evaluation

def test_entropy_by_hand():
    assert prediction_entropy([[1, 0], [.5, .5], [.9, .1]]) == pytest.approx([0, math.log(2), .32508297])
    assert prediction_entropy(np.full((1, 7), 1 / 7)) == pytest.approx([math.log(7)])


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(1, 30), st.integers(0, 99))
def test_evaluation_agrees_with_loops(k, n, seed):
    chance = np.random.default_rng(seed)
    p, labels = chance.dirichlet(np.ones(k), n), chance.integers(k, size=n)
    found = evaluate_predictions(p, labels)
    assert (
        found.accuracy == pytest.approx(np.mean([row.argmax() == y for row, y in zip(p, labels, strict=True)]))
        and found.n_images == n
    )
    for c in range(k):
        mine = [row.argmax() == y for row, y in zip(p, labels, strict=True) if y == c]
        assert found.per_class[c] == pytest.approx(np.mean(mine)) if mine else math.isnan(found.per_class[c])
    assert (
        found.entropy == pytest.approx(np.mean([-sum(x * math.log(x) for x in row) for row in p]))
        and 0 <= found.entropy <= math.log(k) + 1e-9
    )
    gap = 0
    for b in range(15):
        inside = [
            (row.max(), row.argmax() == y)
            for row, y in zip(p, labels, strict=True)
            if min(int(row.max() * 15), 14) == b
        ]
        if inside:
            gap += len(inside) / n * abs(np.mean([s for s, _ in inside]) - np.mean([r for _, r in inside]))
    assert found.calibration == pytest.approx(gap)


def test_calibration():
    sure = np.array([[.8, .2]] * 10)
    assert (
        evaluate_predictions(sure, [0] * 8 + [1] * 2).calibration == pytest.approx(0)
        and evaluate_predictions(sure, [1] * 10).calibration == pytest.approx(.8)
    )
    assert evaluate_predictions([[1., 0.]], [0]).calibration == 0


@pytest.mark.parametrize(
    "p, labels, words",
    [
        (np.zeros((0, 2)), [], "at least one image"),
        (np.ones((2, 2)), [0], "one label for each"),
        ([[math.nan, 1]], [0], "NaN"),
    ],
)
def test_what_is_no_evaluation(p, labels, words):
    with pytest.raises(ValueError, match=words):
        evaluate_predictions(p, labels)


# The probe

def test_probe_is_at_the_optimum():
    data, probe = blobs(60, 4), Probe(Stand(), 4, penalty=3.)
    x = probe.prepare(data.images)
    assert x.shape == (60, 7) and (x[:, -1] == 1).all()
    probe.fit(x, data.labels)
    w = torch.tensor(probe.weights, requires_grad=True)
    loss = (
        nn.functional.cross_entropy(torch.tensor(x) @ w, torch.tensor(data.labels)) + 1.5 / 60 * w[:-1].square().sum()
    )
    loss.backward()
    assert w.grad.abs().max() < 1e-3
    assert probe.probabilities(x) == pytest.approx(torch.softmax(torch.tensor(x) @ w, 1).detach().numpy())
    assert probe.evaluate(x, data.labels).accuracy > .8


def test_where_the_probe_starts_does_not_matter():
    data, probe = blobs(60, 4), Probe(Stand(), 4)
    x = probe.prepare(data.images)
    cold = probe.fit(x, data.labels).state()["weights"]
    answers = probe.probabilities(x)
    probe.fit(x, data.labels, start={"weights": np.random.default_rng(0).normal(size=cold.shape)})
    assert (
        probe.probabilities(x) == pytest.approx(answers, abs=.01) and (probe.fit(x, data.labels).weights == cold).all()
    )
    part = probe.join([x[:30], x[30:]])
    assert (part == x).all()


def test_a_class_without_pictures_is_hardly_ever_the_answer():
    data, probe = blobs(60, 3), Probe(Stand(), 4)
    x = probe.prepare(data.images)
    found = probe.fit(x, data.labels).evaluate(x, data.labels)
    assert math.isnan(found.per_class[3]) and probe.probabilities(x)[:, 3].max() < .1


def test_probe_refuses():
    with pytest.raises(ValueError, match="2 classes or more apart, not 1"):
        Probe(Stand(), 1)
    with pytest.raises(ValueError, match="penalty is 0; it must be above 0"):
        Probe(Stand(), 2, penalty=0)


# Networks

@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [16, 32, 64])
def test_every_backbone_learns_a_step(name, size):
    torch.manual_seed(0)
    net = backbone(name, 5, size)
    x = torch.randn(2, 3, size, size)
    out = net.train()(x)
    assert out.shape == (2, 5)
    nn.functional.cross_entropy(out, torch.tensor([1, 4])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_stems_keep_small_pictures_from_vanishing():
    for name, layer in (("resnet18", "layer4"), ("shufflenet_v2", "conv5"), ("efficientnet_v2_s", "features")):
        net, seen = backbone(name, 5, 32).eval(), []
        getattr(net, layer).register_forward_hook(lambda module, x, out: seen.append(out.shape[-1]))
        with torch.no_grad():
            net(torch.zeros(1, 3, 32, 32))
        assert seen[0] >= 2, name


@pytest.mark.parametrize("name", BACKBONES)
def test_kernels_of_one_channel_begin_no_smaller_than_others(name):
    torch.manual_seed(0)
    kernels = [
        layer.weight for layer in backbone(name, 5, 64).modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1
    ]
    assert bool(kernels) == (name in ("shufflenet_v2", "efficientnet_v2_s"))
    for kernel in kernels:
        # sqrt(2 / 9) by Kaiming's rule, 1 / sqrt(27) by PyTorch's own
        assert kernel[0].numel() == 9 and .15 < kernel.std() < .55


def test_backbones_refuse():
    with pytest.raises(ValueError, match="no backbone 'resnet19': choose one of small, resnet18"):
        backbone("resnet19", 5, 64)
    with pytest.raises(ValueError, match="16 pixels or more"):
        backbone("small", 5, 8)
    with pytest.raises(ValueError, match="made for images of 16 x 16"):
        Network("small", 3, 16).prepare(np.zeros((1, 20, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="give 2 or more"):
        Network("small", 3, 16).fit(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), [0])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"updates": -1}, "updates is -1"),
        ({"batch": 1}, "2 or more"),
        ({"learning_rate": 0}, "above 0"),
        ({"patience": -1}, "0 or more"),
        ({"dtype": "float16"}, "bfloat16"),
    ],
)
def test_recipes_refuse(changes, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**changes)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_its_learning_rate(name, monkeypatch):
    rates, data = [], blobs(4)
    class Spy(torch.optim.AdamW):
        def __init__(self, parameters, lr, **others):
            rates.append(lr)
            super().__init__(parameters, lr, **others)
    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    for rate in (None, .01):
        net = Network(name, 3, 16, Recipe(epochs=1, learning_rate=rate))
        net.fit(net.prepare(data.images), data.labels)
    assert rates == [BACKBONES[name], .01]


def test_a_network_learns():
    train, val, test = blobs(90), blobs(30, seed=1), blobs(90, seed=2)
    net = Network("small", 3, 16, Recipe(epochs=6, batch=16))
    ready = [(net.prepare(d.images), d.labels) for d in (train, val, test)]
    net.fit(*ready[0], ready[1])
    assert net.evaluate(*ready[2]).accuracy > .85 and len(net.history) == 6
    assert max(net.history) == net.evaluate(*ready[1]).accuracy  # the best weights were kept
    before = net.state()
    assert net.fit(*ready[0], ready[1]) and all((net.state()[k] == before[k]).all() for k in before)  # the same seed
    other = net.fit(*ready[0], ready[1], seed=1).state()
    assert any((other[k] != before[k]).any() for k in before)


def test_training_stays_on_the_device(monkeypatch):
    """Each batch used to come back to the processor to be augmented: now nothing does, and on the processor the weights
    are the same as by that way.
    """
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), np.arange(40) % 3
    net = Network("small", 3, 32, Recipe(epochs=2, batch=16), device="cpu")
    inputs = net.prepare(images)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "cpu", lambda x: pytest.fail("something came back to the processor"))
        net.fit(inputs, labels, seed=3)
    trained = net.state()
    on_device = classifier.jitter
    def by_the_processor(x, generator):
        B, _, H, W = x.shape
        far = round(.125 * H)
        dy, dx = torch.randint(2 * far + 1, (2, B), generator=generator)
        flip = torch.rand(B, generator=generator) < .5
        padded = torch.nn.functional.pad(x.contiguous(), (far,) * 4, mode="reflect")
        cut = [p[:, i:i + H, j:j + W] for p, i, j in zip(padded, dy, dx, strict=True)]
        return torch.stack([p.flip(2) if f else p for p, f in zip(cut, flip, strict=True)])
    x = torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    one, two = (f(x, torch.Generator().manual_seed(1)) for f in (on_device, by_the_processor))
    assert torch.equal(one, two)
    monkeypatch.setattr(classifier, "jitter", by_the_processor)
    again = net.fit(inputs, labels, seed=3).state()
    assert all((trained[name] == again[name]).all() for name in trained)


def test_nobody_elses_chance_is_touched():
    data = blobs(12)
    net = Network("small", 3, 16, Recipe(epochs=1))
    x = net.prepare(data.images)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    net.fit(x, data.labels)
    assert (torch.rand(3) == wanted).all()
    first = net.state()
    torch.manual_seed(6)
    assert all((net.fit(x, data.labels).state()[k] == first[k]).all() for k in first)


def test_early_stop(monkeypatch):
    data = blobs(24)
    net = Network("small", 3, 16, Recipe(epochs=20, patience=3))
    x = net.prepare(data.images)
    said = iter([.5, .7, .6, .7, .2, .9])
    monkeypatch.setattr(
        net, "evaluate", lambda *_: evaluate_predictions(np.eye(10)[[0] * 10], [0] * 10)._replace(accuracy=next(said))
    )
    net.fit(x, data.labels, (x, data.labels))
    assert net.history == [.5, .7, .6, .7, .2]  # the second .7 is no better
    net.recipe = Recipe(epochs=6, patience=0)
    said = iter([.5, .4, .3, .2, .1, .05])
    assert len(net.fit(x, data.labels, (x, data.labels)).history) == 6


@pytest.mark.parametrize("updates, an_epoch", [(0, 3), (9, 3), (10, 4), (12, 4), (40, 14)])
def test_an_epoch_of_few_pictures_goes_through_them_again_until_it_has_its_share(updates, an_epoch, monkeypatch):
    "40 images are three batches."
    data, seen = blobs(40), []
    monkeypatch.setattr(classifier, "jitter", lambda x, chance: seen.append(x) or jitter(x, chance))
    net = Network("small", 3, 16, Recipe(epochs=3, batch=16, updates=updates))
    x = net.prepare(data.images)
    net.fit(x, data.labels, (x, data.labels))
    assert len(seen) == 3 * an_epoch >= updates and len(net.history) == 3
    for i in range(0, len(seen) - 2, 3):  # each picture once in every three batches, over the ends of epochs
        assert (
            sorted(picture.tolist() for picture in torch.cat(seen[i:i + 3]))
            == sorted(picture.tolist() for picture in net._scaled(x))
        )


def test_warm_start():
    train, test = blobs(90), blobs(60, seed=2)
    net = Network("small", 3, 16, Recipe(epochs=5, batch=16))
    x, y = net.prepare(train.images), net.prepare(test.images)
    start = net.fit(x, train.labels).state()
    net.recipe = Recipe(epochs=1, batch=90, learning_rate=1e-9)
    warm, cold = (
        net.fit(x, train.labels, start=start).evaluate(y, test.labels),
        net.fit(x, train.labels).evaluate(y, test.labels),
    )
    assert warm.accuracy > .85 and cold.accuracy < .7


def test_jitter():
    x = torch.rand(200, 3, 16, 16)
    out = jitter(x, torch.Generator().manual_seed(0))
    assert out.shape == x.shape and torch.equal(out, jitter(x, torch.Generator().manual_seed(0)))
    def shifts(picture, moved):
        return [
            (dy, dx, flip)
            for flip in (0, 1)
            for dy in range(5)
            for dx in range(5)
            if torch.equal(
                moved,
                (lambda w: w.flip(-1) if flip else w)(
                    nn.functional.pad(picture[None], (2,) * 4, mode="reflect")[0, :, dy:dy + 16, dx:dx + 16]
                ),
            )
        ]
    found = [shifts(a, b) for a, b in zip(x, out, strict=True)]
    assert all(len(f) == 1 for f in found) and len({f[0] for f in found}) > 40


def test_half_precision_is_close():
    data = blobs(60)
    net = Network("small", 3, 16, Recipe(epochs=4, batch=16))
    x = net.prepare(data.images)
    full = net.fit(x, data.labels).probabilities(x)
    net.recipe = Recipe(dtype="bfloat16")
    assert (
        abs(net.probabilities(x) - full).mean() < .05 and net.fit(x, data.labels).evaluate(x, data.labels).accuracy > .8
    )


def test_nan_is_refused():
    data = blobs(12)
    net = Network("small", 3, 16, Recipe(epochs=2))
    broken = {k: np.full_like(v, np.nan) if v.dtype.kind == "f" else v for k, v in net.state().items()}
    with pytest.raises(ValueError, match="loss of the classifier is no number"):
        net.fit(net.prepare(data.images), data.labels, start=broken)


# Files

def test_files(tmp_path):
    data = blobs(12)
    net, probe = Network("small", 3, 16), Probe(Stand(), 3)
    x = probe.prepare(data.images)
    probe.fit(x, data.labels)
    for model, inputs in ((net, net.prepare(data.images)), (probe, x)):
        save_classifier(tmp_path / "m", model, data.classes)
        again, classes = load_classifier(tmp_path / "m", Stand())
        assert classes == data.classes and (again.probabilities(inputs) == model.probabilities(inputs)).all()
    with pytest.raises(FileNotFoundError, match="There is no classifier"):
        load_classifier(tmp_path / "none")
    for content in (b"", b"nothing", (tmp_path / "m").read_bytes()[:-20]):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ValueError, match="bad is (no classifier of rlgen, or )?damaged"):
            load_classifier(tmp_path / "bad")
