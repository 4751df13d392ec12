"Tables of preference runs: a run is one observation, baselines are paired by seed, rows survive a CSV file."
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlgen.data.prompts import CATEGORIES
from rlgen.experiments.preference import PreferenceResult, PreferenceSettings, load_pairs
from rlgen.experiments.preference_tables import (
    COMPARED_SETTINGS,
    against_baselines,
    curve_rows,
    learning_curves,
    preference_rows,
    preference_study,
    preference_table,
    preference_text,
    progress_sheet,
    read_preference_rows,
    truth_by_model,
    truth_rows,
)
from rlgen.files import write_csv
from rlgen.models.loading import ModelSettings, load_generator, load_perception
from rlgen.statistics import holm, mean_interval, p_value
from rlgen.store import Store

SMALL = PreferenceSettings(
    budget=40, pairs=10, evaluated=2, evaluate_every=1, length=2, models=ModelSettings(inference_steps=2)
)
LESSON = Path(__file__).parents[1] / "nbs" / "preference"


def made_up(agent="soft-q", effect=.4, seeds=5, run=.05, pair=.02, rng=None, **settings):
    "Runs as from a study: pairs of one run share its text, so they share what is good or bad about it."
    rng = rng or np.random.default_rng(0)
    runs = []
    for seed in range(seeds):
        low = np.full(10, .4)
        learned = (low + effect + run * rng.standard_normal() + pair * rng.standard_normal(10)).tolist()
        arms = {"seed": low.tolist(), "learned": learned, "truth": [.9] * 10}
        result = PreferenceResult(f"text {seed}", .8, 390 + seed, {"image": arms, "text": arms}, [], 1., "")
        runs.append((PreferenceSettings(agent=agent, seed=seed, budget=400, **settings), result))
    return runs


def test_a_run_is_one_observation_however_many_pairs_it_has():
    "The same runs with each of their pairs three times: no interval gets narrower."
    runs = made_up()
    thrice = [
        (s, replace(r, held_out={kind: {a: v * 3 for a, v in arms.items()} for kind, arms in r.held_out.items()}))
        for s, r in runs
    ]
    (once,), (again,) = (preference_table(preference_rows(x)) for x in (runs, thrice))
    for name in ("learned", "gain", "share"):
        assert once[name] == pytest.approx(again[name], abs=1e-4)
    learned = [r.mean("learned") for _, r in runs]
    assert once["learned"] == pytest.approx(mean_interval(learned), abs=1e-4)
    assert once["share"].estimate == pytest.approx(np.mean([r.share for _, r in runs]), abs=1e-4)
    assert (once["runs"], once["unique_generator_calls"], once["most_calls"]) == (5, 392, 394)


def test_the_interval_of_a_gain_covers():
    "Pairs of a run share its text; of many studies with 5 runs, 95 % of the intervals hold the true gain."
    rng, hits = np.random.default_rng(1), 0
    for _ in range(400):
        row, = preference_table(preference_rows(made_up(rng=rng)))
        hits += row["gain"].low <= .4 <= row["gain"].high
    assert .92 <= hits / 400 <= .98


def test_p_values_are_adjusted_over_the_table():
    runs = [run for length, effect in ((2, .3), (5, .02), (10, .06)) for run in made_up(length=length, effect=effect)]
    rows = preference_rows(runs)
    table = preference_table(rows)
    alone = [p_value([r["learned"] for r in rows if r["length"] == n], .4) for n in (2, 5, 10)]
    assert [row["p"] for row in table] == pytest.approx(list(holm(alone)))
    assert preference_text(table).count("*") == sum(row["p"] < .05 for row in table) + 1  # one explains it


def test_a_single_run_has_no_interval():
    row, = preference_table(preference_rows(made_up(seeds=1)))
    assert np.isnan(row["learned"].low) and row["p"] is None
    line = preference_text([row]).splitlines()[1]
    assert "nan" not in line and "[" not in line


def test_baselines_are_paired_by_seed():
    rng = np.random.default_rng(3)
    ours, theirs = made_up(rng=rng), made_up("random", .3, rng=rng)
    listed = made_up("modifiers", .1, seeds=1, rng=rng)
    random, modifiers = against_baselines(preference_rows(theirs[::-1] + ours + listed))
    gaps = [a.mean("learned") - b.mean("learned") for (_, a), (_, b) in zip(ours, theirs, strict=True)]
    assert random["baseline"] == "random" and random["difference"] == pytest.approx(mean_interval(gaps), abs=1e-4)
    constant = listed[0][1].mean("learned")
    assert modifiers["difference"] == pytest.approx(
        mean_interval([r.mean("learned") - constant for _, r in ours]), abs=1e-4
    )
    alone = [p_value(gaps, 0), p_value([r.mean("learned") for _, r in ours], constant)]
    assert [random["p"], modifiers["p"]] == pytest.approx(list(holm(alone)), rel=1e-2)
    assert modifiers["verdict"] == "higher"
    assert against_baselines(preference_rows(theirs)) == []  # nothing to compare
    other = [(replace(s, pixels=True), r) for s, r in theirs]
    assert against_baselines(preference_rows(ours + other)) == []  # not the same settings


def test_rows_survive_a_file(tmp_path):
    runs = made_up(seeds=2) + made_up("random", seeds=2, pixels=True, image=.5)
    runs[0] = runs[0][0], replace(runs[0][1], prompt='4k, "oil" > \n x')
    rows = preference_rows(runs)
    write_csv(tmp_path / "rows.csv", rows)
    assert read_preference_rows(tmp_path / "rows.csv") == rows


# ---- with the shipped models ----

@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store") / "pictures.sqlite"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, store):
    return preference_study(
        tmp_path_factory.mktemp("study"), SMALL, ("painting",), (1, 2), ("soft-q", "random"), (0, 1), store
    )


def test_a_study_has_a_row_for_each_run_and_a_line_for_each_group(runs):
    rows = preference_rows(runs)
    assert len(rows) == 8 and all(row["unique_generator_calls"] <= row["budget"] == 40 for row in rows)
    table = preference_table(rows)
    assert (
        {(r["category"], r["length"], r["agent"], r["runs"]) for r in table}
        == {("painting", n, p, 2) for n in (1, 2) for p in ("soft-q", "random")}
    )
    assert preference_text(table).count("\n") == 4 + 3
    assert [row["baseline"] for row in against_baselines(rows)] == ["random"] * 2


def test_curves_and_sheets_show_the_runs(runs, store, tmp_path):
    own = [r for r in runs if r[0].agent == "soft-q"]
    rows = curve_rows(own, every=20)
    write_csv(tmp_path / "curves.csv", rows)
    assert read_preference_rows(tmp_path / "curves.csv") == rows
    last = {(row["length"], row["seed"]): row for row in rows}
    for settings, result in own:  # where a run ended is where its curve ends
        assert last[settings.length, settings.seed]["prompt"] == result.prompt
        assert last[settings.length, settings.seed]["best"] == pytest.approx(result.score, abs=1e-4)
    assert {row["calls"] for row in rows} <= {20, 40}
    for what in ("best", "loss"):
        ax, = learning_curves(rows, what).axes
        assert [line.get_label() for line in ax.lines] == ["1 tokens", "2 tokens"]
        assert len(ax.collections) == 2 and ax.get_title() == "painting"
    at_end = [row["best"] for row in rows if row["length"] == 1 and row["calls"] == 40]
    ax, = learning_curves(rows).axes
    assert ax.lines[0].get_ydata()[-1] == pytest.approx(np.mean(at_end))
    with Store(store) as images:
        generator = load_generator(SMALL.models, images)
        first = [row for row in rows if row["seed"] == 0]
        figure = progress_sheet(first, load_pairs(SMALL, generator)[1][0], generator, (40,))
    assert len(figure.axes) == 6


def test_truth_by_model_falls_with_the_model(store):
    from rlgen.models.generator import Cached, Generator
    with Store(store) as images:
        good, bad = (
            Cached(Generator.load("tiny", inference_steps=steps, guidance=guidance), images)
            for steps, guidance in ((10, 2.5), (1, 1.))
        )
        rows = truth_rows({"good": good, "bad": bad}, load_perception(SMALL.models), ("painting",), 6)
    assert len(rows) == 12
    first, second = truth_by_model(rows)
    assert first["pairs"] == 6 and first["ground_truth"].estimate > second["ground_truth"].estimate + .1


# ---- the published rows ----

def test_the_published_runs_keep_their_budgets_and_are_complete():
    rows = read_preference_rows(LESSON / "preference_tables.csv")
    assert all(0 < row["unique_generator_calls"] <= row["budget"] for row in rows)
    table = preference_table(rows)
    assert {row["runs"] for row in table if row["agent"] != "modifiers"} == {10}
    assert {(row["category"], row["length"], row["agent"]) for row in table} == {
        (category, length, agent)
        for category in CATEGORIES
        for length, agents in ((2, ("soft-q", "modifiers")), (5, ("soft-q", "modifiers", "random", "evolution")))
        for agent in agents
    }
    assert set(COMPARED_SETTINGS) < set(rows[0])
    spent = [row["unique_generator_calls"] / row["budget"] for row in rows if row["agent"] in ("random", "evolution")]
    assert min(spent) > .9  # what is left is less than a prompt and an evaluation


def test_the_published_curves_end_where_the_table_begins():
    rows = read_preference_rows(LESSON / "preference_tables.csv")
    last = {
        (row["category"], row["length"], row["seed"]): row["prompt"]
        for row in read_preference_rows(LESSON / "preference_curves.csv") if row["calls"] == 400
    }
    own = {(row["category"], row["length"], row["seed"]): row["prompt"] for row in rows if row["agent"] == "soft-q"}
    assert last == own and len(last) == 60


def test_the_published_truths_are_of_fifty_pairs():
    table = truth_by_model(read_preference_rows(LESSON / "preference_truth.csv"))
    assert {row["pairs"] for row in table} == {50} and {row["category"] for row in table} == set(CATEGORIES)
