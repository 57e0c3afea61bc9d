"""What 8 bits cannot hold is refused with the reason; what they can hold comes through exactly."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from alphabar.data.decode import decode, probe

from .conftest import png

GREY = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10
COLOUR = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def read(data: bytes, channels: int | None = None) -> np.ndarray:
    shape = probe(data, "picture")
    image = decode(data, "picture", channels or shape.c)
    assert image.shape == (shape.h, shape.w, channels or shape.c)
    return image


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_grey_and_colour_come_through(kind: str) -> None:
    np.testing.assert_array_equal(read(encoded(Image.fromarray(GREY), kind))[..., 0], GREY)
    np.testing.assert_array_equal(read(encoded(Image.fromarray(COLOUR), kind)), COLOUR)


def test_grey_among_colour_becomes_three_equal_channels() -> None:
    image = read(encoded(Image.fromarray(GREY)), channels=3)
    for c in range(3):
        np.testing.assert_array_equal(image[..., c], GREY)


def test_black_and_white_is_0_and_255() -> None:
    bits = GREY > 100
    np.testing.assert_array_equal(read(encoded(Image.fromarray(bits)))[..., 0], bits * np.uint8(255))


def test_a_palette_becomes_its_colours() -> None:
    image = Image.fromarray(GREY // 100).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    want = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)[GREY // 100]
    np.testing.assert_array_equal(read(encoded(image)), want)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_dropped_and_any_other_refused(mode: str) -> None:
    colour = Image.fromarray(COLOUR if mode == "RGBA" else GREY)
    image = colour.convert(mode)
    np.testing.assert_array_equal(read(encoded(image)), np.asarray(colour).reshape(6, 4, -1))
    image.putpixel((1, 1), (*image.getpixel((1, 1))[:-1], 254))  # type: ignore[index]
    with pytest.raises(ValueError, match=r"picture is transparent in 4.2% of its pixels.*alpha_composite"):
        read(encoded(image))


def test_transparent_colours_of_palettes_and_rgb_are_seen() -> None:
    palette = Image.fromarray(GREY // 100).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    with pytest.raises(ValueError, match=r"transparent"):
        read(encoded(palette, transparency=1))
    flat = Image.new("RGB", (4, 4), (1, 2, 3))
    with pytest.raises(ValueError, match=r"transparent in 100.0%"):
        read(encoded(flat, transparency=(1, 2, 3)))
    assert read(encoded(flat, transparency=(9, 9, 9))).shape == (4, 4, 3)  # no pixel has that colour
    with pytest.raises(ValueError, match=r"transparent"):
        read(encoded(Image.fromarray(GREY), transparency=int(GREY[0, 1])))


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: a quarter turn clockwise puts it right
    data = encoded(Image.fromarray(COLOUR), exif=exif)
    np.testing.assert_array_equal(read(data), np.rot90(COLOUR, -1))
    exif[0x0112] = 3
    np.testing.assert_array_equal(read(encoded(Image.fromarray(COLOUR), exif=exif)), COLOUR[::-1, ::-1])


def deep_png(channels: int) -> bytes:
    """A 16-bit PNG by hand: Pillow writes none in colour, and cuts one to 8 bit when it reads it."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + bytes(range(2 * channels * 4)) for _ in range(4))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(GREY.astype(np.uint16) * 256)),
        encoded(Image.fromarray(GREY.astype(np.uint16) * 256), "TIFF"),
        encoded(Image.fromarray(GREY.astype(np.int32) * 1000), "TIFF"),
        encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
        *(deep_png(c) for c in (1, 2, 3, 4)),
        b"P5\n# a comment\n2 2\n65535\n" + bytes(8),
        b"P6 2 2 4095\n" + bytes(24),
    ],
    ids=["png", "tiff", "int32", "float", *(f"png {c} channels" for c in (1, 2, 3, 4)), "pgm", "ppm"],
)
def test_more_than_8_bit_is_refused_never_clipped(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"picture holds (floats|16-bit|\d\d bits).*8 bits cannot hold"):
        probe(data, "picture")


def test_several_frames_and_cmyk_are_refused() -> None:
    frames = [Image.fromarray(GREY + k) for k in range(3)]
    with pytest.raises(ValueError, match=r"3 frames"):
        probe(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "picture")
    with pytest.raises(ValueError, match=r"stored as CMYK"):
        probe(encoded(Image.new("CMYK", (4, 4)), "JPEG"), "picture")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_a_damaged_image_is_named(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ValueError, match=r"picture"):
        read(data[: int(len(data) * share)])


def test_other_formats_are_not_guessed_at() -> None:
    with pytest.raises(ValueError, match=r"no image that can be read"):
        probe(b"%PDF-1.4", "picture")


def test_the_helper_writes_what_it_says() -> None:
    np.testing.assert_array_equal(read(png(COLOUR)), COLOUR)
