"""Files as people have them: colour profiles, large images, many endings, several frames, HEIC, hidden files."""
import struct
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from refusals import refused
from standins import content

from rlgen.images import (
    IMAGE_FORMATS,
    IMAGE_SUFFIXES,
    LARGE_PIXELS,
    MAX_PIXELS,
    UNREAD_SUFFIXES,
    as_image,
    image_files,
    is_hidden,
    is_image,
    open_image,
    reduction,
    to_rgb,
)

# Primaries of Display P3 and sRGB as XYZ under D50, one a column, and the curve that both share
P3 = np.array([[.51512, .29198, .15710], [.24120, .69225, .06657], [-.00105, .04189, .78407]])
SRGB = np.array([[.43607, .38515, .14307], [.22249, .71687, .06061], [.01392, .09708, .71410]])


def linear(values):
    return np.where(values <= .04045, values / 12.92, ((values + .055) / 1.055) ** 2.4)


def coded(light):
    light = np.clip(light, 0, 1)
    return np.where(light <= .0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - .055)


def rgb_profile(primaries):
    "An ICC profile of RGB with the curve of sRGB, bytes."
    def xyz(values):
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))
    values = (linear(np.linspace(0, 1, 1024)) * 65535).round().astype(int)
    curve = b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *values)
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 7) + b"screen\0" + bytes(78),
        b"wtpt": xyz((.9642, 1, .8249)),
        b"rXYZ": xyz(primaries[:, 0]),
        b"gXYZ": xyz(primaries[:, 1]),
        b"bXYZ": xyz(primaries[:, 2]),
    } | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data = struct.pack(">I", len(tags)), b""
    for name, part in tags.items():
        part += bytes(-len(part) % 4)
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(data), len(part))
        data += part
    head = struct.pack(">I4xI", 128 + len(table) + len(data), 0x02100000) + b"mntrRGB XYZ " + bytes(12)
    head += b"acsp" + bytes(28)
    return head + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + table + data


def rendered(image):
    "An image as integers, so that differences have a sign."
    return np.asarray(image).astype(int)


# Colours

def test_the_red_of_a_phone_is_red():
    data = content(Image.new("RGB", (4, 4), (234, 51, 35)), icc_profile=rgb_profile(P3))
    assert np.abs(rendered(open_image(data)) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("format, tolerance", [("PNG", 1), ("TIFF", 1), ("WEBP", 1)])
def test_colours_of_display_p3_are_converted_as_the_formulas_say(format, tolerance):
    colours = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
    light = linear(colours / 255) @ P3.T @ np.linalg.inv(SRGB).T
    inside = ((light > .001) & (light < .999)).all(-1)
    wanted = np.rint(255 * coded(light)).astype(int)
    options = {"lossless": True} if format == "WEBP" else {}
    found = open_image(content(Image.fromarray(colours), format, icc_profile=rgb_profile(P3), **options))
    assert inside.sum() > 100 and np.abs(rendered(found) - wanted)[inside].max() <= tolerance
    assert np.abs(wanted - colours)[inside].max() > 20  # it matters


def test_srgb_changes_nothing():
    colours = Image.fromarray(np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8))
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(open_image(content(colours, icc_profile=own)), colours)
    found = open_image(content(colours, icc_profile=rgb_profile(SRGB)))  # the same under another name
    assert np.abs(rendered(found) - rendered(colours)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_survives_the_conversion(mode):
    image = Image.new("RGBA", (4, 2), (234, 51, 35, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    data = content(image.convert(mode), icc_profile=rgb_profile(P3))
    found = rendered(open_image(data))
    assert tuple(found[0, 0]) == (255, 255, 255) and np.abs(found[1] - [255, 0, 0]).max() <= 3


def test_the_flag_of_the_camera_counts_too():
    image = Image.new("RGB", (4, 2), (234, 51, 35))
    exif = image.getexif()
    exif[274] = 6
    found = open_image(content(image, icc_profile=rgb_profile(P3), exif=exif))
    assert found.size == (2, 4) and np.abs(rendered(found) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("profile, image", [
    (b"no profile at all", Image.new("RGB", (4, 4), (200, 10, 20))),
    (rgb_profile(P3)[:300], Image.new("RGB", (4, 4), (200, 10, 20))),
    (rgb_profile(P3), Image.new("CMYK", (4, 4), (0, 255, 255, 0))),
])
def test_a_profile_that_cannot_be_used_costs_a_warning(profile, image, tmp_path):
    path = tmp_path / "phone.tif"
    path.write_bytes(content(image, "TIFF", icc_profile=profile))
    with pytest.warns(UserWarning, match="phone.tif.*colour profile cannot be used") as warned:
        found = open_image(path)
    assert len(warned) == 1 and str(warned[0].message).endswith(".")
    assert np.array_equal(found, image.convert("RGB"))


# Size

def test_an_image_of_a_large_camera_is_made_smaller():
    side = int(LARGE_PIXELS ** .5) + 100
    ramp = np.tile(np.linspace(0, 255, side).astype(np.uint8), (side, 1))
    image = Image.fromarray(ramp)
    factor = reduction(image.size)
    assert factor == 3 and reduction((7000, 7000)) == 1
    for data in (content(image, "JPEG"), content(image, compress_level=1)):
        found = open_image(data)
        assert max(found.size) <= side / 2 + 1 and found.width * found.height <= LARGE_PIXELS
        shown = rendered(found)[::100, ::100, 0]
        wanted = np.linspace(0, 255, found.width)[::100]
        assert np.abs(shown - wanted).max() <= 3


@pytest.mark.parametrize("mode", ["1", "P"])
def test_images_without_means_are_made_smaller_too(mode):
    image = Image.new(mode, (LARGE_PIXELS // 1000 + 1, 1000), 1)
    found = to_rgb(image)
    assert found.width * found.height <= LARGE_PIXELS and len(np.unique(found)) == 1


def test_the_limit_is_two_hundred_million():
    assert MAX_PIXELS == 200_000_000
    found = to_rgb(Image.new("1", (20_000, 10_000)))
    assert found.size == (5_000, 2_500)
    refused(lambda: to_rgb(Image.new("1", (20_001, 10_000))), "20,001 x 10,000", "200,000,000")


# Endings, frames, hidden files

def test_the_list_of_endings_is_that_of_what_can_be_read():
    Image.init()
    known = {ending for ending, format in Image.registered_extensions().items() if format in IMAGE_FORMATS}
    assert set(IMAGE_SUFFIXES) == known | {".heic", ".heif", ".hif"} and not set(IMAGE_SUFFIXES) & set(UNREAD_SUFFIXES)
    assert is_image("DOG.JFIF") and is_image("a/b.Avif") and not is_image("dogs.csv")


def test_an_image_of_another_kind_is_listed_and_refused(tmp_path):
    (tmp_path / "logo.SVG").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert image_files(tmp_path) == [tmp_path / "logo.SVG"]
    refused(lambda: open_image(tmp_path / "logo.SVG"), "logo.SVG", "PNG")


def test_home_is_found(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    assert open_image("~/a.png").size == (2, 2) and image_files("~") == [tmp_path / "a.png"]
    refused(lambda: open_image("~/b.png"), str(tmp_path / "b.png"), kind=FileNotFoundError)


# Arrays and tensors

RAMP = np.random.default_rng(3).integers(256, size=(4, 6, 3), dtype=np.uint8)

@pytest.mark.parametrize("give", [
    lambda p: p,
    lambda p: p.astype(np.int64),
    lambda p: p / 255,
    lambda p: (p / 255).astype(np.float32),
    lambda p: p.transpose(2, 0, 1),
    lambda p: torch.from_numpy(p).permute(2, 0, 1),
    lambda p: torch.from_numpy(p).permute(2, 0, 1) / 255,
    lambda p: (torch.from_numpy(p).permute(2, 0, 1) / 255).requires_grad_(),
    lambda p: (torch.from_numpy(p).permute(2, 0, 1) / 255 * 1.0001).double(),
    Image.fromarray,
])
def test_arrays_and_tensors_are_images(give):
    assert np.array_equal(np.asarray(as_image(give(RAMP))), RAMP)


def test_what_could_be_either_way_follows_its_library():
    square = np.zeros((3, 5, 3), np.uint8)
    assert as_image(square).size == (5, 3) and as_image(torch.from_numpy(square)).size == (3, 5)


@pytest.mark.parametrize("shape, mode", [((4, 6), "L"), ((4, 6, 1), "L"), ((1, 4, 6), "L"), ((4, 6, 4), "RGBA")])
def test_grey_and_transparent_arrays(shape, mode):
    found = as_image(np.full(shape, 7, np.uint8))
    assert (found.mode, found.size) == (mode, (6, 4)) and set(np.asarray(found).ravel()) == {7}


@pytest.mark.parametrize("image, words, kind", [
    (RAMP * 1., ["float64 from 0 to 2", "floats must be from 0 to 1"], ValueError),
    (RAMP / 127.5 - 1, ["from -1 to", "floats must be from 0 to 1"], ValueError),
    (RAMP.astype(np.uint16) * 257, ["uint16", "from 0 to 255"], ValueError),
    (RAMP.astype(np.int32) - 9, ["int32 from -9"], ValueError),
    (np.full((4, 6, 3), np.nan), ["NaN"], ValueError),
    (torch.full((3, 4, 6), torch.inf), ["infinite"], ValueError),
    (RAMP[None], ["[1, 4, 6, 3]", "[height, width, 3]"], ValueError),
    (RAMP[0, 0], ["shape [3]"], ValueError),
    (np.zeros((5, 6, 2)), ["[5, 6, 2]"], ValueError),
    (RAMP[:0], ["[0, 6, 3]"], ValueError),
    (RAMP > 9, ["bool", "uint8"], TypeError),
    (RAMP.astype(complex), ["complex"], TypeError),
    ("dog.png", ["str", "open_image"], TypeError),
    (RAMP.tolist(), ["list", "array or a tensor"], TypeError),
])
def test_what_is_no_image_is_a_sentence(image, words, kind):
    refused(lambda: as_image(image, "images[2]"), "images[2]", *words, kind=kind)


@pytest.mark.parametrize("name", [
    ".dog.png", "._dog.png", ".ipynb_checkpoints/dog.png", "__MACOSX/dogs/dog.png", "dogs/.thumbs/dog.png",
])
def test_hidden_files_are_no_images(name):
    assert is_hidden(name) and not is_image(name)


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_is_read_and_that_is_said(format, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = tmp_path / "two.dat"
    path.write_bytes(content(frames[0], format, save_all=True, append_images=frames[1:]))
    with pytest.warns(UserWarning, match="two.dat' has several frames or pages: the first is read."):
        found = open_image(path)
    assert np.abs(rendered(found) - [255, 0, 0]).max() < 4


# HEIC

def test_heic_is_read_with_its_extra(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(np.full((64, 48, 3), (200, 30, 40), np.uint8))
    path = tmp_path / "phone.heic"
    heif.from_pillow(image).save(path)
    found = open_image(path)
    assert found.size == (48, 64) and np.abs(rendered(found) - [200, 30, 40]).max() < 8
    assert np.array_equal(open_image(path.read_bytes()), found)


def test_heic_without_its_extra_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    refused(lambda: open_image(b"\0\0\0\x18ftypheic" + bytes(100)), "HEIC", "rlgen[heic]")
