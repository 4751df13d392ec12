"The quality of a clone: what is compared with what, nothing leaks, a killed study goes on, the tables, bad input."
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from refusals import refused

from rlgen.clone.plan import Plan, balance
from rlgen.clone.shards import labelled_clone, status
from rlgen.data.labelled import SHIFTS, Labelled, small
from rlgen.experiments import clone_quality as experiment
from rlgen.experiments.clone_quality import (
    CloneQualityResult,
    CloneQualitySettings,
    accuracy_table,
    clone_config,
    clone_figure,
    clone_quality_study,
    clone_quality_text,
    cross_test,
    distance_table,
    quality,
    real_sets,
)
from rlgen.models.loading import ModelSettings
from rlgen.runs import Run
from rlgen.statistics import Interval, mean_interval

pytestmark = pytest.mark.filterwarnings("ignore:.*images are too few for a Fréchet distance")
SMALL = CloneQualitySettings(
    classes=("dog", "bus", "tree"), train=8, val=3, backbone="small", epochs=2,
    models=ModelSettings(inference_steps=3, device="cpu"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")

@pytest.fixture(scope="module")
def runs(folder):
    return clone_quality_study(folder, SMALL, range(2))

@pytest.fixture(scope="module")
def results(runs):
    assert [s.seed for s, _ in runs] == [0, 1]
    return [result for _, result in runs]


def test_a_run_clones_and_compares(results):
    result = results[0]
    done = status(f"{result.folder}/clone", verify=True)
    assert done.complete and done.wanted == {"train": 24, "val": 9}
    assert (
        [(r["data"], r["reference"]) for r in result.distances]
        == [(d, r) for d in ("clone", "real") for r in ("real", *SHIFTS)]
    )
    assert all(r["pictures"] == r["of reference"] == 24 for r in result.distances)
    assert {name: list(tests) for name, tests in result.accuracy.items()} == {
        "clone": ["clone val", "real train, a sample", "real val", "sketch", "rendition", "crops"],
        "real": ["clone val", "real val", "sketch", "rendition", "crops"],
    }
    assert all(0 <= a <= 1 for tests in result.accuracy.values() for a in tests.values())
    of = {(r["data"], r["reference"]): r["FID by tiny CLIP"] for r in result.distances}
    assert of["real", "real"] < min(of["real", s] for s in SHIFTS) and of["clone", "real"] < of["clone", "sketch"]
    assert "run folder" in str(result) and "FID by tiny CLIP" in str(result)

def test_a_finished_run_is_not_run_again_and_a_killed_one_goes_on(results, folder, monkeypatch):
    first = results[0]
    monkeypatch.setattr(experiment, "clone_dataset", None)
    assert quality(SMALL, first.folder) == first
    monkeypatch.undo()
    where = Path(first.folder)
    before = {p: p.stat().st_mtime_ns for p in (where / "clone").rglob("*.parquet")}
    (where / "result.json").unlink()
    known = json.loads((where / "tests.json").read_text(encoding="utf-8"))
    del known["real"]
    (where / "tests.json").write_text(json.dumps(known))
    trained = []
    fit = experiment.Network.fit
    monkeypatch.setattr(
        experiment.Network,
        "fit",
        lambda self, inputs, labels, **more: trained.append(len(labels)) or fit(self, inputs, labels, **more),
    )
    again = quality(SMALL, first.folder)
    assert replace(again, seconds=first.seconds) == first and trained == [24]
    assert {p: p.stat().st_mtime_ns for p in (where / "clone").rglob("*.parquet")} == before

def test_another_run_in_the_folder_is_refused(results):
    refused(lambda: quality(replace(SMALL, epochs=3), results[0].folder), "another config", "epochs")


def test_seeds_make_other_clones_and_other_real_pictures(results):
    a, b = (labelled_clone(f"{r.folder}/clone")[0] for r in results)
    assert not {p.tobytes() for p in a.images} & {p.tobytes() for p in b.images}
    assert results[0].distances != results[1].distances

def test_no_real_picture_is_in_two_sets():
    for s in (SMALL, CloneQualitySettings(train=7, val=5, seed=2)):
        sets = real_sets(s)
        assert list(sets) == ["real", "real val", "new real", *SHIFTS]
        assert [set(sets[name].counts) for name in ("real", "real val", "new real")] == [{s.train}, {s.val}, {s.train}]
        assert all(len(data) == s.train * len(s.classes) for name, data in sets.items() if name != "real val")
        seen = {name: {p.tobytes() for p in data.images} for name, data in sets.items()}
        assert not any(seen[a] & seen[b] for a, b in combinations(seen, 2))

def test_the_clone_has_the_shares_of_the_real_scenes():
    config = clone_config(CloneQualitySettings(train=40), "x")
    plan = Plan(**{name: config[name] for name in ("splits", "classes", "templates", "axes", "seed")})
    found = balance(plan).query("split == 'train'").set_index(["axis", "label"])["found"]
    assert (
        found["weather", ""] == pytest.approx(.7, abs=.01)
        and found["frequency", "one"] == pytest.approx(.5)
        and found["time", "at dawn"] == pytest.approx(.1, abs=.01)
    )
    from rlgen.scenes import read_prompt
    labels = plan.prompt(
        "dog", {"frequency": "many", "density": "no", "weather": "", "scene": "beach", "time": "at noon"}
    )
    assert (
        read_prompt(labels)
        == {"Frequency": "many", "Noun": "dog", "Density": "no", "Scene": "beach", "Time": "noon", "modifiers": ()}
    )


# Table 2

def striped(n, shift, classes=("a", "b"), seed=0):
    "Pictures that are bright on the left or on the right; with `shift` the labels are the other way round."
    r = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    p = r.integers(0, 60, (n, 16, 16, 3), np.uint8)
    for k, q in zip(labels, p, strict=True):
        q[slice(0, 8) if (k + shift) % 2 else slice(8, 16)] += 150
    return Labelled(p, labels, classes)

def test_who_is_trained_on_what(tmp_path):
    "In the one world the label means the opposite of what it means in the other."
    made, real = (striped(60, 0, seed=1), striped(40, 0, seed=2)), (striped(60, 1, seed=3), striped(40, 1, seed=4))
    found = cross_test(
        made,
        real,
        CloneQualitySettings(backbone="small", epochs=12, val=10),
        tmp_path / "tests.json",
        {"more": striped(20, 0, seed=5)},
    )
    assert found == json.loads((tmp_path / "tests.json").read_text(encoding="utf-8"))
    clone, real = found["clone"], found["real"]
    assert min(clone["clone val"], clone["more"], real["real val"]) > .9
    assert max(clone["real val"], clone["real train, a sample"], real["clone val"], real["more"]) < .1

def test_sets_that_do_not_go_together_are_refused(tmp_path):
    a, other = striped(20, 0), striped(20, 0, ("a", "c"))
    refused(lambda: cross_test((a, a), (a, other), SMALL, tmp_path / "x.json"), "do not go together")
    assert not (tmp_path / "x.json").exists()

def test_the_sample_is_of_the_real_training_set(tmp_path, monkeypatch):
    real = striped(30, 0, seed=3)
    asked = []
    monkeypatch.setattr(
        experiment,
        "small",
        lambda data, sizes, seed: asked.append((data, list(sizes), seed)) or small(data, sizes, seed),
    )
    cross_test(
        (real, real),
        (real, real),
        CloneQualitySettings(backbone="small", epochs=1, val=20, seed=6),
        tmp_path / "t.json",
    )
    assert asked[0][0] is real and asked[0][1:] == ([15, 15], 6)  # as many as there are


# Tables

def test_the_tables_are_means_over_the_seeds(runs, results):
    table = distance_table(runs)
    assert table[["data", "reference"]].values.tolist() == [[r["data"], r["reference"]] for r in results[0].distances]
    for i, row in table.iterrows():
        assert row["FID by tiny CLIP"] == mean_interval([r.distances[i]["FID by tiny CLIP"] for r in results])
    assert table["CLIP score by tiny CLIP"].map(lambda x: isinstance(x, Interval)).tolist() == [True] * 5 + [False] * 5
    second = accuracy_table(runs)
    assert (
        second.loc[0, "accuracy"].estimate
        == pytest.approx(100 * np.mean([r.accuracy["clone"]["clone val"] for r in results]))
        and len(second) == 11
    )
    assert "nan" not in clone_quality_text(table) and len(clone_quality_text(second).splitlines()) == 12
    refused(lambda: distance_table(runs[:1]), "2 runs or more")

def test_the_sheet_shows_every_set(results):
    assert len(clone_figure(f"{results[0].folder}/clone", real_sets(SMALL), 3).axes) == 3 * (2 + len(SHIFTS))

def test_results_are_kept_as_they_are(results):
    run = Run(results[1].folder)
    names = vars(results[1])
    assert CloneQualityResult(**{name: run.result[name] for name in names}) == results[1]
    assert run.kind == "clone quality" and run.result["unique_generator_calls"] == 33

def test_the_device_decides_no_run(results):
    again = quality(replace(SMALL, models=ModelSettings(inference_steps=3)), results[0].folder)
    assert again.distances == results[0].distances


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"classes": ("dog", "unicorn")}, ["'unicorn'"]),
        ({"classes": ("dog",)}, ["2 or more"]),
        ({"classes": ("dog", "dog")}, ["each once"]),
        ({"train": 3}, ["train is 3", "4 or more"]),
        ({"val": 0}, ["val is 0"]),
        ({"val": 41}, ["must not be larger"]),
        ({"backbone": "alexnet"}, ["'alexnet'", "resnet18"]),
        ({"seed": -1}, ["seed"]),
    ],
)
def test_settings_say_what_is_wrong(bad, words):
    refused(lambda: CloneQualitySettings(**bad), *words)
