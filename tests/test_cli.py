"""The command line: options made from the settings, bad input in one sentence, bugs called bugs, `rlgen runs`."""
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from forks import rlgen
from PIL import Image
from standins import GRAMMAR

from rlgen import __version__, cli
from rlgen.cli import COMMANDS, main, on_purpose, parse
from rlgen.runs import Run, find_runs, flat_config, run_config, run_curves, run_rows, runs_text, write_tensorboard
from rlgen.store import Store

def said(capsys) -> str:
    "The one line on the error stream."
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rlgen: ")]
    assert len(lines) == 1
    return lines[0]

def help_of(command, capsys) -> str:
    assert main([command, "--help"]) == 0
    return capsys.readouterr().out


# Help

def test_help_needs_no_model_and_names_every_command():
    code = (
        "import sys; from rlgen.cli import main; main(['--help']); "
        "print([m for m in ('torch', 'numpy', 'matplotlib', 'gymnasium') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]" and all(f"  {name} " in out for name in COMMANDS)
    assert max(map(len, out.splitlines())) <= 120

def test_without_anything_it_says_what_there_is(capsys):
    assert main([]) == 0 and "usage: rlgen COMMAND" in capsys.readouterr().out
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"rlgen {__version__}\n"

@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command, capsys):
    out = help_of(command, capsys)
    rows = [line.strip("│ ") for line in out.splitlines() if line.startswith("│")]
    for i, row in enumerate(rows):
        if row.startswith("--"):
            text = row.split("  ", 1)[1] if "  " in row else rows[i + 1]
            assert not text.strip().startswith("(default"), f"{row} of {command} has no comment"

def test_every_field_is_an_option(capsys):
    from rlgen.experiments.finetune import FinetuneSettings
    from rlgen.experiments.preference import PreferenceSettings
    from rlgen.experiments.rldf import RLDFSettings
    from rlgen.experiments.support_set import SupportSettings
    for command, kind in (
        ("search", RLDFSettings), ("prefer", PreferenceSettings), ("support", SupportSettings),
        ("finetune", FinetuneSettings),
    ):
        out, settings = help_of(command, capsys), kind()
        parts = [f.name for part in (settings, settings.models) for f in fields(part)]
        names = [name for name in parts if name not in ("models", "learning")]
        names += [f"learning.{f.name}" for f in fields(settings.learning)] if hasattr(settings, "learning") else []
        for name in names:
            option = name.replace("_", "-")
            flag = ".no-".join(option.rsplit(".", 1)) if "." in option else f"no-{option}"
            assert f"--{option} " in out or f"--{flag} " in out, name

@pytest.mark.parametrize("command", ["search", "rldf-table", "prefer", "support", "finetune", "clone"])
def test_every_command_that_generates_takes_the_same_models(command, capsys):
    out = help_of(command, capsys)
    names = ("model", "perception", "device", "dtype", "inference-steps", "guidance")
    assert all(f"--{name} " in out for name in names)

def test_what_is_typed_arrives():
    from rlgen.experiments.rldf import RLDFSettings
    options, settings = parse("search", ["x.png", "--agent", "sarsa", "--model", "openai:m", "--out", "a b", "--json"],
                              cli.SearchOptions(), RLDFSettings())
    assert (str(options.image), str(options.out), options.json, options.store) == ("x.png", "a b", True, None)
    assert settings == RLDFSettings(agent="sarsa", models=type(settings.models)(model="openai:m"))

def test_defaults_of_support_sets_are_chosen_first():
    from rlgen.experiments.support_set import REGIMES
    for typed, wanted in (
        (["--regime", "tail"], REGIMES["tail"]),
        (["--regime", "tail", "--real", "7"], REGIMES["tail"] | {"real": 7}),
        (["--data", "folder"], {"real": 0, "validation": 0, "test": 0}),
        (["--small", "--epochs", "9"], {"episodes": 5, "max_images": 40, "test_classifiers": ("probe",), "epochs": 9}),
    ):
        _, settings = parse("support", typed, cli.SupportOptions(), cli.support_defaults(typed))
        assert {name: getattr(settings, name) for name in wanted} == wanted, typed
        assert "best-of-n" not in settings.arms


# Bad input

@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder with some files to go wrong with."
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("x.png")
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("images/x.png")
    (tmp_path / "text").write_text("no image, and no folder")
    (tmp_path / "plan.json").write_text('{"out": "clone", "classes": ["dog"], "splits": {"train": 1}}')
    (tmp_path / "reward.py").write_text("number = 3\n")
    (tmp_path / "empty.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    return tmp_path

BAD = [
    ("nonsense", "no command 'nonsense'"),
    ("serach", "search was meant"),
    ("search nowhere.png", "nowhere.png"),
    ("search --max-steps many", "--max-steps"),
    ("search --nonsense", "--nonsense"),
    ("search --agent dqn", "dqn"),
    ("search --max-steps", "--max-steps"),
    ("search --dtype int8", "float16"),
    ("search --model openai:", "model is ''"),
    ("search --reward nowhere:bright", "nowhere"),
    ("search --reward reward:bright", "bright"),
    ("search --reward reward:number", "number"),
    ("search --out text/run", "text"),
    ("search --read-from nowhere.sqlite", "no store nowhere.sqlite"),
    ("prefer --read-from text", "text is damaged, or is no store"),
    ("support --store text.sqlite --read-from images", "images"),
    ("rldf-table --seeds 1", "2 or more"),
    ("rldf-table --epsilons cosine", "linear or exponential"),
    ("rldf-table --agents dqn", "dqn"),
    ("prefer x.png", "belong together"),
    ("prefer --prompt dog", "belong together"),
    ("prefer --category sculpture", "sculpture"),
    ("support --regime most", "few"),
    ("support --max-images 3", "smaller than a step"),
    ("support --seeds 0", "seeds is 0"),
    ("support --learning.epochs 0", "epochs is 0"),
    ("finetune --reward beauty", "beauty"),
    ("finetune --budget 1", "2 or more"),
    ("finetune --prompts nowhere.txt", "nowhere.txt"),
    ("clone", "PLAN"),
    ("clone nowhere.json", "nowhere.json"),
    ("clone plan.json --part half", "2/8"),
    ("clone plan.json --status clone", "either"),
    ("clone --status nowhere", "nowhere"),
    ("compare", "nothing to compare"),
    ("compare images", "nothing to compare"),
    ("compare images nowhere", "nowhere"),
    ("compare images images x/images", "NAME=FOLDER"),
    ("compare images images --out table.txt", ".csv"),
    ("compare images images --extractor net.pth", "pickle"),
    ("runs nowhere", "nowhere"),
    ("runs images", "no runs"),
    ("runs text", "text"),
    ("check", "nothing to grade"),
    ("check nowhere.ipynb", "nowhere.ipynb"),
    ("check images", "images"),
    ("check text", "text is damaged"),
    ("check empty.ipynb", "no exercise with a check"),
    ("check empty.ipynb --of nowhere.ipynb", "nowhere.ipynb"),
    ("check empty.ipynb --of empty.ipynb", "no exercise with a check"),
    ("check empty.ipynb --seconds 0", "seconds is 0"),
    ("check empty.ipynb --csv table.txt", ".csv"),
    ("bench luck", "no measurement 'luck'"),
    ("bench --nonsense", "--nonsense"),
    ("bench --out", "--out"),
]

@pytest.mark.parametrize("typed, words", BAD)
def test_bad_input_gives_one_sentence_and_leaves_nothing(typed, words, place, capsys):
    before = {p.name for p in place.iterdir()}
    assert main(typed.split()) == 2
    assert words in said(capsys)
    assert {p.name for p in place.iterdir()} <= before | {"runs", "__pycache__"}  # of a reward in a file
    assert not list(place.glob("runs/*/result.json")) and not list(place.glob("runs/support*"))

def test_every_command_is_tried_with_three_bad_inputs():
    tried = [typed.split()[0] for typed, _ in BAD]
    assert all(tried.count(command) >= 3 for command in COMMANDS)

def test_debug_shows_the_traceback(place, capsys):
    assert main(["--debug", "search", "nowhere.png"]) == 2
    assert "Traceback" in (err := capsys.readouterr().err) and "nowhere.png" in err
    assert main(["search", "nowhere.png", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


# Bugs

@pytest.mark.parametrize("bug", [
    lambda: {}["key"],
    lambda: np.zeros(3) + np.zeros(4),
    lambda: int("x"),
    lambda: None.name,
    lambda: np.zeros(3).reshape(2, 2),
])
def test_a_bug_is_called_one(bug, monkeypatch, capsys):
    monkeypatch.setattr("rlgen.runs.find_runs", lambda folder: bug())
    assert main(["runs"]) == 1
    error = said(capsys)
    assert "a bug of rlgen" in error and "--debug" in error
    assert main(["runs", "--debug"]) == 1 and "Traceback" in capsys.readouterr().err

def test_what_is_raised_on_purpose():
    def raised(call):
        try:
            call()
        except Exception as error:
            return error
    assert on_purpose(raised(lambda: Run("nowhere"))) and on_purpose(raised(lambda: open("nowhere")))
    assert on_purpose(raised(lambda: Run.create("x", {"agent": 1})))
    assert not on_purpose(raised(lambda: int("x"))) and not on_purpose(ValueError("never raised"))

def test_interrupted(monkeypatch, capsys):
    def stop(*args, **more):
        raise KeyboardInterrupt
    monkeypatch.setattr("rlgen.experiments.rldf.search", stop)
    assert main(["search"]) == 130 and "goes on where it stopped" in said(capsys)
    monkeypatch.setattr("rlgen.runs.find_runs", stop)
    assert main(["runs"]) == 130 and "starts anew" in said(capsys)

def test_out_of_memory_is_no_bug(monkeypatch, capsys):
    def full(folder):
        raise MemoryError
    monkeypatch.setattr("rlgen.runs.find_runs", full)
    assert main(["runs"]) == 1 and "--batch-size" in said(capsys)

def test_a_console_that_lacks_characters(tmp_path):
    with Run.create(tmp_path / "run", {"seed": 0, "model": "façade \u2192 \u732b"}) as run:
        run.finish({"summary": "\u732b"})
    narrow = os.environ | {"PYTHONIOENCODING": "cp1252"}
    code = f"import sys; from rlgen.cli import main; sys.exit(main(['runs', {str(tmp_path)!r}, '--compare']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=narrow)
    assert done.returncode == 0 and b"?" in done.stdout


# The images of others

def test_every_command_with_a_store_reads_from_others(place, monkeypatch):
    seen = []
    def note(*args, **options):
        seen.append([str(other.path) for other in Store(":memory:")._others])
        raise KeyboardInterrupt
    for name in "a.sqlite", "b.sqlite":
        Store(name).close()
    for name in (
        "rldf.search", "rldf.search_folder", "findings.reproduce_table", "preference.tune_prompt",
        "support_set.learn_support_set", "support_tables.support_study",
    ):
        monkeypatch.setattr(f"rlgen.experiments.{name}", note)
    for command in "search", "search images", "rldf-table", "prefer", "support", "support --seeds 2":
        assert main([*command.split(), "--read-from", "a.sqlite", "--read-from", "b.sqlite"]) == 130
    assert seen == [[str(place / name) for name in ("a.sqlite", "b.sqlite")]] * 6
    (options,) = parse("search", ["--read-from", "a.sqlite", "x.png"], cli.SearchOptions())
    assert options.image == Path("x.png") and options.read_from == (Path("a.sqlite"),)


# A reward of one's own

def test_a_reward_of_ones_own(place):
    (place / "mine.py").write_text(
        "import numpy as np\n"
        "def dark(images, prompts, goals):\n"
        "    return [-np.asarray(image).mean() / 255 for image in images]\n"
    )
    (place / "grammar.cfg").write_text(
        'S -> P N I\nP -> "a photo of one"\nN -> "dog" | "cat"\nI -> "and no people in farm"\n'
    )
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("goal.png")
    command = "search goal.png --reward mine:dark --grammar grammar.cfg --out run --inference-steps 1 --max-steps 5"
    status, out, err = rlgen(*command.split(), folder=place).wait()
    assert status == 0, err
    assert Run("run").config["reward"] == "mine:dark" and "a photo of one" in out


# Runs

@pytest.fixture
def runs(tmp_path):
    rng = np.random.default_rng(0)
    for seed in range(2):
        config = {"seed": seed, "agent": "sarsa", "models": {"model": "tiny"}, "grammar": "x " * 50}
        with Run.create(tmp_path / "study" / f"seed-{seed}", config, "search") as run:
            for step in range(30):
                run.log(step=step, reward=rng.random(), unique_generator_calls=step // 2, prompt="a dog", late=step > 9)
            if seed:
                run.finish({"prompt": "a photo of a dog", "unique_generator_calls": 15})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path

def test_runs_are_listed(runs, capsys):
    assert main(["runs", str(runs), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads(lines[-1])
    assert [(r["kind"], r["finished"], r["result"], r["unique generator calls"]) for r in rows] == [
        ("search", "no", "", 14), ("search", "yes", "a photo of a dog", 15)
    ]
    assert rows[0]["settings"] == "model tiny, agent sarsa, seed 0" and lines[0].startswith("folder")
    assert len(find_runs(runs / "study" / "seed-0")) == 1

def test_runs_are_compared(runs, capsys):
    rows = run_rows(find_runs(runs), compare=True)
    assert list(rows[0]) == ["folder", "kind", "seed", "finished", "result", "unique generator calls"]
    assert main(["runs", str(runs), "--compare"]) == 0 and "agent" not in capsys.readouterr().out
    assert len({len(line) for line in runs_text([{"a": "x" * 9, "b": 1}, {"a": "", "b": 22}]).splitlines()}) > 1

def test_the_curves_are_the_numbers_of_the_log(runs, capsys):
    curves = run_curves(find_runs(runs)[0])
    assert list(curves) == ["reward"] and curves["reward"][0][:4] == [0, 0, 1, 1]
    for name in ("curves.png", "curves.svg"):
        assert main(["runs", str(runs), "--plot", str(runs / name)]) == 0 and (runs / name).stat().st_size > 1000
    assert main(["runs", str(runs), "--plot", "curves.txt"]) == 2 and ".png" in said(capsys)

def test_runs_without_numbers_have_no_curves(tmp_path, capsys):
    with Run.create(tmp_path / "run", {"seed": 0}) as run:
        run.log(prompt="a dog")
    assert main(["runs", str(tmp_path), "--plot", str(tmp_path / "x.png")]) == 2 and "nothing to plot" in said(capsys)

def test_tensorboard(runs, capsys, monkeypatch):
    pytest.importorskip("tensorboardX")
    assert main(["runs", str(runs), "--tensorboard", str(runs / "board")]) == 0
    assert {p.name for p in (runs / "board").iterdir()} == {"seed-0", "seed-1"}
    assert all(list((runs / "board" / name).iterdir()) for name in ("seed-0", "seed-1"))
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"rlgen\[tensorboard\]"):
        write_tensorboard(find_runs(runs), runs / "other")
    assert main(["runs", str(runs), "--tensorboard", str(runs / "other")]) == 2 and "pip install" in said(capsys)

def test_the_device_decides_no_run():
    from rlgen.experiments.rldf import RLDFSettings
    settings = RLDFSettings()
    other = RLDFSettings(models=type(settings.models)(device="cuda"))
    config = run_config(settings, goal="x")
    assert config == run_config(other, goal="x") and config["goal"] == "x" and "model" in config["models"]
    assert flat_config(type("", (), {"config": config}))["models.model"] == "tiny"

def test_run_folders_load_nothing_heavy():
    heavy = "('torch', 'matplotlib', 'gymnasium', 'scipy')"
    code = f"import sys, rlgen.runs; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"

def test_sentences_are_taken_out_of_boxes_of_both_kinds():
    for rule, side in (("─", "│"), ("-", " ")):
        box = f"{side}Title{side}\n{rule * 9}\n{side} one {side}\n{side} two. {side}\n{rule * 9}\n{side} hint {side}\n"
        assert cli.sentence(box) == "one two"


# One owner, and nothing left behind

SMALL = {  # of each command that writes a run or a clone into --out
    "search": "goal.png --grammar grammar.cfg --inference-steps 1 --max-steps 5",
    "rldf-table": "goal.png --grammar grammar.cfg --inference-steps 1 --max-steps 4 --agents random --rewards multi "
                  "--seeds 2",
    "prefer": "goal.png --prompt dog --length 2 --budget 4 --vocabulary modifiers --agent modifiers "
              "--inference-steps 1",
    "support": "--small --classes dog bus --real 2 --validation 2 --test 2 --episodes 1 --max-images 4 "
               "--arms random ours --inference-steps 1 --learning.epochs 1",
    "clone": "plan.json",
}

@pytest.fixture
def small(tmp_path, monkeypatch):
    "A folder with what the commands of `SMALL` need."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grammar.cfg").write_text(GRAMMAR)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("goal.png")
    (tmp_path / "plan.json").write_text(json.dumps({
        "out": "out", "classes": ["dog"], "splits": {"train": 2}, "batch_size": 2, "shard": 2, "inference_steps": 1,
    }))
    return tmp_path

def typed(command) -> list[str]:
    return [command, *SMALL[command].split(), *(["--out", "out"] if command != "clone" else [])]

def files_of(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

@pytest.mark.parametrize("command", SMALL)
def test_a_folder_has_one_owner_and_once_finished_no_byte_changes(command, small, capsys):
    (small / "out").mkdir()
    (small / "out" / ".owner.json").write_text('{"process": 17, "computer": "far", "since": "2025-01-02 03:04:05"}')
    with FileLock(small / "out" / (".lock" if command != "clone" else ".lock-1-of-1")):
        assert main(typed(command)) == 2
    error = said(capsys)
    assert "is in use by" in error and "--wait" in error
    assert command == "clone" or "process 17 on far, since 2025-01-02 03:04:05" in error
    assert not list((small / "out").glob("*.jsonl"))
    assert main(typed(command)) == 0, capsys.readouterr().err
    before, first = files_of(small), capsys.readouterr().out
    assert main(typed(command)) == 0
    assert files_of(small) == before and len(before) > 5
    assert capsys.readouterr().out.splitlines()[0] == first.splitlines()[0]

def test_two_searches_at_once_make_one_run(small):
    processes = [rlgen(*typed("search"), *wait, folder=small) for wait in (["--wait"], ["--wait"], [])]
    codes, outs, errors = zip(*(process.wait() for process in processes), strict=True)
    assert codes[:2] == (0, 0) and codes[2] in (0, 2), errors
    assert codes[2] == 0 or "is in use by process" in errors[2]
    steps = [row["step"] for row in Run("out").rows()]
    assert steps == list(range(1, len(steps) + 1)) and outs[0].splitlines()[0] == outs[1].splitlines()[0]

@pytest.mark.parametrize("command, wrong", [
    ("search", "--model no-such-model"), ("search", "--reward nowhere:bright"), ("search", "--reward reward:number"),
    ("search", "--perception no-such-model"), ("search", "--device meta"), ("rldf-table", "--model no-such-model"),
    ("rldf-table", "--device meta"), ("prefer", "--model no-such-model"), ("prefer", "--language-model nowhere"),
    ("prefer", "--device meta"), ("support", "--model no-such-model"), ("support", "--device meta"),
    ("clone", "--model no-such-model"), ("clone", "--device meta"),
])
def test_a_mistake_leaves_no_run_folder(command, wrong, small, capsys):
    (small / "reward.py").write_text("number = 3\n")
    before = {path.name for path in small.iterdir()}
    assert main([*typed(command), *wrong.split()]) == 2, capsys.readouterr().err
    assert said(capsys) and {path.name for path in small.iterdir()} - before <= {"pictures.sqlite", "__pycache__"}
    assert command != "search" or not (small / "pictures.sqlite").exists()

def test_a_folder_of_goals_has_one_owner_and_survives_odd_names(small, capsys):
    (small / "goals").mkdir()
    odd = ["a.png", "b" * 60 + ".png", "c d'e.png"]
    try:
        Path("goals", "caf\udce9.png").write_bytes((small / "goal.png").read_bytes())
    except (OSError, UnicodeEncodeError):
        pytest.skip("every name is UTF-8 here")
    for name in odd:
        (small / "goals" / name).write_bytes((small / "goal.png").read_bytes())
    command = ["search", "goals", *SMALL["search"].split()[1:], "--out", "out", "--json"]
    (small / "out").mkdir()
    with FileLock(small / "out" / ".lock"):
        assert main(command) == 2 and "is in use by another process" in said(capsys)
    assert main(command) == 0, capsys.readouterr().err
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["file"] for row in rows] == [*odd, "caf\udce9.png"] and not any(row["error"] for row in rows)
    assert len((small / "out" / "prompts.csv").read_text(encoding="utf-8").splitlines()) == 5
    assert main(["runs", "out", "--plot", "curves.png"]) == 0, capsys.readouterr().err
