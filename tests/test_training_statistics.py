"""The paper's training statistics: the runs, their interruption, the table, the judgement and the command.

Most tests walk in a stand-in world whose pictures are one pixel that says which state they are,
so that every number can be recomputed.
"""
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from rlgen.cli import main
from rlgen.envs.grid import World
from rlgen.experiments import training_statistics as module
from rlgen.experiments.findings import (
    LEARNERS,
    claims,
    corrected,
    decide,
    evaluate_findings,
    evaluate_general,
    evaluate_rows,
    finding_row,
    t_or_sign,
    with_gain,
    write_table,
)
from rlgen.experiments.rldf import RLDFSettings
from rlgen.experiments.training_statistics import (
    MEASURES,
    PAPER,
    exploration,
    matrix,
    plan,
    plot_distances,
    plot_table,
    read_runs,
    run_training_statistics,
    share_interval,
    training_statistics_table,
    training_statistics_text,
    trajectory,
    write_runs,
)
from rlgen.grammar import Grammar
from rlgen.interfaces import Percept
from rlgen.runs import Run
from rlgen.statistics import Interval, mean_interval, proportion_interval, trajectory_statistics

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
            np.stack([
                np.concatenate([np.eye(n)[label] for n, label in zip(grammar.nvec, e, strict=True)]) for e in encodings
            ])
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
    assert [{r["seed"] for r in runs if r["goal"] == goal} for goal in (0, 1)] == [{0, 1, 2}, {3, 4, 5}]
    assert {r["seed"] for r in plan(("random",), ("clip",), (.1,), (2, 7), goals=3)} == {2, 7, 10, 15, 18, 23}


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


def test_of_several_goals_each_is_a_unit_with_seeds_of_its_own(world, tmp_path):
    goals = [picture(world.grammar, f"a photo of one {noun} and no people in beach") for noun in ("car", "dog", "cat")]
    rows = run_training_statistics(tmp_path / "run", goals=goals, **SMALL)
    assert {(row["goal"], row["seed"]) for row in rows} == {(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)}
    sarsa = matrix(rows, "D_T", lambda row: row["agent"] == "sarsa")
    assert sarsa.shape == (3, 2)
    lines = training_statistics_table(rows)
    assert {(line["runs"], line["goals"]) for line in lines} == {(6, 3)}
    last = matrix(rows, "D_T", lambda row: (row["agent"], row["reward"], row["epsilon"]) == ("sarsa", "clip", .1))
    line, = [line for line in lines if (line["agent"], line["reward"], line["epsilon"]) == ("sarsa", "clip", .1)]
    assert line["D_T"] == mean_interval(last.mean(1))
    assert training_statistics_text(lines).endswith("n = 3 goals, 2 seeds averaged within each.")


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
            "steps": 4,
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
    lines = training_statistics_table(rows)
    assert (
        len(lines) == 3 * (2 * 4 + 1)
        and list(lines[0]) == ["agent", "reward", "epsilon", "runs", "goals", *MEASURES]
        and (lines[0]["runs"], lines[0]["goals"]) == (10, 1)
    )
    assert [line["epsilon"] for line in lines if line["agent"] == "random"] == [1., 1., 1.]
    half = scipy.stats.t.ppf(.975, 9) * np.arange(10).std(ddof=1) / 10 ** .5
    assert all(line["D_T"] == pytest.approx((4.5, 4.5 - half, 4.5 + half)) for line in lines)
    assert (
        lines[0]["conv"] == pytest.approx((.9, *scipy.stats.binomtest(9, 10).proportion_ci(method="wilson")))
        and lines[0]["F"] == (1, 1, 1)
    )
    text = training_statistics_text(lines).splitlines()
    assert (
        len(text) == 29
        and text[-1].endswith("n = 10 seeds of one goal.")
        and text[0].split()[:4] == ["agent", "reward", "epsilon", "D_T"]
        and "0.90 [0.60, 0.98]" in text[1]
    )


def test_runs_that_share_a_goal_are_not_counted_as_independent():
    "Goals differ, seeds of a goal hardly: the interval of a true mean of 10 must cover it in 95 of 100 experiments."
    rng = np.random.default_rng(0)
    covered = {"goals": 0, "runs": 0}
    for _ in range(400):
        ends = 10 + rng.normal(size=(8, 1)) + .3 * rng.normal(size=(8, 5))
        rows = [{"goal": g, "seed": 5 * g + s, "D_T": ends[g, s]} for g in range(8) for s in range(5)]
        for name, scores in (("goals", matrix(rows, "D_T")), ("runs", ends.ravel())):
            interval = mean_interval(scores)
            covered[name] += interval.low <= 10 <= interval.high
    assert .93 <= covered["goals"] / 400 <= .97 and covered["runs"] / 400 < .75


def test_shares():
    one, none = np.array([[1.], [0], [0]]), np.zeros((4, 5))
    assert share_interval(one) == proportion_interval([1, 0, 0])
    assert share_interval(none) == proportion_interval(np.zeros(4))  # no run of any goal: as many runs as goals
    goals = np.array([[1., 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    estimate, low, high = share_interval(goals)
    assert (estimate, low) == (.25, 0) and high == pytest.approx(mean_interval(goals.mean(1)).high) and high < 1


def test_rows_that_cannot_make_a_table():
    with pytest.raises(ValueError, match="2 runs or more"):
        training_statistics_table(made(seeds=1))
    with pytest.raises(ValueError, match="not complete"):
        evaluate_findings(made(goals=2)[:-1])


def test_kept_runs_make_the_same_table_and_findings(tmp_path):
    rows = made(lambda agent, reward, epsilon, seed: {
        "D_T": float(seed), "sigma2": seed / 7, "steps_to_goal": 12 if seed % 2 else None, "distances": [9, 8, 8, 7]
    }, goals=3, seeds=4)
    write_runs(rows, tmp_path / "rows.csv", parts=2)
    kept = read_runs(tmp_path / "rows.csv")
    assert kept[0].keys() == rows[0].keys() and {tuple(row["distances"]) for row in kept} == {(8.5, 7.5)}
    for row, back in zip(rows, kept, strict=True):
        assert all(
            back[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)
            for name, value in row.items() if name != "distances"
        )
    for line, other in zip(training_statistics_table(rows), training_statistics_table(kept), strict=True):
        assert all(other[name] == pytest.approx(line[name], rel=1e-3) for name in MEASURES)
    assert [f["verdict"] for f in evaluate_findings(kept)] == [f["verdict"] for f in evaluate_findings(rows)]
    write_runs(kept, tmp_path / "again.csv", parts=2)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()
    x = [line.get_xdata() for line in plot_distances(kept).axes[0].lines]
    assert {tuple(values) for values in x} == {(1, 3)}  # centres of two parts of four steps


def test_another_csv_is_no_file_of_runs(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    for name in ("other.csv", "empty.csv"):
        with pytest.raises(ValueError, match=f"{name} is damaged.*it holds no runs"):
            read_runs(tmp_path / name)


def test_the_published_runs_are_whole():
    "The table of the lesson: 20 goals, 10 seeds each, every setting once."
    rows = read_runs(Path(__file__).parents[1] / "nbs/rldf/training_statistics.csv")
    names = ("agent", "reward", "epsilon", "seed", "goal")
    agents, rewards = ("q-learning", "sarsa", "random"), ("multi", "partial", "clip")
    wanted = plan(agents, rewards, (.01, .1, "linear", "exponential"), range(10), goals=20)
    assert [{name: row[name] for name in names} for row in rows] == wanted
    assert all(row["steps"] == 1000 and (row["D_min"] == 0) == bool(row["conv"]) for row in rows)
    assert all(row["rho"] == pytest.approx(row["sigma2"] ** .5, rel=1e-3) for row in rows)


def test_the_files(tmp_path):
    rows = made(seeds=4)
    lines, findings = write_table(rows, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"table.csv", "paper.csv", "trajectories.png", "intervals.png"}
    back = list(csv.DictReader(open(tmp_path / "table.csv", newline="")))
    assert (
        len(back) == 27
        and {"agent", "reward", "epsilon", "runs", "goals"} | {m + x for m in MEASURES for x in ("", "_low", "_high")}
        == back[0].keys()
    )
    assert [float(line["sigma2_high"]) for line in back] == [line["sigma2"].high for line in lines]
    paper = list(csv.DictReader(open(tmp_path / "paper.csv", newline="")))
    assert (
        [f["verdict"] for f in paper] == [f["verdict"] for f in findings]
        and {"source", "finding", "measured", "estimate", "low", "high", "p", "p_holm", "verdict", "rule"}
        == paper[0].keys()
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
    assert len(plot_table(training_statistics_table(rows)).axes) == 4


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


def test_many_tests_are_corrected():
    rows = [finding_row("", str(p), interval=Interval(1, .5, 1.5), p=p, verdict="holds") for p in (.001, .02, .02, .04)]
    found = corrected([*rows, finding_row("", "no test", verdict="holds"), finding_row("", "not run")])
    assert [f["p_holm"] for f in found] == [pytest.approx(p) for p in (.004, .06, .06, .06)] + [None, None]
    assert [f["verdict"] for f in found] == ["holds"] + 3 * ["cannot tell"] + ["holds", "cannot tell"]
    assert corrected([]) == []


def test_units_that_all_differ_by_the_same_are_not_certain():
    assert t_or_sign(np.full((2, 3), .1), 0) == .5 and t_or_sign(np.zeros((4, 1)), np.zeros((4, 1))) == 1
    scores = np.array([[1., 2], [0, 5], [4, 4]])
    assert t_or_sign(scores, 0) == pytest.approx(scipy.stats.ttest_1samp([1.5, 2.5, 4], 0).pvalue)


def test_a_table_of_untrue_findings_rarely_has_a_verdict():
    "Every measure is noise: single tests raise a false alarm in most tables, corrected ones in about 5 of 100."
    rng = np.random.default_rng(1)
    alone, after = 0, 0
    for _ in range(60):
        names = ("D_T", "D_min", "sigma2", "F", "late_reward", "late_states", "signposts", "late_distance")
        noise = lambda *run: {name: rng.normal() for name in names} | {"conv": float(rng.integers(2))}
        tests = [f for f in evaluate_general(made(noise, seeds=10)) if f["p"] is not None]
        alone += any(f["p"] < .05 for f in tests)
        after += any(f["verdict"] != "cannot tell" for f in tests)
    assert after <= 7 and alone > 25


def verdicts(rows, source=None, word=""):
    return [
        f["verdict"]
        for f in evaluate_findings(rows)
        if (source is None or f["source"] == source) and word in f["finding"]
    ]


def test_rows_of_the_paper():
    for goals in (1, 4):
        all_reach = made(lambda *_: {"conv": 1., "D_min": 0., "D_T": 1.}, seeds=10 if goals == 1 else 3, goals=goals)
        found = {f["finding"]: f for f in evaluate_rows(all_reach)}
        assert len(found) == 18
        for row in PAPER:
            name = f"{row['agent']}, {row['reward']} reward, epsilon {row['epsilon']:g}: "
            f = found[name + ("reaches the goal" if row["conv"] else "does not reach the goal")]
            assert f["p"] == pytest.approx(2 * .5 ** (10 if goals == 1 else 4))  # of so many units that agree
            assert f["verdict"] == ("holds" if row["conv"] else "does not hold") if goals == 1 else "cannot tell"
    some = evaluate_rows(made(lambda agent, reward, epsilon, seed: {"conv": float(seed < 6)}))
    assert {f["verdict"] for f in some} == {"cannot tell"}  # six of ten
    rows = made(lambda agent, reward, epsilon, seed: {"conv": float(seed % 4 == 0)}, seeds=5, goals=12)
    by_goal, reached = evaluate_rows(rows), matrix(rows, "conv").mean(1)
    assert {f["verdict"] for f in by_goal if "does not reach" in f["finding"]} == {"holds"}
    assert [f["p"] for f in by_goal] == pytest.approx([scipy.stats.ttest_1samp(reached, .5).pvalue] * 18)


def test_what_was_not_run_cannot_be_told():
    found = evaluate_findings(made(agents=("sarsa",), epsilons=(.1,)))
    assert (
        len(found) == 18 + len(claims()) + 4
        and {f["verdict"] for f in found if f["measured"] == "not run"} == {"cannot tell"}
    )
    assert sum(f["measured"] != "not run" for f in found[:18]) == 3 and json.dumps(found, allow_nan=False)
    for seeds, goals, measured in (
        (4, 1, "too few starts"),
        (2, 9, "too few starts"),
        (5, 1, "rank correlation over 5 starts"),
        (3, 2, "mean of 2 goals' rank correlations over 3 starts"),
    ):
        found = evaluate_findings(made(seeds=seeds, goals=goals))
        assert [f["measured"] for f in found if f["source"] == "Discussion 1"] == [measured] * 3


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
        found = verdicts(made(lambda *run: CASES[case](*run, sign), seeds=12), *case)
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
            "late_reward": (.2 if agent == "random" else .6) + .01 * (seed % 2),  # of a seed all walk alike
            "best_reward": 1. if seed == 3 else .7,
        }
    ))
    assert (
        {round(r["gain"], 9) for r in rows if r["agent"] == "random"} == {0}
        and {round(r["gain"], 9) for r in rows if r["agent"] in LEARNERS} == {round(.4 / .795, 9)}
    )
    assert (
        with_gain(made(agents=("sarsa",))) == []
        and {r["gain"] for r in with_gain(made(lambda *_: {"late_reward": 1.}))} == {0.}
    )


def test_a_goal_in_a_corner_feigns_no_connection():
    "Each goal is farther from all starts than the last; within a goal start and end are unrelated."
    rng = np.random.default_rng(3)
    ends = [rng.permutation(12) for _ in range(6)]
    rows = [
        row | {"start": 20 * row["goal"] + row["seed"] % 12,
               "D_T": float(20 * row["goal"] + ends[row["goal"]][row["seed"] % 12])}
        for row in made(agents=("sarsa",), seeds=12, goals=6)
    ]
    assert scipy.stats.spearmanr([r["start"] for r in rows], [r["D_T"] for r in rows]).statistic > .9
    found, = [f for f in evaluate_findings(rows) if "farther away it ends" in f["finding"]]
    within = [scipy.stats.spearmanr(range(12), end).statistic for end in ends]
    assert found["verdict"] == "cannot tell" and found["estimate"] == pytest.approx(np.mean(within))
    assert found["p"] == pytest.approx(scipy.stats.ttest_1samp(within, 0).pvalue)


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
        and len(found["paper"]) == 18 + len(claims()) + 4
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
        (["--agents", "dqn"], "choose from q-learning"),
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
