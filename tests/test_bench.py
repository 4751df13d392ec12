"""The benchmark: its arithmetic, and that its opponent does the same work. No test here asks how fast anything is."""
import json
import math
import os
import platform
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rlgen.agents.softq import SoftQ, SoftQSettings, soft_q_loss
from rlgen.bench import harness, images, learners, steps
from rlgen.bench.harness import BENCH_MODELS, MEASUREMENTS, Row, bench_text, measurement, run, side_by_side
from rlgen.bench.learners import TextLoop
from rlgen.models.loading import ModelSettings
from rlgen.models.prompt_policy import PromptPolicy

SOURCES = ["a photo of one dog and no people in farm", "a dog", "a photo of many fish and one people in beach at night"]


@pytest.fixture
def clock(monkeypatch):
    "A clock that only moves when told."
    class Clock:
        now = 0.

        def wait(self, seconds):
            self.now += seconds
    fake = Clock()
    monkeypatch.setattr(harness.time, "perf_counter", lambda: fake.now)
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
    assert (
        side_by_side("x", "y", lambda: clock.wait(100.), lambda: clock.wait(50.), rounds=1, seconds=.5).ratio
        == pytest.approx(2)
    )


def test_no_round_is_refused():
    with pytest.raises(ValueError, match="rounds is 0; it must be 1 or more"):
        side_by_side("x", "y", int, int, rounds=0)


# ---- the list ----

@pytest.fixture
def listed(monkeypatch):
    monkeypatch.setattr(harness, "MEASUREMENTS", {})
    @measurement
    def first():
        return [Row("first", "a", 2., 6., "steps/s", 3.)]

    @measurement
    def second():
        return [Row("second", "a", 1., 1.5, "pictures/s", 1.5), Row("second", "b", 10., 5., "pictures/s", .5)]
    return harness.MEASUREMENTS


def test_run_takes_all_or_some(listed):
    assert [r.name for r in run(progress=False)] == ["first", "second", "second"]
    assert [r.what for r in run(["second"], progress=False)] == ["a", "b"]
    with pytest.raises(ValueError, match="no measurement 'third'; choose among first, second"):
        run(["first", "third"], progress=False)


def test_run_writes_json_without_a_name_of_the_machine(listed, tmp_path):
    rows = run(out=tmp_path / "bench.json", progress=False)
    text = (tmp_path / "bench.json").read_text(encoding="utf-8")
    written = json.loads(text)
    assert (
        set(written) == {"device", "threads", "busy", "models", "versions", "rows"}
        and written["threads"] == torch.get_num_threads()
    )
    assert [Row(**row) for row in written["rows"]] == rows
    assert written["versions"]["torch"] and written["device"]
    assert platform.node() not in text


def test_show_is_a_table(listed):
    lines = bench_text(run(progress=False)).splitlines()
    assert len(lines) == 4 and lines[0].split() == ["measurement", "case", "plain", "ours", "unit", "ratio"]
    assert lines[1].split() == ["first", "a", "2", "6", "steps/s", "3"] and bench_text([]).startswith("measurement")


def test_models_reach_the_measurements_that_use_some(listed, monkeypatch, tmp_path):
    seen = []
    @measurement
    def uses(models=BENCH_MODELS):
        seen.append(models)
        return []
    mine = ModelSettings(model="mine", device="meta", dtype="bfloat16", inference_steps=3)
    run(progress=False)
    run(["first", "uses"], tmp_path / "bench.json", progress=False, models=mine)
    run(["uses"], progress=False, models=ModelSettings("openai:some", inference_steps=20))
    assert seen == [BENCH_MODELS, mine, ModelSettings("openai:some")]  # the server decides the number of steps
    assert ModelSettings(**json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["models"]) == mine
    with pytest.raises(ValueError, match="^first, second uses no model of yours; those that do are uses.$"):
        run(["first", "second"], progress=False, models=mine)


def test_a_served_model_has_no_speed_of_ours(quick):
    for made in (images.plain_generator, images.our_generator, images.reusing_generator):
        with pytest.raises(ValueError, match="openai:some runs on a server: name a model that runs here"):
            made(ModelSettings("openai:some"))


def test_tokenizers_use_one_thread_meanwhile(listed, monkeypatch):
    seen = []
    @measurement
    def look():
        seen.append(os.environ["TOKENIZERS_PARALLELISM"])
        return []
    for before in (None, "true"):
        if before is None:
            monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
        else:
            monkeypatch.setenv("TOKENIZERS_PARALLELISM", before)
        run(["look"], progress=False)
        assert os.environ.get("TOKENIZERS_PARALLELISM") == before
    assert seen == ["false", "false"]


def test_the_measurements_are_there():
    assert {
        "soft_q_steps", "soft_q_replay", "support_steps", "generator", "gpu", "step_overhead", "cached_step", "store",
        "vector", "lossy", "input",
    } == MEASUREMENTS.keys()


# ---- the opponent ----

def agent(length=3, seed=0, **settings):
    torch.manual_seed(0)
    policy = PromptPolicy.load("tiny", length=length, hidden=64)
    # tokens that differ in value
    torch.nn.init.normal_(policy.net[2].weight, std=.3, generator=torch.Generator().manual_seed(7))
    made = SoftQ(
        policy,
        lambda rows, ids: ids.sum(1).astype(float),
        SOURCES,
        SoftQSettings(**({"new_prompts": 3, "samples_per_prompt": 2, "learning_rate": 1e-3} | settings)),
    )
    torch.nn.init.normal_(made.target[2].weight, std=.3, generator=torch.Generator().manual_seed(8))
    return made


@pytest.fixture(scope="module")
def same():
    "Tokens that come back as themselves when they are written and read again."
    policy = PromptPolicy.load("tiny", hidden=8)
    ids = torch.nonzero(policy.allowed)[:, 0]
    return [
        i
        for i, text in zip(ids.tolist(), TextLoop(SoftQ(policy, None, SOURCES)).text(ids), strict=True)
        if policy.encode(text) == [i]
    ]


def test_most_words_come_back_as_themselves(same):
    assert len(same) > 100


@pytest.mark.parametrize("length", [1, 3, 5])
@pytest.mark.parametrize("variant, coefficient", [("v2_v2r_v3_v3r", .5), ("v1", None)])
def test_the_loop_has_the_same_loss_and_gradient(same, length, variant, coefficient):
    a = agent(length, variant=variant, coefficient=coefficient)
    rows = np.repeat(np.arange(3), 2)
    ids = torch.tensor(same)[torch.randint(len(same), (6, length), generator=torch.Generator().manual_seed(length))]
    states = a.policy.states([SOURCES[i] for i in rows], ids)
    rewards = a._shaped(a.compute_rewards(rows, ids.numpy()), rows)
    with torch.no_grad():
        target = a.policy.logits(states, a.target)
    ours = soft_q_loss(a.policy.logits(states), target, ids, rewards, torch.full((6,), length), variant, coefficient)
    slopes = torch.autograd.grad(ours, list(a.policy.net.parameters()))
    theirs, given = TextLoop(a).loss(rows, ids)
    assert torch.equal(given, ids)
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-4)
    for mine, other in zip(slopes, torch.autograd.grad(theirs, list(a.policy.net.parameters())), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4 * mine.abs().max().item())


def test_a_step_of_the_loop_moves_the_weights_as_ours_does(same):
    rows = np.repeat(np.arange(3), 2)
    ids = torch.tensor(same)[torch.randint(len(same), (6, 3), generator=torch.Generator().manual_seed(1))]
    ours, theirs = agent(new_prompts=0, replay_batch=6, polyak=.2), agent(polyak=.2)
    ours.add_to_replay(rows, ids.numpy(), ids.sum(1).numpy())
    ours.generator.manual_seed(3)
    chosen = torch.randint(6, (6,), generator=torch.Generator().manual_seed(3)).numpy()
    # both by the same scale, for the past is standardised as a whole
    ours._shaped = lambda rewards, groups: torch.from_numpy((np.asarray(rewards) / 1000).astype(np.float32))
    theirs._shaped = ours._shaped_again = ours._shaped
    update = ours.step()
    assert TextLoop(theirs).step(rows[chosen], ids[chosen]) == pytest.approx(update.loss, rel=1e-4)
    for a, b in zip(
        (*ours.policy.net.parameters(), *ours.target.parameters()),
        (*theirs.policy.net.parameters(), *theirs.target.parameters()), strict=True
    ):
        torch.testing.assert_close(a, b, atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("again", [False, True])
def test_the_loop_writes_and_learns(again):
    a = agent(new_prompts=2)
    before = [p.detach().clone() for p in a.policy.net.parameters()]
    loop = TextLoop(a, again)
    losses = [loop.step() for _ in range(3)]
    assert all(math.isfinite(x) for x in losses)
    assert any(not torch.equal(p, q) for p, q in zip(before, a.policy.net.parameters(), strict=True))
    ids = loop.loss(np.repeat(np.arange(3), 40))[1]
    assert ids.shape == (120, 3) and a.policy.allowed[ids].all() and len(ids.unique()) > 20


def test_the_loop_draws_from_the_likeliest():
    a = agent()
    a.policy.top_k = 3
    logits = torch.randn(1, 800, generator=torch.Generator().manual_seed(0)).expand(200, -1)
    assert set(TextLoop(a).sample(logits).tolist()) == set(logits[0].topk(3).indices.tolist())


def test_a_step_of_support_sets_draws_what_its_opponent_draws(monkeypatch):
    from rlgen.models.generator import Generator
    seen = {}
    monkeypatch.setattr(
        learners, "side_by_side", lambda name, what, plain, ours, **k: seen.update(plain=plain, ours=ours)
    )
    MEASUREMENTS["support_steps"]()
    drawn = []
    def generate(self, prompts, seeds):
        drawn.append(len(prompts))
        return [Image.new("RGB", (64, 64), (s % 256, 0, 0)) for s in seeds]
    monkeypatch.setattr(Generator, "generate", generate)
    seen["plain"]()
    assert drawn == [8]
    for _ in range(14):
        seen["ours"]()  # one more than fills a set
    assert drawn == [8] * 15


# ---- the floor, memory, and what rows say ----

def by_hand(module, *inputs):
    "Operations of a network's convolutions, linear layers and attention, from the shapes that go through them."
    total, hooks = [0], []
    def count(m, given, out):
        if isinstance(m, torch.nn.Conv2d):
            total[0] += 2 * m.weight[0].numel() * out.numel()
        elif isinstance(m, torch.nn.Linear):
            total[0] += 2 * m.in_features * out.numel()
    def attend(m, given, words, out):
        queries = given[0] if given else words["hidden_states"]
        other = words.get("encoder_hidden_states")
        keys = queries if other is None else other
        # scores, and the mixing of values
        total[0] += 4 * len(queries) * queries.shape[1] * keys.shape[1] * m.to_q.out_features
    for m in module.modules():
        hooks.append(m.register_forward_hook(count))
        if hasattr(m, "to_q"):
            hooks.append(m.register_forward_hook(attend, with_kwargs=True))
    with torch.no_grad():
        module(*inputs)
    for hook in hooks:
        hook.remove()
    return total[0]


def test_the_count_of_a_picture_by_hand():
    pipe = images.our_generator().pipe
    latents, words, ids = torch.zeros(1, 4, 16, 16), torch.zeros(1, 32, 128), torch.zeros(1, 32, dtype=torch.int64)
    denoise, decode = (
        by_hand(pipe.unet, latents, 1, words),
        by_hand(pipe.vae.post_quant_conv, latents) + by_hand(pipe.vae.decoder, latents),
    )
    assert images.operations(lambda: pipe.unet(latents, 1, words)) == pytest.approx(denoise, rel=1e-3)
    text = images.operations(lambda: pipe.text_encoder(ids))
    # its attention is counted by one of the two alone
    assert text == pytest.approx(by_hand(pipe.text_encoder, ids), rel=.1) and text > 0
    assert images.flops_per_image(pipe, inference_steps=3) == pytest.approx(6 * denoise + decode + 2 * text, rel=1e-3)
    assert (
        images.flops_per_image(pipe, inference_steps=3, guided=False)
        == pytest.approx(3 * denoise + decode + text, rel=1e-3)
    )
    assert images.flops_per_image(pipe, inference_steps=1, size=128) > 3 * images.flops_per_image(
        pipe, inference_steps=1
    )


def test_stable_diffusion_takes_35_teraflop():
    pipe = images.sd1_pipeline(device="meta")
    assert (
        [sum(p.numel() for p in part.parameters()) for part in (pipe.unet, pipe.vae, pipe.text_encoder)]
        == [859_520_964, 83_653_863, 123_060_480]
    )
    assert images.flops_per_image(pipe) == pytest.approx(34.7e12, rel=.03)
    with pytest.raises(ValueError, match="width is 48; it must be a multiple of 32"):
        images.sd1_pipeline(48, "meta")


def test_the_rate_of_matrix_products_by_hand(clock, monkeypatch):
    monkeypatch.setattr(
        torch,
        "randn",
        lambda *shape, device: type(
            "M", (), {"to": lambda self, dtype: self, "__matmul__": lambda self, other: clock.wait(.5)}
        )(),
    )
    assert images.matrix_rate(n=100, seconds=1.) == pytest.approx(2 * 100 ** 3 / .5)


def test_units_of_work_count(clock):
    row = side_by_side("x", "y", lambda: clock.wait(1.), lambda: clock.wait(2.), rounds=1, seconds=.5, work=(1, 8))
    assert (row.baseline, row.ours, row.ratio) == (1., 4., 4.)


def hold(megabytes):
    return lambda: np.ones(int(megabytes * 1e6), np.uint8)


def test_growth_is_what_a_fresh_process_takes():
    if harness.resident() is None:
        pytest.skip("this system does not say")
    mine = np.ones(300_000_000, np.uint8)  # of the parent: must not count
    small, large = harness.growth(hold, 1), harness.growth(hold, 200)
    assert 180 < large - small < 220 and small < 100 and len(mine)


def test_numbers_are_shown_where_there_are_any():
    rows = [
        Row("a", "one", 1., 4., "x/s", 4., goal=4., floor=.5, memory=100.),
        Row("b", "two", 1., .995, "x/s", .995, agree=.996),
    ]
    lines = bench_text(rows).splitlines()
    assert lines[0].split() == ["measurement", "case", "plain", "ours", "unit", "ratio", "goal", "floor", "agree", "MB"]
    assert (
        lines[1].split() == ["a", "one", "1", "4", "x/s", "4", "4", "50%", "100"]
        and lines[2].split() == ["b", "two", "1", "0.995", "x/s", "0.995", "99.6%"]
    )


# ---- the measurements, with the smallest numbers ----

def quick_models(inference_steps, **changes):
    return replace(BENCH_MODELS, inference_steps=inference_steps, **changes)


@pytest.fixture
def quick(monkeypatch):
    "No fresh processes, and a rate of matrix products that is known."
    for module in (images, steps):
        monkeypatch.setattr(module, "growth", lambda make, *arguments: 12.)
    monkeypatch.setattr(images, "matrix_rate", lambda *a, **k: 1e9)


def test_generator_rows(quick):
    plain, ours = images.measure_generator(quick_models(2, dtype="float32"), (1, 2), states=4, rounds=1, seconds=0)
    assert (
        [r.what for r in (plain, ours)] == ["float32, batch 1", "float32, batch 2"]
        and [r.goal for r in (plain, ours)] == [None, 4.]
    )
    assert ours.agree == 1. and ours.memory == ours.memory_baseline == 12.
    assert ours.floor == pytest.approx(ours.ours * images.flops_per_image(images.our_generator().pipe, 2) / 1e9)


def test_the_paper_s_recipe_draws_the_same_pictures():
    from rlgen.models.generator import Generator
    theirs, ours = images.plain_generator(quick_models(2)), images.our_generator(quick_models(2))
    assert type(next(iter(theirs.pipe.unet.attn_processors.values()))).__name__ == "SlicedAttnProcessor"
    a, b = (np.array([np.asarray(p) for p in g.generate(SOURCES[:1] * 2, [1, 2])], int) for g in (theirs, ours))
    assert np.abs(a - b).max() <= 2 and (a[0] != a[1]).any() and isinstance(ours, Generator)


def test_drawing_goes_round_the_grammar(monkeypatch):
    seen = []
    class Maker:
        def generate(self, prompts, seeds):
            seen.append((prompts, seeds))
    for call in (images.drawing(Maker(), 300), images.drawing(Maker, 300)):
        call(), call()
        assert seen[-1][1] == [*range(300, 480), *range(120)] and seen[-1][0][180] == seen[-2][0][0]


def test_agreement_needs_all_axes():
    from rlgen.interfaces import Percept
    a, b = (Percept(np.array(e), [], np.zeros((3, 1))) for e in ([[0, 1], [2, 3], [4, 5]], [[0, 1], [2, 2], [4, 5]]))
    assert images.agreement(a, a) == 1. and images.agreement(a, b) == pytest.approx(2 / 3)


def test_gpu_rows_on_a_small_shape(quick):
    assert torch.cuda.is_available() or images.measure_gpu() == []
    (row,) = images.measure_gpu(
        cases=((2, False),), width=32, size=64, inference_steps=1, rounds=1, seconds=0, device="cpu"
    )
    assert (row.what, row.goal, row.unit) == ("bfloat16, batch 2", 4., "images/s")
    assert row.floor == pytest.approx(
        row.ours * images.flops_per_image(images.sd1_pipeline(32, "meta", size=64), 1) / 1e9
    )


def test_a_step_draws_once_and_nothing_is_remembered(quick, monkeypatch):
    slept = []
    monkeypatch.setattr(harness.time, "sleep", slept.append)
    step = steps.forgetful_step(.05, None)
    slept.clear()
    for _ in range(20):
        step()
    assert slept == [.05] * 20
    rows = steps.step_overhead(took=.002, rounds=1, seconds=0)
    assert [r.goal for r in rows] == [.99, None]


def test_a_known_step_draws_nothing(quick, monkeypatch):
    call = steps.cached_walk()
    monkeypatch.setattr(steps.StandIn, "generate", lambda *a: pytest.fail("drawn"))
    for _ in range(300):
        call()
    monkeypatch.undo()
    row, = steps.cached_step(rounds=1, seconds=0)
    assert row.goal == .1


def test_store_rows(quick):
    rows = steps.measure_store(quick_models(1), steps=6, rounds=1, seconds=0)
    assert [r.what.split(",")[0] for r in rows] == ["put", "put", "get", "Q-learning"]
    last = rows[-1]
    assert last.hits == pytest.approx(1 - 1 / last.ratio) and 0 <= last.hits < 1


@pytest.mark.parametrize("make", [steps.png_files, steps.in_store])
def test_files_and_store_give_back_what_was_put(make, tmp_path):
    for i, picture in enumerate(steps.some_images()[:3]):
        if i == 0:
            get = make(tmp_path, get=True)
        assert get().tobytes() == picture.tobytes()


def test_new_pictures_are_new(tmp_path):
    from rlgen.store import Store
    put = steps.in_store(tmp_path, together=32)
    put(), put()
    assert len(Store(tmp_path / "images.sqlite")) == 64 + 64


def test_eight_walks_are_the_same_walks():
    together, alone = (steps.eight_walks(t, None) for t in (True, False))
    vectors = [
        dict(zip(call.__code__.co_freevars, (c.cell_contents for c in call.__closure__), strict=True))["vector"]
        for call in (together, alone)
    ]
    for _ in range(50):
        together(), alone()
    assert (
        [e.state for e in vectors[0].envs] == [e.state for e in vectors[1].envs]
        and vectors[0].state_values.unique_generator_calls == 480
    )


def test_vector_rows(quick):
    assert (
        [r.what for r in steps.measure_vector(quick_models(1), rounds=1, seconds=0)]
        == ["8 environments, all images new", "8 environments, no image new"]
    )


def test_rows_of_huge_grammars_and_large_images(monkeypatch):
    monkeypatch.setitem(steps.HUGE_GRAMMARS, "label of 200,000 words", 'S -> "a " N\nN -> "b" | "c"')
    monkeypatch.setattr(steps, "growth", lambda make, argument: float(make(argument)() is None))
    *grammars, image = steps.measure_input(300, 200)
    assert [row.what for row in grammars] == list(steps.HUGE_GRAMMARS) and image.what == "JPEG of 0.06 megapixels"
    assert all(row.memory == 1 and row.memory_baseline == 300 and row.baseline == 1 / 3 for row in grammars)
    assert image.memory == 0 and image.memory_baseline == 1000 and image.ratio == pytest.approx(image.ours * 20)


def test_lossy_rows(quick):
    rows = {
        r.what: r
        for r in images.lossy(
            quick_models(8), states=6, batch=2, rounds=1, seconds=0, cases=["another seed", "4 steps"]
        )
    }
    assert (
        list(rows) == ["another seed", "4 steps"]
        and all(-1 <= r.order <= 1 and -1 <= r.cosine <= 1 and 0 <= r.agree <= 1 for r in rows.values())
    )


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_measured_where_it_is_fast(quick, monkeypatch, fast):
    monkeypatch.setattr(images, "fast_in_bfloat16", lambda: fast)
    assert set(images.lossy_cases()) == {
        "another seed",
        *["bfloat16"] * fast,
        "10 steps",
        "6 steps",
        "4 steps",
        "guidance off after 40 %",
        "inner levels every other step",
    }
    if not fast:
        assert (
            [r.what for r in images.measure_generator(quick_models(1), batches=(1,), states=2, rounds=1, seconds=0)]
            == ["float32, batch 1"]
        )


def test_what_is_lossless_keeps_the_order(quick, monkeypatch):
    monkeypatch.setattr(
        images,
        "lossy_cases",
        lambda models: {"the same": lambda: images.our_generator(models)},
    )
    row, = images.lossy(quick_models(2), states=4, batch=2, rounds=1, seconds=0)
    assert row.agree == 1. and row.cosine == pytest.approx(1)


def test_reuse_skips_the_inner_levels_every_other_step():
    made = images.reusing_generator(quick_models(4))
    passes = {"outer": 0, "inner": 0}
    made.pipe.unet.conv_in.register_forward_hook(lambda *a: passes.update(outer=passes["outer"] + 1))
    made.pipe.unet.mid_block.resnets[0].register_forward_hook(lambda *a: passes.update(inner=passes["inner"] + 1))
    first = made.generate(SOURCES[:1], [1])[0].tobytes()
    assert passes == {"outer": 4, "inner": 2}
    made.generate(SOURCES[:2], [3, 4])
    assert (
        made.generate(SOURCES[:1], [1])[0].tobytes()
        == first
        != images.our_generator(quick_models(4)).generate(SOURCES[:1], [1])[0].tobytes()
    )
    assert made.settings["reuse"] == 2
