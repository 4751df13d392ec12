"""The support track: mistakes in factored log-probabilities and quotas are named."""
import numpy as np
import pytest
from refusals import not_yet

from rlgen.exercises.support import check_factored, check_quota, quota_reference

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
    assert check_factored(lambda *case: sum(logs(*case)))
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
    assert check_quota(lambda *case: quota_reference(*case).tolist())


# ---- the self-test ----
