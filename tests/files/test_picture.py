"""Pictures as cameras and programs write them; expected pixels are what was drawn."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from diffopd.files.picture import cut_share, picture_size, read_picture
from diffopd.types import Picture

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)


def read(file, height, width, background=(255, 255, 255)):
    return read_picture(Picture(str(file), "", height, width), background)


def quarters():
    """Red, green over blue, grey; 2 pixels high and 4 wide."""
    image = Image.new("RGB", (4, 2))
    for place, colour in {(0, 0): RED, (2, 0): GREEN, (0, 1): BLUE, (2, 1): GREY}.items():
        image.paste(colour, (*place, place[0] + 2, place[1] + 1))
    return image


def colours(pixels):
    return [[tuple(p) for p in row] for row in (pixels * 255).round().int().permute(1, 2, 0).tolist()]


EXPECTED = [[RED, RED, GREEN, GREEN], [BLUE, BLUE, GREY, GREY]]


@pytest.mark.parametrize("name", ["a.png", "a.webp", "palette.png", "named_wrongly.jpg"])
def test_pixels_are_those_of_the_file(tmp_path, name):
    image = quarters().quantize(4) if name == "palette.png" else quarters()
    settings = {"format": "PNG"} if name == "named_wrongly.jpg" else {}
    settings |= {"lossless": True} if name.endswith("webp") else {}
    image.save(tmp_path / name, **settings)
    pixels = read(tmp_path / name, 2, 4)
    assert (pixels.dtype, pixels.shape) == (torch.float32, (3, 2, 4))
    assert colours(pixels) == EXPECTED


def test_a_jpeg_is_read(tmp_path):
    Image.new("RGB", (16, 8), (200, 100, 50)).save(tmp_path / "a.jpg", quality=95)
    assert (read(tmp_path / "a.jpg", 8, 16)[:, 4, 8] * 255 - torch.tensor([200, 100, 50])).abs().max() < 3


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "turned"), [(1, None), (3, "ROTATE_180"), (6, "ROTATE_270"), (8, "ROTATE_90")]
)
def test_a_camera_s_rotation_is_honoured(tmp_path, format, orientation, turned):
    stored = quarters().resize((32, 16), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a", format, exif=exif, quality=95)
    seen = stored if turned is None else stored.transpose(Image.Transpose[turned])
    width, height = seen.size
    assert picture_size(tmp_path / "a") == (height, width)
    expected = torch.from_numpy(np.array(seen)).permute(2, 0, 1) / 255
    assert (read(tmp_path / "a", height, width) - expected).abs().mean() < 0.05  # JPEG's and WebP's own loss


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB with a clear colour"])
def test_what_is_transparent_shows_the_background(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    settings = {}
    if mode == "LA":
        image = image.convert("LA")
    elif mode == "P":
        image = Image.new("P", (2, 1))
        image.putpalette([0, 0, 0, 9, 9, 9])
        image.putpixel((1, 0), 1)
        settings = {"transparency": 1}
    elif mode == "RGB with a clear colour":
        image = Image.new("RGB", (2, 1))
        image.putpixel((1, 0), (9, 9, 9))
        settings = {"transparency": (9, 9, 9)}
    image.save(tmp_path / "a.png", **settings)
    assert colours(read(tmp_path / "a.png", 1, 2, (10, 20, 30))) == [[(0, 0, 0), (10, 20, 30)]]


def test_half_transparent_is_half_the_background(tmp_path):
    Image.new("RGBA", (1, 1), (255, 0, 0, 128)).save(tmp_path / "a.png")
    pixels = read(tmp_path / "a.png", 1, 1, (0, 0, 255))[:, 0, 0] * 255
    assert pixels.round().tolist() == [128, 0, 127]


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_16_bit(values, *more):
    """A grey PNG of 16 bits with one row."""
    header = struct.pack(">IIBBBBB", len(values), 1, 16, 0, 0, 0, 0)
    row = zlib.compress(b"\0" + struct.pack(f">{len(values)}H", *values))
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", row), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_16_bit_grey_keeps_its_tones(tmp_path):
    values = [0, 300, 40_000, 65_535]
    (tmp_path / "a.png").write_bytes(png_16_bit(values))
    pixels = read(tmp_path / "a.png", 1, 4)
    torch.testing.assert_close(pixels[1, 0], torch.tensor(values) / 65_535)
    (tmp_path / "a.png").write_bytes(png_16_bit(values, chunk(b"tRNS", struct.pack(">H", 300))))
    pixels = read(tmp_path / "a.png", 1, 4, (255, 0, 51))
    torch.testing.assert_close(pixels[:, 0, 1], torch.tensor([1.0, 0.0, 0.2]))
    torch.testing.assert_close(pixels[:, 0, 2], torch.full((3,), 40_000 / 65_535))


def test_a_picture_is_scaled_to_cover_and_cut_around_its_center(tmp_path):
    image = Image.new("RGB", (60, 20), RED)
    image.paste(GREEN, (20, 0, 40, 20))
    image.save(tmp_path / "a.png")
    middle = colours(read(tmp_path / "a.png", 10, 10))  # a third; its edges are smoothed with what is cut
    assert [row[1:-1] for row in middle] == [[GREEN] * 8] * 10
    assert cut_share((20, 60), (10, 10)) == pytest.approx(2 / 3)
    assert cut_share((20, 60), (10, 30)) == 0
    assert read(tmp_path / "a.png", 40, 120).shape == (3, 40, 120)  # enlarged, nothing cut


def test_scaling_down_averages(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png", 8, 8) - 0.5).abs().max() < 0.02  # without antialiasing it is 0 or 1


def test_a_telephone_s_jpeg_with_previews_is_one_picture(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert picture_size(tmp_path / "a.jpg") == (16, 16)
    assert (read(tmp_path / "a.jpg", 16, 16)[0] > 0.9).all()


def broken(tmp_path, kind):
    file = tmp_path / "bad.png"
    whole = tmp_path / "whole"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    match kind:
        case "empty":
            file.write_bytes(b"")
        case "no picture":
            file.write_text("not a picture")
        case "a GIF":
            image.save(file, "GIF")
        case "absent":
            pass
        case "animated PNG" | "animated WEBP":
            image.save(file, kind.split()[1], save_all=True, append_images=[image.rotate(90)])
        case _:
            image.save(whole, kind.split()[1])
            content = whole.read_bytes()
            file.write_bytes(content[: len(content) // 2])
    return file


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "is empty"),
        ("no picture", "is no PNG, JPEG or WebP picture"),
        ("a GIF", "is no PNG, JPEG or WebP picture"),
        ("absent", "is not there"),
        ("animated PNG", r"is animated \(2 frames\)"),
        ("animated WEBP", r"is animated \(2 frames\)"),
        ("truncated PNG", "is truncated or damaged"),
        ("truncated JPEG", "is truncated or damaged"),
        ("truncated WEBP", "is truncated or damaged|cannot be read"),
    ],
)
def test_what_is_no_whole_picture_is_named(tmp_path, kind, message):
    file = broken(tmp_path, kind)
    for reading in (lambda: picture_size(file), lambda: read(file, 8, 8)):
        with pytest.raises(ValueError, match=rf"bad\.png ({message})"):
            reading()
