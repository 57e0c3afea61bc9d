"""What 8 bits cannot hold is refused with the reason; what they can hold comes through exactly."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageFile, ImageOps

from alphabar.data.decode import decode, probe
from alphabar.data.formats import BrokenError, png_16
from alphabar.data.values import Reading, reading_of

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
def test_grey_and_colour_are_read_without_loss(kind: str) -> None:
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
def test_opaque_alpha_is_dropped_and_transparency_refused(mode: str) -> None:
    colour = Image.fromarray(COLOUR if mode == "RGBA" else GREY)
    image = colour.convert(mode)
    np.testing.assert_array_equal(read(encoded(image)), np.asarray(colour).reshape(6, 4, -1))
    image.putpixel((1, 1), (*image.getpixel((1, 1))[:-1], 254))  # type: ignore[index]
    with pytest.raises(ValueError, match=r"picture is transparent in 4.2% of its pixels.*--alpha white.*--alpha keep"):
        read(encoded(image))


def test_transparent_colours_of_palettes_and_rgb_are_found() -> None:
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
    exif[0x0112] = 6  # a quarter turn clockwise corrects it
    data = encoded(Image.fromarray(COLOUR), exif=exif)
    np.testing.assert_array_equal(read(data), np.rot90(COLOUR, -1))
    exif[0x0112] = 3
    np.testing.assert_array_equal(read(encoded(Image.fromarray(COLOUR), exif=exif)), COLOUR[::-1, ::-1])


def deep_png(image: np.ndarray, filters: str = "01234") -> bytes:
    """A 16-bit PNG by hand, with the five row filters in turn: Pillow writes none in colour."""
    h, w, c = image.shape
    kind, bpp = {1: 0, 2: 4, 3: 2, 4: 6}[c], 2 * c
    raw = image.astype(">u2").view(np.uint8).reshape(h, -1).astype(int)
    rows = []
    for y in range(h):
        up = raw[y - 1] if y else np.zeros_like(raw[y])
        left, corner = (np.concatenate([np.zeros(bpp, int), r[:-bpp]]) for r in (raw[y], up))
        p = left + up - corner
        near = np.stack([abs(p - left), abs(p - up), abs(p - corner)]).argmin(0)
        paeth = np.choose(near, [left, up, corner])
        f = int(filters[y % len(filters)])
        rows.append(bytes([f]) + ((raw[y] - [0, left, up, (left + up) // 2, paeth][f]) % 256).astype(np.uint8).tobytes())

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", w, h, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_read_without_loss(channels: int) -> None:
    """Pillow clips 16-bit grey to 255 when it converts, and reduces 16-bit colour to 8 bits when it reads."""
    image = np.random.default_rng(channels).integers(0, 65536, (11, 7, channels), dtype=np.uint16)
    if channels in (2, 4):
        image[..., -1] = 65535
    colour = image[..., : 1 if channels < 3 else 3]
    assert probe(deep_png(image), "picture").dtype == "uint16"
    np.testing.assert_array_equal(read(deep_png(image)), colour)
    np.testing.assert_array_equal(read(png_16(image)), colour)  # our own writer
    if channels in (2, 4):
        image[3, 4, -1] = 65534
        with pytest.raises(ValueError, match=r"transparent in 1.3%"):
            read(deep_png(image))
        got = decode(deep_png(image), "picture", colour.shape[-1], Reading(alpha="keep"), alpha=True)
        np.testing.assert_array_equal(got, image)


def test_a_ramp_of_16_bit_keeps_its_levels() -> None:
    """A ramp of 16 levels, and 12 bits of a scanner in 16."""
    for ramp in (np.linspace(0, 65535, 16).astype(np.uint16), np.linspace(0, 4095, 16).astype(np.uint16)):
        image = np.tile(ramp, (16, 1))
        for kind in ("PNG", "TIFF", "PPM"):
            np.testing.assert_array_equal(read(encoded(Image.fromarray(image), kind))[..., 0], image)


def tiff(array: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "uint32", "float16", "float32", "float64"])
def test_tiff_values_are_those_that_were_written(kind: str, order: str, compression: str | None) -> None:
    rng = np.random.default_rng(0)
    grey = (
        rng.normal(0, 1e4, (9, 7)) if kind[0] == "f" else rng.integers(*((0, 65536) if kind[0] == "u" else (-9000, 9000)), (9, 7))
    )
    if kind == "uint32":
        grey = grey + (1 << 31)
    grey = grey.astype(kind)
    data = tiff(grey, byteorder=order, compression=compression)
    np.testing.assert_array_equal(read(data)[..., 0], grey)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(("kind", "channels"), [("uint16", 3), ("float32", 3), ("uint8", 5), ("float32", 2), ("uint16", 64)])
def test_tiff_of_many_channels(kind: str, channels: int, order: str, compression: str | None) -> None:
    image = (np.random.default_rng(0).random((9, 7, channels)) * (1 if kind == "float32" else 255)).astype(kind)
    options = {"photometric": "rgb" if channels == 3 else "minisblack", "byteorder": order, "compression": compression}
    np.testing.assert_array_equal(read(tiff(image, planarconfig="contig", **options)), image)
    apart = tiff(np.moveaxis(image, 2, 0), planarconfig="separate", **options)
    np.testing.assert_array_equal(read(apart), image)


def test_tiff_of_16_bit_rgb_with_lzw_and_alpha() -> None:
    image = np.random.default_rng(0).integers(0, 65536, (9, 7, 4), dtype=np.uint16)
    data = tiff(image, photometric="rgb", extrasamples=["unassalpha"])
    got = decode(data, "picture", 3, Reading(alpha="keep"), alpha=True)
    np.testing.assert_array_equal(got, image)
    with pytest.raises(ValueError, match=r"multiplied by its alpha"):
        read(tiff(image, photometric="rgb", extrasamples=["assocalpha"]))


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_tiff_with_lzw_is_read_without_imagecodecs(kind: type) -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (9, 7)).astype(kind)
    np.testing.assert_array_equal(read(encoded(Image.fromarray(grey), "TIFF", compression="tiff_lzw"))[..., 0], grey)


def test_a_truncated_deep_tiff_is_damaged() -> None:
    data = tiff(np.random.default_rng(0).integers(0, 65536, (64, 64), dtype=np.uint16), photometric="minisblack")
    with pytest.raises(BrokenError, match=r"picture is damaged"):
        read(data[:-100])


def test_ambiguous_tiffs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0 is white"):
        read(tiff(np.zeros((4, 4), np.uint16), photometric="miniswhite"))
    with pytest.raises(ValueError, match=r"3 frames"):
        read(tiff(np.zeros((3, 4, 4), np.float64), photometric="minisblack"))
    with pytest.raises(ValueError, match=r"65 channels"):
        read(tiff(np.zeros((4, 4, 65), np.uint8), photometric="minisblack", planarconfig="contig"))


@pytest.mark.parametrize("ascii_", [False, True])
@pytest.mark.parametrize(("channels", "top"), [(1, 4095), (3, 65535), (1, 100), (3, 255)])
def test_pnm_values_are_those_in_the_file(channels: int, top: int, ascii_: bool) -> None:
    image = np.random.default_rng(0).integers(0, top + 1, (3, 2, channels)).astype(np.uint8 if top < 256 else np.uint16)
    magic = {(1, False): "P5", (3, False): "P6", (1, True): "P2", (3, True): "P3"}[channels, ascii_]
    body = " ".join(map(str, image.ravel())).encode() if ascii_ else image.astype(">u2" if top > 255 else "u1").tobytes()
    data = f"{magic}\n# a comment\n2 3\n{top}\n".encode() + body
    shape = probe(data, "picture", Reading((0.0, float(top))))
    np.testing.assert_array_equal(decode(data, "picture", shape.c, Reading((0.0, float(top)))), image)
    if top not in (255, 65535):
        with pytest.raises(ValueError, match=rf"largest value is {top}.*--range 0 {top}"):
            probe(data, "picture")
    with pytest.raises(BrokenError, match=r"picture is damaged"):
        decode(data[:-6], "picture", channels, Reading((0.0, float(top))))


def test_transparency_is_put_on_the_given_background() -> None:
    image = np.concatenate([COLOUR, np.full((6, 4, 1), 255, np.uint8)], -1)
    image[0, 0, 3], image[1, 1, 3] = 0, 100
    data = encoded(Image.fromarray(image))
    for name, ground in (("white", (255, 255, 255)), ("10,20,30", (10, 20, 30))):
        got = decode(data, "picture", 3, reading_of(alpha=name))
        a = image[..., 3:] / 255
        np.testing.assert_array_equal(got, np.rint(COLOUR * a + np.array(ground) * (1 - a)))
    np.testing.assert_array_equal(decode(data, "picture", 3, reading_of(alpha="keep"), alpha=True), image)
    with pytest.raises(ValueError, match=r"R,G,B from 0 to 255"):
        reading_of(alpha="0,0,256")
    with pytest.raises(ValueError, match=r"range and alpha"):
        reading_of((0, 1), "white")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_agrees_with_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    deep = Image.fromarray((GREY.astype(np.uint16) << 8) | 7)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(Image.fromarray(GREY), exif=exif))))
    got = read(encoded(deep, exif=exif))[..., 0]
    np.testing.assert_array_equal(got, (np.asarray(want).astype(np.uint16) << 8) | 7)
    rgb = np.random.default_rng(0).random((6, 4, 3), dtype=np.float32)
    turned = read(tiff(rgb, photometric="rgb", extratags=[(274, 3, 1, orientation, True)]))
    plain = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(Image.fromarray(COLOUR), exif=exif)))))
    where = [tuple(p) for p in plain.reshape(-1, 3)].index(tuple(COLOUR[1, 2]))
    np.testing.assert_array_equal(turned.reshape(-1, 3)[where], rgb[1, 2])
    np.testing.assert_array_equal(read(encoded(deep, "TIFF", exif=exif))[..., 0], got)


@pytest.mark.parametrize("lenient", [False, True])
def test_a_truncated_jpeg_is_never_filled_with_grey(lenient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow fills the rest with grey in its lenient mode, and if zeros or an end marker hide the missing part."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for options in ({}, {"progressive": True}):
        data = encoded(Image.fromarray(noise), "JPEG", **options)
        read(data)
        read(data + b"what a camera adds")
        for cut in (len(data) // 2, len(data) - 300, len(data) - 2):
            for bad in (data[:cut], data[:cut] + bytes(len(data) - cut)):
                with pytest.raises(BrokenError, match=r"picture is damaged"):
                    read(bad)
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
def test_pillows_lenient_mode_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind, **({"lossless": True} if kind == "WEBP" else {}))
    read(data)
    for share in (0.5, 0.9):
        with pytest.raises(ValueError, match=r"picture"):
            read(data[: int(len(data) * share)])


def test_a_png_with_flipped_bits_is_damaged() -> None:
    plain = bytearray(encoded(Image.fromarray(COLOUR), compress_level=0))
    plain[plain.index(b"IDAT") + 16] ^= 1  # an uncompressed pixel, which only a checksum shows
    with pytest.raises(BrokenError, match=r"checksum"):
        read(bytes(plain))
    data = bytearray(encoded(Image.fromarray(COLOUR)))
    at = data.index(b"IDAT") + 20
    data[at] ^= 1
    with pytest.raises(BrokenError, match=r"picture is damaged"):
        read(bytes(data))
    good = encoded(Image.fromarray(COLOUR))
    with pytest.raises(BrokenError, match=r"truncated"):
        read(good[:-12])  # all pixels are there, the end is not


def test_of_a_photo_of_a_phone_the_first_picture_is_read() -> None:
    photo, small = (Image.fromarray(np.random.default_rng(0).integers(0, 256, (h, 9, 3), np.uint8)) for h in (12, 4))
    turned = Image.Exif()
    turned[0x0112] = 6
    for more in ({}, {"exif": turned}):
        both = encoded(photo, "MPO", save_all=True, append_images=[small], **more)
        assert both.count(b"\xff\xd9") > 1
        np.testing.assert_array_equal(decode(both, "a", 3), decode(encoded(photo, "JPEG", **more), "a", 3))
    assert str(probe(both, "a")) == "12x9"


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


def test_other_formats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not an image that can be read"):
        probe(b"%PDF-1.4", "picture")


def test_the_png_helper_of_these_tests() -> None:
    np.testing.assert_array_equal(read(png(COLOUR)), COLOUR)


def swapped_primaries() -> bytes:
    """An RGB profile, valid, whose red is green and whose green is red."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, green = tags[b"rXYZ"] + 4, tags[b"gXYZ"] + 4
    profile[red : red + 8], profile[green : green + 8] = profile[green : green + 8], profile[red : red + 8]
    return bytes(profile)


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "RGB"), ("TIFF", "RGB"), ("WEBP", "RGB")]
)
def test_colours_of_another_profile_are_converted_to_srgb(kind: str, mode: str) -> None:
    red = Image.new("RGB", (16, 16), (250, 10, 10))
    red = red.quantize() if mode == "P" else red.convert(mode)
    lossless = {"lossless": True} if kind == "WEBP" else {}
    buffer = io.BytesIO()
    red.save(buffer, kind, icc_profile=swapped_primaries(), **lossless)
    values = decode(buffer.getvalue(), "a", 3)
    assert np.abs(values[0, 0].astype(int) - (10, 250, 10)).max() <= 3, "as a viewer shows it"


def test_values_with_the_profile_of_srgb_and_grey_values_are_those_of_the_file() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for values, profile in (
        (colours, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        (colours[..., 0], swapped_primaries()),
    ):
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "PNG", icc_profile=profile)
        assert np.array_equal(decode(buffer.getvalue(), "a", values.ndim if values.ndim == 3 else 1).squeeze(), values)


def test_a_damaged_profile_is_named() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "PNG", icc_profile=b"no profile at all")
    with pytest.raises(BrokenError, match=r"a\.png is damaged.*profile"):
        decode(buffer.getvalue(), "a.png", 3)
