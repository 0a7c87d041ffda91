"""Tests JPEGs with a faulty header: intact pixels are packed, and damaged ones are still rejected."""

import io
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from photochrom.engine.colorization.read_image import read_image
from photochrom.engine.serving.decoding import DecodeTask, run_task
from photochrom.pipelines.imaging.decode import HEADER_REPAIRED, DecodedImage, Rejected, decode
from photochrom.pipelines.imaging.encode import EncodingSettings
from photochrom.pipelines.imaging.jpeg import WARNINGS, is_plain_jpeg, repair_header
from photochrom.pipelines.packing.process_image import encode_image
from PIL import Image, ImageCms


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def behind_jfif(data: bytes, inserted: bytes) -> bytes:
    return data[:20] + inserted + data[20:]


def with_scan_parameters(data: bytes) -> bytes:
    """Returns a JPEG with zeros for the spectral selection of its scan, as phones of Samsung write it."""
    end = data.index(b"\xff\xda") + 14
    return data[: end - 3] + bytes(3) + data[end:]


def adobe(transform: int) -> bytes:
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


PROFILE = b"ICC_PROFILE\0"
FAULTY_HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "Invalid SOS parameters": with_scan_parameters,
    "unknown JFIF revision": lambda data: data[:11] + b"\2\1" + data[13:],
    "unknown JFIF revision 0": lambda data: data[:11] + b"\0\0" + data[13:],
    "Adobe color transform": lambda data: data[:2] + adobe(7) + data[20:],
    "Adobe transform of CMYK": lambda data: data[:2] + adobe(2) + data[20:],
    "bad ICC marker: a part is missing": lambda data: behind_jfif(data, segment(0xE2, PROFILE + b"\1\2" + bytes(99))),
    "bad ICC marker: twice": lambda data: behind_jfif(data, 2 * segment(0xE2, PROFILE + b"\1\1" + bytes(150))),
    "bad ICC marker: other counts": lambda data: behind_jfif(
        data, segment(0xE2, PROFILE + b"\1\2") + segment(0xE2, PROFILE + b"\2\3")
    ),
    "extraneous bytes": lambda data: behind_jfif(data, b"four"),
    "extraneous bytes, and a segment": lambda data: behind_jfif(data, b"ab" + segment(0xFE, b"comment") + b"cd"),
    "several faults": lambda data: behind_jfif(
        with_scan_parameters(data[:11] + b"\2\1" + data[13:]), segment(0xE2, PROFILE + b"\1\2") + b"junk"
    ),
}
every_header = pytest.mark.parametrize("fault", FAULTY_HEADERS)


@every_header
@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 2, "subsampling": 2}, {"progressive": True}])
def test_a_faulty_header_does_not_reject_whole_pixels(coffee: Image.Image, fault: str, options: dict[str, int]) -> None:
    sound = jpeg(coffee, quality=90, **options)
    faulty = FAULTY_HEADERS[fault](sound)
    if ("SOS" in fault or "several" in fault) and "progressive" in options:
        pytest.skip("a progressive scan needs its parameters")
    with pytest.raises(ValueError, match=r"Invalid SOS|JFIF revision|Adobe color|bad ICC|extraneous bytes"):
        simplejpeg.decode_jpeg(faulty, strict=True)
    decoded = decode(faulty)
    assert decoded.changes == HEADER_REPAIRED
    assert np.array_equal(decoded.pixels, np.asarray(Image.open(io.BytesIO(faulty))))
    stored = encode_image(faulty, EncodingSettings()).data
    scan = sound.index(b"\xff\xda")
    assert stored[-len(sound[scan:]) :] == sound[scan:], "the scans keep their bytes"
    assert np.array_equal(simplejpeg.decode_jpeg(stored, strict=True), decoded.pixels)
    assert decode(faulty, short_side=100).pixels.shape[0] < 400, "a smaller scale works, too"


@every_header
def test_colorize_and_serve_take_a_faulty_header(coffee: Image.Image, fault: str, tmp_path: Path) -> None:
    data = FAULTY_HEADERS[fault](jpeg(coffee, quality=90))
    (tmp_path / "a.jpg").write_bytes(data)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(read_image(tmp_path / "a.jpg").pixels, expected)
    served = run_task(DecodeTask(data=data))
    assert isinstance(served, DecodedImage)
    assert np.array_equal(served.pixels, expected)


@every_header
def test_damage_behind_a_faulty_header_is_still_rejected(coffee: Image.Image, fault: str) -> None:
    """A decode tells its first warning only, which could hide damage: the verdict is that of a sound header."""
    sound = jpeg(coffee.crop((0, 0, 200, 120)), quality=90)
    draw, scan = np.random.default_rng(0), sound.index(b"\xff\xda") + 14
    damaged = [sound[:-2], sound[: len(sound) // 2], sound[:6000] + bytes(500) + sound[6500:], sound[:-10]]
    for position in draw.integers(scan, len(sound) - 2, 40):
        flipped = bytearray(sound)
        flipped[position] ^= 1 << draw.integers(8)
        damaged.append(bytes(flipped))
    verdicts = [[verdict(data), verdict(FAULTY_HEADERS[fault](data))] for data in damaged]
    assert all(sound == faulty for sound, faulty in verdicts)
    assert all(verdict is not None for verdict, _ in verdicts[:4])
    assert sum(verdict is not None for verdict, _ in verdicts) > 10


def verdict(data: bytes) -> str | None:
    try:
        decode(data)
    except Rejected as rejected:
        return str(rejected)
    return None


def test_a_changed_header_rejects_only_where_the_pixels_change(coffee: Image.Image) -> None:
    """libjpeg, which ignores its warnings in Pillow, says what the pixels are."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image, draw = coffee.resize((64, 48)), np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x010F] = "Kodak"
    for options in ({"icc_profile": profile, "exif": exif}, {"progressive": True, "comment": b"a"}, {"keep_rgb": True}):
        sound = jpeg(image, **options)
        for position in draw.integers(2, sound.index(b"\xff\xda") + 14, 150):
            changed = bytearray(sound)
            changed[position] = draw.choice([0, 255, changed[position] ^ 1, changed[position] ^ 128])
            lenient = lenient_pixels(bytes(changed))
            try:
                decoded = decode(bytes(changed))
            except Rejected:
                assert lenient is None or not np.array_equal(lenient, lenient_pixels(sound)), position
            else:
                if not {"brought to sRGB", "turned upright"} & set(
                    decoded.changes
                ):  # tables of extreme values are computed in other ways
                    assert np.abs(decoded.pixels.astype(int) - lenient).max() <= 2, position


def lenient_pixels(data: bytes) -> np.ndarray | None:
    with warnings.catch_warnings(action="ignore"):
        try:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        except Exception:  # of any kind, as for a damaged file
            return None


def test_bytes_that_a_scan_does_not_use_are_damage(coffee: Image.Image) -> None:
    data = jpeg(coffee)
    with pytest.raises(Rejected, match=r"damaged JPEG: Corrupt .* [45]\d extraneous bytes before marker 0xd9"):
        decode(data[:-2] + 50 * b"a" + data[-2:])


def test_a_long_run_of_fill_bytes_is_searched_in_time(coffee: Image.Image) -> None:
    faulty = FAULTY_HEADERS["unknown JFIF revision"](jpeg(coffee))
    started = time.process_time()
    with pytest.raises(Rejected, match="damaged JPEG"):
        decode(faulty[:-2] + b"\xff" * 1_000_000 + b"\0")
    assert time.process_time() - started < 5  # it was hours


def test_a_faulty_header_of_inks(coffee: Image.Image) -> None:
    data = jpeg(coffee.convert("CMYK"), quality=95)
    transform = data.index(b"Adobe") + 11
    faulty = data[:transform] + b"\7" + data[transform + 1 :]  # YCCK then, as Pillow sees it, too
    decoded = decode(faulty)
    assert decoded.changes == (*HEADER_REPAIRED, "from CMYK")
    assert repair_header(faulty)[repair_header(faulty).index(b"Adobe") + 11] == 2


def test_the_messages_are_those_of_libjpeg_turbo() -> None:
    """A new version that says it in other words would reject sound files."""
    library = next(Path(simplejpeg.__file__).parent.glob("_jpeg*.so")).read_bytes()
    for message in WARNINGS:
        assert message.encode() in library, message


def test_only_what_every_decoder_reads_is_a_plain_jpeg(coffee: Image.Image) -> None:
    assert is_plain_jpeg(jpeg(coffee))
    assert is_plain_jpeg(jpeg(coffee, progressive=True))
    # A thumbnail in the header ends as the picture does.
    exif = Image.Exif()
    exif[0x010E] = "a thumbnail: " + "\xff\xd9"
    assert is_plain_jpeg(jpeg(coffee, exif=exif))
    assert not is_plain_jpeg(jpeg(coffee, keep_rgb=True))
    assert not is_plain_jpeg(jpeg(coffee).replace(b"\xff\xc0", b"\xff\xc9", 1)), "arithmetic coding"
    assert not is_plain_jpeg(jpeg(coffee)[:-2])


def test_bytes_behind_the_end_are_not_plain_even_if_they_end_alike(coffee: Image.Image) -> None:
    data = jpeg(coffee)
    for longer in (data + b"junk\xff\xd9", data + data):
        assert not is_plain_jpeg(longer)
