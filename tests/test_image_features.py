"""Networks of timm: frozen features from weights in files, new networks by name, bad input."""
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from refusals import refused
from safetensors.torch import save_file

from rlgen.data.labelled import labelled_scenes, stratified
from rlgen.data.readers import cifar10
from rlgen.metrics import extractor_name, features as features_of, kid, load_extractor
from rlgen.models.classifier import Network, Probe, Recipe, check_classifier, learning_rate
from rlgen.models.image_features import ImageFeatures, new_network, timm_name

SHARED = Path(__file__).resolve().parents[2] / "shared"
LITE0, CIFAR = SHARED / "pretrained" / "efficientnet-lite0" / "model.safetensors", SHARED / "data" / "cifar10"
TINY = "test_byobnet"  # timm's own network for tests


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(timm.create_model(TINY, pretrained=False).state_dict(), file)
    return file

@pytest.fixture(scope="module")
def net(weights):
    return ImageFeatures.load(f"timm:{TINY}={weights}", "cpu")

def images_of(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(256, size=(h, w, 3), dtype=np.uint8)) for h, w in sizes]


def test_features_are_those_of_timms_own_way(net, weights):
    from safetensors.torch import load_file
    theirs = timm.create_model(TINY, pretrained=False)
    theirs.load_state_dict(load_file(weights))
    theirs.reset_classifier(0)
    way = timm.data.resolve_data_config({}, model=theirs)
    side = way["input_size"][-1]
    image = images_of((side, side))[0]
    ready = timm.data.create_transform(**way | {"crop_pct": 1.}, is_training=False)(image)
    with torch.inference_mode():
        expected = theirs.eval()(ready[None])[0].numpy()
    assert np.allclose(net.embed_images([image])[0], expected, atol=1e-4)

def test_an_image_is_cut_to_its_middle_and_magnified_four_times_at_most(net):
    wide = images_of((32, 64))[0]
    middle = wide.crop((16, 0, 48, 32))
    assert np.allclose(net.embed_images([wide]), net.embed_images([middle]), atol=1e-5)
    assert [net.side(image) for image in images_of((32, 32), (32, 90), (200, 300), (10, 10))] == [128, 128, 160, 40]

def test_neighbours_and_their_sizes_change_nothing(net):
    images = images_of((32, 32), (32, 32), (64, 48), (32, 32))
    together, alone = net.embed_images(images), np.concatenate([net.embed_images([image]) for image in images])
    assert together.shape == (4, alone.shape[1]) and np.allclose(together, alone, atol=1e-5)

def test_it_measures_distances_under_its_own_name(net, weights):
    extractor = load_extractor(f"timm:{TINY}={weights}", "cpu")
    assert extractor_name(extractor) == TINY
    sets = [features_of(images_of(*[(32, 32)] * 40, seed=seed), extractor) for seed in (1, 2)]
    assert np.isfinite(kid(*sets, subset_size=20)[0])

def test_a_probe_stands_on_it(net):
    train, test = stratified(labelled_scenes(8, seed=3, classes=("dog", "bus")), (.5, .5))
    probe = Probe(net, 2).fit(Probe(net, 2).prepare(train.images), train.labels)
    assert probe.evaluate(probe.prepare(test.images), test.labels).n_images == 8

def test_new_networks_learn_by_name():
    name = f"scratch:{TINY}"
    assert learning_rate(name) == 5e-4 and check_classifier(name) == name
    images, labels = np.zeros((8, 32, 32, 3), np.uint8), np.repeat([0, 1], 4)
    images[labels == 1] = 255
    trained = Network(name, 2, 32, Recipe(epochs=3, updates=30))
    again = Network(name, 2, 32, Recipe(epochs=3, updates=30))
    for net in (trained, again):
        net.fit(net.prepare(images), labels)
    assert trained.evaluate(trained.prepare(images), labels).accuracy == 1
    assert all((a == b).all() for a, b in zip(trained.state().values(), again.state().values(), strict=True))

def test_a_network_is_tuned_from_its_weights(weights):
    name = f"tuned:{TINY}={weights}"
    images, labels = np.zeros((8, 32, 32, 3), np.uint8), np.repeat([0, 1], 4)
    images[labels == 1] = 255
    tuned = Network(name, 2, 32, Recipe(epochs=2, updates=20))
    before = {key: value for key, value in tuned.state().items()}
    frozen = ImageFeatures.load(f"timm:{TINY}={weights}", "cpu")
    assert all((before[f"net.{k}"] == x.numpy()).all() for k, x in frozen.net.state_dict().items()), "begins there"
    tuned.fit(tuned.prepare(images), labels)
    after = tuned.state()
    assert tuned.evaluate(tuned.prepare(images), labels).accuracy == 1
    assert any((after[k] != before[k]).any() for k in before if k.startswith("net.") and k.endswith("conv.weight"))

def test_a_transformer_is_made_for_the_size_of_the_images():
    assert new_network("test_vit", 3, 64).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)

def test_bad_names_and_files(tmp_path, weights):
    refused(lambda: timm_name("resnet19"), "no model 'resnet19'", "nearest names")
    refused(lambda: timm_name("resnet18.nobody"), "no weights", "resnet18.a1_in1k")
    refused(lambda: new_network("resnet19", 2, 32), "nearest names")
    refused(lambda: check_classifier("resnet19"), "resnet18", "timm:NAME", "scratch:NAME")
    refused(lambda: ImageFeatures.load(f"timm:{TINY}={tmp_path / 'none.safetensors'}"), "no file",
            kind=FileNotFoundError)
    gone = f"tuned:{TINY}={tmp_path / 'none.safetensors'}"
    refused(lambda: check_classifier(gone), "no file", kind=FileNotFoundError)
    (tmp_path / "weights.pth").write_bytes(b"pickle")
    refused(lambda: ImageFeatures.load(f"timm:{TINY}={tmp_path / 'weights.pth'}"), "pickle")
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:5000])
    refused(lambda: ImageFeatures.load(f"timm:{TINY}={tmp_path / 'cut.safetensors'}"), "incomplete or damaged")
    refused(lambda: ImageFeatures.load(f"timm:resnet10t={weights}"), "do not belong together")

def test_no_images_or_damaged_weights(net, weights, tmp_path):
    from safetensors.torch import load_file
    refused(lambda: net.embed_images([]), "at least one image")
    broken = {key: x * float("nan") if x.is_floating_point() else x for key, x in load_file(weights).items()}
    save_file(broken, tmp_path / "nan.safetensors")
    damaged = ImageFeatures.load(f"timm:{TINY}={tmp_path / 'nan.safetensors'}", "cpu")
    refused(lambda: damaged.embed_images(images_of((32, 32))), "NaN")

@pytest.mark.skipif(not (LITE0.exists() and CIFAR.exists()), reason="EfficientNet-Lite0 or CIFAR-10 is not there")
def test_real_weights_know_photographs():
    train, test = stratified(cifar10(CIFAR, train=False, per_class=20), (.5, .5))
    net = ImageFeatures.load(f"timm:tf_efficientnet_lite0={LITE0}", "cpu")
    probe = Probe(net, 10).fit(Probe(net, 10).prepare(train.images), train.labels)
    assert probe.evaluate(probe.prepare(test.images), test.labels).accuracy > .4, "ten labels a class"
