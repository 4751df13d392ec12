"""Perception: strangers' pictures, loading without pickles, and zero-shot reading checked against brute force.

The model is a random one of the shipped shape, so what is tested is the code and not what the weights know."""
import io
import json
import os
import pickle
import socket
import struct
import warnings
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from scipy.special import softmax
from standins import content

from rlgen.grammar import Grammar
from rlgen.images import (
    IMAGE_FORMATS,
    MAX_PIXELS,
    eight_bits,
    fit_square,
    image_hash,
    is_image,
    open_image,
    over_white,
    to_rgb,
)
from rlgen.models.perception import Perception, ensemble, marginals

SMALL = """
S -> P Noun I Scene
P -> "a photo of"
Noun -> "dog" | "cat" | "bus"
I -> "in"
Scene -> "farm" | "street"
"""


def noise(seed, size=(64, 64)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def make_folder(folder):
    "A random open_clip model of the shipped shape, in half precision, with its own BPE, in the `local-dir:` layout."
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    symbols = sorted(ByteLevel.alphabet())
    vocab, merges = [*symbols, *(s + "</w>" for s in symbols)], []
    for word in "a photo of one many no dog cat bus and people in farm street".split():
        left = word[0]  # join the letters from the left until the word is one token
        for i, letter in enumerate(word[1:], 2):
            right = letter + ("</w>" if i == len(word) else "")
            if left + right not in vocab:
                merges.append((left, right))
                vocab.append(left + right)
            left += right
    vocab = {token: i for i, token in enumerate([*vocab, "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=24).save_pretrained(folder)
    last = len(vocab) - 1
    config = dict(embed_dim=128, vision_cfg=dict(image_size=64, layers=[1, 1, 1, 1], width=24, head_width=64),
                  text_cfg=dict(context_length=24, vocab_size=len(vocab), width=128, heads=4, layers=2, pool_type="eos",
                                eos_id=last, pad_id=last, hf_tokenizer_name="local"))
    (folder / "open_clip_config.json").write_text(
        json.dumps(dict(model_cfg=config, preprocess_cfg=dict(size=[64, 64], mean=[.5] * 3, std=[.25] * 3)))
    )
    torch.manual_seed(0)
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in CLIP(**config).state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(autouse=True)
def no_network_and_no_pickles(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked, or a pickle read")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr("torch.load", refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def eye(folder):
    return Perception.load(folder, device="cpu")


@pytest.fixture(scope="module")
def grammar():
    return Grammar.from_string(SMALL)


# Pictures of every kind

SIDES = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left",  # the side that row 0 and column 0 show,
         5: "left top", 6: "right top", 7: "right bottom", 8: "left bottom"}  # as the EXIF standard puts it


def laid(picture, orientation):
    "The array as a camera would store it."
    row, column = SIDES[orientation].split()
    if row in ("left", "right"):
        picture = picture.swapaxes(0, 1)
    if row in ("bottom", "right"):
        picture = picture[::-1]
    if column in ("bottom", "right"):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


@pytest.mark.parametrize("orientation, format", [*product(SIDES, ["PNG", "JPEG", "WEBP", "TIFF"])])
def test_rotation_flags(orientation, format):
    truth = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [255, 255, 0]], np.uint8)
    truth = truth.reshape(2, 3, 3).repeat(16, axis=0).repeat(16, axis=1)  # six patches, wider than high
    exif = Image.Exif()
    exif[274] = orientation
    options = dict(JPEG=dict(quality=95, subsampling=0), WEBP=dict(lossless=True)).get(format, {})
    stored = Image.fromarray(laid(truth, orientation))
    once = open_image(content(stored, format, exif=exif, **options))
    assert np.abs(np.asarray(once, int) - truth).max() <= (12 if format == "JPEG" else 0)
    again = to_rgb(once)  # must not be turned a second time
    assert again.mode == "RGB" and np.array_equal(again, once)


def test_unopened_pillow_image_is_turned_too_and_left_unchanged():
    exif = Image.Exif()
    exif[274] = 8
    image = Image.open(io.BytesIO(content(noise(0, (5, 3)), exif=exif)))
    assert to_rgb(image).size == (3, 5)
    assert image.size == (5, 3)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0"]
)
def test_damaged_exif_is_ignored(exif):  # the second holds orientation 99
    image = noise(0, (5, 3))
    assert np.array_equal(open_image(content(image, exif=exif)), image)


def test_exif_that_cannot_be_rewritten_still_turns_the_image():
    entries = [(258, 2, 4, b"abc\0"), (274, 3, 1, b"\0\6\0\0")]  # a number that is text, and the orientation
    block = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries))
    block += b"".join(struct.pack(">HHL", *entry) + value for *entry, value in entries) + bytes(4)
    image = noise(0, (5, 3))
    found = open_image(content(image, exif=block))
    assert np.array_equal(found, image.transpose(Image.Transpose.ROTATE_270))


def test_one_hash_of_an_image_and_one_list_of_names():
    image = noise(0, (5, 3))
    assert image_hash(image) == image_hash(image.convert("RGBA")) == image_hash(image.copy())
    assert image_hash(image) != image_hash(noise(1, (5, 3)))
    assert image_hash(Image.new("RGB", (2, 8))) != image_hash(Image.new("RGB", (8, 2)))
    assert is_image("a/dog.JPG") and is_image(Path("x.tiff"))
    assert not any(map(is_image, ("x.csv", ".png", "png")))
    assert fit_square(image, 4).shape == (4, 4, 3) and np.array_equal(fit_square(noise(0, (4, 4)), 4), noise(0, (4, 4)))

GREY = Image.fromarray(np.array([[0, 100, 255]], np.uint8))


@pytest.mark.parametrize(
    "mode", ["L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
)
def test_every_mode(mode):
    via = {"La": "LA", "RGBa": "RGBA", "PA": "P", "LAB": "RGB", "HSV": "RGB", "P": "RGB"}.get(mode)
    image = (GREY.convert(via) if via else GREY).convert(mode)
    out = to_rgb(image)
    assert out.mode == "RGB" and type(out) is Image.Image and not out.info
    if mode not in ("P", "PA", "LAB"):  # a web palette has no 100; LAB is rounded
        assert np.array_equal(np.asarray(out)[..., 1], GREY)


def test_one_bit():
    assert np.array_equal(np.asarray(to_rgb(GREY.convert("1")))[0, [0, 2], 0], [0, 255])


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_sixteen_bits(mode):
    image = Image.new(mode, (3, 1))
    for x, value in enumerate([0, 32768, 65535]):
        image.putpixel((x, 0), value)
    assert np.array_equal(np.asarray(to_rgb(image))[0, :, 0], [0, 128, 255])


def test_sixteen_bit_files():
    deep = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    for format in "PNG", "TIFF":
        assert np.array_equal(np.asarray(open_image(content(deep, format)))[0, :, 0], [0, 128, 255])
    assert np.array_equal(np.asarray(open_image(content(deep, transparency=0)))[0, :, 0], [255, 128, 255])


@pytest.mark.parametrize("values, expected", [
    ([0., .5, 1.], [0, 128, 255]), ([0., 51., 255.], [0, 51, 255]), ([0., 257., 65535.], [0, 1, 255]),
    ([-1., 0., 1.], [0, 128, 255]), ([0., 50_000., 100_000.], [0, 128, 255]), ([-5., -5., -5.], [0, 0, 0])])
def test_float_ranges(values, expected):
    image = Image.fromarray(np.array([values], np.float32))
    assert image.mode == "F"
    assert np.array_equal(np.asarray(eight_bits(image))[0], expected)
    stored = open_image(content(image, "TIFF"))
    assert np.array_equal(np.asarray(stored)[0, :, 2], expected)


def test_nan_pixels_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        to_rgb(Image.fromarray(np.array([[0, np.nan]], np.float32)))


def test_transparency_goes_over_white():
    assert over_white(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("RGBA", (1, 1), (0, 0, 255, 128))).getpixel((0, 0)) == (127, 127, 255)
    grey, colour = Image.new("L", (2, 1), 7), Image.new("RGB", (2, 1), (1, 2, 3))
    assert open_image(content(grey, transparency=7)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(content(colour, transparency=(1, 2, 3))).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(content(colour, transparency=(1, 2, 4))).getpixel((0, 0)) == (1, 2, 3)
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    assert open_image(content(palette)).getpixel((0, 0)) == (200, 100, 50)
    assert open_image(content(palette, transparency=1)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(content(palette, transparency=bytes([255, 128]))).getpixel((0, 0)) == (227, 177, 152)
    assert open_image(content(palette, "GIF", transparency=1)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (4, 4), colour) for colour in [(255, 0, 0), (0, 0, 255)]]
    options = dict(lossless=True) if format == "WEBP" else {}
    data = content(frames[0], format, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(UserWarning, match="several frames"):
        assert open_image(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("format", IMAGE_FORMATS)
def test_formats(format, tmp_path):
    if format == "AVIF":
        pytest.importorskip("PIL._avif")
    image = Image.new("RGB", (16, 8), (250, 128, 10))
    (tmp_path / "picture.dat").write_bytes(content(image, format))  # the content decides, not the name
    for source in tmp_path / "picture.dat", str(tmp_path / "picture.dat"), content(image, format):
        opened = open_image(source)
        assert opened.size == (16, 8) and np.abs(np.asarray(opened, int) - np.asarray(image, int)).max() < 8


# Broken pictures: one sentence each

def sentence(error, *words):
    text = str(error.value)
    assert "\n" not in text and len(text) < 500 and text.endswith("."), text
    for word in words:
        assert str(word) in text, text


def test_missing_folder_and_odd_files(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        open_image(tmp_path / "none.png")
    sentence(error, "none.png", "does not exist")
    with pytest.raises(IsADirectoryError) as error:
        open_image(tmp_path)
    sentence(error, "folder")
    with pytest.raises(FileNotFoundError) as error:
        open_image("x" * 5000)
    assert "does not exist" in str(error.value)
    with pytest.raises(FileNotFoundError):
        open_image("a\0b.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError) as error:
        open_image(tmp_path / "pipe.png")  # must not wait for a writer
    sentence(error, "pipe.png")
    with pytest.raises(TypeError):
        open_image(None)


def test_unreadable_file(tmp_path, monkeypatch):  # simulated, since root may read everything
    def refuse(*args):
        raise PermissionError(13, "Permission denied")
    path = tmp_path / "secret.png"
    path.write_bytes(content(noise(0)))
    monkeypatch.setattr("rlgen.images.open", refuse, raising=False)
    with pytest.raises(PermissionError) as error:
        open_image(path)
    sentence(error, "secret.png", "permission denied")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width, height):
    "A PNG that claims a size and brings next to no pixels."
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "data, word",
    [
        (b"", "empty"),
        (b"dear diary, today I learnt about pickles\n" * 20, "PNG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "PNG"),
        (content(noise(1))[:5000], "damaged"),
        (content(noise(1), "JPEG")[:1200], "damaged"),
        (content(noise(1), "WEBP")[:900], ""),
        (content(noise(1), "TIFF")[:3000], ""),
        (content(noise(1), "BMP")[:4000], "damaged"),
        (content(noise(1), "GIF")[:900], ""),
        (content(noise(1))[:60] + b"\0\0\0\0" + content(noise(1))[64:], ""),
        (png_header(9, 9)[:-40], ""),
    ],
)
def test_broken_files(data, word, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing beside the sentence
        with pytest.raises(ValueError) as error:
            open_image(path)
    sentence(error, "broken.png", word)


@pytest.mark.parametrize(
    "size", [(MAX_PIXELS + 1, 1), (14_200, 14_200), (20_000, 20_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)]
)
def test_too_many_pixels_are_refused_before_decoding(size, tmp_path, monkeypatch):
    def decode(*args):
        raise AssertionError("decoded")
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError) as error:
            open_image(path)
    sentence(error, "huge.png", "pixels", "200,000,000")


def test_lazily_opened_huge_picture_is_refused_too(monkeypatch):
    def decode(*args):
        raise AssertionError("decoded")
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as users of large images set it
    image = Image.open(io.BytesIO(png_header(15_000, 15_000)))
    with pytest.raises(ValueError, match="15,000 x 15,000"):
        to_rgb(image)


def test_not_a_picture():
    for thing in "path.png", Path("path.png"), np.zeros((4, 4, 3), np.uint8), None, 3:
        with pytest.raises(TypeError) as error:
            to_rgb(thing)
        sentence(error, type(thing).__name__, "open_image")
    with pytest.raises(ValueError, match="no pixels"):
        to_rgb(Image.new("RGB", (0, 5)))


# Loading

def test_load_round_trip(eye, folder):
    import torch
    from safetensors.torch import load_file

    stored = load_file(folder / "open_clip_model.safetensors")
    state = eye.model.state_dict()
    assert set(stored) == set(state)
    assert stored["text_projection"].dtype == torch.float16
    assert all(t.dtype == torch.float32 for t in state.values() if t.is_floating_point())
    assert all(torch.equal(stored[name].to(t.dtype), t) for name, t in state.items())
    assert not eye.model.training and not any(p.requires_grad for p in eye.model.parameters())
    assert eye.scale == pytest.approx(np.exp(np.float64(stored["logit_scale"])), rel=1e-6)
    tokens = eye.tokenize(["a photo of dog"])
    last = eye.model.vocab_size - 1
    assert tokens.shape == (1, 24) and tokens[0, [0, 5, 23]].tolist() == [last - 1, last, last]
    assert len(eye.settings["fingerprint"]) == 16 and json.dumps(eye.settings) and "logit scale" in repr(eye)


def test_local_dir_prefix_and_repeated_loading(eye, folder):
    other = Perception.load(f"local-dir:{folder}", device="cpu")
    assert other.settings["fingerprint"] == eye.settings["fingerprint"]
    assert np.array_equal(other.embed_images([noise(0)]), eye.embed_images([noise(0)]))


def copy(folder, target, *, without=(), **extra):
    target.mkdir()
    for path in folder.iterdir():
        if path.name not in without:
            (target / path.name).write_bytes(path.read_bytes())
    for name, data in extra.items():
        (target / name.replace("__", ".")).write_bytes(data)
    return target


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


BOMB = pickle.dumps(Bomb())


def test_pickles_are_refused_or_left_alone(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "open_clip_pytorch_model__bin", "model__pt", "weights__pth":
        target = copy(folder, tmp_path / name, without=["open_clip_model.safetensors"], **{name: BOMB})
        with pytest.raises(ValueError) as error:
            Perception.load(target)
        sentence(error, "pickle", name.replace("__", "."))
    # safetensors under a name that open_clip would rank below the pickle
    target = copy(
        folder,
        tmp_path / "ranked",
        without=["open_clip_model.safetensors"],
        open_clip_pytorch_model__bin=BOMB,
        model__safetensors=(folder / "open_clip_model.safetensors").read_bytes(),
    )
    with pytest.raises(ValueError, match="pickle"):
        Perception.load(target)
    target = copy(folder, tmp_path / "both", open_clip_pytorch_model__bin=BOMB, aaa__pth=BOMB)
    assert Perception.load(target, device="cpu").scale
    assert not (tmp_path / "exploded").exists()


def test_no_code_from_a_folder_is_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = copy(folder, tmp_path / "code", evil__py=b"import os\nos.system('touch exploded')\nclass Tok: pass\n")
    config = json.loads((target / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= dict(tokenizer_class="Tok", auto_map=dict(AutoTokenizer=["evil.Tok", "evil.Tok"]))
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    config = json.loads((target / "open_clip_config.json").read_text(encoding="utf-8"))
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = dict(trust_remote_code=True)
    (target / "open_clip_config.json").write_text(json.dumps(config))
    try:
        Perception.load(target, device="cpu")  # refusing and reading the plain tokenizer are both fine
    except ValueError:
        pass
    assert not (tmp_path / "exploded").exists()


def test_bad_folders(folder, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        Perception.load(tmp_path)
    sentence(error, "open_clip_config.json")
    with pytest.raises(FileNotFoundError) as error:
        Perception.load(f"local-dir:{tmp_path / 'none'}")
    sentence(error, "does not exist")
    weights = "open_clip_model.safetensors"
    with pytest.raises(FileNotFoundError) as error:
        Perception.load(copy(folder, tmp_path / "a", without=[weights]))
    sentence(error, weights)
    for name, damage in dict(
        b={weights: (folder / weights).read_bytes()[:5000]},
        c={weights: b""},
        d={"open_clip_config.json": b"{"},
        e={"open_clip_config.json": b'{"model_cfg": {"embed_dim": 128}, "preprocess_cfg": {"mean": 0.5, "std": 0.5}}'},
        f={"tokenizer.json": b"{}"},
    ).items():
        target = copy(folder, tmp_path / name)
        for file, data in damage.items():
            (target / file).write_bytes(data)
        with pytest.raises(ValueError) as error:
            Perception.load(target)
        word = "damaged" if name in "bcd" else "cannot be loaded"
        sentence(error, next(iter(damage)) if name != "f" else target, word) if name != "e" else sentence(error, word)
    target = copy(folder, tmp_path / "g")
    config = json.loads((target / "open_clip_config.json").read_text(encoding="utf-8"))
    config["model_cfg"]["embed_dim"] = 64  # the tensors no longer fit
    (target / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError) as error:
        Perception.load(target)
    sentence(error, "cannot be loaded")
    config["preprocess_cfg"] = dict(size=[64, 64])  # images would be prepared as for OpenAI's models
    (target / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError) as error:
        Perception.load(target)
    sentence(error, "mean and std", target / "open_clip_config.json")


def test_damaged_weights_are_noticed(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    target = copy(folder, tmp_path / "nan")
    tensors = load_file(target / "open_clip_model.safetensors")
    tensors["visual.conv1.weight"][:] = float("nan")
    save_file(tensors, target / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match="NaN"):
        Perception.load(target, device="cpu").embed_images([noise(0)])


def test_devices(folder):
    with pytest.raises(ValueError) as error:
        Perception.load(folder, device="abacus")
    sentence(error, "abacus")


def test_unknown_names():
    for name, near in {
        "ViT-B32": "ViT-B-32", "vit_b_16": "ViT-B-16", "ViT-B-31/openai": "ViT-B-32", "tyni": "tiny", "": "nearest",
        "/nowhere/clip": "nearest", "nowhere/clip.safetensors": "hf-hub:OWNER/NAME",
        "timm/ViT-B-16-SigLIP": "names are ViT-B-16-SigLIP, ",
    }.items():
        with pytest.raises(ValueError) as error:
            Perception.load(name)
        sentence(error, f"'{name}'", near)


def test_names_and_tags_of_open_clip():
    for name, *words in [
        ("ViT-B-32", "ViT-B-32/openai", "laion2b_s34b_b79k", "16 more"),
        ("ViT-B-16-SigLIP", "ViT-B-16-SigLIP/webli"),
        ("vit-b/32/laion9b", "'laion9b'", "ViT-B-32", "laion2b_s34b_b79k", "more"),
        ("ViT-B-32/", "ViT-B-32/openai"),
        ("ViT-M-16", "publishes no weights", "ViT-M-16=FILE"),
        ("ViT-M-16/openai", "'openai'", "ViT-M-16=FILE"),
        ("ViT-B-16-SigLIP/wbli", "ViT-B-16-SigLIP/TAG", "webli"),
    ]:
        with pytest.raises(ValueError) as error:
            Perception.load(name)
        sentence(error, *words)


def test_every_published_model_and_tag_is_found_with_what_belongs_to_it(monkeypatch, tmp_path):
    from open_clip import list_pretrained
    from open_clip.pretrained import get_pretrained_cfg

    from rlgen.models import perception

    monkeypatch.setattr(perception, "download", lambda repo, file: tmp_path / repo.replace("/", "-") / file)
    monkeypatch.setattr(perception, "complete_weights", lambda file: file)
    for model, tag in list_pretrained():
        source, weights, options = perception._locate(f"{model}/{tag}")
        published = get_pretrained_cfg(model, tag)
        assert source == model and weights.suffix == ".safetensors"
        assert options.pop("force_quick_gelu") == published.get("quick_gelu", False)
        assert options == {
            f"image_{key}": published[key] for key in ("mean", "std", "interpolation", "resize_mode")
        }


@pytest.fixture
def known(folder, monkeypatch):
    "Our little model as if open_clip knew it by name, published in several ways."
    from open_clip import factory, pretrained

    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    config["text_cfg"]["hf_tokenizer_name"] = str(folder)
    monkeypatch.setitem(factory._MODEL_CONFIGS, "Small-1", config)
    tags = dict(
        good=dict(
            hf_hub="us/small/",
            mean=(.1, .2, .3),
            std=(.5, .5, .5),
            interpolation="bilinear",
            resize_mode="squash",
            quick_gelu=True,
        ),
        named=dict(hf_hub="us/small/weights.bin"),
        old=dict(url="https://example.org/small.pt"),
    )
    monkeypatch.setitem(pretrained._PRETRAINED, "Small-1", tags)
    asked = []

    def fetch(repo, file, **options):
        asked.append((repo, file))
        assert file.endswith(".safetensors")
        return str(folder / "open_clip_model.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    return asked


def test_named_model(known, eye, folder, tmp_path):
    named = Perception.load("small-1/good", device="cpu")
    assert known == [("us/small", "open_clip_model.safetensors")]
    steps = named.prepare.transforms
    assert steps[-1].mean == (.1, .2, .3) and steps[-1].std == (.5, .5, .5)  # the tag's own preparation
    assert "bilinear" in str(steps[0]) and tuple(steps[0].size) == (64, 64)
    assert type(named.model.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert np.array_equal(
        Perception.load("Small-1/named", device="cpu").embed_texts(["a dog"]), eye.embed_texts(["a dog"])
    )
    assert known[1] == ("us/small", "weights.safetensors")
    assert named.settings == {"name": "small-1/good", "fingerprint": named.settings["fingerprint"]}
    (tmp_path / "small.pt").write_bytes(BOMB)
    for name in "Small-1/old", f"Small-1/good={tmp_path / 'small.pt'}", str(tmp_path / "small.pt"):
        with pytest.raises(ValueError) as error:
            Perception.load(name)
        sentence(error, "pickle")


def trained(eye):
    "What weights must find again: mean, standard deviation, the first step of preparation, and the activation."
    size, *_, normal = eye.prepare.transforms
    return list(normal.mean), list(normal.std), str(size), type(eye.model.visual.transformer.resblocks[0].mlp.gelu)


OPENAI_MEAN, OPENAI_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
FAMILIES = {  # what belongs to the weights, and how open_clip notes it
    "laion": (dict(), dict(mean=OPENAI_MEAN, std=OPENAI_STD, interpolation="bicubic", resize_mode="shortest")),
    "openai": (
        dict(quick_gelu=True), dict(mean=OPENAI_MEAN, std=OPENAI_STD, interpolation="bicubic", resize_mode="shortest")
    ),
    "siglip": (
        dict(init_logit_bias=-10, custom_text=True),
        dict(mean=[.5] * 3, std=[.5] * 3, interpolation="bicubic", resize_mode="squash"),
    ),
    "mobile": (dict(), dict(mean=[0.] * 3, std=[1.] * 3, interpolation="bilinear", resize_mode="shortest")),
}


@pytest.fixture(scope="module")
def families(folder, tmp_path_factory):
    "A folder with random weights of each family, as open_clip writes it."
    import open_clip
    import torch
    from safetensors.torch import save_file

    text = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    root = tmp_path_factory.mktemp("families")
    for seed, (family, (extra, prepare)) in enumerate(FAMILIES.items()):
        target = copy(folder, root / family, without=["open_clip_model.safetensors"])
        vision = dict(image_size=32, patch_size=16, width=64, layers=1)
        like = dict(no_causal_mask=True, proj_bias=True, pool_type="last") if family == "siglip" else {}
        model = dict(embed_dim=64, vision_cfg=vision, text_cfg=text | dict(width=64, heads=1, layers=1) | like, **extra)
        config = json.dumps(dict(model_cfg=model, preprocess_cfg=dict(size=[32, 32], **prepare)))
        (target / "open_clip_config.json").write_text(config)
        torch.manual_seed(seed)
        made = {key: value for key, value in json.loads(config)["model_cfg"].items() if key != "custom_text"}
        kind = open_clip.CustomTextCLIP if family == "siglip" else open_clip.CLIP
        save_file(kind(**made).state_dict(), target / "open_clip_model.safetensors")
    return root


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_get_what_belongs_to_them_however_they_are_named(families, folder, family, monkeypatch, tmp_path):
    from open_clip import factory, pretrained
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    extra, prepare = FAMILIES[family]
    target = families / family
    alone = tmp_path / "my weights.safetensors"
    alone.write_bytes((target / "open_clip_model.safetensors").read_bytes())
    config = json.loads((target / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    config["text_cfg"]["hf_tokenizer_name"] = str(folder)
    config.pop("quick_gelu", None)  # as for ViT-B-32, whose configuration is that of some of its weights
    monkeypatch.setitem(factory._MODEL_CONFIGS, "Small-2", config)
    tag = dict(hf_hub="us/small/", **prepare, **({"quick_gelu": True} if "quick_gelu" in extra else {}))
    other = dict(hf_hub="us/other/", **prepare, **({} if "quick_gelu" in extra else {"quick_gelu": True}))
    monkeypatch.setitem(pretrained._PRETRAINED, "Small-2", {"webli": tag, "other": other})
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file, **_: str(target / file))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: str(target))

    square = [Resize((32, 32), InterpolationMode.BICUBIC)]
    how = InterpolationMode.BILINEAR if family == "mobile" else InterpolationMode.BICUBIC
    steps = square if family == "siglip" else [Resize(32, how), CenterCrop(32)]
    expected = Compose([*steps, ToTensor(), Normalize(prepare["mean"], prepare["std"])])
    picture, vectors = noise(0, (50, 40)), []
    for name in (
        str(target), f"local-dir:{target}", str(target / "open_clip_model.safetensors"), "hf-hub:us/small",
        "Small-2/webli", "small-2/WEBLI", f"Small-2/webli={alone}",
    ):
        eye = Perception.load(name, device="cpu")
        assert trained(eye)[:2] == (prepare["mean"], prepare["std"]), name
        assert trained(eye)[3].__name__ == ("QuickGELU" if family == "openai" else "GELU"), name
        assert eye.prepare(picture).shape == (3, 32, 32) and (eye.prepare(picture) == expected(picture)).all(), name
        vectors.append(np.concatenate([eye.embed_images([picture]), eye.embed_texts(["a dog"])]))
        assert eye.scale == pytest.approx(1 / .07, rel=1e-5)
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)
    with pytest.raises(ValueError) as error:
        Perception.load(f"Small-2={alone}")  # of which of the two is it?
    sentence(error, f"Small-2/TAG={alone}", "webli", "other")
    monkeypatch.setitem(pretrained._PRETRAINED, "Small-2", {"webli": tag})
    assert np.array_equal(Perception.load(f"Small-2={alone}", device="cpu").embed_images([picture]), vectors[0][:1])


def test_a_file_of_weights_that_does_not_say_what_it_is(families, folder, tmp_path):
    weights = (folder / "open_clip_model.safetensors").read_bytes()
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(weights)
    with pytest.raises(ValueError) as error:
        Perception.load(alone)
    sentence(error, alone, "open_clip_config.json", f"NAME/TAG={alone}")
    with pytest.raises(ValueError) as error:
        Perception.load(f"ViT-B-32={alone}")  # OpenAI's weights of this model have another activation than LAION's
    sentence(error, f"ViT-B-32/TAG={alone}", "openai")
    with pytest.raises(ValueError) as error:
        Perception.load(copy(folder, tmp_path / "two", fine__safetensors=weights) / "fine.safetensors")
    sentence(error, "fine.safetensors", "open_clip_model.safetensors")
    for name in "photo.jpg", "weights.npz":
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ValueError) as error:
            Perception.load(tmp_path / name)
        sentence(error, name, "no file of safetensors")
    with pytest.raises(FileNotFoundError) as error:
        Perception.load(f"ViT-B-32/openai={tmp_path / 'none.safetensors'}")
    sentence(error, "none.safetensors", "check the path")


def test_weights_that_are_cut_off_are_named(families, known, monkeypatch, tmp_path):
    whole = (families / "openai" / "open_clip_model.safetensors").read_bytes()
    target = copy(families / "openai", tmp_path / "half", without=["open_clip_model.safetensors"])
    half = target / "open_clip_model.safetensors"
    half.write_bytes(whole[:len(whole) // 2])
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file, **_: str(half))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: str(target))
    for name in str(target), str(half), "hf-hub:us/small", "Small-1/good", f"ViT-B-32/openai={half}":
        with pytest.raises(ValueError) as error:
            Perception.load(name, device="cpu")
        sentence(error, half, "incomplete or damaged")


def test_a_hub_model_of_another_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: str(tmp_path))
    with pytest.raises(ValueError) as error:
        Perception.load("hf-hub:openai/clip-vit-base-patch32")
    sentence(error, "hf-hub:openai/clip-vit-base-patch32", "open_clip_config.json", "hf-hub:timm/ViT-B-16-SigLIP")


def test_names_on_the_command_line(families, capsys, tmp_path, monkeypatch):
    from rlgen.cli import main

    monkeypatch.chdir(tmp_path)
    noise(0).save(tmp_path / "goal.png")
    for name, word in ("ViT-B-32", "ViT-B-32/openai"), ("a/b/c", "hf-hub:OWNER"):
        assert main(["search", "goal.png", "--perception", name, "--out", "run"]) == 2
        said = capsys.readouterr().err
        assert word in said and "Traceback" not in said and not (tmp_path / "run").exists()


def test_hub_errors(known, monkeypatch):
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def fail(error):
        def fetch(*args, **options):
            raise error
        monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
        monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)

    fail(EntryNotFoundError("404 Client Error"))
    with pytest.raises(ValueError) as error:
        Perception.load("Small-1/good")
    sentence(error, "pickle")
    fail(LocalEntryNotFoundError("no network\n\nand nothing in the cache"))
    for name in "Small-1/good", "hf-hub:us/small":
        with pytest.raises(ConnectionError) as error:
            Perception.load(name)
        sentence(error, "us/small", "tiny")


def test_hub_folder(folder, eye, monkeypatch):
    def fetch(repo, allow_patterns, **_):
        assert repo == "us/small" and not any(p.endswith(("bin", "pt", "py")) for p in allow_patterns)
        return str(folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert np.array_equal(
        Perception.load("hf-hub:us/small", device="cpu").embed_texts(["a dog"]), eye.embed_texts(["a dog"])
    )


# Embedding

def test_embeddings_have_length_one(eye):
    for vectors in eye.embed_images([noise(0), noise(1)]), eye.embed_texts(["a photo of dog", "a photo of cat"]):
        assert vectors.shape == (2, 128) and vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_texts_come_back_in_order_and_repeats_are_equal(eye):
    texts = ["a photo of dog", "a photo of cat", "a photo of dog", ""]
    vectors = eye.embed_texts(texts)
    assert np.array_equal(vectors[0], vectors[2]) and not np.array_equal(vectors[0], vectors[1])
    assert vectors[1] == pytest.approx(eye.embed_texts([texts[1]])[0], abs=1e-5)


def test_long_text_warns_and_short_ones_do_not(eye):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eye.embed_texts(["a photo of dog", " ".join(["dog"] * 22)])  # 22 and the two ends are just 24 tokens
    with pytest.warns(UserWarning, match="1 of 2 texts do not fit into the 24 tokens.* dog cat'"):
        eye.embed_texts(["a dog", " ".join(["dog"] * 22) + " cat"])


def test_bad_arguments(eye, grammar):
    for images in [], iter([]):
        with pytest.raises(ValueError, match="empty"):
            eye.perceive(images, grammar)
    for images in noise(0), "picture.png", Path("picture.png"), b"\x89PNG":
        with pytest.raises(TypeError, match="list"):
            eye.perceive(images, grammar)
    with pytest.raises(TypeError) as error:
        eye.perceive([noise(0), "picture.png"], grammar)
    sentence(error, "images[1]", "str", "open_image")
    with pytest.raises(TypeError, match="ndarray"):
        eye.perceive(np.zeros((2, 64, 64, 3), np.uint8), grammar)
    for thing in SMALL, None, 3:
        with pytest.raises(TypeError, match="Grammar"):
            eye.perceive([noise(0)], thing)
    with pytest.raises(ValueError, match="empty"):
        eye.embed_texts([])
    for texts in "a dog", ["a dog", 3]:
        with pytest.raises(TypeError, match="strings"):
            eye.embed_texts(texts)


def test_pictures_of_any_mode_and_size(eye, grammar):
    pictures = [
        noise(0),
        noise(1, (200, 100)).convert("RGBA"),
        noise(2, (1, 1)),
        noise(3, (3, 7)).convert("CMYK"),
        Image.new("P", (9, 9)),
        Image.new("L", (1, 50_000)),
        Image.new("1", (50_000, 1)),
        Image.fromarray(np.full((5, 6), 40_000, np.uint16)),
    ]
    percept = eye.perceive(pictures, grammar)
    assert percept.encodings.shape == (8, 2) and np.isfinite(percept.embeddings).all()
    assert np.array_equal(percept[1].embeddings, percept.embeddings[1:2])


def test_rotated_picture_is_seen_upright(eye):
    picture = noise(5, (64, 64))
    exif = Image.Exif()
    exif[274] = 6
    stored = Image.open(io.BytesIO(content(picture.transpose(Image.Transpose.ROTATE_90), exif=exif)))
    assert np.array_equal(eye.embed_images([stored]), eye.embed_images([picture]))


def test_same_call_same_bits_and_other_batches_nearly(eye):
    pictures = [noise(i) for i in range(70)]  # two batches
    all_at_once = eye.embed_images(pictures)
    assert np.array_equal(all_at_once, eye.embed_images(pictures))
    singly = np.concatenate([eye.embed_images([picture]) for picture in pictures[60:68]])
    assert all_at_once[60:68] == pytest.approx(singly, abs=1e-5)


# Probabilities

def test_marginals_by_brute_force():
    nvec = (2, 3, 4)
    joint = softmax(np.random.default_rng(0).normal(size=(5, 24)), axis=-1)
    for axis, found in enumerate(marginals(joint, nvec)):
        expected = np.zeros((5, nvec[axis]))
        for index, state in enumerate(product(*map(range, nvec))):
            expected[:, state[axis]] += joint[:, index]
        assert found == pytest.approx(expected)


def test_perceive_by_brute_force(eye, grammar):
    pictures = [noise(i) for i in range(3)]
    percept = eye.perceive(pictures, grammar)
    states = list(product(range(3), range(2)))
    texts = [f"a photo of {['dog', 'cat', 'bus'][n]} in {['farm', 'street'][s]}" for n, s in states]
    images, sentences = eye.embed_images(pictures).astype(float), eye.embed_texts(texts).astype(float)
    for b in range(3):
        weights = [np.exp(eye.scale * images[b] @ sentences[i]) for i in range(6)]
        for axis in range(2):
            for label in range((3, 2)[axis]):
                agreeing = sum(w for w, state in zip(weights, states, strict=True) if state[axis] == label)
                expected = agreeing / sum(weights)
                assert percept.probabilities[axis][b, label] == pytest.approx(expected, rel=1e-4)
    assert eye.zero_shot(pictures, texts) == pytest.approx(softmax(eye.scale * images @ sentences.T, axis=-1), rel=1e-4)


def test_the_softmax_is_what_sigmoids_say_if_one_text_fits(families):
    "SigLIP's probabilities of pairs, under the condition that exactly one of the texts is the caption."
    eye = Perception.load(families / "siglip", device="cpu")
    bias, texts = eye.model.logit_bias.item(), ["a dog", "a cat", "a photo of bus"]
    assert bias == -10
    cosines = eye.embed_images([noise(0)]).astype(float)[0] @ eye.embed_texts(texts).astype(float).T
    fits = 1 / (1 + np.exp(-(eye.scale * cosines + bias)))
    alone = np.array([fits[j] * np.prod(np.delete(1 - fits, j)) for j in range(3)])
    assert eye.zero_shot([noise(0)], texts)[0] == pytest.approx(alone / alone.sum(), rel=1e-4)
    assert np.ptp(fits) > 0


def check(percept, grammar, count):
    assert (
        len(percept) == count
        and percept.encodings.dtype == np.int64
        and percept.encodings.shape == (count, len(grammar.nvec))
    )
    assert percept.embeddings.dtype == np.float32 and percept.embeddings.shape == (count, 128)
    for axis, p in enumerate(percept.probabilities):
        assert p.shape == (count, grammar.nvec[axis]) and p.min() >= 0
        assert p.sum(axis=1) == pytest.approx(np.ones(count))
        assert np.array_equal(p.argmax(axis=1), percept.encodings[:, axis])


def test_percept_shapes_and_indexing(eye, grammar):
    percept = eye.perceive([noise(i) for i in range(70)], grammar)
    check(percept, grammar, 70)
    for index, rows in (
        (3, [3]),
        (-1, [69]),
        (slice(2, 5), [2, 3, 4]),
        ([5, 1], [5, 1]),
        (percept.encodings[:, 0] == 99, []),
    ):
        part = percept[index]
        assert (
            np.array_equal(part.encodings, percept.encodings[rows])
            and np.array_equal(part.embeddings, percept.embeddings[rows])
        )
        assert all(np.array_equal(p, q[rows]) for p, q in zip(part.probabilities, percept.probabilities, strict=True))
    assert [len(one) for one in percept[:3]] == [1, 1, 1]
    with pytest.raises(IndexError):
        percept[70]
    with pytest.raises(AttributeError):
        percept.encodings = None


def test_ensembling_large_grammars(folder, eye, grammar, monkeypatch):
    many = Perception.load(folder, device="cpu", max_states=5)  # 6 states are too many for it
    pictures = [noise(i) for i in range(3)]
    percept = many.perceive(pictures, grammar)
    check(percept, grammar, 3)
    images = many.embed_images(pictures)
    for axis, p in enumerate(percept.probabilities):
        means = np.array([many.embed_texts(prompts).mean(axis=0) for prompts in ensemble(grammar, axis)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        assert p == pytest.approx(softmax(many.scale * images @ means.T, axis=-1), rel=1e-3)
    at_limit = Perception.load(folder, device="cpu", max_states=6)
    assert np.array_equal(
        at_limit.perceive(pictures, grammar).probabilities[0], eye.perceive(pictures, grammar).probabilities[0]
    )


def test_ensemble_prompts_share_their_contexts(grammar):
    dogs, cats, buses = ensemble(grammar, 0, n=9)
    assert len(dogs) == 9 and all("dog" in text for text in dogs)
    assert (
        cats == [text.replace("dog", "cat") for text in dogs] and buses == [text.replace("dog", "bus") for text in dogs]
    )
    assert ensemble(grammar, 0, n=9) == [dogs, cats, buses]
    assert {text.split()[-1] for text in dogs} == {"farm", "street"}


def test_texts_of_a_grammar_are_embedded_once(folder, monkeypatch):
    eye = Perception.load(folder, device="cpu")
    calls, original = [], Perception.embed_texts
    monkeypatch.setattr(
        Perception, "embed_texts", lambda self, texts: calls.append(len(texts)) or original(self, texts)
    )
    first = eye.perceive([noise(0)], Grammar.from_string(SMALL))
    again = eye.perceive([noise(0)], Grammar.from_string(SMALL))  # another object, the same grammar
    assert calls == [6] and np.array_equal(first.probabilities[0], again.probabilities[0])
    monkeypatch.setattr("rlgen.models.perception.TABLES", 2)
    other, third = (Grammar.from_string(SMALL.replace("bus", noun)) for noun in ("boat", "tree"))
    eye.perceive([noise(0)], other)
    eye.perceive([noise(0)], Grammar.from_string(SMALL))  # used again, so `other` is now the oldest
    eye.perceive([noise(0)], third)
    eye.perceive([noise(0)], Grammar.from_string(SMALL))
    assert calls == [6, 6, 6] and len(eye.tables) == 2
    eye.perceive([noise(0)], other)
    assert calls == [6] * 4


def test_order_of_labels_is_respected(eye, grammar):
    backwards = Grammar.from_string(SMALL.replace('"dog" | "cat" | "bus"', '"bus" | "cat" | "dog"'))
    here, there = (eye.perceive([noise(0)], g).probabilities[0] for g in (grammar, backwards))
    assert here == pytest.approx(there[:, ::-1], rel=1e-3)


# The shipped model

SHIPPED = Path(__file__).parents[1] / "rlgen" / "weights" / "clip" / "open_clip_model.safetensors"


@pytest.mark.skipif(not SHIPPED.exists(), reason="the weights are not there")
def test_tiny_reads_fresh_renders():
    from rlgen.scenes import render

    eye, grammar = Perception.load("tiny", device="cpu"), Grammar.scenes()
    states = np.array(grammar.sample(7, 200))
    pictures = [render(grammar.decode(state), seed=900_000 + i)[0] for i, state in enumerate(states)]
    assert ((eye.perceive(pictures, grammar).encodings == states).mean(axis=0) >= .97).all()
