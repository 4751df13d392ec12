"""Policy gradients: losses and gradients against loops, what they find, exact resumption, and what they refuse."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refused

from rlgen.agents.policy_gradient import (
    ADVANTAGES,
    LADDER,
    PolicyGradient,
    PolicyGradientSettings,
    average_tokens,
    centred,
    clipped_surrogate,
    informative,
    kl_estimate,
    leave_one_out,
    policy_gradient_loss,
)
from rlgen.agents.softq import SoftQ

quick = settings(max_examples=12, deadline=None)


# ---- the published formulas, one text and one token at a time ----

def advantages_by_loops(name, rewards, groups):
    "Williams 1992; with a mean; Ahmadian et al. 2024; Shao et al. 2024."
    found = []
    for i, r in enumerate(rewards):
        mine = [float(x) for x, g in zip(rewards, groups, strict=True) if g == groups[i]]
        others = [float(x) for k, (x, g) in enumerate(zip(rewards, groups, strict=True)) if g == groups[i] and k != i]
        mean = sum(mine) / len(mine)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in mine) / len(mine))
        found.append({
            "reward": float(r),
            "centred": float(r) - mean,
            "leave-one-out": float(r) - sum(others) / len(others) if others else 0.,
            "standardised": (float(r) - mean) / deviation if deviation > 1e-6 else 0.,
        }[name])
    return found


def log_policy(logits, actions, i, t):
    "The log-probability of a token, from logits."
    return logits[i, t, actions[i, t]] - torch.log(sum(torch.exp(x) for x in logits[i, t]))


def reinforce_loss(d, baseline):
    "Williams 1992, and RLOO: the mean over texts of -A_i times the log-probability of the whole text."
    A = advantages_by_loops(baseline, d.rewards, d.groups)
    texts = [sum(log_policy(d.logits, d.actions, i, t) for t in range(d.lengths[i])) for i in range(len(A))]
    return -sum(a * text for a, text in zip(A, texts, strict=True)) / len(A)


def surrogate(d, A, i, t, low, high):
    "Schulman et al. 2017, equation 7."
    ratio = torch.exp(log_policy(d.logits, d.actions, i, t) - d.old[i, t])
    clipped = 1 - low if ratio < 1 - low else 1 + high if ratio > 1 + high else ratio
    clipped = torch.as_tensor(clipped, dtype=ratio.dtype)
    return min(ratio * A[i], clipped * A[i], key=lambda x: float(x.detach()))


def grpo_loss(d, beta):
    "Shao et al. 2024, equations 3 and 4: the mean of a text's tokens, then the mean of texts."
    A, total = advantages_by_loops("standardised", d.rewards, d.groups), 0.
    for i in range(len(A)):
        n = int(d.lengths[i])
        for t in range(n):
            ratio = torch.exp(d.reference[i, t] - log_policy(d.logits, d.actions, i, t))
            kl = ratio - torch.log(ratio) - 1
            total = total + (surrogate(d, A, i, t, .2, .2) - beta * kl) / n / len(A)
    return -total


def dr_grpo_loss(d):
    "Liu et al. 2025: neither the deviation nor the length; a constant, the longest length, instead."
    A, total = advantages_by_loops("centred", d.rewards, d.groups), 0.
    for i in range(len(A)):
        for t in range(d.lengths[i]):
            total = total + surrogate(d, A, i, t, .2, .2) / (len(A) * d.logits.shape[1])
    return -total


def dapo_loss(d):
    "Yu et al. 2025, equations 8 to 12: groups with different rewards alone, each token alike, a higher upper bound."
    A, total, tokens = advantages_by_loops("standardised", d.rewards, d.groups), 0., 0
    for i in range(len(A)):
        mine = [float(r) for r, g in zip(d.rewards, d.groups, strict=True) if g == d.groups[i]]
        if min(mine) == max(mine): continue
        for t in range(d.lengths[i]):
            total, tokens = total + surrogate(d, A, i, t, .2, .28), tokens + 1
    return -total / tokens


def batch(seed, far=.4, V=3, T=4):
    "Ragged texts in four groups, one of them with equal rewards; the policy has moved away from the old one."
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat([7, 2, 9, 4], [3, 4, 2, 2]))
    rewards = np.where(groups == 4, .3, rng.normal(0, 2, len(groups)))
    B = len(groups)
    logits, actions = torch.tensor(rng.normal(0, 1, (B, T, V))), torch.tensor(rng.integers(0, V, (B, T)))
    def of(logits):
        return torch.log_softmax(logits, -1).gather(-1, actions[..., None])[..., 0]
    return SimpleNamespace(
        logits=logits,
        actions=actions,
        old=of(logits + far * torch.tensor(rng.normal(0, 1, (B, T, V)))),
        reference=of(torch.tensor(rng.normal(0, 1, (B, T, V)))),
        rewards=torch.tensor(rewards),
        groups=torch.tensor(groups),
        lengths=torch.tensor(rng.permutation([T, 1] + rng.integers(1, T + 1, B - 2).tolist())),
        of=of,
    )


def with_gradient(loss, d, *rest):
    d = SimpleNamespace(**vars(d) | {"logits": d.logits.clone().requires_grad_()})
    value = loss(d, *rest)
    value.backward()
    return value.item(), d.logits.grad


def ours(d, settings):
    "Advantages, the texts that are used and the loss, by the package."
    used = informative(d.rewards, d.groups) if settings.dynamic else torch.ones(len(d.rewards), dtype=torch.bool)
    A = ADVANTAGES[settings.advantage](d.rewards, d.groups)
    parts = d.of(d.logits), d.old, d.reference, A, d.lengths
    return policy_gradient_loss(*(part[used] for part in parts), settings)


@quick
@given(st.integers(0, 10**6))
def test_advantages_equal_loops(seed):
    d = batch(seed)
    for name, advantage in ADVANTAGES.items():
        np.testing.assert_allclose(
            advantage(d.rewards, d.groups), advantages_by_loops(name, d.rewards, d.groups), rtol=1e-9, atol=1e-9
        )


@quick
@given(st.integers(0, 10**6), st.sampled_from(["REINFORCE", "group mean", "RLOO"]))
def test_reinforce_mean_baseline_and_rloo(seed, name):
    "Of the policy that wrote the texts; the package divides by the longest length as well."
    d = batch(seed, far=0)
    baseline = {"REINFORCE": "reward", "group mean": "centred", "RLOO": "leave-one-out"}[name]
    gradient = with_gradient(ours, d, LADDER[name])[1]
    expected = with_gradient(reinforce_loss, d, baseline)[1] / d.logits.shape[1]
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


@quick
@given(st.integers(0, 10**6), st.sampled_from([
    ("GRPO", grpo_loss, 0.), ("GRPO, KL", grpo_loss, .04), ("Dr. GRPO", dr_grpo_loss), ("DAPO", dapo_loss),
]))
def test_grpo_dr_grpo_and_dapo(seed, case):
    name, formula, *rest = case
    d = batch(seed)
    loss, gradient = with_gradient(ours, d, LADDER[name])
    expected, slope = with_gradient(formula, d, *rest)
    assert loss == pytest.approx(expected, rel=1e-9, abs=1e-9)
    torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-9)


def test_the_names_differ():
    "But for Dr. GRPO, which is the group's mean as baseline with several steps, and for what is in the groups."
    d = batch(3)
    slopes = {name: with_gradient(ours, d, rung)[1] for name, rung in LADDER.items()}
    assert torch.equal(slopes.pop("Dr. GRPO"), slopes["group mean"])
    assert torch.equal(slopes.pop("GRPO, own prompts"), slopes["GRPO"])
    found = list(slopes.values())
    assert not any(torch.allclose(a, b) for k, a in enumerate(found) for b in found[:k])


# ---- its parts ----

@quick
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_the_expectation_of_k3_is_the_kl_divergence(seed, n):
    p, q = torch.tensor(np.random.default_rng(seed).dirichlet(np.ones(n), 2)).clamp(min=1e-6)
    p, q = p / p.sum(), q / q.sum()
    estimates = kl_estimate(p.log(), q.log())
    assert (estimates >= 0).all()
    assert (p * estimates).sum().item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-9, abs=1e-9)


def test_groups_without_anything_to_learn_give_zero():
    rewards, groups = torch.tensor([.1, .1, .1, 5., .2, .4], dtype=torch.float64), torch.tensor([0, 0, 0, 8, 3, 3])
    for name in ("centred", "leave-one-out", "standardised"):
        A = ADVANTAGES[name](rewards, groups)
        assert A.isfinite().all() and A[:4].abs().max() < 1e-12 and A[4:].abs().min() > .05
    assert informative(rewards, groups).tolist() == [False] * 4 + [True] * 2
    assert leave_one_out(torch.tensor([3.]), torch.tensor([0])).tolist() == [0.]


def test_the_order_and_names_of_groups_do_not_matter():
    d = batch(5)
    turn = torch.randperm(len(d.rewards), generator=torch.Generator().manual_seed(0))
    for advantage in (centred, leave_one_out):
        torch.testing.assert_close(
            advantage(d.rewards[turn], -d.groups[turn]), advantage(d.rewards, d.groups)[turn], rtol=0, atol=1e-12
        )


def test_the_clip_takes_away_the_gradient_by_hand():
    for ratio, A, value, slope in ((1.5, 1., 1.2, 0.), (1.5, -1., -1.5, -1.5), (.5, 1., .5, .5), (.5, -1., -.8, 0.)):
        logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
        out = clipped_surrogate(logp, torch.zeros(1, 1, dtype=torch.float64), torch.tensor([A], dtype=torch.float64))
        out.sum().backward()
        assert (out.item(), logp.grad.item()) == (pytest.approx(value), pytest.approx(slope))


def test_what_stands_behind_the_end_never_matters():
    d = batch(1)
    behind = torch.arange(4) >= d.lengths[:, None]
    moved = SimpleNamespace(**vars(d) | {"old": torch.where(behind, d.old + 50, d.old)})
    for rung in LADDER.values():
        loss, gradient = with_gradient(ours, d, rung)
        same, slope = with_gradient(ours, moved, rung)
        assert loss == same and torch.equal(gradient, slope) and not slope[behind].any()


# ---- the agent, on a policy without a language model ----

class Table:
    "Two tokens of ten, with a row of logits for each place; the frozen model writes all of them equally often."
    length, size, allowed = 2, 10, torch.ones(10, dtype=torch.bool)

    def __init__(self):
        self.net = torch.nn.Linear(2, self.size, bias=False)
        torch.nn.init.zeros_(self.net.weight)

    def logits(self, states, net=None):
        return (net or self.net)(states)

    def prior(self, states):
        return torch.zeros(*states.shape[:2], self.size)

    def sample(self, sources, generator=None, greedy=False, net=None):
        states = torch.eye(2).expand(len(sources), 2, 2)
        p = torch.softmax(self.logits(states, net).detach(), -1)
        drawn = torch.multinomial(p.flatten(0, 1), 1, generator=generator).reshape(-1, 2)
        return SimpleNamespace(ids=p.argmax(-1) if greedy else drawn, states=states)


SOURCES = ["a dog", "a cat", "a fish"]
WANTED = np.array([3, 7])


def right_tokens(rows, ids):
    "How many tokens are the wanted ones, behind the first seed prompt a little more."
    return (ids == WANTED).sum(1) + .1 * (rows == 0)


def make(name="GRPO", reward=right_tokens, own_reward=None, **changes):
    known = vars(LADDER[name]) | {"learning_rate": .05, "new_prompts": 2} | changes
    return PolicyGradient(Table(), reward, SOURCES, PolicyGradientSettings(**known), own_reward)


def memory(agent):
    arrays, note = agent.state_dict()
    return {name: (array.dtype.str, array.shape, np.asarray(array).tobytes()) for name, array in arrays.items()}, note


@pytest.mark.parametrize("name", ["RLOO", "GRPO", "Dr. GRPO", "DAPO"])
def test_it_learns_two_of_ten_tokens(name):
    "Random texts have 0.2 right tokens on average, and the best one 2."
    agent = make(name, learning_rate=.1)
    rewards = [update.rewards.mean() for update in agent.learn_steps(80)]
    assert np.mean(rewards[:5]) < .6 and np.mean(rewards[-20:]) > 1.7
    assert agent.act(SOURCES[1]).tolist() == WANTED.tolist()


def test_the_first_step_follows_the_gradient_of_equation_1():
    "Its length, by the derivative of a softmax: one minus the probability for the token, minus it for the others."
    agent = make("RLOO", clip=1e9)
    update = agent.step()
    A = advantages_by_loops("leave-one-out", update.rewards, update.rows)
    slope = np.zeros((2, 10))
    for a, ids in zip(A, update.ids, strict=True):
        for t in range(2):
            slope[t] += a * ((np.arange(10) == ids[t]) - .1) / (len(A) * 2)
    assert update.gradient == pytest.approx(np.linalg.norm(slope), rel=1e-5)


def test_what_is_logged():
    update = make("GRPO", lambda rows, ids: np.where(rows == 1, .5, ids[:, 0] / 9.), new_prompts=3).step()
    spread = [update.rewards[update.rows == row].std() for row in range(3)]
    assert update.equal == pytest.approx(1 / 3) and update.deviation == pytest.approx(np.mean(spread))
    assert update.entropy == pytest.approx(math.log(10), rel=1e-6) and update.kl == pytest.approx(0, abs=1e-6)
    assert math.isfinite(update.loss) and 0 <= update.clipped <= 1
    updates = list(make("GRPO").learn_steps(60))
    assert updates[-1].kl > .5 and updates[-1].entropy < 2 and max(u.clipped for u in updates) > 0
    assert all(u.clipped == 0 for u in make("RLOO").learn_steps(20))


def test_the_kl_penalty_holds_the_policy_back():
    near, far = (list(make("GRPO", kl=kl).learn_steps(100))[-1] for kl in (2., 0.))
    assert near.kl < .5 < far.kl and near.entropy > far.entropy


def test_equal_rewards_teach_nothing():
    for name in ("group mean", "RLOO", "GRPO", "Dr. GRPO", "DAPO"):
        agent = make(name, lambda rows, ids: np.full(len(rows), .3))
        updates = list(agent.learn_steps(3))
        assert agent.policy.net.weight.abs().max() < 1e-6 or name in ("group mean", "RLOO", "Dr. GRPO")
        assert agent.policy.net.weight.isfinite().all() and all(u.equal == 1 for u in updates)
    assert math.isnan(updates[0].loss) and updates[0].gradient == 0  # DAPO leaves every group out


def test_a_group_of_one_text_is_no_trouble():
    for name in ("RLOO", "GRPO", "DAPO"):
        agent = make(name)
        update = agent.step(max_new=1)
        assert len(update.rows) == 1 and update.gradient == pytest.approx(0) and update.equal == 1
        assert torch.equal(agent.policy.net.weight, torch.zeros(10, 2))


def test_own_prompts_belong_to_the_group_and_are_not_learned_from():
    asked = []
    def own(rows):
        asked.append(rows.tolist())
        return np.full(len(rows), 10.)
    agent = make("GRPO", own_prompts=2, own_reward=own)
    A, used = agent.advantages(np.array([2, 2, 2, 0]), np.array([1., 2., 3., 4.]))
    group = np.array([1., 2., 3., 10., 10.])
    np.testing.assert_allclose(A[:3], ((group - group.mean()) / group.std())[:3])
    np.testing.assert_allclose(A[3], (4 - 8) / np.std([4, 10, 10]))
    assert asked == [[0, 0, 2, 2]] and used.tolist() == [True] * 4
    assert len(agent.step().rows) == 16


def test_two_runs_of_one_seed_are_equal_and_others_are_not():
    first, second, other = (make("DAPO", seed=seed).learn(15) for seed in (0, 0, 1))
    assert memory(first) == memory(second) != memory(other)


@pytest.mark.parametrize("name", ["REINFORCE", "GRPO, KL", "DAPO"])
def test_saved_in_a_file_and_continued(tmp_path, name):
    agent = make(name).learn(9, evaluate_every=3)
    agent.save(tmp_path / "agent")
    again = PolicyGradient.load(tmp_path / "agent", policy=Table(), reward=right_tokens)
    assert again.settings == agent.settings and memory(again) == memory(agent)
    assert memory(again.learn(9, evaluate_every=3)) == memory(agent.learn(9, evaluate_every=3))
    assert memory(agent) == memory(make(name).learn(18, evaluate_every=3))
    refused(lambda: SoftQ.load(tmp_path / "agent", policy=Table(), reward=right_tokens), "PolicyGradient")


# ---- what it refuses ----

@pytest.mark.parametrize(
    "change, words",
    [
        ({"advantage": "gae"}, ("'gae'", "leave-one-out")),
        ({"average": "mean"}, ("'mean'", "constant")),
        ({"low": 1.5}, ("low is 1.5", "between 0 and 1")),
        ({"low": math.nan}, ("low is nan",)),
        ({"high": -.1}, ("high is -0.1", "0 or more")),
        ({"high": math.nan}, ("high is nan",)),
        ({"epochs": 0}, ("epochs is 0", "1 or more")),
        ({"kl": -1}, ("kl is -1", "0 or more")),
        ({"kl": math.inf}, ("kl is inf", "finite")),
        ({"own_prompts": -1}, ("own_prompts is -1",)),
        ({"learning_rate": 0}, ("learning_rate is 0", "above 0")),
        ({"learning_rate": math.nan}, ("learning_rate is nan",)),
        ({"clip": math.inf}, ("clip is inf",)),
        ({"new_prompts": 0}, ("new_prompts is 0",)),
        ({"samples_per_prompt": 1}, ("samples_per_prompt is 1", "2 or more")),
        ({"seed": -1}, ("seed",)),
    ],
)
def test_settings_refuse(change, words):
    refused(lambda: PolicyGradientSettings(**change), *words)


def test_the_agent_refuses():
    refused(lambda: make(own_prompts=2), "own_prompts is 2", "own_reward=")
    refused(lambda: PolicyGradient(Table(), right_tokens, []), "at least one")
    refused(make(reward=lambda rows, ids: np.full(len(rows), math.nan)).step, "nan", "finite")
    refused(lambda: average_tokens(torch.zeros(2, 3), torch.tensor([1, 2]), "words"), "'words'", "token")
