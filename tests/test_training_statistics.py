"""The paper's training statistics: the runs, their interruption, the table, the judgement and the command.

Most tests walk in a stand-in world whose pictures are one pixel that says which state they are,
so that every number can be recomputed.
"""
import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from rlgen.cli import main
from rlgen.envs.grid import World
from rlgen.experiments import training_statistics as module
from rlgen.experiments.rldf import RLDFSettings
from rlgen.experiments.training_statistics import (
    LEARNERS,
    MEASURES,
    PAPER,
    claims,
    decide,
    evaluate_findings,
    exploration,
    matrix,
    plan,
    plot_distances,
    plot_table,
    run_training_statistics,
    training_statistics_table,
    training_statistics_text,
    trajectory,
    with_gain,
    write_table,
)
from rlgen.grammar import Grammar
from rlgen.interfaces import Percept
from rlgen.runs import Run
from rlgen.statistics import Interval, trajectory_statistics

TEXT = '''S -> P Noun I Scene
P -> "a photo of one"
Noun -> "dog" | "cat" | "car" | "cow"
I -> "and no people in"
Scene -> "farm" | "beach" | "street"
'''


class Pixels:
    "Draws one pixel, the state's number, and reads it again without error. Counts what it draws."
    def __init__(self, grammar):
        self.grammar, self.substitute = grammar, 0

    def generate(self, prompts, seeds, negative=None):
        self.substitute += len(prompts)
        return [picture(self.grammar, prompt) for prompt in prompts]

    def perceive(self, pictures, grammar):
        encodings = np.stack(
            [grammar.unindex(sum(256 ** (2 - i) * v for i, v in enumerate(p.getpixel((0, 0))))) for p in pictures]
        )
        embeddings = (
            np.stack([np.concatenate([np.eye(n)[label] for n, label in zip(grammar.nvec, e)]) for e in encodings])
            / len(grammar.nvec) ** .5
        )
        return Percept(encodings, [np.eye(n)[encodings[:, i]] for i, n in enumerate(grammar.nvec)], embeddings)


def picture(grammar, prompt):
    state = grammar.index(grammar.encode(prompt))
    return Image.new("RGB", (1, 1), (state >> 16, state >> 8 & 255, state & 255))


@pytest.fixture
def world(monkeypatch):
    "The stand-in world; `run_training_statistics` gets it instead of the tiny models."
    made = lambda settings: World(
        grammar := Grammar.from_string(settings.grammar or TEXT), pixels := Pixels(grammar), pixels
    )
    monkeypatch.setattr(module, "load_world", lambda settings, store, device=None: made(settings))
    return made(RLDFSettings())


@pytest.fixture
def goal(world):
    return picture(world.grammar, "a photo of one car and no people in beach")


SMALL = dict(rewards=("multi", "clip"), epsilons=(.1, "linear"), seeds=range(2), steps=30, progress=False)


# ---- the paper ----

def test_the_papers_rows():
    assert len(PAPER) == 18 and sum(row["conv"] for row in PAPER) == 3
    assert {(r["agent"], r["reward"], r["epsilon"]) for r in PAPER} == {
        (a, r, e) for a in ("q-learning", "sarsa", "random") for r in ("multi", "partial", "clip") for e in (.01, .1)
    }
    assert (
        sum(row["D_T"] for row in PAPER) == 111
        and sum(row["F"] for row in PAPER) == 232
        and sum(row["C"] for row in PAPER) == 195
    )
    assert (
        sum(row["sigma2"] for row in PAPER) == pytest.approx(42.82)
        and all(abs(row["rho"] ** 2 - row["sigma2"]) < .06 for row in PAPER)
    )


# ---- runs ----

def test_explorations():
    assert [exploration("linear", 10)(t) for t in (0, 10, 99)] == pytest.approx([1, .01, .01])
    assert [exploration("exponential", 100)(t) for t in (0, 10, 20, 900)] == pytest.approx([1, .5, .25, .01])
    assert exploration(0, 5)(3) == 0 and exploration(1, 5)(3) == 1


def test_the_plan():
    runs = plan(("q-learning", "random"), ("multi", "clip"), (.1, "linear"), range(3), goals=2)
    assert len(runs) == 2 * 3 * (1 * 2 * 2 + 1 * 2) and len({tuple(r.values()) for r in runs}) == len(runs)
    assert {r["epsilon"] for r in runs if r["agent"] == "random"} == {1.}


@pytest.mark.parametrize("agent", ["q-learning", "sarsa", "random"])
def test_a_trajectory_recomputed(world, goal, agent):
    row = trajectory(world, goal, RLDFSettings(agent=agent, reward="multi", max_steps=50, seed=3), "exponential")
    assert len(row["distances"]) == 50 and abs(row["distances"][0] - row["start"]) <= 1 and row["start"] > 0
    again = trajectory(world, goal, RLDFSettings(agent=agent, reward="multi", max_steps=50, seed=3), "exponential")
    assert (
        again == row
        and trajectory(world, goal, RLDFSettings(agent=agent, reward="multi", max_steps=50, seed=4), "exponential")
        != row
    )
    spread = trajectory_statistics(row["distances"], [0] * 50, [0] * 50)
    assert (
        {k: row[k] for k in ("D_T", "D_max", "D_min", "rho", "sigma2", "conv")}
        == {k: spread[k] for k in ("D_T", "D_max", "D_min", "rho", "sigma2", "conv")}
    )
    assert row["steps_to_goal"] == (row["distances"].index(0) + 1 if row["conv"] else None)
    assert (
        row["late_distance"] == pytest.approx(np.mean(row["distances"][25:]))
        and 1 <= row["late_states"] <= 12 >= row["unique_generator_calls"]
    )
    assert row["F"] >= row["distances"].count(0) <= row["C"] and row["best_reward"] <= 2


def test_gains_and_signposts_where_the_walk_is_known(world, goal, monkeypatch):
    "Three steps: to the right object, to the goal, and past it."
    moves = iter([0, 2, 0])  # Noun up, Scene up, Noun up
    monkeypatch.setattr("rlgen.agents.tabular.epsilon_greedy", lambda q, epsilon, rng: next(moves, 0))
    monkeypatch.setattr("rlgen.envs.grid.SemanticGrid.reset", _reset_at([1, 0]))
    row = trajectory(world, goal, RLDFSettings(agent="random", reward="multi", max_steps=3))
    assert (
        row["distances"] == [1, 0, 1]
        and (row["start"], row["F"], row["C"], row["conv"], row["steps_to_goal"]) == (2, 2, 2, 1, 2)
    )
    assert row["late_states"] == 2 and row["unique_generator_calls"] == 4 and row["best_reward"] == 2
    # rewards of the four states in the order of the walk:
    # nothing right -1, object 1 - 1 = 0, goal 2, scene 1; nearness -2, -1, 0, -1
    assert (
        row["late_reward"] == pytest.approx(1.5)
        and row["signposts"] == pytest.approx(scipy.stats.spearmanr([-1, 0, 2, 1], [-2, -1, 0, -1]).statistic)
    )


def _reset_at(position):
    from rlgen.envs.grid import SemanticGrid
    reset = SemanticGrid.reset
    return lambda self, *, seed=None, options=None: reset(self, seed=seed, options={"state": position})


def test_all_runs(world, goal, tmp_path):
    rows = run_training_statistics(tmp_path / "run", goals=(goal,), **SMALL)
    assert (
        [{k: row[k] for k in ("agent", "reward", "epsilon", "seed", "goal")} for row in rows]
        == plan(("q-learning", "sarsa", "random"), ("multi", "clip"), (.1, "linear"), range(2))
    )
    assert len({(row["seed"], row["start"]) for row in rows}) == 2  # equal starts for all agents of one seed
    for seed in range(2):
        assert len({tuple(r["distances"]) for r in rows if r["agent"] == "random" and r["seed"] == seed}) == 1
    assert len({tuple(r["distances"]) for r in rows if r["agent"] != "random"}) > 4
    assert Run(tmp_path / "run").rows() == rows and {*MEASURES} <= rows[0].keys()
    assert run_training_statistics(tmp_path / "other", goals=(goal,), **SMALL) == rows
    assert (tmp_path / "run/log.jsonl").read_bytes() == (tmp_path / "other/log.jsonl").read_bytes()


def test_a_finished_experiment_is_not_run_again(world, goal, tmp_path, monkeypatch):
    rows = run_training_statistics(tmp_path / "run", goals=(goal,), **SMALL)
    monkeypatch.setattr(module, "load_world", lambda *args: pytest.fail("nothing is left to run"))
    assert run_training_statistics(tmp_path / "run", goals=(goal,), **SMALL) == rows
    with pytest.raises(ValueError, match="another config: .*steps"):
        run_training_statistics(tmp_path / "run", goals=(goal,), **SMALL | {"steps": 31})


@pytest.mark.parametrize("kept", [0., .01, .35, .5, .99])
def test_killed_anywhere_it_goes_on_to_the_same_bytes(world, goal, tmp_path, kept):
    rows = run_training_statistics(tmp_path / "run", goals=(goal,), **SMALL)
    log = tmp_path / "run/log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:int(kept * len(whole))])  # as a kill leaves it: whole lines, and a piece of one
    assert run_training_statistics(tmp_path / "run", goals=(goal,), **SMALL) == rows and log.read_bytes() == whole


def test_interrupted_within_a_run(world, goal, tmp_path, monkeypatch, capsys):
    goal.save(tmp_path / "goal.png")
    command = [
        "rldf-table",
        str(tmp_path / "goal.png"),
        "--rewards",
        "multi",
        "clip",
        "--epsilons",
        "0.1",
        "linear",
        "--seeds",
        "2",
        "--max-steps",
        "30",
    ]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    from rlgen.envs.grid import SemanticGrid
    go, steps = SemanticGrid._step_to, iter(range(100))
    def interrupted(env, position):
        if next(steps, None) is None: raise KeyboardInterrupt
        return go(env, position)
    with monkeypatch.context() as patch:
        patch.setattr(SemanticGrid, "_step_to", interrupted)
        assert main([*command, "--out", str(tmp_path / "broken")]) == 130
    assert "rlgen: interrupted; the same command goes on" in capsys.readouterr().err
    assert len(Run(tmp_path / "broken").rows()) == 3 and not (tmp_path / "broken/table.csv").exists()
    assert main([*command, "--out", str(tmp_path / "broken")]) == 0
    for name in ("log.jsonl", "table.csv", "paper.csv", "trajectories.png", "intervals.png"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_several_goals_are_strata(world, tmp_path):
    goals = [picture(world.grammar, f"a photo of one {noun} and no people in beach") for noun in ("car", "dog")]
    rows = run_training_statistics(tmp_path / "run", goals=goals, **SMALL)
    assert (
        {row["goal"] for row in rows} == {0, 1}
        and matrix(rows, "D_T", lambda row: row["agent"] == "sarsa").shape == (2, 2)
    )
    assert {line["runs"] for line in training_statistics_table(rows, 50)} == {4}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"agents": ("dqn",)}, "no agent 'dqn'"),
        ({"agents": ()}, "agents is"),
        ({"agents": "sarsa"}, "give a list"),
        ({"rewards": ("dense",)}, "no reward 'dense'"),
        ({"epsilons": (1.5,)}, "epsilon is 1.5"),
        ({"epsilons": ("cosine",)}, "no epsilon 'cosine'"),
        ({"epsilons": (float("nan"),)}, "between 0 and 1"),
        ({"epsilons": (.1, .1)}, "twice"),
        ({"seeds": range(0)}, "seeds is"),
        ({"seeds": (-1,)}, "seed is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"settings": RLDFSettings(grammar=TEXT.replace("Noun", "Thing"))}, "no axis 'Noun'"),
    ],
)
def test_bad_settings(world, goal, tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_training_statistics(tmp_path / "run", goals=(goal,), **SMALL | change)


# ---- the table ----

def made(
    value=lambda agent, reward, epsilon, seed: {},
    agents=("q-learning", "sarsa", "random"),
    epsilons=(.01, .1, "linear", "exponential"),
    seeds=10,
    goals=1,
):
    "Rows as of an experiment, unremarkable but for what `value` gives."
    rows = []
    for run in plan(agents, ("multi", "partial", "clip"), epsilons, range(seeds), goals):
        distances = [5, 4, 5, 6]
        row = {
            **run,
            "start": 3 + run["seed"] % 5,
            **trajectory_statistics(distances, [1, 0, 0, 0], [1, 1, 0, 0]),
            "unique_generator_calls": 4,
            "steps_to_goal": None,
            "late_reward": .2,
            "best_reward": 1.,
            "late_distance": 5.5,
            "late_states": 2,
            "signposts": .5,
            "distances": distances,
        }
        rows.append(row | value(run["agent"], run["reward"], run["epsilon"], run["seed"]))
    return rows


def test_the_tables_columns():
    rows = made(
        lambda agent, reward, epsilon, seed: {
            "D_T": float(seed),
            "conv": float(seed < 9),
            "D_min": 0. if seed < 9 else 3.,
        }
    )
    lines = training_statistics_table(rows, 500)
    assert (
        len(lines) == 3 * (2 * 4 + 1)
        and list(lines[0]) == ["agent", "reward", "epsilon", "runs", *MEASURES]
        and lines[0]["runs"] == 10
    )
    assert [line["epsilon"] for line in lines if line["agent"] == "random"] == [1., 1., 1.]
    assert all(
        line["D_T"].estimate == 4.5 == scipy.stats.trim_mean(np.arange(10), .25)
        and line["D_T"].low < 4.5 < line["D_T"].high
        for line in lines
    )
    assert (
        lines[0]["conv"] == pytest.approx((.9, *scipy.stats.binomtest(9, 10).proportion_ci(method="wilson")))
        and lines[0]["F"] == (1, 1, 1)
    )
    text = training_statistics_text(lines).splitlines()
    assert (
        len(text) == 28
        and text[0].split()[:4] == ["agent", "reward", "epsilon", "D_T"]
        and "0.90 [0.60, 0.98]" in text[1]
    )


def test_rows_that_cannot_make_a_table():
    with pytest.raises(ValueError, match="2 runs or more"):
        training_statistics_table(made(seeds=1))
    with pytest.raises(ValueError, match="not complete"):
        evaluate_findings(made(goals=2)[:-1], 10)


def test_the_files(tmp_path):
    rows = made(seeds=4)
    lines, findings = write_table(rows, tmp_path, 100)
    assert {p.name for p in tmp_path.iterdir()} == {"table.csv", "paper.csv", "trajectories.png", "intervals.png"}
    back = list(csv.DictReader(open(tmp_path / "table.csv", newline="")))
    assert (
        len(back) == 27
        and {"agent", "reward", "epsilon", "runs", *(m + end for m in MEASURES for end in ("", "_low", "_high"))}
        == back[0].keys()
    )
    assert [float(line["sigma2_high"]) for line in back] == [line["sigma2"].high for line in lines]
    paper = list(csv.DictReader(open(tmp_path / "paper.csv", newline="")))
    assert (
        [f["verdict"] for f in paper] == [f["verdict"] for f in findings]
        and {"source", "finding", "measured", "estimate", "low", "high", "verdict", "rule"} == paper[0].keys()
    )
    assert all(Image.open(tmp_path / f"{name}.png").width > 500 for name in ("trajectories", "intervals"))


def test_the_figures():
    rows = made(seeds=4)
    figure = plot_distances(rows)
    assert (
        len(figure.axes) == 12
        and [t.get_text() for t in figure.legends[0].get_texts()] == ["q-learning", "sarsa", "random"]
    )
    assert all(len(ax.lines) == 3 for ax in figure.axes)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [5, 4, 5, 6])
    assert len(plot_distances([row for row in rows if row["agent"] == "random"]).axes) == 3
    assert len(plot_table(training_statistics_table(rows, 50)).axes) == 6


# ---- the judgement ----

@pytest.mark.parametrize(
    "ends, more, than, word",
    [
        ((1, 2), True, 0, "holds"),
        ((-2, -1), True, 0, "does not hold"),
        ((-1, 1), True, 0, "cannot tell"),
        ((-2, -1), False, 0, "holds"),
        ((1, 2), False, 0, "does not hold"),
        ((0, 0), True, 0, "cannot tell"),
        ((0, 1), True, 0, "cannot tell"),
        ((.6, .9), True, .5, "holds"),
        ((.4, .6), False, .5, "cannot tell"),
        ((.6, .9), False, .5, "does not hold"),
    ],
)
def test_verdicts(ends, more, than, word):
    assert decide(Interval(np.mean(ends), *ends), more, than) == word


def verdicts(rows, source=None, word=""):
    return [
        f["verdict"]
        for f in evaluate_findings(rows, 100)
        if (source is None or f["source"] == source) and word in f["finding"]
    ]


def test_rows_of_the_paper():
    all_reach = made(lambda *_: {"conv": 1., "D_min": 0., "D_T": 1.})
    found = {f["finding"]: f["verdict"] for f in evaluate_findings(all_reach, 100)}
    for row in PAPER:
        name = f"{row['agent']}, {row['reward']} reward, epsilon {row['epsilon']:g}: "
        assert (
            found[name + ("reaches the goal" if row["conv"] else "does not reach the goal")]
            == ("holds" if row["conv"] else "does not hold")
        )
        assert found[name + f"ends at distance {row['D_T']:g}"] == ("holds" if row["D_T"] == 1 else "does not hold")
    some = evaluate_findings(
        made(lambda agent, reward, epsilon, seed: {"conv": float(seed < 6), "D_T": float(3 * seed)}), 100
    )[:36]
    assert {f["verdict"] for f in some[::2]} == {"cannot tell"}  # six of ten
    # all of the paper's ends lie among ours, some of them in the middle
    assert {f["verdict"] for f in some[1::2]} == {"cannot tell", "holds"}


def test_what_was_not_run_cannot_be_told():
    found = evaluate_findings(made(agents=("sarsa",), epsilons=(.1,)), 50)
    assert (
        len(found) == 36 + len(claims()) + 4
        and {f["verdict"] for f in found if f["measured"] == "not run"} == {"cannot tell"}
    )
    assert sum(f["measured"] != "not run" for f in found[:36]) == 6 and json.dumps(found, allow_nan=False)
    assert (
        [f["measured"] for f in evaluate_findings(made(seeds=2), 50) if f["source"] == "Discussion 1"]
        == ["fewer than three starts"] * 3
    )


CASES = {  # source and word of the finding -> what makes it true; the opposite sign makes it false
    ("Table 3, caption", "more often"): lambda agent, reward, epsilon, seed, sign: {
        "conv": float((epsilon == .1) == (sign > 0))
    },
    ("Table 3, caption", "ends nearer"): lambda agent, reward, epsilon, seed, sign: {
        "D_T": 10 + seed - 3. * sign * (epsilon == .1)
    },
    ("Figure 6", "earns more"): lambda agent, reward, epsilon, seed, sign: {
        "late_reward": .3 + .01 * seed + .2 * sign * (reward == "partial" and epsilon == .1)
    },
    ("Figure 6", "more stable"): lambda agent, reward, epsilon, seed, sign: {
        "sigma2": 5 + seed - 2. * sign * (reward == "partial" and epsilon == .1)
    },
    ("Discussion 3", "finer"): lambda agent, reward, epsilon, seed, sign: {"F": 20. + seed + sign * (reward == "clip")},
    ("Discussion 3", "stuck"): lambda agent, reward, epsilon, seed, sign: {
        "late_states": 20. + seed - sign * (reward == "clip")
    },
    ("Discussion 3", "missed"): lambda agent, reward, epsilon, seed, sign: {
        "conv": float((reward == "clip") == (sign < 0))
    },
    ("Discussion 3", "gradual"): lambda agent, reward, epsilon, seed, sign: {
        "signposts": .01 * seed + .1 * sign * (reward == "partial")
    },
    ("Discussion 6", "more often"): lambda agent, reward, epsilon, seed, sign: {
        "conv": float((agent == "random") == (sign < 0))
    },
    ("Discussion 7", "farther"): lambda agent, reward, epsilon, seed, sign: {
        "late_distance": 9. + seed + sign * (agent == "random")
    },
    ("Discussion 1", "later"): lambda agent, reward, epsilon, seed, sign: {
        "start": 3 + seed,
        "steps_to_goal": None if (seed if sign > 0 else 9 - seed) > 7 else 1 + (seed if sign > 0 else 9 - seed) // 4,
    },
    ("Discussion 1", "at its nearest"): lambda agent, reward, epsilon, seed, sign: {
        "start": 3 + seed,
        "D_min": 20. + sign * seed,
    },
    ("Discussion 1", "farther away it ends"): lambda agent, reward, epsilon, seed, sign: {
        "start": 3 + seed,
        "D_T": 20. + sign * seed**2,
    },
}


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_general_findings_can_hold_fail_and_stay_open(case):
    for sign, word in ((1, "holds"), (-1, "does not hold")):
        found = verdicts(made(lambda *run: CASES[case](*run, sign)), *case)
        assert found and set(found) == {word}, (sign, found)
    noise = np.random.default_rng(0)
    luck = lambda agent, reward, epsilon, seed: CASES[case](
        agent, reward, epsilon, seed, 1 if (seed * 7 + len(agent)) % 2 else -1
    )
    if case[0] != "Discussion 1":
        assert "cannot tell" in verdicts(made(luck), *case)
    else:
        assert (
            verdicts(
                made(
                    lambda agent, reward, epsilon, seed: {"start": 3 + seed, "D_T": float(noise.normal())},
                    agents=("sarsa",),
                ),
                *case,
            )[0]
            == "cannot tell"
        )


def test_gain_is_normalised_by_the_random_walk():
    rows = with_gain(made(
        lambda agent, reward, epsilon, seed: {
            "late_reward": .2 if agent == "random" else .6,
            "best_reward": 1. if seed == 3 else .7,
        }
    ))
    assert (
        {round(r["gain"], 9) for r in rows if r["agent"] == "random"} == {0}
        and {round(r["gain"], 9) for r in rows if r["agent"] in LEARNERS} == {.5}
    )
    assert (
        with_gain(made(agents=("sarsa",))) == []
        and {r["gain"] for r in with_gain(made(lambda *_: {"late_reward": 1.}))} == {0.}
    )


def test_a_goal_in_a_corner_feigns_no_connection():
    "Of two goals one is far from all starts; within each goal, start and end have nothing to do with each other."
    ends = np.random.default_rng(3).permutation(12)
    rows = [
        row | {"start": 20 * row["goal"] + row["seed"], "D_T": float(20 * row["goal"] + ends[row["seed"]])}
        for row in made(agents=("sarsa",), seeds=12, goals=2)
    ]
    assert (
        abs(scipy.stats.spearmanr(range(12), ends).statistic)
        < .3
        < scipy.stats.spearmanr([r["start"] for r in rows], [r["D_T"] for r in rows]).statistic
    )
    found, = [f for f in evaluate_findings(rows, 100) if "farther away it ends" in f["finding"]]
    assert (
        found["verdict"] == "cannot tell"
        and found["estimate"] == pytest.approx(scipy.stats.spearmanr(range(12), ends).statistic, abs=.02)
    )


def test_random_walks_do_well_at_times():
    assert verdicts(
        made(lambda agent, reward, epsilon, seed: {"conv": float(agent == "random" and seed == 4)}),
        "Discussion 7",
        "at times",
    ) == ["holds"]
    assert verdicts(made(), "Discussion 7", "at times") == ["cannot tell"]


# ---- the command ----

def test_the_command_with_the_tiny_models(tmp_path, capsys):
    (tmp_path / "own.cfg").write_text(TEXT)
    command = [
        "rldf-table",
        "--agents",
        "sarsa",
        "random",
        "--rewards",
        "clip",
        "partial",
        "--epsilons",
        "0.1",
        "linear",
        "--seeds",
        "2",
        "--max-steps",
        "20",
        "--grammar",
        str(tmp_path / "own.cfg"),
        "--inference-steps",
        "2",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "run"),
        "--json",
    ]
    assert main(command) == 0
    out = capsys.readouterr().out.splitlines()
    found = json.loads(out[-1])
    assert (
        found["folder"] == str(tmp_path / "run") in out[-2]
        and len(found["table"]) == 6
        and len(found["paper"]) == 36 + len(claims()) + 4
    )
    assert (
        out[0].startswith("agent")
        and out[1].startswith("sarsa   clip     0.1")
        and found["table"][0]["D_T"]["low"] <= found["table"][0]["D_T"]["high"]
    )
    assert (
        {"config.json", "log.jsonl", "table.csv", "paper.csv", "trajectories.png", "intervals.png"}
        <= {p.name for p in (tmp_path / "run").iterdir()}
    )
    assert (tmp_path / "pictures.sqlite").exists() and len(Run(tmp_path / "run").rows()) == 2 * (2 * 2 + 2)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--agents", "dqn"], "choose one of q-learning"),
        (["--rewards", "dense"], "choose one of multi"),
        (["--seeds", "0"], "seeds is 0"),
        (["--seeds", "1"], "2 or more"),
        (["--max-steps", "0"], "steps is 0"),
        (["--epsilons", "2"], "between 0 and 1"),
        (["--epsilons", "0.1", "-0.1"], "between 0 and 1"),
        (["--epsilons", "cosine"], "linear or exponential"),
        (["--epsilons", "nan"], "epsilon is nan"),
        (["none.png"], "none.png"),
        (["--grammar", "none.cfg"], "none.cfg"),
        (["--out", "text/run"], "text"),
        (["--inference-steps", "0"], "inference_steps is 0"),
    ],
)
def test_bad_input_gives_one_sentence(tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("this is no folder")
    assert main(["rldf-table", *arguments]) == 2
    out, err = capsys.readouterr()
    assert sentence in err and err.startswith("rlgen: ") and len(err.splitlines()) == 1 and not out


def test_without_out_the_options_name_the_folder(world, goal, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    goal.save("goal.png")
    command = [
        "rldf-table", "goal.png", "--agents", "sarsa", "--rewards", "multi", "--epsilons", "0.1", "--seeds",
        "2", "--max-steps", "10",
    ]
    assert main(command) == main(command) == main([*command[:-1], "11"]) == 0
    assert len(list((tmp_path / "runs").glob("rldf-table-*"))) == 2


def test_help_names_the_options():
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from rlgen.cli import main; sys.exit(main(['rldf-table', '--help']))"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and all(
        f"--{name}" in done.stdout
        for name in (
            "out", "seeds", "max-steps", "agents", "rewards", "epsilons", "model", "perception", "store", "device",
            "json",
        )
    )
