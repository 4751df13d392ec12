"Paths with ~ in settings and in Python, settings with a byte order mark, and the tables that are written for Excel."
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from standins import GRAMMAR

from rlgen.agents.tabular import QLearning
from rlgen.clone.plan import class_names
from rlgen.clone.run import check_config, make_plan, read_config
from rlgen.clone.shards import read_clone
from rlgen.data.prompts import read_rows
from rlgen.data.readers import read_labelled
from rlgen.experiments.clone_quality import images_in
from rlgen.experiments.rldf import load_goal
from rlgen.files import read_csv, write_csv
from rlgen.grammar import Grammar
from rlgen.models.folders import transformers_folder
from rlgen.rewards.preference import AnswerLog, RewardModel
from rlgen.runs import Run, find_runs
from rlgen.store import Store

PLAN = {"out": "~/clone", "classes": "~/classes.txt", "grammar": "~/grammar.cfg", "class_axis": "Noun",
        "splits": {"train": 2}}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    "A home folder with what people have there; the current folder is another one."
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home" / "images" / "dog").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Image.new("RGB", (8, 8)).save(tmp_path / "home" / "images" / "dog" / "a.png")
    (tmp_path / "home" / "grammar.cfg").write_text(GRAMMAR, encoding="utf-8-sig")
    (tmp_path / "home" / "classes.txt").write_text("dog\ncar\n", encoding="utf-16")
    yield tmp_path / "home"
    assert not list(Path().iterdir()), "nothing is written into a folder that is called ~"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", [".json", ".toml"])
def test_a_plan_of_any_editor_with_home_in_it(home, encoding, ending):
    toml = "".join(f"{name} = {json.dumps(value)}\n" for name, value in PLAN.items() if name != "splits")
    text = json.dumps(PLAN) if ending == ".json" else f"{toml}\r\n[splits]\r\ntrain = 2\r\n"
    (home / f"plan{ending}").write_bytes(text.encode(encoding))
    config = read_config(f"~/plan{ending}")
    assert config["out"] == str(home / "clone") and config["grammar"] == str(home / "grammar.cfg")
    assert make_plan(config).classes == ("dog", "car")


def test_home_is_found_in_python(home):
    assert len(Grammar.from_file("~/grammar.cfg").axes) == 4 and class_names("~/classes.txt") == ("dog", "car")
    assert load_goal("~/images/dog/a.png")[1] == "a" and load_goal(Path("~/images/dog/a.png"))[0].size == (8, 8)
    assert len(list(images_in("~/images"))) == 1
    assert read_labelled("~/images").classes == ("dog",)
    with Run.create("~/runs/a", {"seed": 0}) as run:
        run.finish({})
    assert [run.folder for run in find_runs("~/runs")] == [home / "runs" / "a"]
    Store("~/images.sqlite").close()
    assert (home / "images.sqlite").is_file()
    AnswerLog("~/answers.jsonl").add("a", "b", 1.)
    assert (home / "answers.jsonl").is_file()
    assert check_config(PLAN)["out"] == str(home / "clone")


@pytest.mark.parametrize("call", [
    lambda: read_clone("~/none"), lambda: RewardModel.load("~/none"), lambda: QLearning.load("~/none"),
    lambda: transformers_folder("~/none", "language model", "gpt2"), lambda: read_config("~/none.json"),
])
def test_home_is_named_where_something_is_missing(home, call):
    with pytest.raises((OSError, ValueError)) as error:
        call()
    assert "none" in str(error.value)


def test_tables_open_in_excel_and_are_read_again(tmp_path):
    rows = [{"file": "Bär.png", "prompt": "a dog; \u732b, \"x\"", "reward": .5}]
    write_csv(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_bytes().startswith(b"\xef\xbb\xbffile,")
    assert read_csv(tmp_path / "a.csv") == [{name: str(value) for name, value in rows[0].items()}]
    assert pd.read_csv(tmp_path / "a.csv").to_dict("records") == rows
    assert list(read_rows(tmp_path / "a.csv", ["file"], [])) == [(1, "Bär.png")]
    write_csv(tmp_path / "a.csv", [{"file": "a.png"}])
    assert (tmp_path / "a.csv").read_bytes() == b"file\r\na.png\r\n"
