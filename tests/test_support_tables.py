"""Tables of support sets: the run is the unit, intervals by Student's t, corrected verdicts, rows that are kept."""
import csv
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from rlgen.experiments.support_set import REGIMES, SUPPORT_ARMS, SupportResult, SupportSettings
from rlgen.experiments.support_tables import (
    accuracies,
    learning_curve,
    read_support_rows,
    support_rows,
    support_table,
    support_text,
)
from rlgen.files import write_csv

LESSON = Path(__file__).resolve().parents[1] / "nbs" / "support"


def run(seed, numbers, regime="few", small=.1):
    "A run whose small network is so much better than its probe."
    return SupportSettings(regime=regime, seed=seed, arms=tuple(numbers)), SupportResult(
        {a: {"probe": x, "small": x + small} for a, x in numbers.items()}, {}, {}, {a: 8 for a in numbers}, [], 0., ""
    )

def by_key(table):
    return {(r["classifier"], r["arm"]): r for r in table}


def test_the_table_compares_run_by_run():
    runs = [run(s, {"pretrained": .5 + s / 10, "random": .52 + s / 10, "ours": .6 + s / 10}) for s in range(3)]
    table = support_table(support_rows(runs))
    rows = by_key(table)
    assert set(rows) == {(c, a) for c in ("probe", "small", "mean") for a in ("pretrained", "random", "ours")}
    assert rows["probe", "random"]["accuracy"] == pytest.approx(62)
    assert rows["mean", "random"]["accuracy"] == pytest.approx(67)
    for name in ("probe", "small", "mean"):
        # paired: the runs differ, the differences do not
        assert tuple(rows[name, "random"]["ours over it"]) == pytest.approx((8, 8, 8))
        assert tuple(rows[name, "ours"]["over pretrained"]) == pytest.approx((10, 10, 10))
        assert rows[name, "ours"]["ours over it"] is None and rows[name, "ours"]["p, ours over it"] is None
        assert rows[name, "random"]["runs"] == 3 and rows[name, "random"]["generated"] == 8
    text = support_text(table)
    assert "+8.0 [ +8.0,  +8.0]*" in text and "mean" in text and "n = 3 seeds" in text and "Student's t" in text

def test_intervals_are_those_of_t_over_runs_and_not_over_classifiers():
    gains = np.array([.02, .05, -.01, .04])
    runs = [run(s, {"pretrained": .5, "ours": .5 + g}, small=.1 * (-1) ** s) for s, g in enumerate(gains)]
    found = by_key(support_table(support_rows(runs)))["mean", "pretrained"]["ours over it"]
    known = scipy.stats.ttest_1samp(100 * gains, 0).confidence_interval(.95)
    assert tuple(found) == pytest.approx((100 * gains.mean(), known.low, known.high)), "as if there were 4 runs, not 8"

def test_stars_are_corrected_for_all_comparisons_of_a_column():
    rng = np.random.default_rng(0)
    arms = {"pretrained": 0, **{a: 0 for a in SUPPORT_ARMS[1:-1]}, "ours": .02}
    runs = [run(s, {a: .5 + m + rng.normal(0, .012) for a, m in arms.items()}, r) for r in REGIMES for s in range(5)]
    table = [r for r in support_table(support_rows(runs)) if r["classifier"] == "probe" and r["ours over it"]]
    alone = np.array([
        scipy.stats.ttest_1samp(
            accuracies(support_rows(runs), r["regime"], "ours", "probe")
            - accuracies(support_rows(runs), r["regime"], r["arm"], "probe"), 0
        ).pvalue for r in table
    ])
    adjusted = np.array([r["p, ours over it"] for r in table])
    order = np.argsort(alone)
    by_hand = np.minimum(np.maximum.accumulate(alone[order] * (21 - np.arange(21))), 1)
    assert len(table) == 21 and adjusted[order] == pytest.approx(by_hand)
    assert (alone < .05).sum() > (adjusted < .05).sum(), "some would have had a star"
    starred = [line for line in support_text(table).splitlines() if "]*" in line]
    assert len(starred) >= (adjusted < .05).sum()

def test_rows_are_kept_as_csv(tmp_path):
    rows = support_rows([run(s, {"pretrained": .123, "ours": .2}) for s in (3, 10)])
    write_csv(tmp_path / "rows.csv", rows)
    assert read_support_rows(tmp_path / "rows.csv") == rows
    assert support_table(read_support_rows(tmp_path / "rows.csv")) == support_table(rows)

def test_runs_are_paired_by_their_seeds_in_whatever_order():
    rows = support_rows([run(s, {"pretrained": .5 + s / 10, "ours": .55 + s / 10}) for s in range(3)])
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    found = by_key(support_table(shuffled))["probe", "pretrained"]["ours over it"]
    assert tuple(found) == pytest.approx((5, 5, 5))

def test_the_learning_curve_has_an_axis_for_each_regime():
    rows = [
        {"regime": regime, "seed": seed, "episode": t, "return": t / 10 + seed}
        for regime in ("few", "tail") for seed in (0, 1) for t in (1, 2, 3)
    ]
    few, tail = learning_curve(rows).axes
    assert [line.get_ydata().tolist() for line in few.lines][-1] == pytest.approx([.6, .7, .8])
    assert few.get_title() == "few" and tail.get_title() == "tail"

@pytest.mark.parametrize("file", sorted(path.name for path in LESSON.glob("support_*.csv")))
def test_published_rows_are_of_five_seeds_or_more(file):
    with (LESSON / file).open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    seeds = {}
    for row in rows:
        seeds.setdefault((row["regime"], row.get("arm")), set()).add(row["seed"])
    assert all(len(s) >= 5 for s in seeds.values())

def test_the_published_table_has_ours_and_the_sets_that_nobody_has_to_learn():
    rows = read_support_rows(LESSON / "support_tables.csv")
    arms = {("probe", arm) for arm in
            ("pretrained", "random", "balanced", "balanced-mixed", "weakest", "neediest", "ours")}
    table = {regime: by_key([row for row in support_table(rows) if row["regime"] == regime]) for regime in REGIMES}
    assert all(set(of) == arms for of in table.values())
    assert table["few"]["probe", "balanced"]["over pretrained"].low > 15
    assert table["few"]["probe", "random"]["ours over it"].low > 5
    assert all(of["probe", "balanced"]["ours over it"].low < 0 for of in table.values())

def test_a_column_without_numbers_is_left_out():
    rows = [row for row in read_support_rows(LESSON / "support_tables.csv") if row["arm"] != "ours"]
    text = support_text(support_table(rows))
    assert "over pretrained" in text and "ours over it" not in text
