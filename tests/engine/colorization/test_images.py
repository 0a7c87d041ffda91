"""Image files read and written again: pixels, depth, opacity and metadata, or a note of what was lost."""

import io
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tifffile
from photochrom.engine.colorization.pixels import srgb_profile
from photochrom.engine.colorization.read_image import SourceImage, read_image
from photochrom.engine.colorization.write_image import write_image
from photochrom.pipelines.imaging.decode import Rejected
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6" dc:title="Hof"/></x:xmpmeta>'
UPRIGHT_XMP = XMP.replace(b'"6"', b'"1"')
COMPRESSED = 8  # Deflate


@pytest.fixture(scope="module")
def coffee(photos: Path) -> Image.Image:
    return Image.open(photos / "coffee.png").convert("RGB").resize((60, 40))


@pytest.fixture(scope="module")
def deep(coffee: Image.Image) -> np.ndarray:
    """16 bit (40, 60, 3) with noise in the lower bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3))
    return (np.asarray(coffee).astype(np.uint16) << 8) + noise.astype(np.uint16)


def exif(orientation: int = 6) -> bytes:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = orientation, "Kodak"
    tags.get_ifd(0x8769)[0x9003] = "1950:06:01 12:00:00"
    tags.get_ifd(0x8825)[0x0001] = "N"
    return tags.tobytes()


def grey_profile(gamma: float) -> bytes:
    """Returns an ICC profile of greys: v2, of a display, with one curve."""

    def tag(kind: bytes, body: bytes) -> bytes:
        return (kind + bytes(4) + body).ljust(-(-(8 + len(body)) // 4) * 4, b"\0")

    tags = {
        b"desc": tag(b"desc", struct.pack(">I", 5) + b"Grey\0" + bytes(78)),
        b"cprt": tag(b"text", b"none\0"),
        b"wtpt": tag(b"XYZ ", struct.pack(">3i", 63190, 65536, 54061)),
        b"kTRC": tag(b"curv", struct.pack(">IH", 1, round(gamma * 256))),
    }
    start, table = 132 + 12 * len(tags), struct.pack(">I", len(tags))
    for name, body in tags.items():
        table, start = table + struct.pack(">4sII", name, start, len(body)), start + len(body)
    head = struct.pack(">I4sI12s12x4s28x3i", start, b"none", 0x02100000, b"mntrGRAYXYZ ", b"acsp", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + b"".join(tags.values())


def through(source: Path, target: Path | None = None) -> tuple[Path, SourceImage, tuple[str, ...]]:
    """Reads and writes a file; returns the new path, the image and the notes."""
    image = read_image(source)
    target = target or source.with_name(f"again{source.suffix}")
    return target, image, write_image(image, target)


def deep_png(path: Path) -> np.ndarray:
    """Decodes a 16-bit PNG by FFmpeg, since Pillow cannot."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.to_ndarray(format="rgba64le" if len(frame.format.components) == 4 else "rgb48le")


def test_a_jpeg_keeps_its_metadata_upright(coffee: Image.Image, tmp_path: Path) -> None:
    source = tmp_path / "a.jpg"
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x08\x1c\x02\x78\0\x03Hof\0"
    segment = b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    known = {"exif": exif(), "xmp": XMP, "icc_profile": srgb, "dpi": (300, 300), "comment": b"Hof", "extra": segment}
    coffee.save(source, quality=95, **known)
    target, _, notes = through(source)
    assert notes == ("turned upright",)
    after = Image.open(target)
    assert after.size == (40, 60)
    assert after.getexif()[0x0112] == 1
    assert after.getexif().get_ifd(0x8769)[0x9003] == "1950:06:01 12:00:00"
    assert after.info["exif"] == Image.open(source).info["exif"].replace(*_orientations(6, 1))
    assert after.info["xmp"] == UPRIGHT_XMP
    assert (after.info["icc_profile"], after.info["dpi"], after.info["comment"]) == (srgb, (300, 300), b"Hof")
    assert ("APP13", iptc) in after.applist
    expected = np.asarray(Image.open(source).transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(np.asarray(after) - expected).mean() < 1.5


def _orientations(*values: int) -> list[bytes]:
    """Returns the EXIF entries of orientations as Pillow writes them."""
    return [struct.pack(">HHIHH", 0x0112, 3, 1, value, 0) for value in values]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_every_orientation(coffee: Image.Image, tmp_path: Path, suffix: str, orientation: int) -> None:
    source = tmp_path / f"a{suffix}"
    more: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    coffee.save(source, exif=exif(orientation), **more)
    target, image, _ = through(source)
    reference = Image.open(source)
    from PIL import ImageOps

    upright = np.asarray(ImageOps.exif_transpose(reference))
    assert np.array_equal(image.pixels, upright)
    assert np.array_equal(np.asarray(Image.open(target)), upright)
    assert Image.open(target).getexif().get(0x0112, 1) == 1
    assert ("turned upright" in image.notes) == (orientation > 1)


@pytest.mark.parametrize(
    ("kind", "count", "xmp", "turned"),
    [
        *((3, 1, None, True), (4, 1, None, True), (3, 2, None, True), (99, 1, XMP, True)),
        *((1, 1, None, False), (3, 0, None, False), (99, 1, None, False), (1, 1, XMP, False)),
    ],
)
def test_an_orientation_is_set_to_1_only_where_the_image_is_turned(
    coffee: Image.Image, tmp_path: Path, kind: int, count: int, xmp: bytes | None, turned: bool
) -> None:
    """Readers differ in which tags they follow."""
    value = struct.pack("<L", 6)
    odd = b"Exif\0\0II*\0" + struct.pack("<LHHHL", 8, 1, 0x0112, kind, count) + value + bytes(4)
    coffee.save(tmp_path / "a.jpg", quality=95, exif=odd, xmp=xmp or b"")
    target, image, notes = through(tmp_path / "a.jpg")
    after = Image.open(target)
    assert notes == (("turned upright",) if turned else ())
    assert image.pixels.shape == ((60, 40, 3) if turned else (40, 60, 3))
    upright = odd[:18] + struct.pack("<HLL", 3, 1, 1) + bytes(4)
    assert after.info["exif"] == (upright if turned else odd)
    assert after.info.get("xmp") == (xmp and UPRIGHT_XMP if turned else xmp)


def test_a_thumbnail_of_the_grey_image_is_dropped(coffee: Image.Image, tmp_path: Path) -> None:
    thumbnail = io.BytesIO()
    coffee.convert("L").save(thumbnail, "JPEG")
    body = thumbnail.getvalue()
    first = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<HHHII", 1, 0x0112, 3, 1, 1) + struct.pack("<I", 26)
    second = struct.pack("<HHHIIHHIII", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(body), 0)
    coffee.save(tmp_path / "a.jpg", exif=b"Exif\0\0" + first + second + body)
    target, _, notes = through(tmp_path / "a.jpg")
    assert notes == ("thumbnail dropped",)
    assert Image.open(target).info["exif"] == b"Exif\0\0" + first[:-4] + bytes(4) + second + body


def test_a_png_keeps_its_metadata(coffee: Image.Image, tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("Title", "Caf\xe9")
    texts.add_itxt("Author", "\u0416", lang="ru")
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    coffee.save(tmp_path / "a.png", pnginfo=texts, exif=exif(), dpi=(200, 200))
    target, _, notes = through(tmp_path / "a.png")
    after = Image.open(target)
    after.load()
    assert notes == ("turned upright",)
    assert after.text == {"Title": "Caf\xe9", "Author": "\u0416", "XML:com.adobe.xmp": UPRIGHT_XMP.decode()}
    assert after.text["Author"].lang == "ru"
    assert after.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    assert after.getexif()[0x010F] == "Kodak"


def test_16_bit_pngs(deep: np.ndarray, tmp_path: Path) -> None:
    """Written and read by FFmpeg."""
    frame = av.VideoFrame.from_ndarray(deep, format="rgb48le").reformat(format="rgb48be")
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as container:
        stream = container.add_stream("png")
        stream.width, stream.height, stream.pix_fmt = 60, 40, "rgb48be"
        container.mux([*stream.encode(frame), *stream.encode()])
    target, image, notes = through(tmp_path / "a.png")
    assert np.array_equal(image.pixels, deep)
    assert np.array_equal(deep_png(target), deep)
    assert notes == ()


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bit_greys(deep: np.ndarray, tmp_path: Path, kind: str) -> None:
    Image.fromarray(deep[..., 0]).save(tmp_path / f"a.{kind}", dpi=(600, 600))
    target, image, notes = through(tmp_path / f"a.{kind}")
    assert np.array_equal(image.pixels, np.repeat(deep[..., :1], 3, axis=2))
    assert np.array_equal(deep_png(target) if kind == "png" else tifffile.imread(target), image.pixels)
    assert notes == ()
    assert Image.open(target).info["dpi"] == pytest.approx((600, 600), abs=0.1)


@pytest.mark.parametrize("settings", [{}, {"byteorder": ">"}, {"compression": "zlib", "predictor": True}])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_tiffs(deep: np.ndarray, tmp_path: Path, settings: dict[str, Any], channels: int) -> None:
    pixels = np.dstack([deep, deep[..., 0]])[..., :channels]
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **settings, **extra)
    target, image, notes = through(tmp_path / "a.tif")
    assert np.array_equal(image.pixels, pixels[..., :3])
    assert np.array_equal(tifffile.imread(target), pixels)
    assert notes == ()
    again = Image.open(target)
    assert again.mode == ("RGBA" if channels == 4 else "RGB")
    assert np.array_equal(np.asarray(again), pixels >> 8)


def test_a_scanner_s_infrared_channel_does_not_cost_the_depth(deep: np.ndarray, tmp_path: Path) -> None:
    channels = np.dstack([deep, deep[::-1, :, 0]])
    tifffile.imwrite(tmp_path / "a.tif", channels, photometric="rgb", extrasamples=["unspecified"])
    target, image, notes = through(tmp_path / "a.tif")
    assert notes == ()
    assert image.alpha is None
    assert np.array_equal(tifffile.imread(target), deep)


def test_the_picture_of_a_tiff_is_not_its_thumbnail(deep: np.ndarray, tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(deep[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
        file.write(deep, photometric="rgb", metadata=None)
    target, _, notes = through(tmp_path / "a.tif")
    assert notes == ("smaller images in the TIFF dropped",)
    assert np.array_equal(tifffile.imread(target), deep)


def test_an_empty_fourth_byte_is_no_opacity(coffee: Image.Image, tmp_path: Path) -> None:
    clear = coffee.copy()
    clear.putalpha(0)
    clear.save(tmp_path / "a.tga")
    assert read_image(tmp_path / "a.tga").alpha is None


def test_a_profile_that_is_there_twice_is_dropped(coffee: Image.Image, tmp_path: Path) -> None:
    profile = struct.pack(">BBH", 0xFF, 0xE2, 166) + b"ICC_PROFILE\0\1\1" + bytes(150)
    coffee.save(tmp_path / "a.jpg", quality=95, extra=2 * profile)
    target, image, notes = through(tmp_path / "a.jpg")
    assert notes == ("unusable profile dropped",)
    assert np.array_equal(image.pixels, np.asarray(Image.open(tmp_path / "a.jpg")))
    assert "icc_profile" not in Image.open(target).info


def test_greys_with_white_as_0(deep: np.ndarray, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", 65535 - deep[..., 0], photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "a.tif").pixels[..., 0], deep[..., 0])


def test_a_tiff_keeps_its_tags(coffee: Image.Image, deep: np.ndarray, tmp_path: Path) -> None:
    tags = [(270, 2, None, "Hof", True), (315, 2, None, "A. Nonym", True), (33723, 1, 8, b"IPTCIPTC", True)]
    tags += [(700, 1, len(XMP), XMP, True)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(deep, photometric="rgb", subifds=1, extratags=tags, resolution=(300, 300), metadata=None)
        file.write(deep[::2, ::2], photometric="rgb", metadata=None)
    target, _, notes = through(tmp_path / "a.tif")
    after = tifffile.TiffFile(target).pages[0].tags
    assert [after[tag].value for tag in (270, 315, 33723, 700)] == ["Hof", "A. Nonym", b"IPTCIPTC", UPRIGHT_XMP]
    assert after[282].value == (300, 1)
    assert after[259].value == COMPRESSED
    assert notes == ("turned upright", "smaller images in the TIFF dropped")
    coffee.save(tmp_path / "b.tif", exif=exif(1))
    target, _, notes = through(tmp_path / "b.tif")
    assert Image.open(target).getexif().get_ifd(0x8769)[0x9003] == "1950:06:01 12:00:00"
    assert Image.open(target).getexif()[0x010F] == "Kodak"


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_opacity_is_kept(coffee: Image.Image, tmp_path: Path, suffix: str) -> None:
    layer = coffee.copy()
    layer.putalpha(Image.linear_gradient("L").resize(layer.size))
    more: dict[str, Any] = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    layer.save(tmp_path / f"a{suffix}", **more)
    target, _, notes = through(tmp_path / f"a{suffix}")
    assert np.array_equal(np.asarray(Image.open(target)), np.asarray(layer))
    assert notes == ()


def test_opacity_of_palettes_and_of_one_color(coffee: Image.Image, tmp_path: Path) -> None:
    coffee.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.gif", transparency=3)
    target, image, _ = through(tmp_path / "a.gif", tmp_path / "a.gif.png")
    assert image.alpha is not None
    assert np.array_equal(image.alpha == 0, np.asarray(Image.open(tmp_path / "a.gif")) == 3)
    assert Image.open(target).mode == "RGBA"
    Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60)).save(tmp_path / "b.png", transparency=600)
    alpha = read_image(tmp_path / "b.png").alpha
    assert alpha is not None
    assert np.argwhere(alpha == 0).tolist() == [[10, 0]]


def test_what_a_jpeg_cannot_hold_is_noted(deep: np.ndarray, tmp_path: Path) -> None:
    pixels = np.dstack([deep, np.zeros((40, 60), np.uint16)])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"], description="Hof")
    target, _, notes = through(tmp_path / "a.tif", tmp_path / "a.jpg")
    assert notes == ("reduced to 8 bit", "laid on white", "TIFF tags dropped")
    assert np.asarray(Image.open(target)).min() > 250


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
@pytest.mark.parametrize("bits", [8, 16])
def test_greys_are_converted_to_srgb_by_their_profile(tmp_path: Path, gamma: float, bits: int) -> None:
    """Compared with the formulas."""
    top = 2**bits - 1
    ramp = np.linspace(0, top, 4096).round().astype(np.uint8 if bits == 8 else np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "a.tif", icc_profile=grey_profile(gamma))
    target, image, notes = through(tmp_path / "a.tif")
    light = (ramp / top) ** gamma
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert np.abs(image.pixels[..., 1] / top * 255 - expected).max() < (0.55 if bits == 8 else 0.15)
    assert notes == ("brought to sRGB",)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(Image.open(target).info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)


def test_colors_are_converted_to_srgb_by_their_profile(coffee: Image.Image, deep: np.ndarray, tmp_path: Path) -> None:
    """By a profile with red and green exchanged."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = srgb.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
    coffee.save(tmp_path / "a.png", icc_profile=turned)
    target, image, notes = through(tmp_path / "a.png")
    assert np.abs(image.pixels[..., [1, 0, 2]].astype(int) - np.asarray(coffee)).max() <= 2
    assert notes == ("brought to sRGB",)
    assert Image.open(target).info["icc_profile"] != turned
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", iccprofile=turned)
    assert read_image(tmp_path / "a.tif").notes == ("reduced to 8 bit", "brought to sRGB")


def test_converted_files_are_reproducible(coffee: Image.Image, tmp_path: Path) -> None:
    """Little CMS puts the time into a new profile."""
    assert int.from_bytes(srgb_profile()[24:26], "big") == 2000  # the year of the profile
    Image.fromarray(np.asarray(coffee.convert("L"))).save(tmp_path / "a.png", icc_profile=grey_profile(1.8))
    files = [through(tmp_path / "a.png", tmp_path / name)[0].read_bytes() for name in ("b.png", "c.png")]
    assert files[0] == files[1]
    assert srgb_profile() in Image.open(tmp_path / "b.png").info["icc_profile"]


def test_cmyk_lab_palettes_and_bits(coffee: Image.Image, tmp_path: Path) -> None:
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    coffee.convert("CMYK").save(tmp_path / "cmyk.tif")
    ImageCms.applyTransform(coffee, lab).save(tmp_path / "lab.tif")
    coffee.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    coffee.convert("1").save(tmp_path / "1.png")
    expected = {
        "cmyk.tif": (coffee, 1, ("CMYK became RGB without a profile",)),
        "lab.tif": (coffee, 8, ("brought to sRGB",)),
        "p.png": (Image.open(tmp_path / "p.png").convert("RGB"), 0, ()),
        "1.png": (Image.open(tmp_path / "1.png").convert("RGB"), 0, ()),
    }
    for name, (reference, tolerance, notes) in expected.items():
        image = read_image(tmp_path / name)
        assert np.abs(image.pixels.astype(int) - np.asarray(reference)).max() <= tolerance, name
        assert image.notes == notes


def test_reduced_depth_and_several_images_are_noted(coffee: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6 40 40 65535\n" + bytes(40 * 40 * 6))
    assert read_image(tmp_path / "a.ppm").notes == ("reduced to 8 bit",)
    coffee.save(tmp_path / "a.gif", save_all=True, append_images=[coffee.rotate(9)])
    assert read_image(tmp_path / "a.gif").notes == ("only the first image used",)
    coffee.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[coffee.rotate(9)])
    assert read_image(tmp_path / "a.jpg").notes == ("only the first image used",)
    coffee.save(tmp_path / "b.jpg", extra=b"\xff\xeb\0\x06JUMB")
    assert read_image(tmp_path / "b.jpg").notes == ("APP11 segment dropped",)
    for path, notes in ((tmp_path / "a.avif", ()), (tmp_path / "a.jp2", ())):
        coffee.save(path)
        assert read_image(path).notes == notes


def test_rejected_files_have_a_reason(coffee: Image.Image, deep: np.ndarray, tmp_path: Path) -> None:
    coffee.save(tmp_path / "whole.jpg")
    coffee.save(tmp_path / "whole.png")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-200])
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-200])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "bomb.png").write_bytes(_png_header(60_000, 60_000))
    Image.fromarray(deep[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(deep[..., 0].astype(np.int32) * 9).save(tmp_path / "long.tif")
    tifffile.imwrite(tmp_path / "float-rgb.tif", deep.astype(np.float32), photometric="rgb")
    grey_alpha, extra = deep[..., :2], ["unassalpha"]
    tifffile.imwrite(tmp_path / "alpha.tif", grey_alpha, photometric="minisblack", extrasamples=extra, planarconfig=1)
    (tmp_path / "cut.tif").write_bytes((tmp_path / "alpha.tif").read_bytes()[:20])
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(deep, -1, 0), photometric="rgb", planarconfig="separate")
    reasons = {
        "cut.jpg": "damaged JPEG",
        "cut.png": "damaged",
        "empty.png": "empty file",
        "text.png": "not an image",
        "bomb.png": "too many pixels",
        "float.tif": "unsupported pixels",
        "long.tif": "unsupported pixels",
        "float-rgb.tif": "unsupported pixels",
        "alpha.tif": "unsupported pixels",
        "cut.tif": "not an image",
        "planes.tif": "unsupported pixels",  # Pillow reads these wrongly
        "gone.png": "unreadable",
    }
    for name, reason in reasons.items():
        with pytest.raises(Rejected) as caught:
            read_image(tmp_path / name)
        assert caught.value.reason == reason, name


def _png_header(width: int, height: int) -> bytes:
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I4s", 1 << 20, b"IDAT") + bytes(1000)


def test_memory_is_reserved_before_decoding(coffee: Image.Image, tmp_path: Path) -> None:
    coffee.save(tmp_path / "a.png")
    asked: list[int] = []
    read_image(tmp_path / "a.png", asked.append)
    assert asked == [2 * 4 * 60 * 40]
