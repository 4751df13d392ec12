"""Grading: what counts is what the package's checks return, and one bad cell costs no other exercise its mark."""
import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlgen.cli import main
from rlgen.exercises.grading import Grade, find_steps, grade, grades_text, needed, read_cells, read_steps, write_grades

NBS = Path(__file__).resolve().parents[1] / "nbs"
LESSONS = sorted(path for track in ("start", "rldf", "preference", "support") for path in NBS.glob(f"{track}/*.ipynb"))


def written(path, texts):
    "A notebook; a text that begins with ** is Markdown."
    kinds = ["markdown" if text.startswith("**") else "code" for text in texts]
    cells = [{"cell_type": kind, "metadata": {}, "source": text} for kind, text in zip(kinds, texts, strict=True)]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path

def keys(path):
    return [step.key for step in read_steps(path) if step.key]


# What an exercise is

def test_every_check_of_a_lesson_is_found():
    assert len(LESSONS) > 50
    for path in LESSONS:
        called = [text for kind, text in read_cells(path) if kind == "code" and "(my_" in text and "check_" in text]
        assert len([key for key in keys(path) if key.endswith("()")]) >= len(called), path
    assert keys(NBS / "start" / "02_looking_ahead.ipynb") == ["check_return()", "check_sweep()"]
    assert all(step.exercise and step.name for step in read_steps(NBS / "support" / "04_ppo.ipynb") if step.key)

def test_questions_are_exercises_of_their_own():
    found = keys(NBS / "start" / "08_self_test.ipynb")
    assert len(set(found)) == len(found) >= 8 and all(key.startswith("check_choice(") for key in found)

@pytest.mark.parametrize("cell, wanted", [
    ("ok = check_return(my_return)", [("", ""), ("check_return(my_return)", "check_return()")]),
    ("x = 1\ntest_eq(check_sweep(f), True)", [("x = 1", ""), ("check_sweep(f)", "check_sweep()")]),
    ("start.check_choice(CLIP, 'a')", [("", ""), ("check_choice(CLIP, 'a')", "check_choice(CLIP)")]),
    ("def check_return(f):\n    return check_sweep(f)", [("def check_return(f):\n    return check_sweep(f)", "")]),
    ("check_mine(3)", [("check_mine(3)", "")]),
    ("x = [1\ncheck_return(f)", [("x = [1\ncheck_return(f)", key) for key in ("", "check_return()")]),
    ("def f(:\n    return 1", [("def f(:\n    return 1", "")]),
    ("#| slow\ncheck_return(f)", []),
])
def test_cells_are_divided(cell, wanted, tmp_path):
    assert [(step.code, step.key) for step in read_steps(written(tmp_path / "x.ipynb", [cell]))] == wanted

def test_headings_name_exercises():
    for text, wanted in (
        ("**2 · A sweep** (●● 15 minutes). Write it.", ("2", "A sweep")), ("## 1 · Cost", ("1", "Cost")),
        ("## Exercise 3: the bug", ("3", "the bug")), ("# A\n\n## By hand\n\n**Type** it.", ("", "By hand")),
    ):
        assert find_steps([("markdown", text), ("code", "check_return(f)")])[-1][-2:] == wanted

@pytest.mark.parametrize("cell, is_needed", [
    ("import numpy as np", True), ("from math import *", True), ("%matplotlib inline", True), ("step = 1", True),
    ("def helper(x):\n    return x", True), ("table[0] = 1", True), ("table.sort()", True), ("helper.x.y = 2", True),
    ("for step in range(3):\n    pass", True), ("def reset():\n    global table\n    table = []", True),
    ("if True:\n    table = [1]", True), ("table = [(", True), ("total = sum(table)", False), ("print(np.pi)", False),
    ("x = [step for step in range(3)]", False), ("def other(table):\n    table = 3", False), ("import math", False),
    ("rewards = learn(60)", False), ("check_return = lambda answer: True", False),
])
def test_only_what_a_check_needs_is_run(cell, is_needed):
    function = "def my_return(rewards, discount):\n    x = helper(rewards)\n    return np.sum(x) * table[step]"
    steps = find_steps([("code", text) for text in (cell, function, "table = []", "check_return(my_return)")])
    assert [steps[k].code for k in needed(steps)][-3:] == [function, "table = []", "check_return(my_return)"]
    assert (0 in needed(steps)) is is_needed


# One notebook with all that can happen

CHECKS = ("check_clean, check_guided, check_images, check_leave_one_out, check_matched, check_move, check_noised, "
          "check_return, check_running_mean, check_shaping, check_sweep, check_td_target, check_threshold")
RIGHT = "    return mean + (reward - mean) / (n + 1)"
CELLS = [
    f"from rlgen.exercises.start import {CHECKS}\nfrom rlgen.exercises.questions import WHO_LEARNS",
    "from rlgen.exercises import checks, start",
    "while True:\n    print('a loop that no exercise needs')",
    "1 / 0",
    "**1 · Right** (● 5 minutes)",
    f"def my_running_mean(mean, n, reward):\n{RIGHT}",
    "check_running_mean(my_running_mean)",
    "**2 · A mistake** (● 5 minutes)",
    "def my_return(rewards, discount):\n    print('Right: it is the return.')\n    return sum(rewards)",
    "check_return(my_return)",
    "**3 · A stub**",
    "def my_sweep(values, next_states, rewards, terminated, discount):\n    raise NotImplementedError('Exercise 3')",
    "check_sweep(my_sweep)",
    "**4 · A replaced check**",
    "def check_shaping(answer):\n    print('Right: it is.')\n    return True",
    "check_shaping(lambda phi_tm1, phi_t, discount, terminated: 0.)",
    "**5 · A replaced report**",
    "checks.report_check = start.report_check = lambda complaints, praise: not print('Right: all of it.')",
    "start.check_threshold(lambda beside, goal: len(start.__name__) * len(checks.__name__))",
    "**6 · A loop without an end**",
    "def my_images(states):\n    while True:\n        try:\n            print('more')\n        except BaseException:\n"
    "            pass",
    "check_images(my_images)",
    "**7 · A syntax error**",
    "def my_noised(clean, noise, alpha_bar)\n    return clean",
    "check_noised(my_noised)",
    "**8 · The end of the kernel**",
    "def my_clean(noisy, v, alpha_bar):\n    import os\n    os._exit(3)",
    "check_clean(my_clean)",
    "**9 · An error**",
    "def my_guided(v_uncond, v_cond, w):\n    raise ValueError('=1+1 \\x1b[31m')",
    "check_guided(my_guided)",
    "**10 · A question**",
    "check_choice = lambda question, letter: True\nWHO_LEARNS = None\ncheck_choice(WHO_LEARNS, '')",
    "**11 · A cell that is no Python**",
    "check_matched(",
    "**12 · Twice**",
    "low = 0\nexit()\n",
    "check_move(None)\n"
    "check_move(lambda encoding, action, sizes: [min(max(x + (1 - action % 2 * 2) * (k == action // 2), low), "
    "sizes[k] - 1) for k, x in enumerate(encoding)])",
    "**13 · An asserted check**",
    "right = check_leave_one_out(lambda rewards: (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1))\n"
    "assert right",
    "**14 · A loop above it**",
    "start_value = 0\nwhile True:\n    start_value += 1",
    "check_td_target(lambda reward, q_next, terminated, truncated, discount: start_value)",
]
WANTED = [
    ("1", "passed", "mean"), ("2", "not yet", "it should be"), ("3", "not written yet", "NotImplementedError"),
    ("4", "not yet", ""), ("5", "not yet", "it should be"), ("6", "timed out", "a loop without an end"),
    ("7", "error", "the cell that defines my_noised: SyntaxError"), ("8", "error", "ended the kernel"),
    ("9", "error", "ValueError: =1+1"), ("10", "not written yet", "Put one of the letters"),
    ("11", "error", "SyntaxError"), ("12", "passed", ""), ("13", "passed", ""),
    ("14", "timed out", "the cell that defines start_value: it was stopped"),
]

@pytest.fixture(scope="module")
def submission(tmp_path_factory):
    return written(tmp_path_factory.mktemp("handed in") / "ada.ipynb", CELLS)

@pytest.fixture(scope="module")
def grades(submission):
    "Two loops without an end take all the time that a cell may: as little as this machine lets be."
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", CELLS[0]], check=True)  # no other cell takes longer
    return grade([submission], seconds=max(4, round(5 * (time.perf_counter() - start))))

@pytest.mark.parametrize("number, result, words", WANTED)
def test_each_exercise_gets_its_own_result(number, result, words, grades):
    (found,) = [row for row in grades if row.exercise == number]
    assert found.result == result and words in found.said, found

def test_nothing_is_left_out_and_nothing_is_written(grades, submission):
    assert [row.exercise for row in grades] == [number for number, *_ in WANTED]
    assert [path.name for path in submission.parent.iterdir()] == ["ada.ipynb"]
    text = grades_text(grades)
    assert text.splitlines()[-1].endswith("ada.ipynb: 3 of 14 passed") and "\x1b" not in text
    assert len(text.splitlines()) == 1 + 14 + 2
    for line, row in zip(text.splitlines()[1:], grades, strict=False):
        assert line.startswith(row.notebook) and row.name in line and row.result in line and row.said[:20] in line


# The command

def test_solutions_get_full_marks_and_the_lesson_none(tmp_path, capsys):
    lesson = NBS / "start" / "02_looking_ahead.ipynb"
    cells = [text for kind, text in read_cells(lesson) if "rlgen.exercises" in text or "my_" in text]
    stub = written(tmp_path / "stub.ipynb", cells)
    half = written(tmp_path / "half.ipynb", [cell for cell in cells if "sweep(my_sweep)" not in cell])
    solved = str(NBS / "start" / "solutions" / lesson.name)
    table = tmp_path / "table.csv"
    assert main(["check", solved, str(stub), str(half), "--of", str(lesson), "--csv", str(table), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads(lines[-1])
    assert [row["result"] for row in rows] == [
        "passed", "passed", "not written yet", "not written yet", "not written yet", "not handed in",
    ]
    assert [row["name"] for row in rows] == ["The return", "A sweep of value iteration"] * 3
    assert lines[-4:-1] == [f"{solved}: 2 of 2 passed", f"{stub}: 0 of 2 passed", f"{half}: 0 of 2 passed"]
    with open(table, newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == rows

def test_nothing_in_the_csv_is_a_formula(tmp_path):
    rows = [Grade("=a.ipynb", "1", "-x", "not yet", "@b"), Grade("a", "", "+", "error", "a-b")]
    write_grades(tmp_path / "x.csv", rows)
    assert (tmp_path / "x.csv").read_text().splitlines()[1:] == ["'=a.ipynb,1,'-x,not yet,'@b", "a,,'+,error,a-b"]

@pytest.mark.parametrize("text", [
    "", "{", "[]", "{}", "3", '{"cells": 3}', '{"cells": [{}]}', '{"cells": [{"cell_type": "code", "source": 3}]}',
    '{"cells": [{"cell_type": "code", "metadata": {}, "source": [1]}]}', "\x80", '{"cells": []}',
])
def test_damage_is_refused_before_anything_runs(text, tmp_path, submission):
    (tmp_path / "bob.ipynb").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="bob.ipynb"):
        grade([submission, tmp_path / "bob.ipynb"])

def test_without_a_kernel_it_says_what_to_install(submission, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbclient", None)
    with pytest.raises(ImportError, match="pip install nbclient"):
        grade([submission])
    with pytest.raises(ValueError, match="nothing to grade"):
        grade([])
    with pytest.raises(ValueError, match="seconds is 0"):
        grade([submission], seconds=0)
