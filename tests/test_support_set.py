"""The support-set experiment: equal budgets, the test set sealed, the same run after a kill, the saved set, tables,
data of one's own, bad input.
"""
import csv
import io
import json
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from rlgen import cli
from rlgen.data.labelled import Labelled, labelled_scenes
from rlgen.data.readers import CIFAR10, image_folder, read_labelled
from rlgen.envs.support import NeedOrderedActions, SupportSet, SupportTask, classes_by_need, default_support_task
from rlgen.experiments import support_set as experiment
from rlgen.experiments.support_arms import (
    balanced_prompts,
    best_of,
    draw_all,
    random_prompts,
    rollout,
    support_env,
    support_steps,
)
from rlgen.experiments.support_files import save_set, support_figure
from rlgen.experiments.support_set import (
    REGIMES,
    SUPPORT_ARMS,
    SupportSettings,
    learn_support_set,
    load_data,
    load_support_result,
    make_agent,
)
from rlgen.experiments.support_tables import episode_rows, support_study
from rlgen.files import check_name
from rlgen.models import classifier
from rlgen.models.classifier import Probe
from rlgen.models.generator import Cached, Generator
from rlgen.models.loading import ModelSettings
from rlgen.models.perception import Perception
from rlgen.runs import Run
from rlgen.store import Store

WORDS = ("dog", "bus", "tree", "fish")
SMALL = SupportSettings(
    classes=WORDS,
    updates=0,
    real=2,
    validation=3,
    test=5,
    episodes=3,
    per_step=4,
    max_images=10,
    test_classifiers=("probe",),
    models=ModelSettings(inference_steps=2),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store") / "pictures.sqlite"

@pytest.fixture(scope="module")
def runs(tmp_path_factory, store):
    return support_study(tmp_path_factory.mktemp("study"), SMALL, (), (0, 1), store)

@pytest.fixture(scope="module")
def whole(runs):
    "The unbroken run of `SMALL`."
    (settings, result), *_ = runs
    assert settings == SMALL
    return result

@pytest.fixture(scope="module")
def chosen(tmp_path_factory, store):
    "An unbroken run with the arms that choose their sets, and its settings."
    settings = replace(SMALL, arms=("ours", "weakest", "neediest", "best-of-n"), reward_classifier="probe")
    return settings, learn_support_set(settings, tmp_path_factory.mktemp("chosen") / "whole", store)

@pytest.fixture(scope="module")
def task():
    task = default_support_task(real=1, validation=1, per_step=4, max_images=30)
    task.generator = Cached(Generator.load("tiny", inference_steps=2), Store(":memory:"))
    return task

def same(a, b):
    return replace(a, seconds=0., folder="") == replace(b, seconds=0., folder="")


# Data

@pytest.mark.parametrize("regime", REGIMES)
def test_a_regime_has_the_sizes_that_it_names(regime):
    s = replace(SupportSettings(**REGIMES[regime]), test=1)
    train, val, test = load_data(s)
    assert (set(val.counts), set(test.counts), len(train.classes)) == ({s.validation}, {1}, 20)
    assert (train.counts.max(), train.counts.min()) == (s.real, round(s.real / s.tail))

def test_no_picture_is_in_two_parts_and_a_seed_decides():
    parts = load_data(SMALL)
    seen = [{p.tobytes() for p in part.images} for part in parts]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    assert all((a.images == b.images).all() for a, b in zip(parts, load_data(SMALL), strict=True))
    assert {p.tobytes() for p in load_data(replace(SMALL, seed=1))[0].images} != seen[0]

def folder_of_pictures(where, classes=("cat", "dog"), n=20, size=20):
    for k, name in enumerate(classes):
        (where / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(np.random.default_rng([k, i]).integers(0, 256, (size, size, 3), np.uint8)).save(
                where / name / f"{i:02}.png"
            )
    return where

def test_a_folder_is_divided_as_in_the_paper_and_may_be_thinned(tmp_path):
    where = str(folder_of_pictures(tmp_path / "mine"))
    train, val, test = load_data(SupportSettings(data=where, real=0, validation=0, test=0, image_size=16))
    assert [p.counts.tolist() for p in (train, val, test)] == [[16, 16], [2, 2], [2, 2]]
    assert train.images.shape[1:] == (16, 16, 3)
    train, val, test = load_data(SupportSettings(data=where, real=8, tail=4, validation=1, test=2, image_size=16))
    assert [sorted(p.counts.tolist()) for p in (train, val, test)] == [[2, 8], [1, 1], [2, 2]]

def test_pictures_that_cannot_be_read_are_named_and_the_rest_used(tmp_path):
    where = folder_of_pictures(tmp_path / "mine")
    (where / "dog" / "03.png").write_text("no picture")
    with pytest.warns(UserWarning, match="1 of 40 images in mine cannot be read.*dog/03.png"):
        data = read_labelled(where)
    assert data.counts.tolist() == [20, 19]

def test_some_classes_of_cifar_10(tmp_path):
    for part in ("train", "test"):
        folder_of_pictures(tmp_path / part, CIFAR10, 2, 32)
    assert read_labelled(tmp_path / "train", ("ship", "cat")).classes == ("ship", "cat")
    refused(lambda: read_labelled(tmp_path / "train", ("ship", "unicorn")), "'unicorn'", "airplane")


# Arms

def test_balanced_sets_have_each_class_equally_often(task):
    for mixed in (False, True):
        wanted = balanced_prompts(task, 3, mixed)
        counts = Counter()
        for (_, first, second, third), n in wanted:
            counts[first] += n
            assert n <= task.per_step
            assert len({first, second, third}) == (3 if mixed else 1)
        assert sum(counts.values()) == task.max_images and set(counts.values()) == {1, 2} and len(counts) == 20

def test_sets_of_fewer_pictures(task):
    for pictures in (1, 7, 20, 29):
        for wanted in (random_prompts(task, 0, pictures), balanced_prompts(task, 0, n_images=pictures)):
            assert sum(n for _, n in wanted) == pictures and all(0 < n <= task.per_step for _, n in wanted)

def test_random_sets_fill_up_to_the_last_picture_and_repeat_no_picture(task):
    wanted = random_prompts(task, 0)
    assert [n for _, n in wanted] == [4] * 7 + [2]
    twice = draw_all(task, [wanted[0], wanted[0]])
    assert twice[0].prompt == twice[1].prompt and not set(twice[0].image_seeds) & set(twice[1].image_seeds)
    assert any((a != b).any() for (a, _), (b, _) in zip(wanted, random_prompts(task, 1), strict=True))

def test_the_best_of_n_is_the_one_that_v_likes_best(task):
    def worth(additions):
        seen = task.evaluated(additions)
        return seen.accuracy - seen.entropy
    every = [worth(draw_all(task, random_prompts(task, i))) for i in range(3)]
    assert len(set(every)) > 1
    task.generated = set()
    assert worth(best_of(task, 3 * 30)) == max(every) and 80 < task.unique_generator_calls <= 90

def test_best_of_n_begins_no_set_that_it_cannot_afford(task):
    for budget, sets in ((30, 1), (59, 1), (60, 2), (91, 3)):
        task.generated = set()
        best_of(task, budget)
        assert 30 * (sets - 1) < task.unique_generator_calls <= 30 * sets <= budget
    refused(lambda: best_of(task, task.unique_generator_calls + 29), "29 images", "30")

def test_need_is_few_pictures_and_then_low_accuracy(task):
    env = NeedOrderedActions(SupportSet(task))
    env.reset(seed=0)
    order = np.argsort(env.unwrapped.evaluation.per_class, kind="stable")
    assert env.action([2, 5, 0, 0]).tolist() == [2, *order[[5, 5, 5]]]
    assert env.action([2, 5, 1, 1]).tolist() == [2, *order[[5, 6, 7]]]
    assert env.action([0, 19, 1, 1]).tolist() == [0, *order[[19, 0, 1]]]
    reached = {tuple(env.action([0, r, a, b])) for r in range(20) for a in (0, 1) for b in (0, 1)}
    assert len(reached) == 80
    env.step([0, 3, 1, 0])
    assert classes_by_need(env.unwrapped)[-1] == order[3], "it has four pictures more than any other"
    assert set(classes_by_need(env.unwrapped)) == set(range(20))

def test_the_neediest_rule_spreads_evenly(task):
    env = support_env(task, classes_by_need=False)
    trace = rollout(env, lambda _: experiment.neediest(env.unwrapped, np.random.default_rng(0)))
    counts = Counter(a.action[1] for a in trace.additions)
    assert len(trace.rewards) == len(trace.additions) == 8 and set(counts.values()) == {1}
    assert all(len(set(a.action[1:])) == 3 for a in trace.additions)
    assert [row["size"] for row in trace.rows()] == [4, 8, 12, 16, 20, 24, 28, 30]


# Runs

def test_arms_have_equal_sets_and_honest_costs(runs):
    for settings, result in runs:
        assert set(result.accuracy) == set(SUPPORT_ARMS)
        assert result.generated["pretrained"] == 0
        assert {result.generated[a] for a in ("random", "balanced", "balanced-mixed", "weakest", "neediest")} == {10}
        assert 10 <= result.generated["ours"] <= (settings.episodes + 1) * 10
        assert 10 <= result.generated["best-of-n"] <= result.generated["ours"]
        assert sum(n for _, n in result.prompts) == 10
        assert all(0 <= x <= 1 for arm in result.accuracy.values() for x in arm.values())

def test_what_is_tested_is_a_classifier_that_learned_from_d_and_the_set(tmp_path, store):
    result = learn_support_set(replace(SMALL, arms=("pretrained", "balanced")), tmp_path / "run", store)
    train, val, test = load_data(SMALL)
    probe, more = Probe(Perception.load("tiny"), 4), image_folder(tmp_path / "run" / "support_set", classes=WORDS)
    assert more.counts.tolist() in ([2, 2, 3, 3], [3, 3, 2, 2]) or sorted(more.counts) == [2, 2, 3, 3]
    for arm, data in (("pretrained", train), ("balanced", train + more)):
        probe.fit(probe.prepare(data.images), data.labels)
        seen = probe.evaluate(probe.prepare(test.images), test.labels)
        assert (
            (seen.accuracy, seen.per_class.tolist()) == (result.accuracy[arm]["probe"], result.per_class[arm]["probe"])
        )
        assert seen.entropy == pytest.approx(result.entropy[arm]["probe"], rel=1e-3), "embedded in other batches"

@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_run_goes_on_to_the_same_result(after, whole, tmp_path, store, monkeypatch):
    save = Run.save_checkpoint
    def kill(run, name, arrays, note):
        save(run, name, arrays, note)
        if name == "support" and note["updates"] == after:
            run.log(episode=after + 1, step=1, reward=0.)  # the next episode was under way
            raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "save_checkpoint", kill)
        learn_support_set(SMALL, tmp_path / "killed", store)
    assert load_support_result(tmp_path / "killed", SMALL) is None
    assert same(whole, learn_support_set(SMALL, tmp_path / "killed", store))
    assert Run(whole.folder).rows() == Run(tmp_path / "killed").rows()
    assert [row["episode"] for row in episode_rows([(SMALL, whole)])] == [1, 2, 3]

@pytest.mark.parametrize("at", ["set weakest", "best-of-n", "set best-of-n"])
def test_no_arm_is_formed_twice(at, chosen, tmp_path, store, monkeypatch):
    "A kill costs an arm that chooses one set at most, as it costs a search one episode."
    settings, whole = chosen
    save, evaluated = Run.save_checkpoint, SupportTask.evaluated
    def kill(run, name, *contents):
        save(run, name, *contents)
        if name == at: raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "save_checkpoint", kill)
        learn_support_set(settings, tmp_path / "killed", store)
    asked = []
    def count(self, additions):
        asked.append(additions and len(additions))
        return evaluated(self, additions)
    monkeypatch.setattr(SupportTask, "evaluated", count)
    assert same(whole, learn_support_set(settings, tmp_path / "killed", store))
    sets = whole.generated["best-of-n"] // settings.max_images
    # the pretrained classifier; then the three steps of the neediest rule, and each whole set of best-of-n
    again = {"set weakest": [1, 2, 3] + [3] * sets, "best-of-n": [3] * (sets - 1), "set best-of-n": []}
    assert asked == [None, *again[at]] and sets > 1
    paths = list(Path(whole.folder).rglob("*.safetensors"))
    assert paths
    for path in paths:
        other = tmp_path / "killed" / path.relative_to(whole.folder)
        assert path.read_bytes() == other.read_bytes()

def test_a_run_killed_while_testing_tests_the_rest(whole, tmp_path, store, monkeypatch):
    fits, real = [], experiment.Probe.fit
    def dying(self, *a, **k):
        fits.append(1)
        if (tmp_path / "killed" / "tests.json").exists(): raise KeyboardInterrupt
        return real(self, *a, **k)
    monkeypatch.setattr(experiment.Probe, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        learn_support_set(SMALL, tmp_path / "killed", store)
    monkeypatch.setattr(experiment.Probe, "fit", real)
    assert len(json.loads((tmp_path / "killed" / "tests.json").read_text(encoding="utf-8"))) == 1
    assert same(whole, learn_support_set(SMALL, tmp_path / "killed", store))

def test_a_finished_run_is_not_run_again_and_another_is_refused(whole, store, monkeypatch):
    refused(lambda: learn_support_set(replace(SMALL, episodes=2), whole.folder, store), "episodes")
    monkeypatch.setattr(experiment, "load_data", lambda *a: pytest.fail("a finished run read its data"))
    assert learn_support_set(SMALL, whole.folder, store) == whole

def test_a_finished_run_takes_more_arms_and_classifiers(tmp_path, store):
    some, more = (
        replace(SMALL, arms=("pretrained", "ours"), test_classifiers=("probe",)),
        replace(SMALL, arms=("pretrained", "random", "ours"), test_classifiers=("small", "probe")),
    )
    first, whole = learn_support_set(some, tmp_path / "run", store), learn_support_set(more, tmp_path / "whole", store)
    rows, manifest = (
        Run(tmp_path / "run").rows(),
        (tmp_path / "run" / "support_set" / "manifest.csv").read_text(encoding="utf-8"),
    )
    assert load_support_result(tmp_path / "run", more) is None
    assert same(whole, learn_support_set(more, tmp_path / "run", store)), "as if all had been asked for at once"
    assert (
        Run(tmp_path / "run").rows() == rows
        and (tmp_path / "run" / "support_set" / "manifest.csv").read_text(encoding="utf-8") == manifest
    )
    again = learn_support_set(some, tmp_path / "run", store)
    assert (
        same(first, again)
        and list(again.accuracy) == ["pretrained", "ours"]
        and list(again.accuracy["ours"]) == ["probe"]
    )

def test_networks_that_learn_for_longer_are_tested_on_the_same_sets(tmp_path, store):
    short = replace(SMALL, arms=("pretrained", "ours"), test_classifiers=("small", "probe"), epochs=1)
    long = replace(short, epochs=2, updates=6)
    first, whole = learn_support_set(short, tmp_path / "run", store), learn_support_set(long, tmp_path / "whole", store)
    rows = Run(tmp_path / "run").rows()
    assert load_support_result(tmp_path / "run", long) is None
    second = learn_support_set(long, tmp_path / "run", store)
    assert same(second, whole) and second.prompts == first.prompts and Run(tmp_path / "run").rows() == rows
    assert same(learn_support_set(short, tmp_path / "run", store), first), "both are kept"
    assert {
        arm: (
            first.entropy[arm]["probe"] == second.entropy[arm]["probe"],
            first.entropy[arm]["small"] == second.entropy[arm]["small"],
        )
        for arm in short.arms
    } == dict.fromkeys(short.arms, (True, False))

def test_another_learning_rate_is_another_test_of_the_same_sets(tmp_path, store, monkeypatch):
    settings = replace(SMALL, arms=("pretrained", "ours"), test_classifiers=("small", "probe"), epochs=2)
    first = learn_support_set(settings, tmp_path / "run", store)
    with monkeypatch.context() as changed:
        changed.setitem(classifier.BACKBONES, "small", 2e-2)
        assert load_support_result(tmp_path / "run", settings) is None
        second = learn_support_set(settings, tmp_path / "run", store)
    assert (
        second.prompts == first.prompts
        and second.entropy["ours"]["probe"] == first.entropy["ours"]["probe"]
        and second.entropy["ours"]["small"] != first.entropy["ours"]["small"]
    )
    assert load_support_result(tmp_path / "run", settings).accuracy == first.accuracy, "both are kept"

def test_a_network_that_pays_for_longer_or_at_another_rate_is_another_run(tmp_path, store, monkeypatch):
    paid = replace(SMALL, reward_classifier="small", epochs=1, episodes=1, arms=("ours",))
    learn_support_set(paid, tmp_path / "run", store)
    refused(lambda: learn_support_set(replace(paid, epochs=2), tmp_path / "run", store), "epochs")
    monkeypatch.setitem(classifier.BACKBONES, "small", 2e-2)
    refused(lambda: learn_support_set(paid, tmp_path / "run", store), "learning_rate")

def test_a_rival_does_not_take_the_place_of_our_set(tmp_path, store):
    learn_support_set(replace(SMALL, arms=("balanced",), test_classifiers=("probe",)), tmp_path / "run", store)
    ours = learn_support_set(replace(SMALL, arms=("ours",), test_classifiers=("probe",)), tmp_path / "run", store)
    files = lambda: {
        p.relative_to(tmp_path / "run" / "support_set").as_posix()
        for p in (tmp_path / "run" / "support_set").rglob("*.png")
    }
    mine = files()
    assert len(mine) == 10, "pictures of the rival's set are gone"
    assert (
        learn_support_set(
            replace(SMALL, arms=("random",), test_classifiers=("probe",)), tmp_path / "run", store
        ).prompts
        == ours.prompts
        and files() == mine
    )

def test_the_test_set_changes_no_set(whole, tmp_path, store, monkeypatch):
    def other(settings):
        train, val, test = load_data(settings)
        return train, val, labelled_scenes(2, 99, classes=WORDS)
    monkeypatch.setattr(experiment, "load_data", other)
    second = learn_support_set(SMALL, tmp_path / "b", store)
    assert second.prompts == whole.prompts and Run(whole.folder).rows() == Run(tmp_path / "b").rows()
    assert second.accuracy != whole.accuracy

def test_a_network_may_pay(tmp_path, store):
    result = learn_support_set(
        replace(SMALL, reward_classifier="small", epochs=1, episodes=1, arms=("ours",), test_classifiers=("small",)),
        tmp_path / "run",
        store,
    )
    assert sum(n for _, n in result.prompts) == 10

@pytest.fixture
def cheap(monkeypatch):
    "Models that cost nothing: an image is grey, by its prompt, and an eye sees its colour."
    class Painter:
        def generate(self, prompts, seeds):
            pairs = zip(prompts, seeds, strict=True)
            return [Image.new("RGB", (64, 64), (len(p) % 7 * 30, ord(p[-1]), s % 200)) for p, s in pairs]
    class Eye:
        def embed_images(self, images):
            return np.array([np.asarray(i, float).mean((0, 1)) / 255 for i in images], np.float32)
    monkeypatch.setattr(experiment, "load_generator", lambda *a: Painter())
    monkeypatch.setattr(experiment, "load_perception", lambda *a: Eye())

@pytest.mark.parametrize(
    "per_step, max_images, episodes", [(1, 1, 3), (1, 2, 1), (3, 7, 2), (5, 5, 3), (4, 10, 0), (7, 8, 1), (10, 11, 2)]
)
def test_budgets_are_hard_caps_for_every_arm(per_step, max_images, episodes, cheap, tmp_path):
    settings = replace(SMALL, per_step=per_step, max_images=max_images, episodes=episodes)
    run, formed = tmp_path / "run", {}
    keep = experiment.keep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "keep", lambda run, s, sets, *a: formed.update(sets) or keep(run, s, sets, *a))
        result = learn_support_set(settings, run)
    for arm in SUPPORT_ARMS:
        additions, _, calls = formed[arm]
        images = [(a.prompt, seed) for a in additions for seed in a.image_seeds]
        assert len(images) == len(set(images)) == (0 if arm == "pretrained" else max_images)
        assert all(1 <= len(a.image_seeds) <= per_step for a in additions)
        assert calls == result.generated[arm] and len(images) <= calls
        assert calls == len(images) or arm in ("ours", "best-of-n")
    filled = Run(run).rows()
    assert len({row["episode"] for row in filled}) <= episodes
    assert Counter(row["episode"] for row in filled) == dict.fromkeys(
        range(1, max((row["episode"] for row in filled), default=0) + 1), -(-max_images // per_step)
    )
    assert result.generated["best-of-n"] <= result.generated["ours"] <= (episodes + 1) * max_images

def test_ppo_fills_no_set_beyond_its_budget(task):
    agent, env = make_agent(task, replace(SMALL, per_step=4, max_images=30))
    assert agent.settings.rollout_steps == 8
    agent.settings = replace(agent.settings, rollout_steps=24)
    *_, trace = support_steps(env, agent, 5)
    assert len(trace.sets) == 3, "a second rollout would have been sets 4 to 6"
    refused(lambda: next(support_steps(env, agent, 2)), "episodes is 2", "3 or more")

def test_classes_by_number_as_in_the_paper(tmp_path, store):
    result = learn_support_set(
        replace(SMALL, classes_by_need=False, episodes=1, arms=("ours",)), tmp_path / "run", store
    )
    assert sum(n for _, n in result.prompts) == 10

def test_ppo_learns_what_pays():
    "A generator whose pictures teach only in one domain: PPO comes to choose it."
    train, val, _ = load_data(replace(SMALL, real=1, validation=20, test=1))
    real = labelled_scenes(40, 5, classes=WORDS).images.reshape(4, 40, 64, 64, 3)
    class Teacher:
        def generate(self, prompts, seeds):
            chance = np.random.default_rng(seeds[0])
            def one(prompt):
                k = next(k for k, name in enumerate(WORDS) if f" of a {name}," in prompt)
                return Image.fromarray(
                    real[k, chance.integers(40)]
                    if prompt.startswith("a painting")
                    else chance.integers(0, 256, (64, 64, 3), np.uint8)
                )
            return [one(p) for p in prompts]
    task = SupportTask(train, val, Teacher(), Probe(Perception.load("tiny"), 4), per_step=4, max_images=40)
    agent, env = make_agent(task, replace(SMALL, max_images=40))
    *_, trace = support_steps(env, agent, 30)
    shares = [np.mean([a.prompt.startswith("a painting") for a in part.additions]) for part in trace.sets]
    assert len(shares) == agent.updates == 30
    assert np.mean(shares[-8:]) > .5 and np.mean(shares[:5]) < .35


# What is kept

def test_the_saved_set_is_an_image_folder_with_a_manifest(runs):
    settings, result = runs[0]
    rows = list(csv.DictReader((Path(result.folder) / "support_set" / "manifest.csv").open()))
    assert list(rows[0]) == ["file", "class", "prompt", "seed", "step", "reward"]
    assert [r["prompt"] for r in rows] == [p for p, n in result.prompts for _ in range(n)]
    assert all(
        f" of a {r['class']}," in r["prompt"]
        and (Path(result.folder) / "support_set" / r["file"]).exists()
        and np.isfinite(float(r["reward"]))
        for r in rows
    )
    assert (Path(result.folder) / "figures" / "sheet.png").exists()

def test_a_set_takes_the_place_of_another_and_of_nothing_else(task, tmp_path):
    where, formed = tmp_path / "set", (draw_all(task, random_prompts(task, 0)[:2]), [], 8)
    save_set(where, formed, task.classes)
    first = {p.relative_to(where) for p in where.rglob("*")}
    (where / ".manifest.csv.0123abcd.tmp").write_text("what a kill left")
    save_set(where, (draw_all(task, random_prompts(task, 1)[:1]), [], 4), task.classes)
    assert len(list(where.rglob("*.png"))) == 4 and len([p for p in where.iterdir() if p.is_dir()]) == 1
    save_set(where, formed, task.classes)
    assert {p.relative_to(where) for p in where.rglob("*")} == first
    for mine in ("letter.txt", "dog/mine.png", "thesis/chapter.md", "manifest.json"):
        (where / mine).parent.mkdir(exist_ok=True)
        (where / mine).write_text("mine")
        before = {p: p.read_bytes() for p in where.rglob("*") if p.is_file()}
        refused(lambda: save_set(where, formed, task.classes), "something else", mine)
        assert {p: p.read_bytes() for p in where.rglob("*") if p.is_file()} == before
        (where / mine).unlink()

@pytest.mark.parametrize(
    "manifest", [None, "file,size\nletter.txt,3\n", "no table", "file,class,prompt,seed,step,reward\n"]
)
def test_a_folder_of_somebody_else_is_left_alone(manifest, task, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    if manifest:
        (tmp_path / "manifest.csv").write_text(manifest)
    formed = draw_all(task, random_prompts(task, 0)[:1]), [], 4
    refused(lambda: save_set(tmp_path, formed, task.classes), "letter.txt")
    assert (tmp_path / "letter.txt").read_text() == "dear"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["letter.txt", *["manifest.csv"] * bool(manifest)])
    refused(lambda: save_set(tmp_path / "letter.txt", ([], [], 0), task.classes), "is a file")

def test_a_killed_save_is_finished_by_the_next(task, tmp_path, monkeypatch):
    formed, real, saved = (draw_all(task, random_prompts(task, 0)[:2]), [], 8), Image.Image.save, []
    def dying(self, *a, **k):
        saved.append(1)
        if len(saved) == 3: raise KeyboardInterrupt
        return real(self, *a, **k)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, "save", dying)
        save_set(tmp_path / "set", formed, task.classes)
    save_set(tmp_path / "set", formed, task.classes)
    assert len(list((tmp_path / "set").rglob("*.png"))) == 8

def test_what_a_manifest_says_deletes_nothing_outside(task, tmp_path):
    (tmp_path / "precious.png").write_text("mine")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.csv").write_text(
        "file,class,prompt,seed,step,reward\n../precious.png,dog,a,0,1,\n", encoding="utf-8"
    )
    save_set(tmp_path / "set", (draw_all(task, random_prompts(task, 0)[:1]), [], 4), task.classes)
    assert (tmp_path / "precious.png").read_text() == "mine"

def test_a_class_name_with_a_slash_stays_in_its_folder(task, tmp_path):
    additions = draw_all(task, random_prompts(task, 0)[:1])
    for names in (tuple("../" + c for c in task.classes), tuple(".." * k for k in range(1, 21))):
        save_set(tmp_path / "set", (additions, [], 4), names)
        assert {p.parent.parent for p in tmp_path.rglob("*.png")} == {tmp_path / "set"}

def archive_of(path, names, images=20):
    "A zip file with images in folders of these names."
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(images * len(names)):
            image = io.BytesIO()
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)).save(image, "png")
            archive.writestr(f"{names[i % len(names)]}/{i}.png", image.getvalue())

def command_of(data, out):
    return (f"support --data {data} --real 1 --validation 1 --test 1 --episodes 1 --max-images 4 --per-step 1 --arms "
            f"balanced --test-classifiers probe --inference-steps 1 --out {out}").split()

def test_names_of_classes_write_nothing_outside_of_the_run_folder(tmp_path, capsys):
    (tmp_path / "deep").mkdir()
    archive_of(tmp_path / "data.zip", ["..", "C:", "CON", "/etc/dog"])
    with pytest.warns(UserWarning, match="lie in no folder of a class"):  # those of `..`
        assert cli.main(command_of(tmp_path / "data.zip", tmp_path / "deep" / "out")) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"data.zip", "deep"}
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"out", "pictures.sqlite"}
    saved = [p.relative_to(tmp_path / "deep" / "out" / "support_set") for p in tmp_path.rglob("support_set/*/*.png")]
    assert len(saved) == 4 and all(check_name(p.parts[0], "A class") for p in saved)

@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x1fb", "\udcff"])
def test_a_class_that_no_prompt_can_say_is_refused(name, tmp_path):
    refused(lambda: Labelled(np.zeros((1, 8, 8, 3), np.uint8), [0], (name, "dog")), repr(name), "folder")

def test_a_folder_that_no_prompt_can_say_is_refused(tmp_path, capsys):
    archive_of(tmp_path / "data.zip", ["a\nb", "dog"])
    assert cli.main(command_of(tmp_path / "data.zip", tmp_path / "out")) == 2
    assert r"'a\nb'" in capsys.readouterr().err and not (tmp_path / "out").exists()

def test_a_set_can_be_drawn(task):
    assert len(support_figure(draw_all(task, random_prompts(task, 0)), 5).axes) == 5


# Bad input

def test_settings_say_what_is_wrong():
    for bad, *words in (
        ({"arms": ("luck",)}, "'luck'", "best-of-n"),
        ({"arms": ("random", "best-of-n")}, "best-of-n", "name ours"),
        ({"test_classifiers": ()}, "empty"),
        ({"reward_classifier": "vgg"}, "'vgg'", "vgg16"),
        ({"max_images": 3}, "3", "step of 4"),
        ({"tail": .5}, "tail", "1 or more"),
        ({"domains": ()}, "domain"),
        ({"real": 0}, "real"),
        ({"classes": ("dog", "dog")}, "'dog'", "twice"),
        ({"episodes": -1}, "episodes"),
    ):
        refused(lambda: SupportSettings(**bad), *words)

@pytest.mark.parametrize(
    "options, words",
    [
        (["--classes", "dog", "unicorn"], ["'unicorn'"]),
        (["--classes", "dog"], ["one class only"]),
        (["--max-images", "3"], ["smaller than a step"]),
        (["--data", "nowhere"], ["nowhere"]),
        (["--tail", "90"], ["long tail"]),
        (["--epochs", "0"], ["epochs", "1 or more"]),
        (["--test-classifiers", "alexnet"], ["'alexnet'"]),
        (["--domains", "photo", "photo"], ["'photo'", "twice"]),
    ],
)
def test_the_command_answers_bad_input_with_one_sentence_and_leaves_nothing(options, words, tmp_path, capsys):
    assert cli.main(["support", *options, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and all(w in error for w in words), error
    assert not (tmp_path / "run").exists()

def test_a_folder_with_one_class_or_too_few_pictures_is_refused(tmp_path, capsys):
    for name, classes, n, words in (("one", ("cat",), 20, "2"), ("few", ("cat", "dog"), 2, "2 images")):
        assert (
            cli.main([
                "support",
                "--data",
                str(folder_of_pictures(tmp_path / name, classes, n)),
                "--out",
                str(tmp_path / f"run {name}"),
            ])
            == 2
        )
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and words in error, error

def test_the_command_runs_from_several_seeds(tmp_path, store, capsys):
    options = [
        "--classes",
        *WORDS,
        "--validation",
        "3",
        "--test",
        "5",
        "--episodes",
        "1",
        "--per-step",
        "4",
        "--max-images",
        "8",
        "--test-classifiers",
        "probe",
        "--arms",
        "pretrained",
        "ours",
        "--inference-steps",
        "2",
        "--store",
        str(store),
        "--json",
    ]
    assert cli.main(["support", *options, "--seeds", "2", "--out", str(tmp_path / "study")]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["arm"]: row["runs"] for row in last["table"]} == {"pretrained": 2, "ours": 2}
    assert cli.main(["support", *options, "--out", str(tmp_path / "one")]) == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"]) == {"pretrained", "ours"}
    assert (
        cli.main([
            "support",
            *options,
            "--test-classifiers",
            "small",
            "--epochs",
            "2",
            "--updates",
            "4",
            "--out",
            str(tmp_path / "one"),
        ])
        == 0
    )
    assert set(json.loads((tmp_path / "one" / "tests.json").read_text(encoding="utf-8"))) == {
        "probe pretrained",
        "probe ours",
        "small pretrained, 2 epochs, 4 updates, learning rate 0.002",
        "small ours, 2 epochs, 4 updates, learning rate 0.002",
    }
