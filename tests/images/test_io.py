"""Files: what comes out is what went in, for every format; what is refused is in test_bad_input.py."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from gpudeblur.images.files import check_output, read_image, read_kernel, write_image, write_kernel

RNG = np.random.default_rng(7)


def integers(shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3)])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_lossless_formats_keep_every_bit(tmp_path, suffix, dtype, shape, has_alpha):
    pixels, alpha = integers(shape, dtype), integers((7, 5), dtype) if has_alpha else None
    path = tmp_path / f"picture{suffix}"
    write_image(path, pixels, alpha)
    photo = read_image(str(path))
    assert photo.pixels.dtype == dtype
    np.testing.assert_array_equal(photo.pixels, pixels)
    if has_alpha:
        assert photo.alpha.dtype == dtype
        np.testing.assert_array_equal(photo.alpha, alpha)
    else:
        assert photo.alpha is None
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@settings(max_examples=25, deadline=None)
@given(
    st.data(),
    st.sampled_from([np.uint8, np.uint16, np.float32, np.float64, np.dtype(">u2"), np.dtype(">f4")]),
    st.sampled_from([(), (3,)]),
)
def test_tiff_keeps_dtype_and_values(tmp_path_factory, data, dtype, channels):
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    finite = {"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else None
    pixels = data.draw(hnp.arrays(dtype, (height, width, *channels), elements=finite))
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    write_image(path, pixels)
    photo = read_image(path)
    assert photo.pixels.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(photo.pixels, pixels)


def test_jpeg_is_close(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    for pixels in (ramp, np.stack([ramp, ramp[:, ::-1], ramp], axis=-1)):
        write_image(tmp_path / "a.jpg", pixels)
        photo = read_image(tmp_path / "a.jpg")
        assert photo.pixels.dtype == np.uint8
        assert photo.pixels.shape == pixels.shape
        assert abs(photo.pixels.astype(int) - pixels).mean() < 2


def test_floats_become_8_bits_clipped_and_rounded(tmp_path):
    write_image(tmp_path / "a.png", np.array([[-1.0, 0.0, 0.5, 1.0, 3.0]], np.float32))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, np.array([[0, 0, 128, 255, 255]], np.uint8))


def test_bits_choose_the_depth(tmp_path):
    write_image(tmp_path / "a.png", np.array([[0.5, 1.0]]), bits=16)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, np.array([[32768, 65535]], np.uint16))
    write_image(tmp_path / "a.png", np.array([[0, 65535]], np.uint16), bits=8)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, np.array([[0, 255]], np.uint8))


def test_16_bits_become_8_in_a_jpeg(tmp_path):
    write_image(tmp_path / "a.jpg", np.full((16, 16), 257 * 100, np.uint16))
    assert abs(int(read_image(tmp_path / "a.jpg").pixels[8, 8]) - 100) <= 1


def test_a_single_channel_axis_is_squeezed(tmp_path):
    write_image(tmp_path / "a.png", integers((4, 5, 1)))
    assert read_image(tmp_path / "a.png").pixels.shape == (4, 5)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_orientation_is_applied(tmp_path, orientation, suffix):
    picture = Image.fromarray(np.kron(integers((3, 2, 3)), np.ones((16, 16, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    picture.save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_image(path).pixels, expected)


def test_broken_exif_harms_no_pixel(tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03\0\0\xff\xff"
    Image.fromarray(integers((16, 16, 3))).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").pixels.shape == (16, 16, 3)


def test_palette_is_expanded(tmp_path):
    colors = Image.fromarray(integers((6, 7, 3))).convert("P")
    for suffix in ("png", "tif"):
        colors.save(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}").pixels, np.asarray(colors.convert("RGB")))


def test_transparent_palette_colour_is_alpha(tmp_path):
    colors = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    colors.putpalette([255, 0, 0, 0, 255, 0])
    colors.save(tmp_path / "a.png", transparency=1)
    photo = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels[0, 0], [255, 0, 0])
    np.testing.assert_array_equal(photo.alpha, [[255, 0], [0, 255]])


def test_transparent_gray_is_alpha(tmp_path):
    Image.fromarray(np.array([[10, 20]], np.uint8)).save(tmp_path / "a.png", transparency=20)
    photo = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, [[10, 20]])
    np.testing.assert_array_equal(photo.alpha, [[255, 0]])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_one_bit_is_black_and_white(tmp_path, suffix):
    bits = np.array([[True, False, True]])
    Image.fromarray(bits).save(tmp_path / f"a.{suffix}")
    photo = read_image(tmp_path / f"a.{suffix}")
    assert photo.pixels.dtype == np.uint8
    np.testing.assert_array_equal(photo.pixels, [[255, 0, 255]])


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "packbits"])
def test_compressed_tiff(tmp_path, compression):
    pixels = integers((30, 20, 3), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression=compression, rowsperstrip=7)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pixels)


def test_tiff_of_separate_planes(tmp_path):
    pixels = RNG.random((9, 8, 3), dtype=np.float32)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(pixels, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pixels)


def test_tiff_with_white_as_zero(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 200]], np.uint8), photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, [[255, 55]])


def test_tiff_of_12_bits_fills_16(tmp_path):
    values = np.array([[0, 4095, 2048, 1]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, bitspersample=12)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, [[0, 65535, 32776, 16]])


def test_jpeg_inside_tiff(tmp_path):
    pixels = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression="jpeg")
    assert abs(read_image(tmp_path / "a.tif").pixels.astype(int) - pixels).max() < 6


def test_colours_multiplied_by_alpha_are_divided(tmp_path):
    stored = np.array([[[60, 30, 0, 128], [7, 7, 7, 0], [255, 9, 0, 255]]], np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    photo = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels[0, 0], [120, 60, 0])
    np.testing.assert_array_equal(photo.pixels[0, 2], [255, 9, 0])
    np.testing.assert_array_equal(photo.alpha, stored[..., 3])


def test_thumbnails_in_a_tiff_are_left_aside(tmp_path):
    pixels = integers((20, 30, 3))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(pixels, photometric="rgb", metadata=None)
        tiff.write(pixels[::4, ::4], photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pixels)


def test_content_and_not_the_name_says_what_it_is(tmp_path):
    pixels = integers((4, 5))
    (tmp_path / "a.jpg").write_bytes(bytes(imagecodecs.png_encode(pixels)))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").pixels, pixels)


def test_16_bit_colour_png_is_what_libpng_wrote(tmp_path):
    pixels = integers((33, 21, 3), np.uint16)
    (tmp_path / "a.png").write_bytes(bytes(imagecodecs.png_encode(pixels)))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, pixels)


def test_pixels_may_be_written_to(tmp_path):
    for suffix in ("png", "jpg", "tif"):
        write_image(tmp_path / f"a.{suffix}", integers((4, 5)))
        read_image(tmp_path / f"a.{suffix}").pixels[0, 0] = 1


def test_kernel_as_npy_is_exact(tmp_path):
    kernel = RNG.random((5, 7))
    write_kernel(tmp_path / "k.npy", kernel)
    np.testing.assert_array_equal(np.load(tmp_path / "k.npy"), kernel)


def test_a_kernel_is_read_as_it_was_written(tmp_path):
    kernel = RNG.random((2, 5, 8))  # a stack, of even width
    write_kernel(tmp_path / "k.npy", kernel[..., 1:])
    np.testing.assert_array_equal(read_kernel(str(tmp_path / "k.npy")), kernel[..., 1:])
    np.save(tmp_path / "even.npy", kernel)
    np.testing.assert_array_equal(read_kernel(tmp_path / "even.npy"), kernel)


@pytest.mark.parametrize("name", ["k.png", "k.tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_gray_image_is_a_kernel_of_sum_1(tmp_path, name, dtype):
    pixels = integers((5, 7), dtype)
    write_image(tmp_path / name, pixels)
    np.testing.assert_allclose(read_kernel(tmp_path / name), pixels / pixels.sum(dtype=float), rtol=1e-15)


def test_a_file_that_is_not_a_kernel(tmp_path):
    write_image(tmp_path / "a.png", integers((5, 7, 3)))
    with pytest.raises(ValueError, match=r"a\.png must be a gray image without alpha to be a kernel; convert it, or"):
        read_kernel(tmp_path / "a.png")
    write_image(tmp_path / "a.png", np.zeros((5, 7), np.uint8))
    with pytest.raises(ValueError, match="kernel must not sum to zero"):
        read_kernel(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(ValueError, match="kernel must have at least 2 axes"):
        read_kernel(tmp_path / "a.npy")
    for content in ((tmp_path / "a.npy").read_bytes()[:-1], b"\x93NUMPY"):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npy is damaged or truncated and cannot be read"):
            read_kernel(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy is damaged or truncated and cannot be read"):
        read_kernel(tmp_path / "a.npy")


def test_kernel_as_png_has_a_white_maximum(tmp_path):
    write_kernel(tmp_path / "k.png", np.array([[0.0, 0.02, 0.01]]))
    np.testing.assert_array_equal(read_image(tmp_path / "k.png").pixels, [[0, 255, 128]])


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * 100_000)
    write_image(path, integers((2, 2)))
    assert read_image(path).pixels.shape == (2, 2)


def test_a_link_is_written_through(tmp_path):
    write_image(tmp_path / "real.png", integers((2, 2)))
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    pixels = integers((3, 3))
    write_image(tmp_path / "link.png", pixels)
    assert (tmp_path / "link.png").is_symlink()
    np.testing.assert_array_equal(read_image(tmp_path / "real.png").pixels, pixels)


def test_new_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_image(tmp_path / "a.png", integers((2, 2)))
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_check_output_gives_the_path_and_touches_nothing(tmp_path):
    assert check_output(str(tmp_path / "a.PNG")) == tmp_path / "a.PNG"
    assert list(tmp_path.iterdir()) == []


def test_pillow_reads_what_is_written(tmp_path):
    pixels = integers((5, 6, 3))
    for suffix in ("png", "tif"):
        write_image(tmp_path / f"a.{suffix}", pixels)
        with Image.open(io.BytesIO((tmp_path / f"a.{suffix}").read_bytes())) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)
