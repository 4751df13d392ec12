"""Captions: the shipped model, and the loading code on models made here.

A dictionary of classes from captions of clusters.
"""
import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from safetensors.numpy import save_file

from rlgen.data.labelled import labelled_scenes
from rlgen.grammar import Grammar
from rlgen.models.captioner import Captioner, class_dictionary, distinctive
from rlgen.models.perception import Perception
from rlgen.scenes import render
from rlgen.training import loop, shipped

@pytest.fixture(scope="module")
def captioner():
    return Captioner.load("tiny", device="cpu")


def test_says_the_prompt_of_drawn_pictures(captioner):
    grammar = Grammar.scenes()
    prompts = [grammar.decode(e) for e in grammar.sample(5, 60)]
    captions = captioner.caption([render(p, 60_000 + i)[0] for i, p in enumerate(prompts)])
    assert sum(a == b for a, b in zip(prompts, captions, strict=True)) >= 45


def test_a_picture_gets_the_same_caption_alone_and_in_a_batch(captioner):
    pictures = [render(f"a photo of one {noun} and no people in beach", 3)[0] for noun in ("dog", "bus", "clock")]
    together = captioner.caption(pictures + [pictures[0].convert("L").convert("RGBA")])
    assert together[:3] == [captioner.caption(p)[0] for p in pictures] and len(together) == 4
    assert captioner.caption([]) == []


def test_a_folder_is_loaded_like_the_shipped_one(tmp_path):
    tokenizer = loop.new_tokenizer()
    shipped.save_captioner(tmp_path / "made", shipped.new_captioner(tokenizer), tokenizer)
    said = Captioner.load(str(tmp_path / "made"), device="cpu").caption(Image.new("RGB", (300, 20)), max_new_tokens=5)
    assert len(said) == 1 and isinstance(said[0], str)


def test_blip_2_goes_the_same_way(tmp_path):
    """A Blip2ForConditionalGeneration of the paper's kind (ViT, Q-Former, OPT), small and random,
    through the loading code.
    """
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor
    tokenizer = loop.new_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config=small | {"image_size": 64, "patch_size": 32},
        qformer_config=small | {"vocab_size": 10, "encoder_hidden_size": 16},
        text_config={
            "model_type": "opt",
            "hidden_size": 16,
            "word_embed_proj_dim": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": len(tokenizer) + 1,
            "max_position_embeddings": 64,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.eos_token_id,
        },
        num_query_tokens=4,
        image_token_index=len(tokenizer),
    )
    Blip2ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    Blip2Processor(BlipImageProcessor(size={"height": 64, "width": 64}), tokenizer, num_query_tokens=4).save_pretrained(
        tmp_path
    )
    captioner = Captioner.load(str(tmp_path), device="cpu")
    assert type(captioner.model).__name__ == "Blip2ForConditionalGeneration"
    assert len(captioner.caption([Image.new("RGB", (64, 64))] * 3, max_new_tokens=4)) == 3


@pytest.mark.parametrize(
    "write, sentence",
    [
        (lambda f: None, "no weights in safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "config.json"),
        (
            lambda f: (
                (f / "model.safetensors").write_bytes(b""),
                (f / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "x.Y"}})),
            ),
            "its own code",
        ),
        (
            lambda f: (
                save_file({"weights": np.zeros(1, np.float32)}, f / "model.safetensors"),
                (f / "config.json").write_text(json.dumps({"model_type": "gpt2"})),
            ),
            "no image-to-text model",
        ),
    ],
)
def test_bad_folders_give_sentences(tmp_path, write, sentence):
    write(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        Captioner.load(str(tmp_path))


def test_unknown_names_give_sentences():
    with pytest.raises(FileNotFoundError, match="There is no captioner"):
        Captioner.load("nothing here")
    with pytest.raises(ConnectionError, match="could not be fetched"):
        Captioner.load("rlgen-tests/does-not-exist")


# A dictionary without class names

class Table:
    "Embeddings and captions that are written down; it notes what it was asked to caption."
    def __init__(self, vectors, texts):
        self.vectors, self.texts, self.asked = np.asarray(vectors, np.float32), texts, []

    def embed_images(self, pictures):
        return self.vectors[[self.number(p) for p in pictures]]

    def caption(self, pictures):
        self.asked += map(self.number, pictures)
        return [self.texts[self.number(p)] for p in pictures]

    def number(self, picture):
        return picture.getpixel((0, 0))


def numbered(n):
    return [Image.new("L", (2, 2), i) for i in range(n)]


def heaps(sizes, texts):
    "Pictures in far heaps on a line, the first of each in the middle of it; a text for each heap."
    spread = [(np.arange(n) + 1) // 2 * (-1.) ** np.arange(n) for n in sizes]
    return Table(
        [[100. * k + x, 1.] for k, heap in enumerate(spread) for x in heap],
        [t for t, n in zip(texts, sizes, strict=True) for _ in range(n)],
    )


def test_weights_by_hand():
    first, second = distinctive([["a dog, grass", "a Dog, snow"], ["a cat, snow", "a cat, snow"]])
    assert list(first) == ["dog", "grass", "snow"] and list(second) == ["cat", "snow"]
    assert list(first.values()) == pytest.approx([np.log(2), .5 * np.log(4), .5 * np.log(4 / 3)])
    assert list(second.values()) == pytest.approx([np.log(2), np.log(4 / 3)])


@settings(deadline=None)
@given(st.lists(st.lists(st.text("ab é1'_", max_size=12), min_size=1, max_size=4), min_size=1, max_size=5))
def test_weights_are_above_0_fall_and_are_of_words(captions):
    weights = distinctive(captions)
    assert len(weights) == len(captions)
    for of_cluster, texts in zip(weights, captions, strict=True):
        values = list(of_cluster.values())
        assert all(v > 0 for v in values) and values == sorted(values, reverse=True)
        assert all(any(word in text for text in texts) and len(word) > 2 and word.isalpha() for word in of_cluster)


def test_words_in_all_captions_and_words_left_out_do_not_count():
    # an ox is too short
    assert distinctive([["the photo of one ox"], ["the photo of one cow"]]) == [{}, {"cow": pytest.approx(np.log(2))}]
    assert (
        distinctive([["a fast car"], ["a dog"]], ["CAR"])
        == [{"fast": pytest.approx(np.log(2))}, {"dog": pytest.approx(np.log(2))}]
    )


def test_dictionary_of_clear_heaps():
    table = heaps((3, 7, 5), ("a photo of a dog", "a photo of a car", "a photo of a clock"))
    found = class_dictionary(numbered(15), 3, table, table, representatives=3)
    assert [w.words for w in found] == [("car",), ("clock",), ("dog",)]  # the largest first
    assert [w.members.tolist() for w in found] == [[*range(3, 10)], [*range(10, 15)], [0, 1, 2]]
    assert [sorted(w.representatives.tolist()) for w in found] == [[3, 4, 5], [10, 11, 12], [0, 1, 2]]
    assert found[0].representatives[0] == 3  # the one in the middle
    assert sorted(table.asked) == [0, 1, 2, 3, 4, 5, 10, 11, 12]  # nothing else is captioned


@pytest.mark.parametrize("seed", range(3))
def test_every_picture_is_in_one_cluster_and_the_seed_decides(seed):
    table = Table(np.random.default_rng(0).normal(size=(40, 3)), [f"thing {'abcdefgh'[i % 8] * 3}" for i in range(40)])
    one, two = (class_dictionary(numbered(40), 9, table, table, 2, seed) for _ in range(2))
    assert sorted(row for w in one for row in w.members) == list(range(40))
    assert all(
        set(w.representatives) <= set(w.members) and 1 <= len(w.representatives) <= 2 and len(w.words) <= 3 for w in one
    )
    assert [(w.words, w.members.tolist()) for w in one] == [(w.words, w.members.tolist()) for w in two]
    other = class_dictionary(numbered(40), 9, table, table, 2, seed + 10)
    assert [w.members.tolist() for w in one] != [w.members.tolist() for w in other]


def test_a_cluster_without_a_word_is_kept():
    table = heaps((2, 3), ("", "a photo of a car"))
    assert [w.words for w in class_dictionary(numbered(5), 2, table, table)] == [("car", "photo"), ()]


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"clusters": 6}, "5 images cannot make 6 clusters"),
        ({"clusters": 1}, "give 2 clusters or more"),
        ({"representatives": 0}, "representatives is 0"),
        ({"leave_out": ["dog", "car", "photo"]}, "give no word"),
        ({"clusters": 5, "vectors": np.repeat([[0., 1], [1, 0]], [2, 3], 0)}, "Only 2 of the 5 images differ"),
    ],
)
def test_bad_dictionaries_become_a_sentence(settings, told):
    table = heaps((2, 3), ("a photo of a dog", "a photo of a car"))
    table.vectors = settings.pop("vectors", table.vectors)
    with pytest.raises(ValueError, match=told) as caught:
        class_dictionary(numbered(5), **{"clusters": 2, "perception": table, "captioner": table} | settings)
    assert "\n" not in str(caught.value)


def test_silent_captioner_becomes_a_sentence():
    table = heaps((2, 3), ("", "..."))
    with pytest.raises(ValueError, match="give no word that tells one cluster from another"):
        class_dictionary(numbered(5), 2, table, table)


def test_no_pictures_no_dictionary():
    with pytest.raises(ValueError, match="0 images cannot make 2 clusters"):
        class_dictionary([], 2, None, None)


def test_names_of_drawn_scenes(captioner):
    "Six objects, twelve clusters: most of the names, and prompts made of them."
    data = labelled_scenes(10, seed=1, classes=("dog", "car", "tree", "penguin", "clock", "apple"))
    found = class_dictionary(
        [Image.fromarray(p) for p in data.images], 12, Perception.load("tiny", device="cpu"), captioner, seed=1
    )
    names = tuple(dict.fromkeys(word for w in found for word in w.words[:1]))
    assert len(set(names) & set(data.classes)) >= 4
    grammar = Grammar.domains(("photograph", "painting"), names)
    assert (
        grammar.decode([1, 0, 1, 0]) == f"a painting of a {names[0]}, {names[1]}, and {names[0]}"
        and grammar.n_states == 2 * len(names) ** 3
    )
