"""The model that `photochrom.load` returns, on images of all kinds."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import photochrom
import pytest
import tifffile
import torch
from photochrom.engine.checkpoints.model_file import load_with_metadata
from photochrom.engine.colorization.colorize import colorize
from photochrom.engine.inference import TrainedColorizer
from photochrom.models import Colorizer, ColorPrediction, VGGColorizer
from PIL import Image, ImageCms
from skimage.color import rgb2lab


class Painter(Colorizer):
    """Predicts one color, and remembers the shape of its input."""

    def forward(self, L: torch.Tensor) -> ColorPrediction:
        self.input_shape = tuple(L.shape)
        grid = (-(-L.shape[2] // 4), -(-L.shape[3] // 4))
        output = torch.tensor([8.0, -12.0]).view(1, 2, 1, 1).expand(len(L), 2, *grid)
        return ColorPrediction(output=output, input_size=(L.shape[2], L.shape[3]))


@pytest.fixture(scope="module")
def painter(trained: Path) -> TrainedColorizer:
    _, metadata = load_with_metadata(trained)
    return TrainedColorizer(Painter(), metadata).eval()


@pytest.fixture(scope="module")
def coffee(photos: Path) -> Image.Image:
    return Image.open(photos / "coffee.png").convert("RGB").resize((90, 60))


def assert_painted(before: Any, after: Any) -> None:
    """Asserts that sRGB in [0, 1] kept its lightness and has the painter's color where sRGB can show it."""
    old, new = rgb2lab(before), rgb2lab(after)
    assert np.abs(new[..., 0] - old[..., 0]).max() < 0.6  # 8 bits
    middle = (old[..., 0] > 30) & (old[..., 0] < 80)
    assert middle.mean() > 0.2
    assert np.abs(new[middle][:, 1:] - (8, -12)).max() < 1.5


def test_it_is_the_trained_network(trained: Path) -> None:
    model = photochrom.load(trained)
    network, metadata = load_with_metadata(trained)
    assert isinstance(model.network, VGGColorizer)
    assert (model.metadata, model.head, model.training) == (metadata, "ab", False)
    L = torch.rand(1, 1, 40, 56) * 100
    with torch.inference_mode():
        assert torch.equal(model(L).ab(), network(L).ab())


def test_it_colorizes_as_the_core_does(trained: Path, coffee: Image.Image) -> None:
    model = photochrom.load(trained)
    pixels = np.array(coffee)
    (expected,) = colorize(model.network, [pixels], size=model.metadata.size, device="cpu")
    assert np.array_equal(model.colorize(pixels), expected.pixels)
    assert np.array_equal(np.asarray(model.colorize(coffee)), expected.pixels)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    assert np.array_equal(model.colorize(tensor).permute(1, 2, 0).numpy(), expected.pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_pil_images_of_every_mode(painter: TrainedColorizer, coffee: Image.Image, mode: str) -> None:
    given = coffee.convert(mode)
    result = painter.colorize(given)
    assert (result.mode, result.size) == ("RGB", coffee.size)
    if mode != "1":
        assert_painted(np.asarray(given.convert("RGB")), np.asarray(result))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "RGBa", "La"])
def test_transparency_is_kept(painter: TrainedColorizer, coffee: Image.Image, mode: str) -> None:
    alpha = Image.linear_gradient("L").resize(coffee.size)
    layered = coffee.convert("L" if mode in ("LA", "La") else "RGB").copy()
    layered.putalpha(alpha)
    result = painter.colorize(layered if layered.mode == mode else layered.convert(mode))
    assert result.mode == "RGBA"
    assert np.array_equal(np.asarray(result.getchannel("A")), np.asarray(alpha))
    if mode == "RGBA":
        assert_painted(np.asarray(coffee), np.asarray(result.convert("RGB")))


def test_a_palette_with_a_transparent_color(painter: TrainedColorizer) -> None:
    given = Image.new("P", (40, 32))
    given.putpalette([0, 0, 0, 90, 120, 150])
    given.paste(1, (10, 0, 40, 32))
    given.info["transparency"] = 0
    result = painter.colorize(given)
    assert [result.getpixel(place)[3] for place in ((0, 0), (20, 0))] == [0, 255]


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_grey_of_16_bits(painter: TrainedColorizer, coffee: Image.Image, mode: str) -> None:
    grey = np.asarray(coffee.convert("L"))
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    result = painter.colorize(wide if mode == "I;16" else Image.fromarray(grey.astype(np.int32) * 257))
    assert_painted(np.repeat(grey[..., None], 3, axis=2), np.asarray(result))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_arrays_keep_their_type(painter: TrainedColorizer, coffee: Image.Image, dtype: Any, channels: int) -> None:
    rgb = np.asarray(coffee.convert("L").convert("RGB") if channels < 3 else coffee)
    scale = {np.uint8: 1, np.uint16: 257}.get(dtype, 1 / 255)
    whole = (rgb.astype(np.float64) * scale).astype(dtype)
    given = {0: whole[..., 0], 1: whole[..., :1], 3: whole, 4: np.concatenate([whole, whole[..., :1]], axis=2)}[
        channels
    ]
    kept = given.copy()
    result = painter.colorize(given)
    assert (result.dtype, result.shape) == (dtype, rgb.shape)
    assert np.array_equal(given, kept)
    assert_painted(rgb, result.astype(np.float64) / (scale * 255))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 60, 90), (1, 60, 90), (2, 3, 60, 90), (2, 1, 60, 90)])
def test_tensors_keep_their_type_and_their_device(
    painter: TrainedColorizer, coffee: Image.Image, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    rgb = np.asarray(coffee.convert("L").convert("RGB") if shape[-3] == 1 else coffee)
    planes = torch.tensor(rgb).permute(2, 0, 1)[: shape[-3]].expand(shape)
    given = (planes if dtype == torch.uint8 else planes / 255).to(device, dtype)
    result = painter.colorize(given)
    assert (result.dtype, result.device.type) == (dtype, device.type)
    assert result.shape == (*shape[:-3], 3, 60, 90)
    if dtype != torch.bfloat16:  # of 8 bits, one of them before the point
        values = result.reshape(-1, 3, 60, 90)[-1].permute(1, 2, 0).double().cpu().numpy()
        assert_painted(rgb, values / 255 if dtype == torch.uint8 else values)


@pytest.mark.parametrize(("size", "shape"), [(None, (32, 48)), (16, (16, 24)), (500, (60, 90)), ("native", (60, 90))])
def test_the_input_size_of_the_network(
    painter: TrainedColorizer, coffee: Image.Image, size: Any, shape: tuple[int, int]
) -> None:
    painter.colorize(coffee, size)
    assert painter.network.input_shape == (1, 1, *shape)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_the_embedded_profile_is_applied(painter: TrainedColorizer, coffee: Image.Image, mode: str) -> None:
    """The profiles of sRGB, of nothing valid, and of sRGB with red and green exchanged, which changes lightness."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = bytearray(plain)
    tags = {plain[i : i + 4]: i for i in range(132, 132 + 12 * int.from_bytes(plain[128:132], "big"), 12)}
    red, green = (slice(tags[tag] + 4, tags[tag] + 12) for tag in (b"rXYZ", b"gXYZ"))
    exchanged[red], exchanged[green] = plain[green], plain[red]
    given = coffee.convert(mode)
    without = np.asarray(painter.colorize(given).convert("RGB"))
    other = np.asarray(painter.colorize(Image.fromarray(np.asarray(given.convert("RGB"))[..., [1, 0, 2]])))
    for profile, expected, off in ((plain, without, 0), (b"none", without, 0), (bytes(exchanged), other, 4)):
        given.info["icc_profile"] = profile
        result = painter.colorize(given)
        assert "icc_profile" not in result.info
        assert np.abs(np.asarray(result.convert("RGB")).astype(int) - expected).max() <= off


def test_exif_and_resolution_are_kept(painter: TrainedColorizer, coffee: Image.Image) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    coffee.save(file, "JPEG", exif=exif, dpi=(300, 300))
    given = Image.open(file)
    result = painter.colorize(given)
    assert (result.size, result.getexif()[0x0112], result.info["dpi"]) == (coffee.size, 6, (300, 300))


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ("old.jpg", TypeError, "a str is not an image: give a PIL image, a NumPy array or a tensor"),
        (np.zeros((8, 8, 3), np.int64), TypeError, "int64 is not a type of images: give uint8, uint16 or floats"),
        (np.zeros((8, 8, 3), bool), TypeError, "bool is not a type of images"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), TypeError, "int32 is not a type of images"),
        (np.full((8, 8, 3), 255.0), ValueError, r"floats from 255 to 255 are not an image in \[0, 1\]"),
        (np.full((8, 8), -1.0), ValueError, "floats from -1 to -1"),
        (np.full((8, 8), np.nan), ValueError, "floats from nan to nan"),
        (np.zeros((8, 8, 2), np.uint8), ValueError, r"an array \(8, 8, 2\) is not an image"),
        (np.zeros((2, 8, 8, 3), np.uint8), ValueError, r"an array \(2, 8, 8, 3\) is not an image"),
        (np.zeros((0, 8), np.uint8), ValueError, r"an array \(0, 8\) is not an image"),
        (torch.zeros(8, 8), ValueError, r"a tensor \(8, 8\) is not an image \(C, H, W\)"),
        (torch.zeros(8, 8, 3), ValueError, r"a tensor \(8, 8, 3\) is not an image"),
        (Image.new("F", (40, 40)), ValueError, "mode F has no known white: convert it to RGB or L first"),
    ],
)
def test_what_is_not_an_image(painter: TrainedColorizer, given: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        painter.colorize(given)


@pytest.mark.parametrize("size", [0, 7, -3, 2.5, "large", True])
def test_invalid_sizes(painter: TrainedColorizer, coffee: Image.Image, size: Any) -> None:
    with pytest.raises(ValueError, match="is not a number of pixels from 8"):
        painter.colorize(coffee, size)


def test_one_pixel(trained: Path) -> None:
    assert photochrom.load(trained).colorize(np.full((1, 1, 3), 100, np.uint8)).shape == (1, 1, 3)


def test_lab_images(painter: TrainedColorizer, coffee: Image.Image) -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    result = painter.colorize(ImageCms.applyTransform(coffee, to_lab))
    before, after = (rgb2lab(np.asarray(image))[..., 0] for image in (coffee, result))
    assert np.abs(after - before).mean() < 1


def test_16_bit_grey_is_read_as_in_packing(painter: TrainedColorizer, tmp_path: Path) -> None:
    """A TIFF with white as 0 is not inverted, and 32 bits are rejected."""
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for name, samples in (("minisblack", grey), ("miniswhite", 65535 - grey)):
        tifffile.imwrite(tmp_path / f"{name}.tif", samples, photometric=name)
    black, white = (painter.colorize(Image.open(tmp_path / f"{name}.tif")) for name in ("minisblack", "miniswhite"))
    assert np.array_equal(np.asarray(black), np.asarray(white))
    with pytest.raises(ValueError, match="samples of 32 bit have no known white"):
        painter.colorize(Image.fromarray(np.full((64, 64), 70_000, np.int32)))


def test_predictions_of_a_loaded_model_are_plain_arrays(trained: Path) -> None:
    assert photochrom.load(trained)(torch.zeros(1, 1, 32, 32)).ab().numpy().shape == (1, 2, 32, 32)


def test_it_works_in_a_forked_process(trained: Path, coffee: Image.Image, call_in_fork: Any) -> None:
    """After its first use, as in a notebook or in a server that loads before it forks; torch has two threads here."""
    model, num_threads = photochrom.load(trained), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pixels = np.tile(np.asarray(coffee), (8, 8, 1))  # enough for several threads
        expected = model.colorize(pixels)
        difference = call_in_fork(lambda: np.abs(model.colorize(pixels).astype(int) - expected).max())
        assert difference <= 1  # torch has one thread there
        assert np.array_equal(model.colorize(pixels), expected)
    finally:
        torch.set_num_threads(num_threads)
