import torch
from PIL import Image

from diffopd.files.png import save_png


def test_png_holds_the_pixels(tmp_path):
    image = torch.rand(3, 5, 7)
    with Image.open(save_png(image, tmp_path / "one.png")) as read:
        assert read.size == (7, 5)
        assert read.getpixel((6, 4)) == tuple((image[:, 4, 6] * 255).round().int().tolist())


def test_pictures_are_saved_as_they_are(tmp_path):
    with Image.open(save_png(Image.new("RGB", (3, 2), (1, 2, 3)), tmp_path / "sub" / "two.png")) as read:
        assert read.size == (3, 2)
        assert read.getpixel((2, 1)) == (1, 2, 3)
