"""The policy on a frozen language model: batches, the cache, masks, what it begins with, and models of other shapes."""
import copy
import json
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rlgen.agents.softq import SoftQ, SoftQSettings
from rlgen.models.prompt_policy import PromptPolicy

SEEDS = ["a photo of one dog and no people in farm", "a photo of many fish and one people in beach at night", "a dog"]


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def refused(call, *words, kind=ValueError):
    "`call` must raise `kind` with one or two sentences that contain `words`."
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600, message
    for word in words:
        assert word in message, message


def opinionated(scale=40., **settings):
    "A policy whose tokens differ in value, unlike a new one's."
    policy = PromptPolicy.load("tiny", **({"length": 4, "hidden": 64} | settings))
    torch.nn.init.normal_(policy.net[2].weight, std=scale / 64, generator=chance(7))
    return policy


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    """A GPT-2 of distilGPT-2's form in small, random weights, byte-level tokens, no padding token,
    saved as anyone would save one.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(
        [*SEEDS * 5, "highly detailed, octane render, rembrandt"],
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "small"
    # 3 tokens that nobody named
    config = GPT2Config(
        vocab_size=len(tokenizer) + 3, n_positions=48, n_embd=24, n_layer=6, n_head=4, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["tiny", "other"])
def name(request):
    return "tiny" if request.param == "tiny" else str(request.getfixturevalue("other_model"))


# ---- reading and writing ----

def test_shapes_and_types(name):
    policy = PromptPolicy.load(name, length=5, hidden=32)
    sample = policy.sample(SEEDS, chance())
    D, V = policy.head.shape[1], policy.head.shape[0]
    assert sample.ids.shape == (3, 5) and sample.ids.dtype == torch.int64
    assert sample.states.shape == (3, 5, D) and sample.states.dtype == torch.float32
    assert policy.logits(sample.states).shape == policy.prior(sample.states).shape == (3, 5, V)
    assert policy.allowed[sample.ids].all()


@pytest.mark.parametrize("length", [1, 2, 7])
def test_any_length(length):
    assert PromptPolicy.load("tiny", length=length, hidden=8).sample(SEEDS, chance()).ids.shape == (3, length)


def test_a_batch_is_the_same_as_one_by_one(name):
    policy = PromptPolicy.load(name, length=4, hidden=32)
    together = policy.sample(SEEDS, chance())
    for i, seed in enumerate(SEEDS):
        torch.testing.assert_close(
            policy.states([seed], together.ids[i:i + 1])[0], together.states[i], atol=1e-4, rtol=1e-3
        )


def test_the_cache_is_the_same_as_reading_all_anew(name):
    policy = PromptPolicy.load(name, length=4, hidden=32)
    sample = policy.sample(SEEDS, chance())
    for i, seed in enumerate(SEEDS):
        start = [policy.tokenizer.bos_token_id, *policy.encode(seed + policy.separator)]
        for t in range(4):
            with torch.no_grad():
                anew = (
                    policy.model.base_model(torch.tensor([start + sample.ids[i, :t].tolist()])).last_hidden_state[0, -1]
                )
            torch.testing.assert_close(sample.states[i, t], anew, atol=1e-4, rtol=1e-3)


def test_values_are_those_of_network_and_head(name):
    policy = PromptPolicy.load(name, length=3, hidden=32)
    sample = policy.sample(SEEDS, chance())
    by_hand = (
        policy.net(sample.states) @ policy.head.T
        + torch.arange(2, -1, -1)[:, None] * math.log(int(policy.allowed.sum()))
    )
    torch.testing.assert_close(policy.logits(sample.states)[..., policy.allowed], by_hand[..., policy.allowed])
    assert torch.isneginf(policy.logits(sample.states)[..., ~policy.allowed]).all()
    with torch.no_grad():
        own = (
            policy.model(torch.tensor([[policy.tokenizer.bos_token_id, *policy.encode(SEEDS[0] + ",")]])).logits[0, -1]
        )
    torch.testing.assert_close(
        policy.prior(sample.states)[0, 0, policy.allowed], own[policy.allowed], atol=1e-3, rtol=1e-3
    )
    other = copy.deepcopy(policy.net)
    torch.nn.init.zeros_(other[2].weight)
    torch.nn.init.ones_(other[2].bias)
    torch.testing.assert_close(
        policy.logits(sample.states, other)[0, 2, policy.allowed], policy.head.sum(1)[policy.allowed]
    )


def test_it_begins_with_the_values_of_pure_chance(name):
    policy = PromptPolicy.load(name, length=3, hidden=32)
    start = torch.logsumexp(policy.logits(policy.sample(SEEDS, chance()).states), -1)
    expected = torch.arange(3, 0, -1) * math.log(int(policy.allowed.sum()))
    torch.testing.assert_close(start, expected.expand(3, 3), atol=.05, rtol=0)
    shifted = PromptPolicy.load(name, length=3, hidden=32, logit_bias=-10.)
    torch.testing.assert_close(
        shifted.logits(policy.sample(SEEDS, chance()).states)[..., shifted.allowed].mean().item(),
        -10.,
        atol=.05,
        rtol=0,
    )


def test_prepared_prompts_are_looked_up_rightly(monkeypatch):
    policy = opinionated()
    first = policy.sample(SEEDS, chance(1))
    policy.prepare([*SEEDS, "a photo of one bus and many people in beach at night"])
    again = policy.sample(SEEDS, chance(1))
    assert torch.equal(first.ids, again.ids)
    torch.testing.assert_close(first.states, again.states, atol=1e-4, rtol=1e-3)
    policy.read(["a photo of one cat and no people in farm"])  # another prompt in between changes nothing
    third = policy.sample(SEEDS, chance(1))
    assert torch.equal(again.ids, third.ids) and torch.equal(again.states, third.states)
    monkeypatch.setattr(policy, "_look", lambda texts: pytest.fail("a prepared prompt was read again"))
    policy.sample(SEEDS[:1], chance(1))
    turned = policy.states(SEEDS[::-1] + SEEDS[:1], torch.cat([first.ids.flip(0), first.ids[:1]]))
    torch.testing.assert_close(turned[:3].flip(0), first.states, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(turned[3], turned[2], atol=1e-5, rtol=1e-4)


def test_another_source_for_all():
    policy = opinionated(source="a photo", length=2)
    sample = policy.sample(SEEDS, greedy=True)
    assert (sample.ids == sample.ids[0]).all()
    torch.testing.assert_close(
        sample.states[0], opinionated(length=2).sample(["a photo"], greedy=True).states[0], atol=1e-4, rtol=1e-3
    )


def test_greedy():
    policy = opinionated()
    one, two = policy.sample(SEEDS, chance(1), greedy=True), policy.sample(SEEDS, chance(2), greedy=True)
    assert torch.equal(one.ids, two.ids) and torch.equal(one.ids, policy.logits(one.states).argmax(-1))
    assert torch.equal(one.ids, policy.sample(SEEDS, greedy=True).ids)
    assert not torch.equal(one.ids, policy.sample(SEEDS, chance(1)).ids)


def test_sampling_follows_the_chances_and_the_seed():
    free = opinionated(length=1)
    likely = free.logits(free.sample(SEEDS[:1], chance()).states)[0, 0].topk(4).indices.tolist()
    policy = opinionated(length=1, actions=likely)
    sample = policy.sample(SEEDS[:1] * 4000, chance(3))
    chances = torch.softmax(policy.logits(sample.states[:1])[0, 0], -1)[likely].detach().numpy()
    counts = np.array([(sample.ids == i).sum().item() for i in likely])
    assert chances.max() - chances.min() > .01 and counts.sum() == 4000
    # chi squared, 3 degrees of freedom, one in a thousand
    assert ((counts - 4000 * chances) ** 2 / (4000 * chances)).sum() < 16.3
    assert torch.equal(sample.ids, policy.sample(SEEDS[:1] * 4000, chance(3)).ids)
    assert not torch.equal(sample.ids, policy.sample(SEEDS[:1] * 4000, chance(4)).ids)


# ---- what may be written ----

def test_top_k_only_while_sampling():
    policy = opinionated(top_k=3)
    sample = policy.sample(SEEDS * 40, chance())
    logits = policy.logits(sample.states)
    assert (logits.gather(-1, sample.ids[..., None]) >= logits.topk(3, -1).values[..., -1:] - 1e-4).all()
    assert torch.isfinite(logits).sum(-1).unique().tolist() == [int(policy.allowed.sum())]
    assert len(sample.ids[::3, 0].unique()) == 3
    assert torch.equal(opinionated(top_k=10**6).sample(SEEDS, chance()).ids, opinionated().sample(SEEDS, chance()).ids)


def test_top_p_only_while_sampling():
    policy = opinionated(scale=8., top_p=.4)
    sample = policy.sample(SEEDS * 40, chance())
    logits = policy.logits(sample.states).detach()
    chances = torch.softmax(logits, -1)
    mine = chances.gather(-1, sample.ids[..., None])
    better = (chances * (chances > mine + 1e-5)).sum(-1)  # what is likelier than the token that was drawn
    assert (
        (better < .4 + 1e-3).all() and torch.isfinite(logits).sum(-1).unique().tolist() == [int(policy.allowed.sum())]
    )
    first = len(sample.ids[::3, 0].unique())
    assert 1 < first < len(opinionated(scale=8.).sample(SEEDS * 40, chance()).ids[::3, 0].unique())
    tight = opinionated(top_p=1e-9).sample(SEEDS, chance())
    assert torch.equal(tight.ids, opinionated().sample(SEEDS, greedy=True).ids)


def masked(policy, sample):
    return torch.isneginf(policy.logits(sample.states)), torch.isneginf(policy.prior(sample.states))


def test_blocklist():
    free = opinionated()
    block = free.sample(SEEDS, greedy=True).ids.unique().tolist()
    policy = opinionated(blocklist=block)
    sample = policy.sample(SEEDS * 40, chance())
    assert not set(block) & set(sample.ids.unique().tolist())
    for mask in masked(policy, sample):
        assert mask[..., block].all()
    assert int(policy.allowed.sum()) == int(free.allowed.sum()) - len(block)


def test_actions():
    free = opinionated()
    ids = free.tokens_of(["rembrandt", "macabre"])
    policy = opinionated(actions=ids)
    sample = policy.sample(SEEDS * 40, chance())
    assert set(sample.ids.unique().tolist()) <= set(ids)
    for mask in masked(policy, sample):
        assert (~mask).sum(-1).unique().tolist() == [len(ids)] and not mask[..., ids].any()
    assert (
        set(opinionated(actions=ids, blocklist=ids[:1]).sample(SEEDS * 20, chance()).ids.unique().tolist())
        <= set(ids[1:])
    )


def test_fluency():
    policy = opinionated(fluent=5)
    sample = policy.sample(SEEDS * 10, chance())
    finite, best = ~masked(policy, sample)[0], policy.prior(sample.states).topk(5, -1).indices
    assert finite.gather(-1, best).all() and (finite.sum(-1) == 5).all()
    assert finite.gather(-1, sample.ids[..., None]).all()
    ids = policy.tokens_of(["rembrandt"])
    few = opinionated(fluent=50, actions=ids)  # fewer actions than that
    assert set(few.sample(SEEDS * 10, chance()).ids.unique().tolist()) <= set(ids)


def test_only_text_is_written(name):
    policy = PromptPolicy.load(name, length=1, hidden=8)
    written = policy.decode(torch.nonzero(policy.allowed))
    assert all(text and text.isprintable() and "\ufffd" not in text for text in written)
    assert (
        not policy.allowed[policy.tokenizer.all_special_ids].any() and not policy.allowed[len(policy.tokenizer):].any()
    )
    left_out = [
        i for i in range(len(policy.tokenizer)) if not policy.allowed[i] and i not in policy.tokenizer.all_special_ids
    ]
    for text in policy.tokenizer.batch_decode([[i] for i in left_out]):
        assert not text.strip() or not text.strip().isprintable() or "\ufffd" in text


# ---- where to begin ----

def test_warm_start(name):
    policy = PromptPolicy.load(name, length=3, hidden=64, seed=1)
    frozen = {key: value.clone() for key, value in policy.model.state_dict().items()}
    texts = ["dog", "people in", "photo"]
    assert max(len(policy.encode(" " + text)) for text in texts) <= 3
    before = policy.warm_start(SEEDS, texts, steps=1)
    after = policy.warm_start(SEEDS, texts, steps=300, learning_rate=3e-3)
    assert after < .1 < before
    for row, text in zip(policy.sample(SEEDS, greedy=True).ids.tolist(), texts, strict=True):
        wanted = policy.encode(" " + text)
        assert row[:len(wanted)] == wanted
    for key, value in policy.model.state_dict().items():
        assert torch.equal(frozen[key], value), key


def test_warm_start_refuses():
    policy = PromptPolicy.load("tiny", length=2, hidden=8)
    refused(lambda: policy.warm_start(SEEDS[:1], ["a photo of one dog"]), "a photo of one dog", "2")
    refused(lambda: policy.warm_start(SEEDS[:1], [""]), "0 tokens")
    only = PromptPolicy.load("tiny", length=2, hidden=8, actions=policy.encode("dog"))
    refused(lambda: only.warm_start(SEEDS[:1], ["fish"]), "masked")
    refused(lambda: policy.warm_start(SEEDS, ["dog"]), "3", "1")
    refused(lambda: policy.warm_start(SEEDS[:1], ["dog"], steps=0), "steps")


def test_tokens_of(name):
    policy = PromptPolicy.load(name, length=2, hidden=8)
    ids = policy.tokens_of(["dog", "people in"])
    assert (
        ids == sorted(set(ids))
        and set(policy.encode(" dog") + policy.encode("people in") + policy.encode(",")) <= set(ids)
    )
    assert not set(ids) & set(policy.tokenizer.all_special_ids)
    refused(lambda: policy.tokens_of([]), "modifiers")


def test_decode(name):
    policy = PromptPolicy.load(name, length=2, hidden=8)
    row = policy.encode(" dog and people")
    assert policy.decode([row, row + [policy.tokenizer.eos_token_id]]) == ["dog and people"] * 2


def test_the_seed_alone_decides_the_weights():
    def weights(seed, noise, **settings):
        torch.manual_seed(noise)
        return torch.cat(
            [p.detach().flatten() for p in PromptPolicy.load("tiny", hidden=16, seed=seed, **settings).net.parameters()]
        )
    assert torch.equal(weights(1, 0), weights(1, 9)) and not torch.equal(weights(1, 0), weights(2, 0))
    assert weights(0, 0, gain=1e-4).abs().max() < 2e-4


def test_the_language_model_stays_frozen():
    policy = PromptPolicy.load("tiny", length=3, hidden=16)
    frozen = {key: value.clone() for key, value in policy.model.state_dict().items()}
    net = [p.detach().clone() for p in policy.net.parameters()]
    assert not any(p.requires_grad for p in policy.model.parameters()) and not policy.model.training
    agent = SoftQ(
        policy,
        lambda rows, ids: ids.sum(1) / 800,
        SEEDS,
        SoftQSettings(learning_rate=.01, new_prompts=3, samples_per_prompt=4, replay_batch=4),
    )
    agent.learn(3)
    for key, value in policy.model.state_dict().items():
        assert torch.equal(frozen[key], value), key
    assert all(p.grad is None for p in policy.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(net, policy.net.parameters(), strict=True))
    assert (
        {id(p) for group in agent.optimiser.param_groups for p in group["params"]}
        == {id(p) for p in policy.net.parameters()}
    )
    assert not policy.sample(SEEDS, chance()).states.requires_grad


def test_it_learns_with_a_language_model():
    "Two tokens from a short list; the right ones pay."
    ids = PromptPolicy.load("tiny", hidden=8).tokens_of(["macabre", "rembrandt", "dog"])
    policy = PromptPolicy.load("tiny", length=2, hidden=256, actions=ids)
    wanted = np.array([ids[1], ids[-1]])
    agent = SoftQ(
        policy,
        lambda rows, written: (written == wanted).sum(1).astype(float),
        SEEDS,
        SoftQSettings(learning_rate=1e-3, new_prompts=3, samples_per_prompt=8, polyak=.05, scale=4.),
    )
    agent.learn(120, evaluate_every=10)
    assert agent.best.tolist() == wanted.tolist()
    assert agent.policy.sample(SEEDS, greedy=True).ids.tolist() == [wanted.tolist()] * 3


# ---- devices ----

def test_a_device_by_name():
    policy = PromptPolicy.load("tiny", length=2, hidden=8, device="cpu")
    assert {p.device.type for p in policy.parameters()} == {policy.allowed.device.type} == {"cpu"}
    refused(lambda: PromptPolicy.load("tiny", device="abacus"), "abacus")
    other = PromptPolicy(policy.model, policy.tokenizer, hidden=8, device="cpu")
    assert torch.equal(other.head, policy.head)


def test_what_was_prepared_does_not_stay_on_another_device():
    policy = PromptPolicy.load("tiny", length=2, hidden=8, device="cpu")
    policy.prepare(SEEDS)
    assert policy.table is not None
    policy.to("meta")
    assert policy.table is None and not policy.known


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_writes_what_it_writes_on_the_cpu():
    ids = {device: PromptPolicy.load("tiny", length=4, fluent=8, device=device).sample(SEEDS, greedy=True).ids.cpu()
           for device in ("cpu", "cuda")}
    assert torch.equal(ids["cpu"], ids["cuda"])


# ---- which language models ----

def test_a_seed_prompt_that_is_too_long_is_refused(name):
    policy = PromptPolicy.load(name, length=3, hidden=8)
    refused(lambda: policy.sample(["a dog", "dog " * 90], chance()), "'dog dog", "3 more", "shorten")


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"length": 0}, ("length", "1 or more")),
        ({"top_k": 0}, ("top_k",)),
        ({"top_p": 0}, ("top_p",)),
        ({"top_p": 1.5}, ("1.5",)),
        ({"top_p": math.nan}, ("nan",)),
        ({"fluent": 0}, ("fluent",)),
        ({"blocklist": [9999]}, ("9999", "799")),
        ({"actions": [-1]}, ("-1", "799")),
        ({"actions": []}, ("actions",)),
        ({"actions": [320], "blocklist": [320]}, ("blocked",)),
        ({"actions": [798, 799]}, ("nothing could be written",)),
    ],
)
def test_settings_refuse(settings, words):
    refused(lambda: PromptPolicy.load("tiny", **settings), *words)


def broken(other_model, tmp_path, change):
    import shutil
    folder = tmp_path / "broken"
    shutil.copytree(other_model, folder)
    change(folder)
    return folder


def rewrite(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))


def to_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


@pytest.mark.parametrize("change, words", [
    (to_pickle, ("safetensors", "pickled")),
    (lambda f: rewrite(f, auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"}), ("own code", "never run")),
    (lambda f: (f / "config.json").unlink(), ("config.json",)),
    (lambda f: (f / "config.json").write_text("{"), ("config.json",)),
    (lambda f: rewrite(f, model_type="nonsense"), ("no causal language model",)),
    (lambda f: [file.unlink() for file in f.glob("tok*")], ()),
])
def test_folders_refuse(other_model, tmp_path, change, words):
    refused(lambda: PromptPolicy.load(broken(other_model, tmp_path, change)), *words)


def test_weights_beside_a_pickle_are_the_safe_ones(other_model, tmp_path):
    folder = broken(other_model, tmp_path, lambda f: (f / "pytorch_model.bin").write_bytes(b"not a pickle"))
    a, b = (PromptPolicy.load(where, length=2, hidden=8) for where in (folder, other_model))
    assert torch.equal(a.head, b.head)


@pytest.mark.parametrize("unknown", ["./nowhere", "/nowhere/at/all", "nowhere"])
def test_unknown_names(unknown):
    refused(lambda: PromptPolicy.load(unknown), unknown, "tiny", kind=FileNotFoundError)


def test_the_hub(other_model, monkeypatch):
    import huggingface_hub
    asked = []
    def download(name, **options):
        asked.append((name, options))
        return str(other_model)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert PromptPolicy.load("distilgpt2", length=2, hidden=8).sample(SEEDS, chance()).ids.shape == (3, 2)
    PromptPolicy.load("someone/model", length=2, hidden=8)
    assert [name.split("/")[-1] for name, _ in asked] == ["distilgpt2", "model"]
    for _, options in asked:
        assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in options["allow_patterns"])


def test_the_hub_out_of_reach(monkeypatch):
    import huggingface_hub
    def download(name, **options):
        raise OSError("no route to host\nmany more lines")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    refused(lambda: PromptPolicy.load("someone/model"), "someone/model", "no route to host", kind=ConnectionError)
