"""The benchmark: its arithmetic, and that its opponent does the same work. No test here asks how fast anything is."""
import json
import math
import os
import platform

import numpy as np
import pytest
import torch
from PIL import Image

from rlgen import bench
from rlgen.agents.softq import SoftQ, SoftQSettings, soft_q_loss
from rlgen.bench import MEASUREMENTS, Row, TextLoop, measurement, run, show, side_by_side
from rlgen.policy import PromptPolicy

SOURCES = ["a photo of one dog and no people in farm", "a dog", "a photo of many fish and one people in beach at night"]


@pytest.fixture
def clock(monkeypatch):
    "A clock that only moves when told."
    class Clock:
        now = 0.
        def wait(self, seconds): self.now += seconds
    fake = Clock()
    monkeypatch.setattr(bench.time, "perf_counter", lambda: fake.now)
    return fake


def test_a_ratio_by_hand(clock):
    row = side_by_side("sleep", "case", lambda: clock.wait(.25), lambda: clock.wait(.0625), rounds=3, seconds=1.)
    assert row == Row("sleep", "case", 4., 16., "steps/s", 4.)


def test_the_ratio_is_the_median_over_rounds(clock):
    "Something else slows both down in the second round, and ours alone in the third."
    calls = []
    def plain():
        calls.append("p")
        clock.wait({1: .1, 2: .2, 3: .1}[1 + (len(calls) - 3) // 2] if len(calls) > 2 else 9.)
    def fast():
        calls.append("f")
        clock.wait({1: .025, 2: .05, 3: .1 / 3}[1 + (len(calls) - 3) // 2] if len(calls) > 2 else 9.)
    row = side_by_side("x", "y", plain, fast, rounds=3, seconds=1e-9)
    assert "".join(calls) == "pf" + "pf" + "fp" + "pf"  # one call each to warm up, then in turns, who begins changing
    assert (row.baseline, row.ours, row.ratio) == pytest.approx((10., 30., 4.))


def test_a_slow_call_is_still_measured_once(clock):
    assert side_by_side("x", "y", lambda: clock.wait(100.), lambda: clock.wait(50.), rounds=1, seconds=.5).ratio == pytest.approx(2)


def test_no_round_is_refused():
    with pytest.raises(ValueError, match="rounds is 0; it must be 1 or more"): side_by_side("x", "y", int, int, rounds=0)


# ---- the list ----

@pytest.fixture
def listed(monkeypatch):
    monkeypatch.setattr(bench, "MEASUREMENTS", {})
    @measurement
    def first(): return [Row("first", "a", 2., 6., "steps/s", 3.)]
    @measurement
    def second(): return [Row("second", "a", 1., 1.5, "pictures/s", 1.5), Row("second", "b", 10., 5., "pictures/s", .5)]
    return bench.MEASUREMENTS


def test_run_takes_all_or_some(listed):
    assert [r.name for r in run(progress=False)] == ["first", "second", "second"]
    assert [r.what for r in run(["second"], progress=False)] == ["a", "b"]
    with pytest.raises(ValueError, match="no measurement 'third'; choose among first, second"): run(["first", "third"], progress=False)


def test_run_writes_json_without_a_name_of_the_machine(listed, tmp_path):
    rows = run(out=tmp_path / "bench.json", progress=False)
    text = (tmp_path / "bench.json").read_text()
    written = json.loads(text)
    assert set(written) == {"device", "threads", "versions", "rows"} and written["threads"] == torch.get_num_threads()
    assert [Row(**row) for row in written["rows"]] == rows
    assert written["versions"]["torch"] and written["device"]
    assert platform.node() not in text


def test_show_is_a_table(listed):
    lines = show(run(progress=False)).splitlines()
    assert len(lines) == 4 and lines[0].split() == ["measurement", "case", "plain", "ours", "unit", "ratio"]
    assert lines[1].split() == ["first", "a", "2", "6", "steps/s", "3.0"] and show([]).startswith("measurement")


def test_tokenizers_use_one_thread_meanwhile(listed, monkeypatch):
    seen = []
    @measurement
    def look():
        seen.append(os.environ["TOKENIZERS_PARALLELISM"])
        return []
    for before in (None, "true"):
        if before is None: monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
        else: monkeypatch.setenv("TOKENIZERS_PARALLELISM", before)
        run(["look"], progress=False)
        assert os.environ.get("TOKENIZERS_PARALLELISM") == before
    assert seen == ["false", "false"]


def test_the_measurements_are_there(): assert {"soft_q_steps", "soft_q_replay"} <= MEASUREMENTS.keys()


# ---- the opponent ----

def agent(length=3, seed=0, **settings):
    torch.manual_seed(0)
    policy = PromptPolicy.load("tiny", length=length, hidden=64)
    torch.nn.init.normal_(policy.net[2].weight, std=.3, generator=torch.Generator().manual_seed(7))  # tokens that differ in value
    made = SoftQ(policy, lambda rows, ids: ids.sum(1).astype(float), SOURCES, SoftQSettings(**({"fresh": 3, "repeats": 2, "learning_rate": 1e-3} | settings)))
    torch.nn.init.normal_(made.target[2].weight, std=.3, generator=torch.Generator().manual_seed(8))
    return made


@pytest.fixture(scope="module")
def same():
    "Tokens that come back as themselves when they are written and read again."
    policy = PromptPolicy.load("tiny", hidden=8)
    ids = torch.nonzero(policy.allowed)[:, 0]
    return [i for i, text in zip(ids.tolist(), TextLoop(SoftQ(policy, None, SOURCES)).text(ids)) if policy.encode(text) == [i]]


def test_most_words_come_back_as_themselves(same): assert len(same) > 100


@pytest.mark.parametrize("length", [1, 3, 5])
@pytest.mark.parametrize("variant, coefficient", [("v2_v2r_v3_v3r", .5), ("v1", None)])
def test_the_loop_has_the_same_loss_and_gradient(same, length, variant, coefficient):
    a = agent(length, variant=variant, coefficient=coefficient)
    rows = np.repeat(np.arange(3), 2)
    ids = torch.tensor(same)[torch.randint(len(same), (6, length), generator=torch.Generator().manual_seed(length))]
    states = a.policy.states([SOURCES[i] for i in rows], ids)
    rewards = a._shaped(a.pay(rows, ids.numpy()), rows)
    with torch.no_grad(): target = a.policy.logits(states, a.target)
    ours = soft_q_loss(a.policy.logits(states), target, ids, rewards, torch.full((6,), length), variant, coefficient)
    slopes = torch.autograd.grad(ours, list(a.policy.net.parameters()))
    theirs, given = TextLoop(a).loss(rows, ids)
    assert torch.equal(given, ids)
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-4)
    for mine, other in zip(slopes, torch.autograd.grad(theirs, list(a.policy.net.parameters()))):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4 * mine.abs().max().item())


def test_a_step_of_the_loop_moves_the_weights_as_ours_does(same):
    rows = np.repeat(np.arange(3), 2)
    ids = torch.tensor(same)[torch.randint(len(same), (6, 3), generator=torch.Generator().manual_seed(1))]
    ours, theirs = agent(fresh=0, replay=6, polyak=.2), agent(polyak=.2)
    ours.remember(rows, ids.numpy(), ids.sum(1).numpy())
    ours.generator.manual_seed(3)
    chosen = torch.randint(6, (6,), generator=torch.Generator().manual_seed(3)).numpy()
    ours._shaped = lambda rewards, groups: torch.from_numpy((np.asarray(rewards) / 1000).astype(np.float32))  # both by the same scale, for the past is standardised as a whole
    theirs._shaped = ours._shaped
    update = ours.step()
    assert TextLoop(theirs).step(rows[chosen], ids[chosen]) == pytest.approx(update.loss, rel=1e-4)
    for a, b in zip((*ours.policy.net.parameters(), *ours.target.parameters()), (*theirs.policy.net.parameters(), *theirs.target.parameters())):
        torch.testing.assert_close(a, b, atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("again", [False, True])
def test_the_loop_writes_and_learns(again):
    a = agent(fresh=2)
    before = [p.detach().clone() for p in a.policy.net.parameters()]
    loop = TextLoop(a, again)
    losses = [loop.step() for _ in range(3)]
    assert all(math.isfinite(x) for x in losses)
    assert any(not torch.equal(p, q) for p, q in zip(before, a.policy.net.parameters()))
    ids = loop.loss(np.repeat(np.arange(3), 40))[1]
    assert ids.shape == (120, 3) and a.policy.allowed[ids].all() and len(ids.unique()) > 20


def test_the_loop_draws_from_the_likeliest():
    a = agent()
    a.policy.top_k = 3
    logits = torch.randn(1, 800, generator=torch.Generator().manual_seed(0)).expand(200, -1)
    assert set(TextLoop(a).draw(logits).tolist()) == set(logits[0].topk(3).indices.tolist())


def test_a_step_of_support_sets_draws_what_its_opponent_draws(monkeypatch):
    from rlgen.generator import Generator
    seen = {}
    monkeypatch.setattr(bench, "side_by_side", lambda name, what, plain, ours, **k: seen.update(plain=plain, ours=ours))
    MEASUREMENTS["support_steps"]()
    drawn = []
    def gen(self, prompts, seeds): drawn.append(len(prompts)); return [Image.new("RGB", (64, 64), (s % 256, 0, 0)) for s in seeds]
    monkeypatch.setattr(Generator, "gen", gen)
    seen["plain"]()
    assert drawn == [8]
    for _ in range(14): seen["ours"]()  # one more than fills a set
    assert drawn == [8] * 15
