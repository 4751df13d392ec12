"""LoRA adapters, learned tokens, variants and memory: what is loaded into a generator beside its model."""
import json
import pickle
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from refusals import refused
from safetensors.torch import load_file, save_file
from small_pipelines import CHANGES, build

from rlgen import cli
from rlgen.clone.engines import load_manifest_generator
from rlgen.models import folders
from rlgen.models.adapters import add_lora, lora_weight, split_adapter
from rlgen.models.folders import LICENCES, PRESETS, check_folder, folder_variant, preset_table
from rlgen.models.generator import Cached, Generator
from rlgen.models.loading import ModelSettings, load_generator
from rlgen.models.pipelines import cannot_compile, eight_bits, memory_table, save_memory

# of diffusers and transformers about their own code
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}Warning") for kind in ("Future", "Deprecation")]
pytestmark += [pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")]

PROMPT = "a photo of one dog"


def arrays(images):
    return np.array([np.asarray(image.convert("RGB")) for image in images], int)


def lora_file(path, net, part, seed=0, targets=("to_q", "to_v"), rank=2):
    "A random LoRA for a part of a pipeline."
    rng, tensors = torch.Generator().manual_seed(seed), {}
    for name, layer in net.named_modules():
        if not name.endswith(targets) or not isinstance(layer, torch.nn.Linear): continue
        tensors[f"{part}.{name}.lora_A.weight"] = torch.randn(rank, layer.in_features, generator=rng) * .3
        tensors[f"{part}.{name}.lora_B.weight"] = torch.randn(layer.out_features, rank, generator=rng) * .3
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A folder with a small pipeline of Stable Diffusion."
    folder = tmp_path_factory.mktemp("model") / "sd"
    build("StableDiffusionPipeline").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loras(model, tmp_path_factory):
    "Two LoRA adapters for it, the second one with other layers and the text encoder."
    pipe, folder = build("StableDiffusionPipeline"), tmp_path_factory.mktemp("loras")
    first = lora_file(folder / "first.safetensors", pipe.unet, "unet")
    second = lora_file(folder / "second.safetensors", pipe.unet, "unet", 1, ("to_k",))
    words = lora_file(folder / "words.safetensors", pipe.text_encoder, "text_encoder", 2, ("q_proj", "k_proj"))
    save_file(load_file(second) | load_file(words), second)
    return first, second


def load(model, **options):
    return Generator.load(str(model), device="cpu", inference_steps=2, **options)


def image(generator):
    return arrays(generator.generate([PROMPT], [1]))[0]


def by_hand(model, pairs, fused, **words):
    "The image of the plain pipeline, with adapters as the documentation of diffusers adds them."
    pipe = diffusers.AutoPipelineForText2Image.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    for i, (file, _) in enumerate(pairs):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=f"a{i}")
    names, weights = [f"a{i}" for i in range(len(pairs))], [weight for _, weight in pairs]
    pipe.set_adapters(names, weights)
    if fused:
        pipe.fuse_lora(adapter_names=names)
    out = pipe(PROMPT, num_inference_steps=2, generator=torch.Generator().manual_seed(1), **words)
    return arrays(out.images)[0]


# ---- LoRA ----

def test_a_lora_does_what_diffusers_does_with_it(model, loras):
    plain, first = image(load(model)), loras[0]
    one = load(model, lora=[f"{first}:0.7"])
    assert (image(one) == by_hand(model, [(first, .7)], fused=True)).all()
    assert np.abs(image(one) - by_hand(model, [(first, .7)], fused=False)).max() <= 1  # the sum of another order
    assert np.abs(image(one) - plain).max() > 5
    two = load(model, lora=[f"{first}:0.7", f"{loras[1]}:-0.5"])
    pairs = [(first, .7), (loras[1], -.5)]
    assert (image(two) == by_hand(model, pairs, fused=True)).all() and (image(two) != image(one)).any()
    assert not any("lora" in name for name, _ in two.pipe.unet.named_parameters())


@pytest.mark.parametrize("name, part", [
    ("StableDiffusionXLPipeline", "unet"), ("FluxPipeline", "transformer"), ("QwenImagePipeline", "transformer")])
def test_other_pipelines_take_them_too(tmp_path, name, part):
    pipe = build(name)
    pipe.save_pretrained(tmp_path / "model")
    file = lora_file(tmp_path / "lora.safetensors", getattr(pipe, part), part)
    size, words = CHANGES.get(name, {}).get("height"), CHANGES.get(name, {})
    plain, made = load(tmp_path / "model", size=size), load(tmp_path / "model", size=size, lora=[str(file)])
    assert (image(made) == by_hand(tmp_path / "model", [(file, 1.)], fused=True, **words)).all()
    assert (image(made) != image(plain)).any()


def test_weight_0_is_no_lora(model, loras):
    plain, none = load(model), load(model, lora=[f"{loras[0]}:0"])
    assert (image(none) == image(plain)).all() and Cached(none).key("a", 1) == Cached(plain).key("a", 1)


def test_the_key_has_content_and_weight_and_no_path(model, loras, tmp_path):
    first, second = loras
    moved = tmp_path / "a:b" / "moved.safetensors"
    moved.parent.mkdir()
    shutil.copy(first, moved)
    first, second = str(first), str(second)
    keys = [Cached(load(model, lora=lora)).key("a", 1) for lora in (
        [], [first], [f"{first}:0.5"], [second], [first, second], [second, first])]
    assert len(set(keys)) == len(keys)
    assert Cached(load(model, lora=[str(moved)])).key("a", 1) == keys[1]
    assert Cached(load(model, lora=first)).key("a", 1) == keys[1]  # one text is one adapter


def test_a_changed_adapter_is_loaded_again(model, loras, tmp_path):
    file = Path(shutil.copy(loras[0], tmp_path / "lora.safetensors"))
    settings = ModelSettings(str(model), inference_steps=1, device="cpu", lora=[str(file)])
    first = load_generator(settings)
    assert load_generator(settings).generator is first.generator and hash(settings)
    save_file({name: tensor + .1 for name, tensor in load_file(file).items()}, file)
    assert load_generator(settings).key("a", 1) != first.key("a", 1)


def test_a_manifest_names_adapters_as_json_has_them(model, loras):
    options = json.loads(json.dumps({"name": str(model), "device": "cpu", "lora": [f"{loras[0]}:0.5"]}))
    assert load_manifest_generator(options).settings["lora"][0][1] == .5


@pytest.mark.parametrize("text, path, tail", [
    ("ink.safetensors", "ink.safetensors", None), ("ink.safetensors:0.8", "ink.safetensors", "0.8"),
    (r"C:\x\ink.safetensors", r"C:\x\ink.safetensors", None), ("C:/x/ink.safetensors:2", "C:/x/ink.safetensors", "2"),
    ("C:ink.safetensors", "C:ink.safetensors", None), ("a:b/ink.safetensors", "a:b/ink.safetensors", None),
    ("toy.safetensors:<cat>", "toy.safetensors", "<cat>"), ("ink.safetensors:", "ink.safetensors", ""),
])
def test_what_stands_behind_the_last_colon(text, path, tail):
    assert split_adapter(text) == (Path(path), tail)


def test_what_is_no_lora_of_this_model_is_refused_in_a_sentence(model, loras, tmp_path, monkeypatch):
    for text in ("much", "", "nan", "inf", "1,5"):
        refused(lambda text=text: lora_weight(f"ink.safetensors:{text}"), "write a number behind the colon")
        refused(lambda text=text: ModelSettings(lora=(f"ink.safetensors:{text}",)), "write a number")
    refused(lambda: load(model, lora=[""]), "write the path")
    refused(lambda: load(model, lora=["nowhere.safetensors"]), "no LoRA nowhere.safetensors", kind=FileNotFoundError)
    (tmp_path / "lora.bin").write_bytes(b"a pickle")
    refused(lambda: load(model, lora=[str(tmp_path / "lora.bin")]), "may run code")
    refused(lambda: load(model, lora=[str(tmp_path)]), "holds 0 files of safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(loras[0].read_bytes()[:-50])
    refused(lambda: load(model, lora=[str(cut)]), "cut.safetensors", "incomplete")
    for name, part in (("StableDiffusionXLPipeline", "unet"), ("FluxPipeline", "transformer"), ("FluxPipeline", "odd")):
        net = getattr(build(name), part.replace("odd", "transformer"))
        other = lora_file(tmp_path / f"{name}{part}.safetensors", net, part)
        refused(lambda other=other: load(model, lora=[str(other)]), other.name, "does not fit StableDiffusionPipeline")
    whole = model / "vae" / "diffusion_pytorch_model.safetensors"
    refused(lambda: load(model, lora=[str(whole)]), "does not fit")
    broken = tmp_path / "nan.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(loras[0]).items()}, broken)
    refused(lambda: load(model, lora=[str(broken)]), "does not fit", "NaN")
    monkeypatch.setattr("diffusers.utils.is_peft_available", lambda: False)
    refused(lambda: load(model, lora=[str(loras[0])]), "pip install peft")
    refused(lambda: add_lora(diffusers.PixArtAlphaPipeline, [str(loras[0])]), "takes no LoRA")


# ---- learned tokens ----

def vectors(encoder, rows, seed=0):
    width = encoder.get_input_embeddings().weight.shape[-1]
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_learned_token_does_what_diffusers_does_with_it(model, tmp_path, rows):
    pipe = build("StableDiffusionPipeline")
    pipe.set_progress_bar_config(disable=True)
    file = tmp_path / "toy.safetensors"
    save_file({"<toy>": vectors(pipe.text_encoder, rows)}, file)
    taught, prompt = load(model, embeddings=[str(file)]), "a photo of <toy>"
    pipe.load_textual_inversion(str(file))
    plain = pipe(prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(1)).images
    assert (arrays(taught.generate([prompt], [1])) == arrays(plain)).all()
    assert (arrays(load(model).generate([prompt], [1])) != arrays(plain)).any()
    named = load(model, embeddings=[f"{file}:<cat>"])
    assert (arrays(named.generate(["a photo of <cat>"], [1])) == arrays(plain)).all()
    assert len({Cached(g).key("a", 1) for g in (taught, named, load(model))}) == 3
    assert taught.overflow("<toy> " * 40) == 80 * rows + 2 - 77  # a token for each vector and each space


def test_two_text_encoders_need_two_tables(tmp_path):
    pipe = build("StableDiffusionXLPipeline")
    pipe.save_pretrained(tmp_path / "model")
    both = {"clip_l": vectors(pipe.text_encoder, 2), "clip_g": vectors(pipe.text_encoder_2, 2, 1)}
    save_file(both, tmp_path / "toy.safetensors")
    taught = load(tmp_path / "model", embeddings=[str(tmp_path / "toy.safetensors") + ":<toy>"])
    pipe.set_progress_bar_config(disable=True)
    for name, end in (("clip_l", ""), ("clip_g", "_2")):
        pipe.load_textual_inversion(both[name], token="<toy>", text_encoder=getattr(pipe, f"text_encoder{end}"),
                                    tokenizer=getattr(pipe, f"tokenizer{end}"))
    plain = pipe("a <toy>", num_inference_steps=2, generator=torch.Generator().manual_seed(1)).images
    assert (arrays(taught.generate(["a <toy>"], [1])) == arrays(plain)).all()
    save_file({"<one>": both["clip_l"]}, tmp_path / "one.safetensors")
    refused(lambda: load(tmp_path / "model", embeddings=[str(tmp_path / "one.safetensors")]), "two text encoders")


def test_what_is_no_embedding_of_this_model_is_refused_in_a_sentence(model, loras, tmp_path):
    pipe, file = build("StableDiffusionPipeline"), tmp_path / "toy.safetensors"
    save_file({"<toy>": vectors(pipe.text_encoder, 1)}, file)
    refused(lambda: load(model, embeddings=[str(file), str(file)]), "'<toy>' is no new word")
    for token in ("a", "two words", ""):
        refused(lambda token=token: load(model, embeddings=[f"{file}:{token}"]), "no new word")
    save_file({"<toy>": torch.zeros(1, 5)}, file)
    refused(lambda: load(model, embeddings=[str(file)]), "toy.safetensors", "5 numbers, and those of the model 16")
    refused(lambda: load(model, embeddings=[str(loras[0])]), "tensors and not one")
    refused(lambda: load(model, embeddings=["no.safetensors"]), "no embedding no.safetensors", kind=FileNotFoundError)


# ---- variants, revisions, pickles, caches ----

@pytest.fixture
def halves(model, tmp_path):
    "A folder whose weights are a variant, in half precision."
    pipe = build("StableDiffusionPipeline").to(torch.float16)
    pipe.save_pretrained(tmp_path / "halves", variant="fp16")
    return tmp_path / "halves"


def test_a_folder_with_one_variant_only_is_loaded_by_itself(model, halves):
    alone, named = load(halves), load(halves, variant="fp16")
    assert alone.settings["variant"] == named.settings["variant"] == "fp16"
    assert (image(alone) == image(named)).all() and next(alone.pipe.unet.parameters()).dtype == torch.float32
    refused(lambda: load(halves, variant="ema"), "no weights of the variant 'ema'", "fp16")
    refused(lambda: load(model, variant="fp16"), "leave variant out.")
    for part in ("unet", "vae", "text_encoder"):
        shutil.copytree(model / part, halves / part, dirs_exist_ok=True)
    both = load(halves)
    assert "variant" not in both.settings and (image(both) == image(load(model))).all()
    assert load(halves, variant="fp16").settings["variant"] == "fp16"


def test_several_variants_are_asked_for(halves):
    for file in list(halves.glob("*/*.fp16.safetensors")):
        shutil.copy(file, file.with_name(file.name.replace("fp16", "bf16")))
    refused(lambda: folder_variant(halves), "bf16, fp16")


def test_revisions_belong_to_the_hub(model):
    refused(lambda: load(model, revision="main"), "not on the hub: leave revision out")
    refused(lambda: Generator.load("tiny", revision="main"), "tiny is not on the hub")


def test_variant_and_revision_reach_the_hub(model, monkeypatch):
    seen = []
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", lambda name, **o: seen.append((name, o)) or str(model))
    Generator.load("owner/model", device="cpu", revision="v2")
    refused(lambda: Generator.load("owner/model", device="cpu", variant="fp16"), "no weights of the variant 'fp16'")
    assert [(o["revision"], o["variant"]) for _, o in seen] == [("v2", None), (None, "fp16")]


def test_pickles_beside_safetensors_are_left_alone(model, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    before = load(folder)
    for name in ("unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin", "vae/extra.pkl", "v1-4.ckpt"):
        (folder / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    after = load(folder)
    assert after.settings == before.settings and (image(after) == image(before)).all()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    refused(lambda: load(folder), "unet", "only as a pickle")


def test_a_missing_shard_is_named(model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    tensors, part = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"), folder / "unet"
    names = sorted(tensors)
    files = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for file, keys in zip(files, (names[::2], names[1::2]), strict=True):
        save_file({key: tensors[key] for key in keys}, part / file, metadata={"format": "pt"})
    (part / "diffusion_pytorch_model.safetensors").unlink()
    weights = {key: files[i % 2] for i, key in enumerate(names)}
    index = json.dumps({"metadata": {}, "weight_map": weights})
    (part / "diffusion_pytorch_model.safetensors.index.json").write_text(index)
    assert (image(load(folder)) == image(load(model))).all()
    (part / files[1]).unlink()
    refused(lambda: check_folder(folder), files[1], "missing")


def fake_cache(model, root, name):
    "A model in the layout of the hub's cache, as a download leaves it: files are links to blobs."
    commit, place = "0123456789" * 4, root / f"models--{name.replace('/', '--')}"
    for i, file in enumerate(sorted(path for path in model.rglob("*") if path.is_file())):
        blob, link = place / "blobs" / f"{i:040x}", place / "snapshots" / commit / file.relative_to(model)
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link.symlink_to(blob)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    return commit


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache of the hub."
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_filled_cache_needs_no_network(model, halves, cache):
    commit = fake_cache(model, cache, "owner/model")
    fake_cache(halves, cache, "owner/halves")
    cached = load("owner/model")
    assert cached.settings["model"] == commit[:16] and (image(cached) == image(load(model))).all()
    assert load("owner/model", revision=commit).settings == cached.settings
    assert load("owner/halves").settings["variant"] == "fp16"
    refused(lambda: load("owner/other"), "HF_HUB_OFFLINE is set", "not in the cache", kind=ConnectionError)
    refused(lambda: load("owner/model", revision="v9"), "owner/model", kind=ConnectionError)


def test_a_cache_that_cannot_be_written_is_used_as_it_is(model, monkeypatch):
    def download(name, local_files_only=False, **_):
        if local_files_only: return str(model)
        raise PermissionError(13, "Permission denied", "/shared/hub/models--owner--model/refs/main")
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    assert (image(load("owner/model")) == image(load(model))).all()


def test_one_file_is_told_how_to_become_a_folder(model, tmp_path):
    unet = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 1, 1)}
    large = {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": torch.zeros(4)}
    for name, more, words in (("v1", {}, ("StableDiffusionPipeline", "stable-diffusion-v1-5")),
                              ("xl", large, ("StableDiffusionXLPipeline", "stable-diffusion-xl-base-1.0"))):
        save_file(unet | more, tmp_path / f"{name}.safetensors")
        refused(lambda name=name: load(tmp_path / f"{name}.safetensors"), *words, "from_single_file", "Convert it once")
    refused(lambda: load(next(model.glob("vae/*.safetensors"))), "no model that can be loaded alone")
    (tmp_path / "model.ckpt").write_bytes(b"a pickle")
    refused(lambda: load(tmp_path / "model.ckpt"), "only as a pickle")
    (tmp_path / "notes.txt").write_text("text")
    refused(lambda: load(tmp_path / "notes.txt"), "no pipeline of diffusers")


# ---- presets, memory, compiling ----

def test_presets_have_a_licence_and_the_date_of_reading():
    rows = preset_table()
    assert [row["model"] for row in rows] == list(PRESETS) and set(LICENCES) == set(PRESETS)
    assert all(row["licence"] and row["read"].startswith("20") and row["short"] for row in rows)


def test_flux_schnell_reads_256_tokens(monkeypatch, tmp_path):
    build("FluxPipeline", embeds=False).save_pretrained(tmp_path)
    monkeypatch.setattr(folders, "download", lambda name, **_: tmp_path)
    schnell, plain = (Generator.load(name, device="cpu", size=16) for name in ("flux-schnell", str(tmp_path)))
    assert schnell.settings["max_sequence_length"] == 256 and "max_sequence_length" not in plain.settings
    assert schnell.overflow("a" * 300) > 0 == plain.overflow("a" * 300)
    seen = []
    schnell.pipe.transformer.register_forward_pre_hook(
        lambda _, args, words: seen.append(words["encoder_hidden_states"].shape[1]), with_kwargs=True)
    schnell.generate([PROMPT], [1])
    assert set(seen) == {256}


def test_low_memory_is_another_key_and_the_same_image_where_there_is_one_tile(model):
    plain, low = load(model), load(model, memory="low")
    assert low.settings == plain.settings | {"memory": "low"}
    assert low.pipe.vae.use_slicing and low.pipe.vae.use_tiling and not plain.pipe.vae.use_slicing
    assert (image(low) == image(plain)).all()
    refused(lambda: load(model, memory="little"), "must be low")
    refused(lambda: ModelSettings(memory="little"), "must be low")


def test_8_bits_are_close_and_keep_what_was_learned(model, tmp_path, monkeypatch):
    full, small = (load(model, memory=memory) for memory in ("low", "8bit"))
    gap = np.abs(image(full) - image(small)).mean()
    assert 0 < gap < 10 and small.pipe.vae.use_tiling
    kinds = {p.dtype for p in small.pipe.unet.mid_block.resnets[0].conv1.parameters()}
    assert kinds == {torch.float8_e4m3fn} and small.pipe.unet.dtype == torch.float32
    assert (image(pickle.loads(pickle.dumps(small))) == image(small)).all()
    half = load(model, memory="8bit", dtype="bfloat16")
    assert np.abs(image(half) - image(small)).mean() < 10
    refused(lambda: load(model, memory="8bit", compile=True), "not compiled")
    refused(lambda: ModelSettings(memory="8bit", compile=True), "not compiled")


def test_a_device_without_numbers_of_8_bits_is_a_sentence(model, monkeypatch):
    def refuse(self, *_, **__):
        raise TypeError("Trying to convert Float8_e4m3fn to the MPS backend.")
    pipe = load(model).pipe
    monkeypatch.setattr(torch.Tensor, "to", refuse)
    refused(lambda: eight_bits(pipe, torch.device("cpu")), "no numbers of 8 bits", "MPS backend", "memory='low'")


def test_low_memory_leaves_parts_outside_of_a_gpu(monkeypatch):
    pipe, seen = build("StableDiffusionPipeline"), []
    monkeypatch.setattr(type(pipe), "enable_model_cpu_offload", lambda self, device: seen.append(str(device)))
    assert save_memory(pipe, torch.device("cuda")) is pipe and seen == ["cuda"]
    save_memory(pipe, torch.device("cpu"))
    assert seen == ["cuda"]


def test_memory_is_counted_from_the_parts():
    pipe = build("StableDiffusionPipeline")
    sizes = [sum(p.numel() for p in part.parameters()) for part in (pipe.unet, pipe.vae, pipe.text_encoder)]
    weights, decoder = memory_table(pipe, 64, batch=8, bytes_each=4)
    assert np.isclose(weights["MB"], 4 * sum(sizes) / 1e6) and np.isclose(weights["MB, low"], 4 * max(sizes) / 1e6)
    assert np.isclose(decoder["MB"], 8 * 8 * 64 * 64 * 4 / 1e6)
    assert np.isclose(decoder["MB, low"], 8 * 32 * 32 * 4 / 1e6)  # a tile of 32 x 32


def test_without_a_compiler_images_are_generated_uncompiled(model, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("No working C++ compiler found\nSee above")
    monkeypatch.setattr(torch, "compile", broken)
    cannot_compile.cache_clear()
    with pytest.warns(UserWarning, match="not compiled.*No working C.. compiler found"):
        generator = load(model, compile=True)
    cannot_compile.cache_clear()
    assert (image(generator) == image(load(model))).all()
    assert generator.pipe.unet._compiled_call_impl is None


def test_a_compiler_is_used_where_there_is_one(model, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda f: f)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    cannot_compile.cache_clear()
    load(model, compile=True)
    cannot_compile.cache_clear()
    assert compiled == ["UNet2DConditionModel"]


# ---- options ----

@pytest.mark.parametrize("command", ["search", "rldf-table", "prefer", "support", "clone", "bench"])
def test_every_command_that_takes_a_model_takes_its_options(command, capsys):
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    options = ("model", "dtype", "variant", "revision", "compile", "guidance", "size", "scheduler", "inference-steps",
               "lora", "embeddings", "memory", "vae", "device")
    assert [name for name in options if f"--{name} " not in shown.replace("\n", " ")] == []


def test_options_reach_the_settings():
    models = ModelSettings(lora=["a.safetensors:0.5", "b.safetensors"], embeddings="c.safetensors:<c>")
    assert (models.lora, models.embeddings) == (("a.safetensors:0.5", "b.safetensors"), ("c.safetensors:<c>",))
    words = ["--lora", "a.safetensors:0.5", "b.safetensors", "--embeddings", "c.safetensors:<c>"]
    assert cli.parse("bench", words, ModelSettings()) == (models,)
    refused(lambda: cli.parse("bench", ["--lora", "a.safetensors:much"], ModelSettings()), "write a number")
    with pytest.raises(ValueError, match="'little' for argument '--memory'.*low"):
        cli.parse("bench", ["--memory", "little"], ModelSettings())


def test_a_served_model_has_no_adapters():
    for name, value in (("lora", ("a.safetensors",)), ("variant", "fp16"), ("memory", "low")):
        refused(lambda: load_generator(ModelSettings("openai:some-model", **{name: value})), f"{name} is decided by")
