"""The support track: mistakes in factored log-probabilities and quotas are named; the self-test asks and explains."""
import ast
import json
from pathlib import Path

import numpy as np
import pytest
from refusals import not_yet

from rlgen.exercises import support
from rlgen.exercises.checks import Question, check_choice
from rlgen.exercises.support import check_factored, check_quota, quota_reference

NBS = Path(__file__).resolve().parents[1]/"nbs"/"support"


def parts(logits, sizes):
    return np.split(logits, np.cumsum(sizes)[:-1])


def log_softmax(part):
    return part - part.max() - np.log(np.exp(part - part.max()).sum())


def logs(logits, action, sizes):
    return [log_softmax(part)[k] for part, k in zip(parts(logits, sizes), action, strict=True)]


def places(action, sizes):
    return np.cumsum([0, *sizes[:-1]]) + action


def overflowing(logits, action, sizes):
    return sum(part[k] - np.log(np.exp(part).sum()) for part, k in zip(parts(logits, sizes), action, strict=True))


def changes_its_argument(logits, action, sizes):
    logits -= logits.max()
    return sum(logs(logits, action, sizes))


@pytest.mark.parametrize("factored, hint", [
    (overflowing, "np.exp(900) is infinite"),
    (lambda x, a, n: log_softmax(x)[places(a, n)].sum(), "each part has one of its own"),
    (lambda x, a, n: np.prod(logs(x, a, n)), "their logarithms are added"),
    (lambda x, a, n: np.mean(logs(x, a, n)), "mean over the parts"),
    (lambda x, a, n: np.exp(sum(logs(x, a, n))), "Return its logarithm"),
    (lambda x, a, n: x[places(a, n)].sum(), "A log-probability is at most 0: normalise"),
    (lambda x, a, n: -sum(logs(x, a, n)), "Look at the sign"),
    (lambda x, a, n: logs(x, a, n)[0], "first part alone"),
    (lambda x, a, n: logs(x, a, n), "must return a number"),
    (lambda x, a, n: 1., "over the parts, of the logit minus"),
    (changes_its_argument, "logits"),
])
def test_the_mistake_is_named(factored, hint, capsys):
    not_yet(check_factored, factored, hint, capsys)


def test_a_factored_log_probability_passes(capsys):
    assert check_factored(lambda *case: sum(logs(*case))) is True
    assert capsys.readouterr().out.startswith("Right: ")


def left_over(order):
    "Whole parts first, the rest to the first labels in an order."
    def quota(shares, n, owed):
        counts = np.floor(shares * n).astype(int)
        counts[order(shares)[:n - counts.sum()]] += 1
        return counts
    return quota


@pytest.mark.parametrize("quota, hint", [
    (lambda shares, n, owed: quota_reference(shares, n, 0 * owed), "what is owed"),
    (lambda shares, n, owed: np.round(shares * n), "Rounding each quota"),
    (left_over(lambda shares: np.argsort(-shares)), "not to the largest shares"),
    (left_over(lambda shares: np.arange(len(shares))), "not to the first labels"),
    (lambda shares, n, owed: np.floor(shares * n), "Images are left over"),
    (lambda shares, n, owed: quota_reference(shares, n, -owed), "largest remainders"),
    (lambda shares, n, owed: int(n), "a whole number for each label"),
])
def test_the_mistake_in_a_quota_is_named(quota, hint, capsys):
    not_yet(check_quota, quota, hint, capsys)


def test_a_quota_is_that_of_a_plan():
    from rlgen.clone.plan import balanced_labels
    shares, rng = np.array([.55, .3, .15]), np.random.default_rng(0)
    dealt, owed = balanced_labels(shares, 6, 7, rng), np.zeros(3)
    for row in dealt:
        counts = np.bincount(row, minlength=3)
        assert counts.tolist() == quota_reference(shares, 7, owed).tolist()
        owed += shares * 7 - counts
    assert check_quota(lambda *case: quota_reference(*case).tolist()) is True


# ---- the self-test ----

def choices(page):
    "The letters that a page gives, by the name of the question."
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    trees = [ast.parse("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {call.args[0].id: call.args[1].value for call in calls
            if getattr(call.func, "id", "") == "check_choice" and isinstance(call.args[1], ast.Constant)}


QUESTIONS = {name: value for name, value in vars(support).items() if isinstance(value, Question)}


def test_every_question_is_asked_and_none_is_answered_on_the_page():
    assert len(QUESTIONS) == 5
    assert choices(NBS/"10_self_test.ipynb") == dict.fromkeys(QUESTIONS, "")


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_solutions_answer_it_and_every_wrong_answer_is_explained(name, capsys):
    question = QUESTIONS[name]
    assert check_choice(question, choices(NBS/"solutions"/"10_self_test.ipynb")[name]) is True
    assert len(question.options) >= 3 and all(len(reason) > 20 for _, reason in question.options.values())
    for letter, (answer, reason) in question.options.items():
        assert check_choice(question, letter) is (answer == question.right)
        assert reason in capsys.readouterr().out
