"""Soft Q-learning: the losses against loops and a fixture, known optima, exact resumption, and what it refuses."""
import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refused

from rlgen.agents.softq import (
    VARIANTS,
    PromptAgent,
    SoftQ,
    SoftQSettings,
    polyak_update,
    soft_q_loss,
    soft_values,
    standardise,
    v2_targets,
)
from rlgen.agents.token_search import EvolvedTokens, RandomTokens
from rlgen.models.prompt_policy import PromptPolicy
from rlgen.runs import Run

FIXTURE = Path(__file__).resolve().parents[1].parent / "shared" / "fixtures" / "soft_q_losses.json"
quick = settings(max_examples=60, deadline=None)


# ---- the losses ----

def by_loops(logits, target, actions, rewards, lengths, variant, coefficient):
    """The losses as the papers write them, one prompt and one token at a time,
    with sums where the package has running ones.
    """
    V = lambda q, b, t: torch.log(sum(torch.exp(q[b, t, k]) for k in range(q.shape[2])))
    A = lambda q, b, t: q[b, t, actions[b, t]] - V(q, b, t)
    def half(name, online, other):
        total = 0.
        for b in range(len(actions)):
            n, r = int(lengths[b]), rewards[b]
            for t in range(n):
                after = r if t == n - 1 else V(other, b, t + 1)
                if name == "v1":
                    error = online[b, t, actions[b, t]] - after
                if name == "v2":
                    error = A(online, b, t) - (after - V(other, b, t))
                if name == "v3":
                    error = sum(A(online, b, k) for k in range(t, n)) - (r - V(other, b, t))
                total = total + error ** 2 / len(actions)
        return total
    if variant in ("v1", "v2", "v3"): return half(variant, logits, target)
    parts = [half(name, logits, target) if coefficient is None else
             coefficient * half(name, logits, target) + (1 - coefficient) * half(name, target, logits)
             for name in ("v2", "v3") if name + "r" in variant]
    return sum(parts) / len(parts)


def batch(seed, B=2, T=3, V=4):
    rng = np.random.default_rng(seed)
    tensor = lambda x: torch.tensor(x, dtype=torch.float64)
    return (
        tensor(rng.normal(0, 2, (B, T, V))),
        tensor(rng.normal(0, 2, (B, T, V))),
        torch.tensor(rng.integers(0, V, (B, T))),
        tensor(rng.normal(0, 5, B)),
        torch.tensor(rng.integers(1, T + 1, B)),
    )


def with_gradient(loss, logits, *rest):
    logits = logits.clone().requires_grad_()
    value = loss(logits, *rest)
    value.backward()
    return value.item(), logits.grad


def test_the_fixture_is_reproduced():
    if not FIXTURE.is_file():
        pytest.skip("the fixture is not beside the repository")
    cases, count = json.loads(FIXTURE.read_text(encoding="utf-8")), 0
    for case in cases:
        logits, target, rewards = (
            torch.tensor(case[name], dtype=torch.float64) for name in ("logits", "target_logits", "rewards")
        )
        for key, expected in case["losses"].items():
            variant, _, coefficient = key.partition("@")
            loss, gradient = with_gradient(
                soft_q_loss,
                logits,
                target,
                torch.tensor(case["actions"]),
                rewards,
                torch.tensor(case["lengths"]),
                variant,
                float(coefficient) if coefficient else None,
            )
            found = {"loss": loss, "grad_norm": gradient.norm().item(), "grad_sum_abs": gradient.abs().sum().item()}
            for name, value in expected.items():
                assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-9), (case["seed"], key, name)
            count += 1
    assert count >= 8


@quick
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(VARIANTS),
    st.none() | st.floats(0, 1),
)
def test_losses_and_gradients_equal_plain_loops(seed, B, T, V, variant, coefficient):
    data = batch(seed, B, T, V)
    loss, gradient = with_gradient(soft_q_loss, *data, variant, coefficient)
    expected, slope = with_gradient(by_loops, *data, variant, coefficient)
    assert loss == pytest.approx(expected, rel=1e-9, abs=1e-9)
    torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-9)


@quick
@given(st.integers(0, 10**6))
def test_without_coefficient_the_default_is_half_of_v2_and_v3(seed):
    data = batch(seed)
    total = soft_q_loss(*data)
    assert total.item() == pytest.approx((soft_q_loss(*data, "v2") + soft_q_loss(*data, "v3")).item() / 2, rel=1e-12)
    for name in ("v2", "v3"):
        assert soft_q_loss(*data, f"{name}_{name}r").item() == soft_q_loss(*data, name).item()


@quick
@given(st.integers(0, 10**6), st.sampled_from(VARIANTS), st.none() | st.floats(0, 1), st.sampled_from([1., 1e4, -1e4]))
def test_what_stands_behind_the_end_never_matters(seed, variant, coefficient, scale):
    logits, target, actions, rewards, lengths = batch(seed, 3, 4, 3)
    behind, rng = torch.arange(4) >= lengths[:, None], np.random.default_rng(seed + 1)
    others = [
        torch.where(behind[..., None], scale * torch.tensor(rng.normal(size=q.shape)), q) for q in (logits, target)
    ]
    moved = torch.where(behind, torch.tensor(rng.integers(0, 3, actions.shape)), actions)
    loss, gradient = with_gradient(soft_q_loss, logits, target, actions, rewards, lengths, variant, coefficient)
    same, slope = with_gradient(soft_q_loss, *others, moved, rewards, lengths, variant, coefficient)
    assert loss == same
    assert torch.equal(gradient, slope) and not slope[behind].any()


def test_masked_tokens_have_no_share():
    logits, target, actions, rewards, lengths = batch(0, V=5)
    actions = actions.clamp(max=3)
    for variant in VARIANTS:
        hidden = [torch.cat([q[..., :4], torch.full_like(q[..., :1], -math.inf)], -1) for q in (logits, target)]
        loss, gradient = with_gradient(soft_q_loss, *hidden, actions, rewards, lengths, variant, .5)
        small, slope = with_gradient(
            soft_q_loss, logits[..., :4], target[..., :4], actions, rewards, lengths, variant, .5
        )
        assert loss == pytest.approx(small, rel=1e-12)
        torch.testing.assert_close(gradient[..., :4], slope)
        assert not gradient[..., 4].any()


def test_values_and_targets_by_hand():
    assert soft_values(torch.tensor([[[0., 0., math.log(2)]]])).item() == pytest.approx(math.log(4))
    assert v2_targets(torch.tensor([[1., 3., 9.]]), torch.tensor([7.]), torch.tensor([3])).tolist() == [[2., 6., -2.]]


def test_gradient_reaches_the_online_network_alone():
    data = batch(1)
    for variant in VARIANTS:
        target = data[1].clone().requires_grad_(False)
        before = target.clone()
        with_gradient(soft_q_loss, data[0], target, *data[2:], variant, .5)
        assert torch.equal(before, target) and target.grad is None


@pytest.mark.parametrize(
    "change, words",
    [
        ({"variant": "v4"}, ("v4", "v2_v2r_v3_v3r")),
        ({"coefficient": 1.5}, ("1.5", "between 0 and 1")),
        ({"coefficient": math.nan}, ("nan",)),
        ({"actions": torch.zeros(2, 2, dtype=torch.int64)}, ("(2, 2)",)),
        ({"rewards": torch.zeros(3)}, ("(3,)",)),
        ({"lengths": torch.tensor([0, 1])}, ("0", "1 to 3")),
        ({"lengths": torch.tensor([4, 1])}, ("4", "1 to 3")),
        ({"target_logits": torch.zeros(2, 3, 5)}, ("(2, 3, 5)",)),
        ({"logits": torch.zeros(3, 4)}, ("[B, T, V]",)),
    ],
)
def test_losses_refuse(change, words):
    data = dict(zip(("logits", "target_logits", "actions", "rewards", "lengths"), batch(0), strict=True))
    refused(lambda: soft_q_loss(**(data | change)), *words)


# ---- do they find what they should? ----

def furthest(variant, coefficient, steps=1500):
    "Largest error of a table's policy over all prompts of three tokens of two, against softmax(r)."
    every = torch.cartesian_prod(*[torch.arange(2)] * 3)  # [8, 3]
    rewards = torch.tensor([0., 2., 1., -1., 3., 0., .5, 2.], dtype=torch.float64)
    # a row for each prefix
    rows = torch.stack([torch.zeros(8, dtype=torch.int64), 1 + every[:, 0], 3 + 2 * every[:, 0] + every[:, 1]], 1)
    table, target = torch.zeros(7, 2, dtype=torch.float64, requires_grad=True), torch.zeros(7, 2, dtype=torch.float64)
    optimiser = torch.optim.Adam([table], .03)
    for _ in range(steps):
        optimiser.zero_grad()
        soft_q_loss(table[rows], target[rows], every, rewards, torch.full((8,), 3), variant, coefficient).backward()
        optimiser.step()
        target.lerp_(table.detach(), .03)
    logp = torch.log_softmax(table.detach(), -1)[rows].gather(-1, every[..., None])[..., 0].sum(1)
    return (logp.exp() - torch.softmax(rewards, 0)).abs().max().item()


@pytest.mark.parametrize("variant", ["v1", "v2_v2r", "v3_v3r", "v2_v2r_v3_v3r"])
def test_the_optimum_is_found(variant):
    assert furthest(variant, .5) < .01


@pytest.mark.parametrize("variant", ["v2", "v2_v2r"])
def test_without_the_exchanged_half_it_is_not(variant):
    "An advantage is blind to the level of the logits, so nobody teaches the target network its values."
    assert furthest(variant, None) > .03


# ---- its parts ----

def test_standardise_by_hand():
    z = standardise(torch.tensor([1., 3., 5., 5., 2.], dtype=torch.float64), torch.tensor([9, 9, -4, -4, 0]))
    # the deviation is the population's; a group without spread gives 0
    np.testing.assert_allclose(z, [-1, 1, 0, 0, 0], atol=1e-12)
    z = standardise(torch.tensor([0., 0., 3.], dtype=torch.float64), torch.tensor([1, 1, 1]))
    np.testing.assert_allclose(z, np.array([-1, -1, 2]) / math.sqrt(2), atol=1e-12)


@quick
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(.1, 100), st.floats(-100, 100))
def test_standardise_equals_numpy_and_ignores_straight_lines(seed, n, scale, shift):
    rng = np.random.default_rng(seed)
    rewards, groups = rng.normal(size=n), rng.integers(0, 3, n)
    expected = np.array([
        (r - rewards[groups == g].mean()) / rewards[groups == g].std() if (groups == g).sum() > 1 else 0.
        for r, g in zip(rewards, groups, strict=True)
    ])
    np.testing.assert_allclose(standardise(torch.tensor(rewards), torch.tensor(groups)), expected, atol=1e-7)
    np.testing.assert_allclose(
        standardise(torch.tensor(scale * rewards + shift), torch.tensor(groups)), expected, atol=1e-5
    )


def test_polyak():
    slow, fast = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    old, new = copy.deepcopy(slow), copy.deepcopy(fast)
    polyak_update(slow, fast, .25)
    for s, o, n in zip(slow.parameters(), old.parameters(), new.parameters(), strict=True):
        torch.testing.assert_close(s, .75 * o + .25 * n)
    for f, n in zip(fast.parameters(), new.parameters(), strict=True):
        assert torch.equal(f, n)
    polyak_update(slow, fast, 1.)
    for s, n in zip(slow.parameters(), new.parameters(), strict=True):
        torch.testing.assert_close(s, n)


# ---- the trainer, on a policy without a language model ----

class Table:
    "Two tokens of six, with a row of logits for each seed prompt and all that may be written behind it so far."
    length, size, allowed = 2, 6, torch.ones(6, dtype=torch.bool)

    def __init__(self, sources, favourite=None):
        self.sources = list(sources)
        self.net = torch.nn.Linear(len(self.sources) * (1 + self.size), self.size, bias=False)
        torch.nn.init.zeros_(self.net.weight)
        self.habit = torch.zeros(self.size)  # of the frozen model
        if favourite is not None:
            self.habit[favourite] = 2.

    def states(self, sources, ids):
        start = torch.tensor([self.sources.index(s) for s in sources]) * (1 + self.size)
        return torch.nn.functional.one_hot(torch.stack([start, start + 1 + ids[:, 0]], 1), self.net.in_features).float()

    def logits(self, states, net=None):
        return (net or self.net)(states)

    def prior(self, states):
        return self.habit.expand(*states.shape[:2], self.size)

    def sample(self, sources, generator=None, greedy=False, net=None):
        ids = torch.zeros(len(sources), self.length, dtype=torch.int64)
        for t in range(self.length):
            logits = self.logits(self.states(sources, ids), net)[:, t].detach()
            ids[:, t] = (
                logits.argmax(-1)
                if greedy
                else torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)[:, 0]
            )
        return SimpleNamespace(ids=ids, states=self.states(sources, ids))


SOURCES = ["a dog", "a cat", "a fish"]
WANTED = np.array([[1, 4], [1, 4], [5, 0]])


class Pay:
    "How many tokens are the wanted ones; counts what it was asked, and fails at the n-th call if told so."
    def __init__(self, fails_at=None):
        self.calls, self.rows, self.fails_at = 0, 0, fails_at

    def __call__(self, rows, ids):
        self.calls, self.rows = self.calls + 1, self.rows + len(rows)
        if self.calls == self.fails_at: raise KeyboardInterrupt
        return (ids == WANTED[rows]).sum(1).astype(float)


def make(reward=None, sources=SOURCES, favourite=None, **settings):
    return SoftQ(
        Table(sources, favourite),
        reward or Pay(),
        sources,
        SoftQSettings(**({"learning_rate": .05, "new_prompts": 2, "samples_per_prompt": 4} | settings)),
    )


def memory(agent):
    arrays, note = agent.state_dict()
    return {name: (array.dtype.str, array.shape, np.asarray(array).tobytes()) for name, array in arrays.items()}, note


EVERYTHING = {"replay_batch": 6, "sample_every": 3, "kl": .1, "shift": .5, "scale": 2.}


def test_it_learns_what_each_seed_prompt_wants():
    agent = make(new_prompts=3, samples_per_prompt=16, polyak=.05, scale=8.)
    agent.learn(200)
    assert agent.policy.sample(SOURCES, greedy=True).ids.tolist() == WANTED.tolist()


def test_the_best_is_the_prompt_with_the_best_mean():
    agent = make(new_prompts=3, samples_per_prompt=8, polyak=.05, scale=8.).learn(60, evaluate_every=5)
    # two of three seed prompts want this
    assert agent.best.tolist() == [1, 4] and agent.best_score == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    "changes", [{}, EVERYTHING, {"copy_every": 4, "coefficient": None}, {"variant": "v1", "standardised": False}]
)
def test_two_runs_with_one_seed_are_equal(changes):
    a, b, c = (make(seed=seed, **changes).learn(12, evaluate_every=4) for seed in (3, 3, 4))
    assert memory(a) == memory(b) != memory(c)


@pytest.mark.parametrize("changes", [{}, EVERYTHING, {"copy_every": 5}])
def test_killed_and_resumed_from_a_run_folder_bit_for_bit(tmp_path, changes):
    def start(reward, folder):
        run = Run.create(folder, {"seed": 0})
        agent = make(reward, **changes)
        found = run.resume("last")
        if found:
            agent.load_state_dict(*found)
        def keep(update):
            run.log(step=update.update, loss=update.loss, score=update.score, paid=update.rewards)
            if update.update % 4 == 0:
                run.save_checkpoint("last", *agent.state_dict())
        return run, agent, keep
    whole, agent, keep = start(Pay(), tmp_path / "whole")
    agent.learn(20, evaluate_every=3, callback=keep)
    whole.close()
    killed, first, keep = start(Pay(fails_at=7), tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        first.learn(20, evaluate_every=3, callback=keep)
    killed.close()
    again, second, keep = start(Pay(), tmp_path / "killed")
    assert 0 < second.steps < 20 and second.steps % 4 == 0
    second.learn(20 - second.steps, evaluate_every=3, callback=keep)
    again.close()
    assert memory(agent) == memory(second)
    assert agent.best.tolist() == second.best.tolist() and agent.best_score == second.best_score
    assert whole.rows() == again.rows()


def test_a_state_stays_as_it_was_taken():
    agent = make(**EVERYTHING).learn(5, evaluate_every=2)
    arrays, note = agent.state_dict()
    copies = {name: np.array(array) for name, array in arrays.items()}
    agent.learn(5, evaluate_every=2)
    for name, array in copies.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    fresh = make(**EVERYTHING).load_state_dict(arrays, note).learn(5, evaluate_every=2)
    assert memory(fresh) == memory(agent)


def test_a_state_fits_json_also_before_the_first_evaluation(tmp_path):
    agent = make().learn(1)
    arrays, note = agent.state_dict()
    assert "best" not in arrays and json.loads(json.dumps(note, allow_nan=False)) == note
    assert make().load_state_dict(arrays, note).best_score == -math.inf


def test_a_state_of_something_else_is_refused():
    arrays, note = make().learn(1).state_dict()
    refused(lambda: make(sources=SOURCES[:2]).load_state_dict(arrays, note), "sources", "3", "2")
    refused(lambda: make().load_state_dict(arrays, note | {"length": 9}), "length", "9")


def test_the_past_costs_nothing():
    reward = Pay()
    agent = make(reward, new_prompts=0, replay_batch=16, polyak=.05, scale=4.)
    refused(agent.step, "add_to_replay")
    every = np.array([(s, a, b) for s in range(3) for a in range(6) for b in range(6)])
    agent.add_to_replay(every[:, 0], every[:, 1:], (every[:, 1:] == WANTED[every[:, 0]]).sum(1))
    updates = []
    agent.learn(300, callback=updates.append)
    assert reward.calls == 0
    assert agent.policy.sample(SOURCES, greedy=True).ids.tolist() == WANTED.tolist()
    assert all(len(u.rows) == 0 and len(u.rewards) == 0 and math.isnan(u.entropy) for u in updates)


def test_new_prompts_come_every_so_often():
    reward = Pay()
    updates = []
    make(reward, replay_batch=5, sample_every=3).learn(7, callback=lambda u: updates.append(len(u.rows)))
    assert updates == [8, 0, 0, 8, 0, 0, 8] and reward.rows == 24


class Concatenated(SoftQ):
    "The replay buffer as it was before it had room to grow: new arrays with every batch."
    @property
    def replay_buffer(self):
        batches = getattr(self, "batches", [])
        parts = zip(*batches, strict=True) if batches else ([], [], [])
        empty = np.zeros(0, np.int64), np.zeros((0, self.policy.length), np.int64), np.zeros(0)
        return tuple(np.concatenate([none, *part]) for none, part in zip(empty, parts, strict=True))

    def add_to_replay(self, rows, ids, rewards):
        self.batches = [*getattr(self, "batches", []), (rows, ids, rewards)]
        self.stored = sum(len(batch[0]) for batch in self.batches)
        self._follow_rewards(rows, rewards)


@pytest.mark.parametrize("changes", [{}, EVERYTHING])
def test_a_replay_buffer_with_room_changes_no_number(changes):
    agents = [
        cls(Table(SOURCES), Pay(), SOURCES, SoftQSettings(
            **({"learning_rate": .05, "new_prompts": 2, "samples_per_prompt": 3} | changes)
        )).learn(40, evaluate_every=7)
        for cls in (SoftQ, Concatenated)
    ]
    (ours, ours_note), (theirs, theirs_note) = map(memory, agents)
    assert ours == theirs
    assert {**ours_note, "agent": ""} == {**theirs_note, "agent": ""}


@pytest.mark.parametrize("resumed", [False, True])
def test_rewards_of_the_replay_buffer_are_standardised_among_all_that_is_known(resumed):
    "By running means instead of a pass over the whole buffer at each step: equal to 1e-6."
    rng, agent = np.random.default_rng(0), make(new_prompts=0, replay_batch=4, scale=3., shift=.5)
    for n in (1, 7, 300, 12):
        rows, rewards = rng.integers(0, 2, n), rng.normal(1e3, 2, n)
        agent.add_to_replay(rows, np.zeros((n, 2), np.int64), rewards)
        agent.add_to_replay(np.full(n, 2), np.zeros((n, 2), np.int64), np.full(n, .1))  # all equal
    if resumed:
        agent = make(new_prompts=0, replay_batch=4, scale=3., shift=.5).load_state_dict(*agent.state_dict())
    rows, _, rewards = agent.replay_buffer
    found, asked = agent._shaped_again(rewards, rows), standardise(torch.from_numpy(rewards), torch.from_numpy(rows))
    assert found.dtype == torch.float32 and (found[rows == 2] == .5).all()
    torch.testing.assert_close(found.double(), 3 * asked + .5, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("standardised", [True, False])
def test_a_step_reads_no_more_of_the_replay_buffer_than_its_batch(standardised, monkeypatch):
    agent, seen = make(new_prompts=0, replay_batch=4, standardised=standardised), []
    agent.add_to_replay(np.zeros(1000, np.int64), np.zeros((1000, 2), np.int64), np.arange(1000.))
    monkeypatch.setattr("rlgen.agents.softq.standardise", lambda *_: 1 / 0)
    shaped = agent._shaped_again
    monkeypatch.setattr(agent, "_shaped_again", lambda *parts: seen.append([len(p) for p in parts]) or shaped(*parts))
    agent.learn(2)
    assert seen == [[4, 4]] * 2


def test_the_replay_buffer_grows_in_few_steps():
    "One copy for each doubling, and what was read before stays as it was."
    agent, bases = make(new_prompts=0, replay_batch=4), []
    for i in range(1000):
        agent.add_to_replay([i % 3], [[i % 6, 1]], [float(i)])
        if not bases or agent.replay_buffer[1].base is not bases[-1]:
            bases.append(agent.replay_buffer[1].base)
        if i == 9:
            early = agent.replay_buffer
            copies = [part.copy() for part in early]
    assert len(bases) <= 11  # 1, 2, 4, ... 1024
    for part, copy_, kind in zip(early, copies, "iif", strict=True):
        np.testing.assert_array_equal(part, copy_)
        assert part.dtype.kind == kind and part.dtype.itemsize == 8
    rows, ids, rewards = agent.replay_buffer
    assert rows.tolist() == [i % 3 for i in range(1000)] and rewards.tolist() == list(range(1000))
    assert ids.shape == (1000, 2)
    agent.add_to_replay(rows, ids, rewards)  # much at once, out of its own memory
    assert agent.replay_buffer[2].tolist() == [*range(1000), *range(1000)]


@pytest.mark.parametrize("Agent", [SoftQ, RandomTokens, EvolvedTokens])
@pytest.mark.parametrize("most", [1, 2, 4])
def test_an_evaluation_tries_so_many_candidates_and_no_more(Agent, most):
    reward = Pay()
    agent = Agent(Table(SOURCES), reward, SOURCES, SoftQSettings(new_prompts=3, samples_per_prompt=8)).learn(1)
    before, tried = reward.rows, len(agent.candidates(most))
    assert 1 <= tried <= most
    agent.evaluate(max_candidates=most)
    assert reward.rows - before == tried * len(SOURCES)


def test_an_update_says_what_happened():
    seen = []
    agent = make().learn(3, evaluate_every=3, callback=seen.append)
    assert [u.update for u in seen] == [1, 2, 3] and [u.score is None for u in seen] == [True, True, False]
    first = seen[0]
    assert first.ids.shape == (8, 2) and sorted(np.bincount(first.rows, minlength=3)) == [0, 4, 4]
    assert first.entropy == pytest.approx(math.log(6)) and first.loss > 0 and first.gradient > 0
    np.testing.assert_array_equal(first.rewards, (first.ids == WANTED[first.rows]).sum(1))
    np.testing.assert_array_equal(agent.replay_buffer[1][:8], first.ids)


def test_a_callback_can_stop():
    agent = make()
    agent.learn(50, callback=lambda u: u.update == 4)
    assert agent.steps == 4 and make().learn(0).steps == 0


def test_the_gradient_is_clipped_and_the_target_is_slow():
    agent = make(clip=1e-3, scale=100., polyak=.5)
    lengths = []
    before = copy.deepcopy(agent.target)
    agent.optimiser.register_step_pre_hook(
        lambda o, *_: lengths.append(torch.cat([p.grad.flatten() for p in agent.policy.net.parameters()]).norm().item())
    )
    update = agent.step()
    assert update.gradient > 1e-3 and lengths[0] == pytest.approx(1e-3, rel=1e-3)
    assert torch.equal(agent.target.weight, before.weight)  # it moves before the step, when both are still alike
    moved = agent.policy.net.weight.detach().clone()
    agent.step()
    torch.testing.assert_close(agent.target.weight, .5 * moved)


def test_copies_instead_of_averages():
    agent = make(copy_every=3)
    online = []
    for _ in range(5):
        online.append(agent.policy.net.weight.detach().clone())
        agent.step()
    assert torch.equal(agent.target.weight, online[3])


@pytest.mark.parametrize(
    "kl, expected", [(0., 1 / 6), (1., math.exp(2) / (math.exp(2) + 5)), (.5, math.e / (math.e + 5))]
)
def test_kl_pulls_towards_the_frozen_model(kl, expected):
    "Without any reward the optimum is the frozen model's own chances to the power of kl."
    agent = make(
        lambda rows, ids: np.zeros(len(rows)),
        sources=SOURCES[:1],
        new_prompts=1,
        samples_per_prompt=32,
        polyak=.1,
        favourite=2,
        kl=kl,
        clip=100.,
    ).learn(500)
    ids = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    chances = (
        torch.log_softmax(agent.policy.logits(agent.policy.states(SOURCES[:1] * 36, ids)), -1)
        .gather(-1, ids[..., None])[..., 0]
        .detach()
        .exp()
    )
    assert chances[ids[:, 0] == 2, 0].mean() == pytest.approx(expected, abs=.05)
    assert chances[(ids == 2).all(1), 1].item() == pytest.approx(expected, abs=.05)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308])
def test_a_reward_that_is_no_number_is_a_sentence(bad):
    agent = make(lambda rows, ids: np.where(np.arange(len(rows)) == 2, bad, 1.))
    refused(agent.step, str(bad), "finite")
    assert agent.steps == 0 and len(agent.replay_buffer[0]) == 0


def test_a_reward_of_the_wrong_shape_is_a_sentence():
    refused(make(lambda rows, ids: 1.).step, "()", "one finite number")
    refused(make(lambda rows, ids: np.zeros((len(rows), 2))).step, "(8, 2)")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"variant": "v5"}, ("v5", "v1")),
        ({"learning_rate": 0}, ("learning_rate", "above 0")),
        ({"learning_rate": math.nan}, ("nan",)),
        ({"learning_rate": math.inf}, ("inf",)),
        ({"clip": 0}, ("clip",)),
        ({"polyak": 0}, ("polyak",)),
        ({"polyak": 1.1}, ("1.1",)),
        ({"polyak": math.nan}, ("nan",)),
        ({"copy_every": -1}, ("copy_every",)),
        ({"new_prompts": -1}, ("new_prompts",)),
        ({"samples_per_prompt": 0}, ("samples_per_prompt",)),
        ({"replay_batch": -1}, ("replay_batch",)),
        ({"sample_every": 0}, ("sample_every",)),
        ({"kl": -1}, ("kl",)),
        ({"scale": 0}, ("scale",)),
        ({"seed": -1}, ("seed",)),
        ({"sample_every": 2}, ("sample_every 2", "replay_batch")),
        ({"new_prompts": 0}, ("nothing to learn from",)),
        ({"samples_per_prompt": 1}, ("standardise",)),
        ({"coefficient": 2}, ("coefficient", "between 0 and 1")),
        ({"coefficient": math.nan}, ("coefficient",)),
        ({"kl": math.nan}, ("kl",)),
        ({"kl": math.inf}, ("kl",)),
        ({"shift": math.nan}, ("shift",)),
        ({"shift": math.inf}, ("shift",)),
    ],
)
def test_settings_refuse(change, words):
    refused(lambda: SoftQSettings(**change), *words)


def test_an_agent_refuses():
    refused(lambda: SoftQ(Table(SOURCES), Pay(), []), "at least one")
    refused(lambda: make().learn(-1), "-1", "0 or more")


def test_a_remembered_prompt_that_is_masked_is_named():
    "The loss of a token that cannot be drawn is infinite; what to do about it is not to lower the learning rate."
    agent = make(new_prompts=0, replay_batch=4)
    agent.policy.logits = lambda states, net=None: Table.logits(agent.policy, states, net).masked_fill(
        torch.arange(6) == 3, -math.inf
    )
    agent.add_to_replay([0, 0], [[3, 3], [1, 1]], [1., 0.])
    with pytest.raises(ValueError, match="mask|cannot be drawn|never"):
        agent.step()


# ---- one step at a time, acting, devices and files ----

def test_learn_steps_equals_learn():
    seen = []
    whole = make(**EVERYTHING).learn(12, callback=seen.append, evaluate_every=4)
    agent = make(**EVERYTHING)
    steps = agent.learn_steps(12, evaluate_every=4)
    first = [next(steps) for _ in range(5)]
    assert agent.steps == 5
    updates = first + list(steps)
    assert [(u.update, u.loss, u.score) for u in updates] == [(u.update, u.loss, u.score) for u in seen]
    assert memory(agent) == memory(whole)


def test_it_acts_greedily_unless_told_otherwise():
    agent = make(new_prompts=3, samples_per_prompt=16, polyak=.05, scale=8.).learn(200)
    assert [agent.act(source).tolist() for source in SOURCES] == WANTED.tolist()
    assert len({tuple(make().act(SOURCES[0], greedy=False).tolist()) for _ in range(3)}) == 1  # the seed decides
    fresh = make()
    assert len({tuple(fresh.act(SOURCES[0], greedy=False).tolist()) for _ in range(60)}) > 10


@pytest.mark.parametrize("Agent", [SoftQ, RandomTokens, EvolvedTokens])
def test_saved_in_a_file_and_continued(tmp_path, Agent):
    reward = Pay()
    settings = SoftQSettings(learning_rate=.05, new_prompts=2, samples_per_prompt=8, replay_batch=4)
    agent = Agent(Table(SOURCES), reward, SOURCES, settings).learn(9, evaluate_every=3)
    agent.save(tmp_path / "agent")
    refused(lambda: Agent.load(tmp_path / "agent"), "policy", f"{Agent.__name__}.load(path, policy=...)")
    refused(lambda: Agent.load(tmp_path / "agent", policy=Table(SOURCES)), "reward")
    again = Agent.load(tmp_path / "agent", policy=Table(SOURCES), reward=reward)
    assert (again.sources, again.settings) == (SOURCES, settings) and memory(again) == memory(agent)
    assert memory(again.learn(9, evaluate_every=3)) == memory(agent.learn(9, evaluate_every=3))
    other = PromptAgent if Agent is SoftQ else SoftQ
    refused(lambda: other.load(tmp_path / "agent", policy=Table(SOURCES), reward=reward), Agent.__name__)


def test_the_baselines_need_no_more_than_a_mask():
    policy = SimpleNamespace(length=2, allowed=torch.arange(6) != 3)
    for Agent, best in ((RandomTokens, 1), (EvolvedTokens, 2)):
        agent = Agent(policy, Pay(), SOURCES[:1], SoftQSettings(new_prompts=1, samples_per_prompt=16))
        agent.learn(30, evaluate_every=5)
        assert not (agent.replay_buffer[1] == 3).any() and agent.best_score >= best
        assert agent.act(SOURCES[0]).tolist() == agent.best.tolist()


def test_a_device_by_name():
    class Movable(Table, torch.nn.Module):
        def __init__(self, sources):
            torch.nn.Module.__init__(self)
            Table.__init__(self, sources)
    settings = SoftQSettings(learning_rate=.05, new_prompts=2, samples_per_prompt=4)
    agents = [SoftQ(Movable(SOURCES), Pay(), SOURCES, settings, device).learn(3) for device in (None, "cpu")]
    assert memory(agents[0]) == memory(agents[1])
    refused(lambda: SoftQ(Movable(SOURCES), Pay(), SOURCES, settings, "abacus"), "abacus")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_learns_and_comes_back():
    def new(device):
        policy = PromptPolicy.load("tiny", length=3, hidden=16, device=device)
        settings = SoftQSettings(new_prompts=1, samples_per_prompt=4, replay_batch=4, kl=.1)
        return SoftQ(policy, lambda rows, ids: ids.sum(1) / 800., SOURCES, settings, device)
    agent = new("cuda").learn(6, evaluate_every=3)
    again = new("cuda").load_state_dict(*agent.state_dict()).learn(2)
    assert again.steps == 8 and again.policy.net[0].weight.is_cuda and agent.act("a dog").shape == (3,)
