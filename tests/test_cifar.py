"""A generator of labelled pictures: parts that share nothing, prompts and collages, training that resumes, the card,
and the support-set task on it.
"""
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from rlgen.data.labelled import Labelled
from rlgen.data.readers import CIFAR10, cifar10
from rlgen.grammar import Grammar
from rlgen.models import evaluators
from rlgen.models.classifier import Network, Recipe, evaluate_predictions
from rlgen.models.generator import Generator
from rlgen.scenes import DOMAINS
from rlgen.training import diffusion, loop
from rlgen.training.cifar import Collages, divide, recognised, train_cifar

CIFAR = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"
QUICK = {"autoencoder": 4, "denoiser": 4, "batch_size": 4, "compile": False}
COLOURS = {"red frog": (200, 30, 30), "deer": (30, 200, 30), "ship": (30, 30, 200)}


def flat(per_class=12, size=32, seed=0):
    "Each class has its colour, with noise, so that images differ; the left half is darker."
    chance = np.random.default_rng(seed)
    pictures = (
        np.stack([np.full((size, size, 3), c) for c in COLOURS.values() for _ in range(per_class)])
        + chance.integers(-20, 20, (3 * per_class, size, size, 3))
    )
    pictures[:, :, :size // 2] -= 20
    return Labelled(pictures.clip(0, 255).astype(np.uint8), np.repeat(range(3), per_class), tuple(COLOURS))


def keys(data):
    return {p.tobytes() for p in data.images}


# Parts

@settings(max_examples=30, deadline=None)
@given(st.integers(4, 12), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
def test_no_picture_is_in_two_parts(per_class, train, val, test, seed):
    data = flat(per_class, 8)
    if per_class - train - val - test < 1:
        with pytest.raises(ValueError, match="leave 1 or more for the generator"):
            divide(data, train, val, test, seed)
        return
    parts = divide(data, train, val, test, seed)
    assert [p.counts.tolist() for p in parts] == [[n] * 3 for n in (per_class - train - val - test, train, val, test)]
    assert len(set.union(*map(keys, parts))) == sum(map(len, parts)) == len(data)
    assert all(keys(p) == keys(q) for p, q in zip(parts, divide(data, train, val, test, seed), strict=True))


def test_seeds_divide_differently():
    data = flat()
    assert keys(divide(data, 2, 2, 2, seed=1).train) != keys(divide(data, 2, 2, 2, seed=2).train)
    with pytest.raises(ValueError, match="each part 1 or more"):
        divide(data, 0, 2, 2)


@pytest.mark.skipif(not (CIFAR / "train.zip").is_file(), reason="CIFAR-10 is not beside the repository")
def test_parts_of_cifar():
    parts = divide(cifar10(CIFAR, per_class=8), 1, 1, 1)
    assert [len(p) for p in parts] == [50, 10, 10, 10] and parts.train.classes == CIFAR10
    assert len(set.union(*map(keys, parts))) == 80


# Prompts and pictures

def test_collages_say_what_they_show():
    data, grammar = flat(), Grammar.domains(DOMAINS, tuple(COLOURS))
    colours, kinds, domains = np.array(list(COLOURS.values())), {1: 0, 2: 0, 3: 0}, set()
    def seen(part):
        return int(np.abs(part.reshape(-1, 3).mean(0) - colours).sum(1).argmin())
    for i in range(120):
        prompt, picture = Collages(data, seed=3)[i]
        domain, *named = grammar.encode(prompt)
        assert (
            grammar.decode([domain, *named]) == prompt and picture.dtype == torch.uint8 and picture.shape == (3, 32, 32)
        )
        p = picture.permute(1, 2, 0).numpy()
        kinds[len(set(named))] += 1
        domains.add(int(domain))
        assert [seen(p[:, :16]), seen(p[4:12, 22:28]), seen(p[22:28, 22:28])] == list(named)
        assert (
            np.bincount(
                [seen(p[y:y + 4, x:x + 4]) for y in range(0, 32, 4) for x in range(0, 32, 4)], minlength=3
            ).argmax()
            == named[0]
        )
    assert domains == set(range(5)) and min(kinds.values()) > 5 and 40 < kinds[1] < 100


def test_collages_depend_on_seed_and_number_alone():
    data = flat()
    a, b, c = Collages(data, 1)[5], Collages(data, 1)[5], Collages(data, 2)[5]
    assert a[0] == b[0] and torch.equal(a[1], b[1]) and not torch.equal(a[1], c[1])
    before = data.images.copy()
    [Collages(data)[i] for i in range(50)]
    assert (data.images == before).all()
    assert len({Collages(data, mixed=0.)[i][0].split(" of ")[1] for i in range(60)}) == 3


def test_trainers_take_a_source():
    from functools import partial
    source = partial(Collages, flat())
    (step, prompts, pictures), = loop.batches(4, 3, start=2, source=source, seed=6)
    assert (
        step == 2 and prompts == [source(6)[i][0] for i in range(8, 12)] and torch.equal(pictures[0], source(6)[8][1])
    )
    tokenizer = loop.new_tokenizer(["deer", "ship"])
    assert (
        tokenizer.tokenize("a deer, ship") == ["a</w>", "deer</w>", ",</w>", "ship</w>"]
        and len(loop.new_tokenizer()) < len(tokenizer)
    )
    vae = diffusion.new_vae(32, 8)
    assert (
        diffusion.latent_shape(vae)
        == (8, 8, 8)
        == tuple(vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist.mean.shape[1:])
    )
    assert diffusion.latent_shape(diffusion.new_vae()) == (4, 16, 16)
    white = diffusion.whiten(vae, 64, 32, source)
    latents = torch.cat(
        [white.encode(evaluators.unit(x)).latent_dist.mean for _, _, x in loop.batches(32, 2, seed=9, source=source)]
    )
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3 and (latents.std((0, 2, 3)) - 1).abs().max() < 1e-2


# Training

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, data = tmp_path_factory.mktemp("cifar") / "model", flat()
    net = Network("small", 3, 32, Recipe(epochs=3, batch=8)).fit(
        Network("small", 3, 32).prepare(data.images), data.labels
    )
    return (
        folder,
        data,
        net,
        train_cifar(data, folder, evaluator=(net, net.evaluate(net.prepare(data.images), data.labels)), **QUICK),
    )


def test_a_generator_like_any_other(made):
    folder, data, net, facts = made
    generator = Generator.load(str(folder), inference_steps=2, guidance=2.5, device="cpu")
    pictures = generator.generate(["a photograph of a deer, ship, and red frog"] * 2, [0, 1])
    assert pictures[0].size == (32, 32) and pictures[0] != pictures[1]
    assert (
        not list(folder.glob("**/checkpoint*"))
        and all(f.suffix == ".safetensors" for f in folder.rglob("*") if f.stat().st_size > 100_000)
    )
    from safetensors import safe_open
    with safe_open(next(folder.glob("unet/*.safetensors")), "pt") as file:
        assert {file.get_tensor(k).dtype for k in file.keys()} == {torch.float16}
    text = (folder / "README.md").read_text(encoding="utf-8")
    for words in (
        "library_name: diffusers", "red frog, deer, ship", "36 labelled images", "| autoencoder | 4 |",
        "squared error", "guessing gives 33.3%", f"{facts['right']:.1%}", "latents 8 x 8 x 8",
    ):
        assert words in text, words
    assert (
        facts["right on real"] > .9
        and 0 <= facts["right"] <= 1
        and facts["judged"] == 60
        and facts["denoiser seconds"] > 0
    )


def test_killed_training_ends_in_the_same_weights(made, tmp_path, monkeypatch):
    folder, data, *_ = made
    run = loop.Trainer.run
    for part in ("autoencoder", "denoiser"):
        def killed(self, loss_at, batch_size, workers=0, stop_at_step=None, **mix):
            if self.folder.name != part:
                return run(self, loss_at, batch_size, workers, stop_at_step, **mix)
            run(self, loss_at, batch_size, workers, 2, **mix)
            raise KeyboardInterrupt
        monkeypatch.setattr(loop.Trainer, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            train_cifar(data, tmp_path / "model", **QUICK)
    monkeypatch.undo()
    facts = train_cifar(data, tmp_path / "model", **QUICK)
    assert "Not yet" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8") and "right" not in facts
    for part in ("unet", "vae", "text_encoder"):
        a, b = (next((f / part).glob("*.safetensors")).read_bytes() for f in (folder, tmp_path / "model"))
        assert a == b, part
    again = train_cifar(data, tmp_path / "model", **QUICK)  # nothing left to do
    assert again == facts


def test_other_data_are_refused(made):
    folder, data, *_ = made
    with pytest.raises(
        ValueError,
        match=r"model-training holds checkpoints of another training; different: data .* Name another folder",
    ):
        train_cifar(flat(seed=1), folder, **QUICK)
    with pytest.raises(ValueError, match=r"different: denoiser \(4, now 5\)"):
        train_cifar(data, folder, **QUICK | {"denoiser": 5})


@pytest.mark.parametrize(
    "data, settings, words",
    [
        (lambda: flat(size=24), {}, "24 x 24: give square ones"),
        (flat, {"denoiser": 0}, "1 step or more"),
        (flat, {"batch_size": 1}, "2 images or more"),
        (lambda: flat()[:12], {}, "no images of 'deer'"),
    ],
)
def test_bad_input(tmp_path, data, settings, words):
    with pytest.raises(ValueError, match=words):
        train_cifar(data(), tmp_path / "model", **QUICK | settings)
    assert not list(tmp_path.iterdir())


# Measuring

class Painter:
    "Paints the colour of the first class it is asked for, or always the same."
    def __init__(self, always=None):
        self.always, self.asked = always, []

    def generate(self, prompts, seeds):
        self.asked += prompts
        words = [self.always or p.split(" of a ")[1].split(",")[0] for p in prompts]
        return [Image.new("RGB", (64, 64), COLOURS[w]) for w in words]


class Colourist:
    "Knows the classes by their colour."
    size = 32

    def prepare(self, pictures):
        return pictures

    def evaluate(self, pictures, labels):
        far = np.abs(pictures.mean((1, 2))[:, None] - np.array(list(COLOURS.values()))).sum(-1)
        return evaluate_predictions(np.eye(3)[far.argmin(1)], labels)


def test_share_right():
    good, stubborn = Painter(), Painter("ship")
    assert recognised(good, Colourist(), tuple(COLOURS), 4).accuracy == 1
    assert recognised(stubborn, Colourist(), tuple(COLOURS), 4).per_class.tolist() == [0, 0, 1]
    assert (
        all(len(set(p.split(" of a ")[1].replace(", and", ",").split(", "))) == 1 for p in good.asked)
        and len(good.asked) == 12
    )
    good.asked = []
    assert recognised(good, Colourist(), tuple(COLOURS), 4, mixed=True).n_images == 12
    assert max(len(set(p.split(" of a ")[1].replace(", and", ",").split(", "))) for p in good.asked) > 1


def test_guidance_curve_measures_what_is_right_and_how_various_it_is(monkeypatch):
    from types import SimpleNamespace

    from rlgen.data.labelled import Labelled
    from rlgen.training import cifar

    class Sharp(Painter):
        "Without guidance every second image shows a ship, with it none, but all are alike."
        def __init__(self, guidance):
            super().__init__()
            self.guidance = guidance

        def generate(self, prompts, seeds):
            images = super().generate(prompts, seeds)
            if self.guidance > 1: return images
            return [Image.new("RGB", (64, 64), COLOURS["ship"]) if s % 2 else x
                    for x, s in zip(images, range(len(seeds)), strict=True)]

    class Means:
        name = "means"

        def embed_images(self, images):
            return np.array([np.asarray(p, float).mean((0, 1)) for p in images]) + 1

    monkeypatch.setattr(cifar, "load_generator", lambda settings: Sharp(settings.guidance))
    rng = np.random.default_rng(0)
    real = Labelled(rng.integers(256, size=(60, 32, 32, 3), dtype=np.uint8), np.arange(60) % 3, tuple(COLOURS))
    plain, guided = cifar.guidance_curve("any", Colourist(), real, [Means()], (1, 4), 20)
    assert (plain["right"], guided["right"]) == (pytest.approx(2 / 3), 1)
    assert plain["right of it"] == .5 and plain["worst class"] != "ship" and plain["images"] == 60
    assert {"FID by means", "KID by means", "diversity by means", "diversity of real by means"} <= set(plain)
    few = cifar.guidance_curve("any", Colourist(), real[:2], [SimpleNamespace(name="x", embed_images=lambda images:
        rng.normal(size=(len(images), 70)))], (1,), 20)
    assert "FID by x" not in few[0]


def test_support_sets_from_it(made):
    from rlgen.envs.support import SupportSet, SupportTask
    folder, data, *_ = made
    parts = divide(flat(9, seed=5), 2, 3, 2)
    env = SupportSet(SupportTask(
        parts.train,
        parts.val,
        Generator.load(str(folder), inference_steps=2, guidance=1, device="cpu"),
        Network("small", 3, 32, Recipe(epochs=1, batch=4)),
        per_step=2,
        max_images=3,
    ))
    env.reset(seed=0)
    for ended in (False, True):
        assert env.step([0, 1, 0, 2])[2] == ended
    assert env.additions[0].prompt == "a photograph of a deer, red frog, and ship" and env.size == 3
