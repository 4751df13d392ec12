"""Clones of data sets: balance, manifests that decide everything, shards that survive kills,
flipped bits and full disks, and Ray.
"""
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from refusals import refused

from rlgen import cli
from rlgen.clone import shards
from rlgen.clone.engines import Estimate, load_manifest_generator, make, make_ray, measure_batch
from rlgen.clone.forecast import Blank
from rlgen.clone.manifest import SCHEMA, Manifest, manifest_rows, seed_of, write_manifest
from rlgen.clone.plan import IMAGENET_SPLITS, Plan, assign_labels, association, balance, balanced_labels, class_names
from rlgen.clone.run import check_config, clone_dataset, estimate, make_plan, read_config
from rlgen.clone.shards import CLONE_FORMATS, Output, generate_batches, scan, status
from rlgen.files import file_names
from rlgen.grammar import Grammar
from rlgen.images import image_hash
from rlgen.models.generator import Generator
from rlgen.models.served import RemoteGenerator

ODD = ("dog", "a/b", "a_b", "../up", "Cardigan", "cardigan", ".hidden", "jack-o'-lantern")


class Fake:
    "Pictures of noise that the seed decides; writes down what it drew."
    batch_size = 4

    def __init__(self, diary=None, stop=None, model="fake"):
        self.diary, self.stop, self.settings, self.batches = diary, stop, {"model": model, "steps": 4}, []

    def generate(self, prompts, seeds, negative=None):
        if self.stop is not None and len(self.batches) >= self.stop: raise KeyboardInterrupt
        self.batches.append((list(prompts), list(seeds), negative))
        if self.diary:
            with open(self.diary, "a") as file:
                file.write("".join(f"{s}\n" for s in dict.fromkeys(seeds)))
        return [Image.fromarray(np.random.default_rng(s).integers(0, 256, (6, 8, 3), np.uint8)) for s in seeds]

@pytest.fixture
def plan():
    return Plan({"train": 5, "val": 2}, ODD)

@pytest.fixture
def manifest(tmp_path, plan):
    return write_manifest(tmp_path / "manifest.parquet", plan, Fake(), {"name": "fake"}, batch=4)

def rows_of(folder, manifest, format="parquet"):
    "Every image that is there: [(uid, hash of pixels, class)]; decodes each."
    output, found = Output(folder, format, "png", manifest.classes), []
    for path in output.files():
        for row, data in output.rows(path):
            assert image_hash(Image.open(io.BytesIO(data))) == row["pixels"]
            found.append((row["uid"], row["pixels"], row["class"]))
    return sorted(found)

def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << place % 8
    path.write_bytes(data)


# Plans

weights = st.lists(st.integers(1, 20), min_size=1, max_size=6)

@settings(max_examples=60, deadline=None)
@given(weights, st.integers(1, 12), st.integers(1, 30), st.integers(0, 9))
def test_quotas_hold_in_every_class_and_in_all_together(w, classes, n, seed):
    shares = np.array(w) / sum(w)
    counts = np.stack(
        [np.bincount(row, minlength=len(w)) for row in balanced_labels(shares, classes, n, np.random.default_rng(seed))]
    )
    assert (counts.sum(1) == n).all()
    assert (abs(counts - shares * n) < 1 + 1e-9).all()
    assert (abs(counts.sum(0) - shares * n * classes) < 2).all()

def test_even_shares_are_even_in_all_classes_together_with_one_picture_each():
    counts = np.bincount(balanced_labels(np.full(4, .25), 102, 1, np.random.default_rng(0)).ravel())
    assert sorted(counts) == [25, 25, 26, 26]

def test_axes_do_not_follow_each_other_or_the_class():
    plan = Plan(
        {"train": 1}, tuple(map(str, range(900))), ("{class} {a} {b}",), axes={"a": list("xyz"), "b": list("uvw")}
    )
    assert association(plan, "train")["a", "b"] < .1

def test_balance_reports_what_the_manifest_says(plan):
    plan = Plan(
        {"train": 7},
        ("dog", "cat", "bus"),
        ("a {class} in {weather}",),
        axes={"weather": {"rain": 1, "snow": 3, "fog": 0}},
    )
    table = balance(plan)
    assert list(table.label) == ["rain", "snow"] and list(table.wanted) == [.25, .75]
    counts = Counter(p.rpartition(" ")[2] for t in manifest_rows(plan, "m", "0") for p in t["prompt"].to_pylist())
    assert [counts[label] / 21 for label in table.label] == pytest.approx(list(table.found))
    assert list(table.least) == [1, 5] and list(table.most) == [2, 6]

def test_one_more_split_axis_or_class_leaves_the_rest():
    plan = Plan({"train": 9}, ("dog", "cat"), ("a {class} in {weather}",), axes={"weather": ["rain", "snow"]})
    more = Plan(
        {"val": 3, "train": 9},
        ("dog", "cat", "bus"),
        ("a {tone} {class} in {weather}",),
        axes={"tone": ["pale", "dark"], "weather": ["rain", "snow"]},
    )
    assert (assign_labels(plan, "train")["weather"] == assign_labels(more, "train")["weather"][:2]).all()
    assert not (
        assign_labels(plan, "train")["weather"] == assign_labels(replace(plan, seed=1), "train")["weather"]
    ).all()

def test_several_templates_take_turns():
    plan = Plan({"train": 4}, ("dog", "cat"), ("a photo of a {class}", "a drawing of a {class}"))
    prompts = Counter(p for t in manifest_rows(plan, "m", "0") for p in t["prompt"].to_pylist())
    assert prompts == {f"a {what} of a {name}": 2 for what in ("photo", "drawing") for name in ("dog", "cat")}

def test_prompts_of_a_grammar_belong_to_it_and_have_their_class():
    grammar = Grammar.scenes()
    plan = Plan({"train": 12}, grammar=grammar.text, axes={"Scene": {"farm": 1, "beach": 2}})
    assert len(plan.classes) == 20
    for row in pa.concat_tables(manifest_rows(plan, "m", "0")).to_pylist():
        assert grammar.labels(grammar.encode(row["prompt"]))["Noun"] == row["class"]
    assert (
        Counter(r["prompt"].split()[-1] for t in manifest_rows(plan, "m", "0") for r in t.to_pylist())
        == {"farm": 80, "beach": 160}
    )

@pytest.mark.parametrize(
    "change, words",
    [
        ({"classes": ()}, ["no class"]),
        ({"classes": ("dog", "dog")}, ["'dog'", "twice"]),
        ({"classes": ("dog", " ")}, ["no name"]),
        ({"classes": ("dog", "a\nb")}, ["printable"]),
        ({"splits": {}}, ["splits"]),
        ({"splits": {"train": 0}}, ["train", "1 or more"]),
        ({"splits": {"a/b": 1}}, ["'a/b'", "letters"]),
        ({"splits": {"train": 2.5}}, ["2.5"]),
        ({"axes": {"weather": ["rain", "snow"]}}, ["{weather}"]),
        ({"templates": ("a photo",)}, ["{class}"]),
        ({"templates": ("a {class} {age}",)}, ["{age}"]),
        ({"templates": ("a {class",)}, ["braces"]),
        ({"templates": ("a {class!r}",)}, ["braces"]),
        ({"templates": ("a {class.__doc__}",)}, ["class"]),
        ({"axes": {"weather": []}}, ["weather"]),
        ({"axes": {"weather": {"rain": -1}}}, ["-1"]),
        ({"axes": {"weather": {"rain": 0}}}, ["above 0"]),
        ({"axes": {"weather": ["rain", "rain"]}}, ["twice"]),
        ({"axes": {"weather": {"rain": float("nan")}}}, ["nan"]),
        ({"axes": {"weather": [1]}}, ["no text"]),
        ({"seed": 1.5}, ["seed"]),
        ({"negative": None}, ["negative"]),
        ({"grammar": Grammar.scenes().text}, ["'plane'", "nearest"]),
        ({"grammar": Grammar.scenes().text, "class_axis": "Thing"}, ["'Thing'"]),
        ({"grammar": Grammar.scenes().text, "classes": ("dog",), "axes": {"Weather": ["rainy"]}}, ["'Weather'"]),
    ],
)
def test_plans_that_cannot_be_are_refused(change, words):
    refused(lambda: Plan(**{"splits": {"train": 3}, "classes": ("dog", "plane"), **change}), *words)

def test_class_lists():
    names, hundred = class_names("imagenet"), class_names("imagenet-100")
    assert len(set(names)) == 1000 and len(set(hundred)) == 100 and set(hundred) < set(names)
    assert (
        {"robin", "Chihuahua", "ambulance", "stinkhorn", "pineapple", "vacuum"} < set(hundred)
        and "tench" not in hundred
    )
    assert Plan(IMAGENET_SPLITS, names).rows == 1_508_000 + 56_000 + 100_000
    assert len({n.casefold() for n in file_names(names).values()}) == 1000

def test_classes_of_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("dog\n\n cat \n")
    assert class_names(str(tmp_path / "names.txt")) == ("dog", "cat")
    refused(lambda: class_names("nothing.txt"), "nothing.txt", kind=FileNotFoundError)


# The manifest

def test_a_manifest_is_decided_by_its_plan_and_model_alone(tmp_path, plan, manifest):
    again = write_manifest(tmp_path / "again.parquet", plan, Fake(), {"name": "elsewhere"}, batch=4, group=3)
    assert again.groups > manifest.groups and (again.uids() == manifest.uids()).all()
    for change in (
        {"plan": replace(plan, seed=1)},
        {"generator": Fake(model="other")},
        {"batch": 8},
        {"plan": replace(plan, negative="ugly")},
    ):
        other = write_manifest(tmp_path / "other.parquet", **{"plan": plan, "generator": Fake(), "batch": 4, **change})
        assert not set(other.uids()) & set(manifest.uids())

def test_rows_have_the_columns_and_seeds_of_their_uids(manifest, plan):
    rows = pa.concat_tables(manifest.tables()).to_pylist()
    assert list(rows[0]) == ["uid", "class", "split", "prompt", "negative", "seed", "model", "settings"]
    assert len(rows) == plan.rows == len({r["uid"] for r in rows}) == len({r["seed"] for r in rows})
    assert all(
        r["seed"] == seed_of(r["uid"])
        and 0 <= r["seed"] < 2**32  # all that PyTorch's generator on the CPU reads
        and len(r["uid"]) == 32
        and r["settings"] == manifest.settings
        for r in rows
    )
    assert Counter((r["split"], r["class"]) for r in rows) == {(s, c): n for s, n in plan.splits.items() for c in ODD}
    assert {r["class"] for r in rows[:8]} == set(ODD)  # every stretch holds all classes

def test_the_file_says_under_its_key_what_it_is_for(manifest):
    "Keys of a file format, which stay whatever the modules are called."
    metadata = pq.read_schema(manifest.path).metadata
    assert set(metadata) == {b"rlgen.clone"}
    assert set(json.loads(metadata[b"rlgen.clone"])) == {"plan", "settings", "load", "batch"}

def test_a_large_manifest_is_written_a_group_at_a_time(monkeypatch):
    plan, made = Plan({"train": 1000}, tuple(map(str, range(1000)))), []
    monkeypatch.setattr(Plan, "prompt", lambda self, name, labels: made.append(1) or name)
    assert len(next(manifest_rows(plan, "m", "0", group=100))) == len(made) == 100

def test_duplicate_uids_are_refused(tmp_path, manifest):
    table = pq.read_table(manifest.path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 2)]), tmp_path / "twice.parquet")
    refused(lambda: make(Manifest(tmp_path / "twice.parquet"), tmp_path / "out", Fake()), "more than once", "2 rows")
    assert not (tmp_path / "out").exists()

def test_a_manifest_for_another_model_is_refused(tmp_path, manifest):
    other = Fake()
    other.settings = {"model": "fake", "steps": 20}
    refused(lambda: make(manifest, tmp_path / "out", other), "another model", "steps (4 there, 20 here)")
    table = pq.read_table(manifest.path)
    mixed = table.set_column(7, "settings", pa.array(["f" * 16] + table["settings"].to_pylist()[1:]))
    pq.write_table(mixed.replace_schema_metadata(table.schema.metadata), tmp_path / "mixed.parquet")
    refused(lambda: make(Manifest(tmp_path / "mixed.parquet"), tmp_path / "out", Fake()), "other settings", "f" * 16)

def test_what_is_no_manifest_is_refused(tmp_path, manifest):
    refused(lambda: Manifest(tmp_path / "none.parquet"), "none.parquet", kind=FileNotFoundError)
    (tmp_path / "text.parquet").write_text("no parquet")
    refused(lambda: Manifest(tmp_path / "text.parquet"), "no Parquet file")
    pq.write_table(pa.table({"uid": ["a"]}), tmp_path / "narrow.parquet")
    refused(lambda: Manifest(tmp_path / "narrow.parquet"), "'class'")
    pq.write_table(pq.read_table(manifest.path).replace_schema_metadata(), tmp_path / "bare.parquet")
    refused(lambda: Manifest(tmp_path / "bare.parquet"), "which model")
    flip(manifest.path, manifest.path.read_bytes().find(b"a photo of") + 3)
    refused(lambda: list(manifest.tables()), "damaged")

@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30))
def test_shards_hold_every_row_once_in_order(tmp_path_factory, size, group):
    path = tmp_path_factory.mktemp("m") / "m.parquet"
    manifest = write_manifest(path, Plan({"train": 6, "val": 3}, ("a", "b", "c")), Fake(), batch=1, group=group)
    shards = list(manifest.shards(size))
    assert sum((t["uid"].to_pylist() for _, t in shards), []) == manifest.uids().astype(str).tolist()
    assert len({name for name, _ in shards}) == len(shards) == -(-18 // size) + -(-9 // size)
    assert all(len(t) <= size and set(t["split"].to_pylist()) == {name.split("-")[0]} for name, t in shards)

@pytest.mark.parametrize("batch", [0, -1, 2.5, True])
def test_a_batch_is_a_whole_number(tmp_path, plan, batch):
    refused(lambda: write_manifest(tmp_path / "m.parquet", plan, Fake(), batch=batch), "batch")


# Drawing and files

def test_batches_are_all_of_one_size_and_one_negative_prompt(manifest):
    table = next(manifest.tables()).slice(0, 11)
    table = table.set_column(4, "negative", pa.array(["a"] * 6 + ["b"] * 5))
    fake = Fake()
    parts = list(generate_batches(fake, table, 4))
    assert [len(part) for part, _ in parts] == [len(pictures) for _, pictures in parts] == [4, 2, 4, 1]
    assert [(len(p), len(s), n) for p, s, n in fake.batches] == [(4, 4, n) for n in "aabb"]

def test_a_batch_that_does_not_fit_is_refused_and_not_made_smaller(manifest):
    fake = Fake()
    fake.batch_size = 2  # as Generator leaves it when memory ran out
    refused(lambda: list(generate_batches(fake, next(manifest.tables()), 4)), "memory", "smaller batch")

def test_a_picture_of_the_tiny_model_does_not_depend_on_its_company(tmp_path):
    tiny = Generator.load("tiny", inference_steps=2, device="cpu", batch_size=4)
    plan = Plan(
        {"train": 1}, ("dog", "cat", "bus", "tree", "boat", "fish"), ("a photo of one {class} and no people in farm",)
    )
    table = next(write_manifest(tmp_path / "m.parquet", plan, tiny, {"name": "tiny"}, batch=4).tables())
    def hashes(rows):
        return {
            u: image_hash(p)
            for part, pictures in generate_batches(tiny, rows, 4)
            for u, p in zip(part["uid"].to_pylist(), pictures, strict=True)
        }
    whole = hashes(table)
    assert len(set(whole.values())) == 6
    assert hashes(table.take([5, 0, 3])) == {u: whole[u] for u in table.take([5, 0, 3])["uid"].to_pylist()}

@pytest.mark.parametrize("format", CLONE_FORMATS)
@pytest.mark.parametrize("encoding", ["png", "jpeg", "webp"])
def test_what_is_written_is_read_again(tmp_path, manifest, format, encoding):
    done = make(manifest, tmp_path / "out", Fake(), format, encoding, shard=8)
    assert done.complete and done.done == {"train": 40, "val": 16} and done.shards == 7
    assert status(tmp_path / "out", verify=True).complete and done.size > 0
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")]

@pytest.mark.parametrize("name", ODD)
def test_pictures_of_odd_classes_stay_in_the_folder(tmp_path, manifest, name):
    make(manifest, tmp_path / "out", Fake(), "folder")
    folder = tmp_path / "out" / "train" / file_names(ODD)[name]
    assert folder.resolve().parent == (tmp_path / "out" / "train").resolve() and len(list(folder.glob("*.png"))) == 5
    assert (
        len(list((tmp_path / "out").glob("train/*"))) == 8
        and sorted(p.name for p in tmp_path.iterdir()) == ["manifest.parquet", "out"]
    )

@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=12), st.text(min_size=1, max_size=12))
def test_file_names_are_safe_and_different(a, b):
    names = file_names({a, b})
    assert len({n.casefold() for n in names.values()}) == len({a, b})
    assert all(n and not set(n) & set("/\\.:*?\"<>|\0") for n in names.values())

def test_a_webdataset_has_the_parts_of_each_sample(tmp_path, manifest):
    import tarfile
    make(manifest, tmp_path / "out", Fake(), "webdataset")
    with tarfile.open(tmp_path / "out" / "data" / "val-000000.tar") as tar:
        names = tar.getnames()
    assert (
        len(names) == 64
        and [n.split(".")[1] for n in names[:4]] == ["json", "txt", "cls", "png"]
        and len({n.split(".")[0] for n in names[:4]}) == 1
    )

# What other libraries read

@pytest.fixture
def as_written(manifest):
    "What a reader has to find: key -> class, prompt and pixels."
    rows = pa.concat_tables(manifest.tables()).to_pylist()
    images = Fake().generate([row["prompt"] for row in rows], [row["seed"] for row in rows])
    return {row["uid"]: (row["class"], row["prompt"], image.tobytes()) for row, image in zip(rows, images, strict=True)}

# folder names with = are columns to those who read a folder of Parquet
ODD_FOLDERS = ["out", "year=2026/split=none/class=0/uid=1"]

@pytest.mark.parametrize("folder", ODD_FOLDERS)
def test_webdataset_reads_what_was_written(tmp_path, manifest, as_written, folder):
    wds = pytest.importorskip("webdataset")
    make(manifest, tmp_path / folder, Fake(), "webdataset", shard=8)
    output, found = Output(tmp_path / folder, "webdataset", "png", manifest.classes), {}
    for sample in wds.WebDataset([str(p) for p in output.files()], shardshuffle=False).decode("pil"):
        found[sample["__key__"]] = ODD[sample["cls"]], sample["txt"], sample["png"].tobytes()
        assert sample["json"]["class"] == ODD[sample["cls"]] and sample["json"]["uid"] == sample["__key__"]
    assert found == as_written

@pytest.mark.parametrize("format", ["parquet", "webdataset"])
@pytest.mark.parametrize("folder", ODD_FOLDERS)
def test_datasets_reads_what_was_written(tmp_path, manifest, as_written, folder, format):
    datasets = pytest.importorskip("datasets")
    make(manifest, tmp_path / folder, Fake(), format, shard=8)
    files = [str(p) for p in Output(tmp_path / folder, format, "png", manifest.classes).files()]
    table = datasets.load_dataset(format, data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    if format == "parquet":
        table = table.cast_column("image", datasets.Image())
        found = {row["uid"]: (row["class"], row["prompt"], row["image"].tobytes()) for row in table}
    else:
        found = {row["__key__"]: (ODD[row["cls"]], row["txt"], row["png"].tobytes()) for row in table}
    assert found == as_written and len(table) == len(found)

@pytest.mark.parametrize("folder", ODD_FOLDERS)
def test_pyarrow_and_pandas_read_what_was_written(tmp_path, manifest, as_written, folder):
    import pandas as pd
    make(manifest, tmp_path / folder, Fake(), shard=8)
    data = tmp_path / folder / "data"
    for table in (pq.read_table(data).to_pandas(), pd.concat(map(pd.read_parquet, sorted(data.glob("*.parquet"))))):
        pixels = [Image.open(io.BytesIO(image)).tobytes() for image in table["image"]]
        found = dict(zip(table["uid"], zip(table["class"], table["prompt"], pixels, strict=True), strict=True))
        assert found == as_written and list(table.columns)[:8] == SCHEMA.names

@pytest.mark.parametrize("format", CLONE_FORMATS)
def test_folders_with_an_equals_sign(tmp_path, manifest, format):
    path = tmp_path / "class=0" / "uid=1" / "manifest.parquet"
    path.parent.mkdir(parents=True)
    shutil.copy(manifest.path, path)
    make(manifest, tmp_path / "whole", Fake(), format, shard=8)
    with pytest.raises(KeyboardInterrupt):
        make(Manifest(path), path.parent / "split=x", Fake(stop=5), format, shard=8)
    assert make(Manifest(path), path.parent / "split=x", Fake(), format, shard=8).complete
    assert rows_of(path.parent / "split=x", manifest, format) == rows_of(tmp_path / "whole", manifest, format)

@pytest.mark.parametrize("format", CLONE_FORMATS)
def test_a_flipped_bit_is_found_or_does_no_harm(tmp_path, manifest, format):
    make(manifest, tmp_path / "out", Fake(), format, shard=8)
    output, whole = (
        Output(tmp_path / "out", format, "png", manifest.classes),
        rows_of(tmp_path / "out", manifest, format),
    )
    files = [
        output.path("val-000001"),
        *([next((tmp_path / "out" / "val").rglob("*.png"))] if format == "folder" else []),
    ]
    found = 0
    for path in files:
        data = path.read_bytes()
        for place in np.random.default_rng(0).integers(len(data), size=60).tolist():
            flip(path, place)
            if scan(output)[1]:
                found += 1
            else:
                assert rows_of(tmp_path / "out", manifest, format) == whole
            path.write_bytes(data)
    assert found > 20


# The local engine

@pytest.mark.parametrize("format", CLONE_FORMATS)
@pytest.mark.parametrize("stop", [0, 1, 4, 9, 13])
def test_killed_after_any_batch_a_rerun_makes_what_is_missing(tmp_path, manifest, format, stop):
    whole = make(manifest, tmp_path / "whole", Fake(), format, shard=8)
    with pytest.raises(KeyboardInterrupt):
        make(manifest, tmp_path / "out", Fake(stop=stop), format, shard=8)
    assert status(tmp_path / "out").done == {"train": min(stop // 2 * 8, 40), "val": max(0, stop // 2 * 8 - 40)}
    rest = Fake()
    assert make(manifest, tmp_path / "out", rest, format, shard=8).complete and whole.complete
    assert len(rest.batches) == 14 - stop // 2 * 2
    assert rows_of(tmp_path / "out", manifest, format) == rows_of(tmp_path / "whole", manifest, format)
    assert not make(manifest, tmp_path / "out", nothing := Fake(), format, shard=8).damaged and not nothing.batches

SLOW = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_clone import Fake
from rlgen.clone.engines import make; from rlgen.clone.manifest import Manifest
class Slow(Fake):
    def generate(self, *args):
        time.sleep(.05)
        return super().generate(*args)
make(Manifest(sys.argv[2]), sys.argv[3], Slow(), "folder", shard=4)
"""

def test_a_process_that_is_killed_leaves_whole_shards(tmp_path, manifest):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(Path(__file__).parent), str(manifest.path), str(tmp_path / "out")]
    )
    while not list((tmp_path / "out").glob("index/train-000003*")) and process.poll() is None:
        time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    there = status(tmp_path / "out", verify=True)
    assert 12 <= there.done["train"] < 40 and not there.damaged
    (tmp_path / "out" / "index" / ".train-000009.parquet.0a1b2c3d.tmp").write_text("what a kill may leave")
    rest = Fake()
    assert make(manifest, tmp_path / "out", rest, "folder", shard=4).complete
    assert len(rest.batches) == 14 - there.done["train"] // 4 and not list((tmp_path / "out").rglob("*.tmp"))

@pytest.mark.parametrize("name", ["manifest.parquet", "of [two].parquet"])
def test_the_next_manifest_removes_what_a_killed_one_left(tmp_path, monkeypatch, name):
    path, other = tmp_path / "out" / name, tmp_path / "out" / ".other.parquet.0a1b2c3d.tmp"
    (tmp_path / "out").mkdir()
    other.write_text("of another process")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a process that is killed removes nothing
        patch.setattr("rlgen.clone.manifest.manifest_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        write_manifest(path, Plan({"train": 2}, ("dog",)), Fake(), batch=4)
    assert len(list((tmp_path / "out").glob("*.tmp"))) == 2 and not path.exists()
    write_manifest(path, Plan({"train": 2}, ("dog",)), Fake(), batch=4)
    assert set((tmp_path / "out").iterdir()) == {path, other}

def test_a_clone_removes_what_a_kill_left_of_its_manifest(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("manifest.parquet", "clone.json"):
        (tmp_path / "out" / f".{name}.0a1b2c3d.tmp").write_text("what a kill may leave")
    config = {"out": str(tmp_path / "out"), "classes": ["dog"], "splits": {"train": 4}, "batch_size": 4, "shard": 4}
    assert clone_dataset(config, Fake()).complete and not list((tmp_path / "out").rglob("*.tmp"))

@pytest.mark.parametrize("format", CLONE_FORMATS)
def test_damaged_shards_are_made_again_and_no_others(tmp_path, manifest, format):
    make(manifest, tmp_path / "out", Fake(), format, shard=8)
    whole, output = (
        rows_of(tmp_path / "out", manifest, format),
        Output(tmp_path / "out", format, "png", manifest.classes),
    )
    cut = output.path("val-000000")
    # at a block, where an archive could end
    cut.write_bytes(cut.read_bytes()[:cut.stat().st_size * 2 // 3 // 512 * 512])
    if format == "folder":
        next((tmp_path / "out" / "train").rglob("*.png")).unlink()
    else:
        flip(output.path("train-000002"), output.path("train-000002").read_bytes().find(b"IDAT") + 40)
    assert len(status(tmp_path / "out", verify=True).damaged) == 2
    with pytest.warns(UserWarning, match="made again"):
        result = make(manifest, tmp_path / "out", rest := Fake(), format, shard=8)
    assert result.complete and len(rest.batches) == 4 and rows_of(tmp_path / "out", manifest, format) == whole

def test_a_picture_that_is_there_twice_is_removed_once(tmp_path, manifest):
    make(manifest, tmp_path / "out", Fake(), shard=8)
    data = tmp_path / "out" / "data"
    (data / "train-other.parquet").write_bytes((data / "train-000001.parquet").read_bytes())
    assert status(tmp_path / "out").repeated == 8 and not status(tmp_path / "out").complete
    with pytest.warns(UserWarning, match="made again"):
        assert make(manifest, tmp_path / "out", rest := Fake(), shard=8).complete
    assert not rest.batches

@pytest.mark.parametrize("format", CLONE_FORMATS)
@pytest.mark.parametrize("parts, shard", [(1, 4), (2, 8), (3, 16), (5, 56)])
def test_the_same_pictures_in_however_many_parts(tmp_path, manifest, format, parts, shard):
    make(manifest, tmp_path / "whole", Fake(), format)
    for k in range(1, parts + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = make(manifest, tmp_path / "out", Fake(), format, shard=shard, part=(k, parts))
        assert result.complete == (k == parts or -(-40 // shard) + -(-16 // shard) <= k)
    assert rows_of(tmp_path / "out", manifest, format) == rows_of(tmp_path / "whole", manifest, format)

class Full:
    "A file on a disk that has room for so many bytes."
    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if self.file.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

@pytest.mark.parametrize("format", CLONE_FORMATS)
def test_a_full_disk_leaves_earlier_shards_intact(tmp_path, manifest, format, monkeypatch):
    count, plain = [], shards.atomic_write
    @contextmanager
    def crowded(path):
        with plain(path) as file:
            if "000" in Path(path).name:
                count.append(path)
            yield Full(file, 900) if len(count) == 4 else file
    monkeypatch.setattr(shards, "atomic_write", crowded)
    refused(
        lambda: make(manifest, tmp_path / "out", Fake(), format, shard=8),
        "full",
        "train-000003",
        "intact",
        kind=OSError,
    )
    there = status(tmp_path / "out", verify=True)
    assert there.done == {"train": 24, "val": 0} and not there.damaged and not list((tmp_path / "out").rglob("*.tmp"))
    assert make(manifest, tmp_path / "out", rest := Fake(), format, shard=8).complete and len(rest.batches) == 8

def test_a_full_disk_beside_the_index(tmp_path, manifest, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        refused(lambda: make(manifest, tmp_path / "out", Fake(), "folder"), "full", kind=OSError)
    assert make(manifest, tmp_path / "out", Fake(), "folder").complete

def test_a_folder_that_belongs_to_another_clone_is_refused(tmp_path, plan, manifest):
    make(manifest, tmp_path / "out", Fake(), shard=8)
    other = write_manifest(tmp_path / "other.parquet", replace(plan, seed=1), Fake(), batch=4)
    refused(lambda: make(other, tmp_path / "out", Fake(), shard=8), "another clone")
    refused(lambda: make(manifest, tmp_path / "out", Fake(), "folder", shard=8), "another clone", "format")
    refused(lambda: make(manifest, tmp_path / "out", Fake(), shard=16), "shard (8 there, 16 here)")
    assert status(tmp_path / "out", verify=True).complete

def test_a_folder_with_other_things_is_refused(tmp_path, manifest):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    refused(lambda: make(manifest, tmp_path / "full", Fake()), "thesis.txt", "empty folder")
    refused(lambda: make(manifest, tmp_path / "full" / "thesis.txt", Fake()), "is a file")
    (tmp_path / "full" / "clone.json").write_text("{}")
    refused(lambda: make(manifest, tmp_path / "full", Fake()), "clone.json", "damaged")
    refused(lambda: status(tmp_path / "empty"), "no clone", kind=FileNotFoundError)

def test_pictures_of_another_manifest_are_not_deleted(tmp_path, plan, manifest):
    other = write_manifest(tmp_path / "other.parquet", replace(plan, seed=1), Fake(), batch=4)
    make(manifest, tmp_path / "out", Fake(), shard=8)
    make(other, tmp_path / "other", Fake(), shard=8)
    strange = tmp_path / "out" / "data" / "train-strange.parquet"
    strange.write_bytes((tmp_path / "other" / "data" / "train-000000.parquet").read_bytes())
    assert status(tmp_path / "out").strange == 8
    refused(lambda: make(manifest, tmp_path / "out", Fake(), shard=8), "not in the manifest")
    assert strange.exists()

@pytest.mark.parametrize(
    "how, words",
    [
        ({"format": "zip"}, ["'zip'", "webdataset"]),
        ({"encoding": "gif"}, ["'gif'", "png"]),
        ({"shard": 6}, ["multiple", "4"]),
        ({"shard": 0}, ["shard"]),
        ({"part": (3, 2)}, ["3/2"]),
    ],
)
def test_bad_arguments_are_refused(tmp_path, manifest, how, words):
    refused(lambda: make(manifest, tmp_path / "out", Fake(), **how), *words)
    assert not (tmp_path / "out").exists()


# Costs and the config

def test_an_estimate_multiplies():
    e = Estimate(1000, 3.6, 2e6, workers=2)
    assert (e.hours, e.bytes) == (.5, 2e9) and "30.0 minutes on 2 workers" in str(e) and "2.0 GB" in str(e)

def test_costs_are_measured_on_the_first_batch(tmp_path, manifest, capsys):
    class Slow(Fake):
        def generate(self, *args):
            time.sleep(.2)
            return super().generate(*args)
    seconds, size = measure_batch(Slow(), next(manifest.tables()).slice(0, 4), 4, "png")
    assert .05 <= seconds < .5 and 100 < size < 1000
    make(manifest, tmp_path / "out", Fake(), progress=True)
    assert "56 images to generate: about" in capsys.readouterr().err

def test_a_disk_that_will_not_do_is_announced(tmp_path, manifest, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.warns(UserWarning, match="MB more, and .* has 0.0 MB free"):
        assert make(manifest, tmp_path / "out", Fake()).complete

def config_in(folder, **more):
    return {"out": str(folder), "classes": list(ODD), "splits": {"train": 5}, "batch_size": 4, "shard": 8, **more}

def test_a_config_is_read_from_json_and_toml(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(config_in("out")))
    (tmp_path / "c.toml").write_text(
        'out = "out"\nclasses = ' + json.dumps(ODD) + '\nbatch_size = 4\nshard = 8\n[splits]\ntrain = 5\n'
    )
    assert read_config(tmp_path / "c.json") == read_config(tmp_path / "c.toml") == check_config(config_in("out"))

def test_a_config_makes_a_clone_and_goes_on_with_it(tmp_path):
    costs = estimate(config_in(tmp_path / "out"), Fake())
    assert costs.n_images == 40 and [p.name for p in (tmp_path / "out").glob("[!.]*")] == ["manifest.parquet"]
    with pytest.raises(KeyboardInterrupt):
        clone_dataset(config_in(tmp_path / "out"), Fake(stop=2))
    assert estimate(config_in(tmp_path / "out"), Fake()).n_images == 32
    assert clone_dataset(config_in(tmp_path / "out"), rest := Fake()).complete and len(rest.batches) == 8
    refused(lambda: clone_dataset(config_in(tmp_path / "out", splits={"train": 6}), Fake()), "another plan", "splits")
    refused(lambda: clone_dataset(config_in(tmp_path / "out"), Fake(model="other")), "another model", "model")
    given = {
        "out": str(tmp_path / "copy"),
        "manifest": str(tmp_path / "out" / "manifest.parquet"),
        "shard": 16,
        "format": "folder",
    }
    assert clone_dataset(given, Fake(), part=(1, 1)).complete and status(tmp_path / "copy", verify=True).complete

class Bare:
    "A generator that has nothing but `generate`, which takes no negative prompt."
    def generate(self, prompts, seeds):
        return Fake().generate(prompts, seeds)

def test_a_generator_without_settings_needs_a_name(tmp_path):
    refused(lambda: clone_dataset(config_in(tmp_path / "out"), Bare()), "name with a version")
    assert clone_dataset(config_in(tmp_path / "out", model="mine 1"), Bare()).complete
    assert Manifest(tmp_path / "out" / "manifest.parquet").about["settings"] == {"model": "mine 1", "batch": 4}
    refused(lambda: clone_dataset(config_in(tmp_path / "out", model="mine 1"), Fake()), "another model")

def test_served_models_can_make_a_clone(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    def generate(self, prompts, seeds, negative=None):
        assert len(prompts) == 1 and self.settings["model"] == "some-model"
        return Fake().generate(prompts, seeds)
    monkeypatch.setattr(RemoteGenerator, "generate", generate)
    config = {"out": str(tmp_path / "out"), "model": "openai:some-model", "classes": ["dog"], "splits": {"train": 2}}
    assert clone_dataset(config).complete
    manifest = Manifest(tmp_path / "out" / "manifest.parquet")
    assert manifest.batch == 1 and load_manifest_generator(manifest.about["load"]).settings["model"] == "some-model"
    refused(lambda: clone_dataset(config | {"out": str(tmp_path / "b"), "guidance": 3.}), "guidance", "server")

def test_the_model_settings_of_a_config_reach_the_generator(tmp_path):
    config = {"out": str(tmp_path / "out"), "classes": ["dog"], "splits": {"train": 1}, "batch_size": 2, "shard": 2,
              "inference_steps": 2, "dtype": "bfloat16", "guidance": 1.5, "device": "cpu"}
    assert clone_dataset(config).complete
    about = Manifest(tmp_path / "out" / "manifest.parquet").about
    assert about["load"] == {
        "name": "tiny", "inference_steps": 2, "dtype": "bfloat16", "guidance": 1.5, "device": "cpu", "batch_size": 2
    }
    assert [about["settings"][key] for key in ("steps", "dtype", "guidance", "batch")] == [2, "bfloat16", 1.5, 2]

def test_the_generators_own_negative_prompt_is_written_down(tmp_path):
    fake = Fake()
    fake.negative = "ugly"
    assert (
        make_plan(config_in("out"), fake.negative).negative == "ugly"
        and make_plan(config_in("out", negative=""), "ugly").negative == ""
    )
    clone_dataset(config_in(tmp_path / "out"), fake)
    assert {n for _, _, n in fake.batches} == {"ugly"}

@pytest.mark.parametrize(
    "change, words",
    [
        ({"clases": []}, ["'clases'", "classes was meant"]),
        ({"out": ""}, ["out"]),
        ({"splits": None, "manifest": "m.parquet"}, ["manifest", "as well"]),
        ({"engine": "slurm"}, ["'slurm'", "ray"]),
    ],
)
def test_configs_that_cannot_be_are_refused(change, words):
    refused(lambda: check_config(config_in("out") | change), *words)

def test_config_files_that_cannot_be_are_refused(tmp_path):
    for name, text, words in (
        ("a.yaml", "", ["neither"]),
        ("b.json", "{", ["JSON"]),
        ("c.toml", "=", ["TOML"]),
        ("d.json", "[]", ["no table"]),
        ("e.json", '{"out": "x"}', ["splits"]),
    ):
        (tmp_path / name).write_text(text)
        refused(lambda: read_config(tmp_path / name), *words)
    refused(lambda: read_config(tmp_path / "none.json"), "none.json", kind=FileNotFoundError)

def test_a_folder_of_other_things_gets_no_manifest(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    refused(lambda: clone_dataset(config_in(tmp_path), Fake()), "other things")
    refused(lambda: clone_dataset(config_in(tmp_path / "thesis.txt"), Fake()), "is a file")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]

def test_without_ray_its_engine_says_so(tmp_path, manifest, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(lambda: make_ray(manifest, tmp_path / "out"), "rlgen[ray]", kind=ImportError)


def test_the_command_makes_a_clone_and_says_how_far_it_is(tmp_path, capsys):
    (tmp_path / "c.json").write_text(json.dumps({
        "out": str(tmp_path / "out"),
        "classes": ["dog", "bus"],
        "splits": {"train": 2},
        "batch_size": 4,
        "shard": 4,
        "inference_steps": 2,
        "device": "cpu",
    }))
    assert (
        cli.main(["clone", str(tmp_path / "c.json"), "--estimate"]) == 0
        and "4 images" in capsys.readouterr().out
    )
    assert cli.main(["clone", str(tmp_path / "c.json")]) == 0
    capsys.readouterr()
    assert cli.main(["clone", "--status", str(tmp_path / "out"), "--verify"]) == 0
    assert status(tmp_path / "out").complete and str(status(tmp_path / "out", verify=True)) in capsys.readouterr().out

def test_the_command_answers_bad_input_with_one_sentence(tmp_path, capsys):
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "c.json").write_text(json.dumps(config_in(tmp_path / "out")))
    for options, words in (
        ([], "either a PLAN"),
        (["a.json", "--status", "b"], "either a PLAN"),
        ([str(tmp_path / "bad.json")], "JSON"),
        (["none.json"], "none.json"),
        ([str(tmp_path / "c.json"), "--part", "half"], "2/8"),
        (["--status", str(tmp_path / "nowhere")], "nowhere"),
    ):
        assert cli.main(["clone", *options]) == 2, options
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and words in error, error


# Ray

@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not know this file
    ray.init(num_cpus=5, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])

class FakeLoader:
    "Makes fakes in Ray's workers; with a flag file, the first that has drawn two batches takes its process down."
    def __init__(self, diary, flag=None, error=None):
        self.diary, self.flag, self.error = str(diary), flag and str(flag), error

    def __call__(self):
        loader = self
        class InWorker(Fake):
            def generate(self, prompts, seeds, negative=None):
                if loader.error and len(self.batches) == 2: raise ValueError(loader.error)
                if loader.flag and len(self.batches) == 2 and not os.path.exists(loader.flag):
                    Path(loader.flag).touch()
                    os._exit(1)
                return super().generate(prompts, seeds, negative)
        return InWorker(self.diary)

def seeds_in(diary):
    return Counter(map(int, Path(diary).read_text(encoding="utf-8").split()))

@pytest.mark.parametrize("format", CLONE_FORMATS)
def test_ray_makes_the_same_pictures_though_a_worker_dies(tmp_path, manifest, ray, format):
    make(manifest, tmp_path / "whole", Fake(), format)
    result = make_ray(
        manifest,
        tmp_path / "out",
        format,
        shard=8,
        workers=2 if format == "parquet" else 1,
        load=FakeLoader(tmp_path / "diary", tmp_path / "flag"),
    )
    assert result.complete and (tmp_path / "flag").exists() and result.shards > 3
    assert rows_of(tmp_path / "out", manifest, format) == rows_of(tmp_path / "whole", manifest, format)

def test_ray_leaves_out_what_is_there_and_makes_damaged_shards_again(tmp_path, manifest, ray):
    with pytest.raises(KeyboardInterrupt):
        make(manifest, tmp_path / "out", Fake(stop=5), shard=8)
    flip(first := tmp_path / "out" / "data" / "train-000000.parquet", first.read_bytes().find(b"IDAT") + 40)
    with pytest.warns(UserWarning, match="made again"):
        result = make_ray(manifest, tmp_path / "out", shard=8, load=FakeLoader(tmp_path / "diary"))
    assert (
        result.complete
        and len(seeds_in(tmp_path / "diary")) == 48
        and set(seeds_in(tmp_path / "diary").values()) == {1}
    )
    assert (
        make_ray(manifest, tmp_path / "out", shard=8, load=FakeLoader(tmp_path / "none")).complete
        and not (tmp_path / "none").exists()
    )

def test_ray_takes_no_columns_from_folders_with_an_equals_sign(tmp_path, manifest, ray):
    "In front of the manifest, the shards and the checkpoint, with the names of our own columns and with another."
    path = tmp_path / "year=2026" / "class=0" / "split=none" / "uid=1" / "manifest.parquet"
    path.parent.mkdir(parents=True)
    shutil.copy(manifest.path, path)
    make(manifest, tmp_path / "whole", Fake(), shard=8)
    with pytest.raises(KeyboardInterrupt):
        make(Manifest(path), path.parent / "out", Fake(stop=4), shard=8)
    assert make_ray(Manifest(path), path.parent / "out", shard=8, load=FakeLoader(tmp_path / "diary")).complete
    assert len(seeds_in(tmp_path / "diary")) == 40 and set(seeds_in(tmp_path / "diary").values()) == {1}
    assert rows_of(path.parent / "out", manifest) == rows_of(tmp_path / "whole", manifest)

def test_ray_goes_on_after_an_error_that_is_one_sentence(tmp_path, manifest, ray):
    refused(
        lambda: make_ray(
            manifest, tmp_path / "out", shard=8, load=FakeLoader(tmp_path / "diary", error="The model drew NaN.")
        ),
        "The model drew NaN",
    )
    before = status(tmp_path / "out", verify=True)
    assert not before.complete and not before.damaged and not before.repeated
    assert make_ray(manifest, tmp_path / "out", shard=8, load=FakeLoader(tmp_path / "rest")).complete
    assert len(seeds_in(tmp_path / "rest")) == 56 - sum(before.done.values())

DIRECTOR = """
import sys, time
import ray
from rlgen.clone.engines import make_ray; from rlgen.clone.manifest import Manifest
from rlgen.clone.forecast import Blank

manifest, folder, address, diary = sys.argv[1:]

class Slow(Blank):
    def generate(self, prompts, seeds, negative=None):
        time.sleep(.5)
        with open(diary, "a") as file: file.write(ray.get_runtime_context().get_node_id() + "\\n")
        return super().generate(prompts, seeds, negative)

make_ray(Manifest(manifest), folder, shard=32, workers=2, address=address, load=Slow)
"""

def test_nothing_is_lost_though_a_node_dies(tmp_path):
    """Two nodes of Ray on this machine, each with a worker;
    the one that does not direct is taken away in the middle, and the other goes on alone.
    """
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster
    manifest, diary, said = (
        write_manifest(
            tmp_path / "manifest.parquet",
            Plan({"train": 1}, class_names("imagenet")),
            Blank(),
            {"name": "blank"},
            batch=32,
        ),
        tmp_path / "diary",
        tmp_path / "said",
    )
    diary.touch()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    try:
        head, other = cluster.head_node.node_id, cluster.add_node(wait=False, num_cpus=2)
        cluster.wait_for_nodes(timeout=300)
        with open(said, "w") as file:
            director = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    DIRECTOR,
                    str(manifest.path),
                    str(tmp_path / "out"),
                    cluster.address,
                    str(diary),
                ],
                stdout=file,
                stderr=file,
            )
        while director.poll() is None and (
            len(set(diary.read_text(encoding="utf-8").split())) < 2
            or len(list((tmp_path / "out" / "data").glob("*.parquet"))) < 2
        ):
            time.sleep(.1)
        assert director.poll() is None, said.read_text(encoding="utf-8")
        cluster.remove_node(other, allow_graceful=False)
        before = diary.read_text(encoding="utf-8").split()
        assert director.wait(1200) == 0, said.read_text(encoding="utf-8")
    finally:
        cluster.shutdown()
    found = status(tmp_path / "out", verify=True)
    assert found.complete and sum(found.done.values()) == 1000
    drawn = diary.read_text(encoding="utf-8").split()
    # both have drawn, and the one that is left has finished
    assert len(set(before)) == 2 and len(drawn) > len(before) and drawn[-1] == head
    assert len(drawn) >= 32  # batches; more, where the dead node had drawn what it had not handed over
