"""Captions: the shipped model, and the loading code on models made here."""
import json

import pytest
from PIL import Image

from rlgen import tiny
from rlgen.captioner import Captioner
from rlgen.grammar import Grammar
from rlgen.scenes import render


@pytest.fixture(scope="module")
def captioner(): return Captioner.load("tiny", device="cpu")


def test_says_the_prompt_of_drawn_pictures(captioner):
    grammar = Grammar.scenes()
    prompts = [grammar.decode(e) for e in grammar.sample(5, 60)]
    captions = captioner.caption([render(p, 60_000 + i)[0] for i, p in enumerate(prompts)])
    assert sum(a == b for a, b in zip(prompts, captions)) >= 45


def test_a_picture_gets_the_same_caption_alone_and_in_a_batch(captioner):
    pictures = [render(f"a photo of one {noun} and no people in beach", 3)[0] for noun in ("dog", "bus", "clock")]
    together = captioner.caption(pictures + [pictures[0].convert("L").convert("RGBA")])
    assert together[:3] == [captioner.caption(p)[0] for p in pictures] and len(together) == 4
    assert captioner.caption([]) == []


def test_a_folder_is_loaded_like_the_shipped_one(tmp_path):
    tokenizer = tiny.new_tokenizer()
    tiny.save_captioner(tmp_path / "made", tiny.new_captioner(tokenizer), tokenizer)
    said = Captioner.load(str(tmp_path / "made"), device="cpu").caption(Image.new("RGB", (300, 20)), words=5)
    assert len(said) == 1 and isinstance(said[0], str)


def test_blip_2_goes_the_same_way(tmp_path):
    "A Blip2ForConditionalGeneration of the paper's kind (ViT, Q-Former, OPT), small and random, through the loading code."
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor
    tokenizer = tiny.new_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config=small | {"image_size": 64, "patch_size": 32}, qformer_config=small | {"vocab_size": 10, "encoder_hidden_size": 16},
        text_config={"model_type": "opt", "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "vocab_size": len(tokenizer) + 1, "max_position_embeddings": 64, "bos_token_id": tokenizer.bos_token_id,
                     "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id},
        num_query_tokens=4, image_token_index=len(tokenizer))
    Blip2ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    Blip2Processor(BlipImageProcessor(size={"height": 64, "width": 64}), tokenizer, num_query_tokens=4).save_pretrained(tmp_path)
    captioner = Captioner.load(str(tmp_path), device="cpu")
    assert type(captioner.model).__name__ == "Blip2ForConditionalGeneration"
    assert len(captioner.caption([Image.new("RGB", (64, 64))] * 3, words=4)) == 3


@pytest.mark.parametrize("write, sentence", [
    (lambda f: None, "no weights in safetensors"),
    (lambda f: (f / "model.safetensors").write_bytes(b""), "config.json"),
    (lambda f: ((f / "model.safetensors").write_bytes(b""), (f / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "x.Y"}}))), "its own code"),
    (lambda f: ((f / "model.safetensors").write_bytes(b""), (f / "config.json").write_text(json.dumps({"model_type": "gpt2"}))), "no image-to-text model"),
])
def test_bad_folders_give_sentences(tmp_path, write, sentence):
    write(tmp_path)
    with pytest.raises(ValueError, match=sentence): Captioner.load(str(tmp_path))


def test_unknown_names_give_sentences():
    with pytest.raises(FileNotFoundError, match="There is no captioner"): Captioner.load("nothing here")
    with pytest.raises(ConnectionError, match="could not be had from the hub"): Captioner.load("rlgen-tests/does-not-exist")
