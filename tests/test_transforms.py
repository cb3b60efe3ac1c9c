"""Transforms of images: their values, their randomness, what they refuse."""

import numpy as np
import pytest

import portanet as pn
from portanet.data import DataLoader, ImageDataset, draws
from portanet.data import transforms as t

IMAGE = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)


def test_to_tensor_scales_bytes_and_orders_pillow_s_axes():
    from PIL import Image

    x = t.ToTensor()(IMAGE)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, IMAGE.astype(np.float32) / np.float32(255))
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    x = t.ToTensor()(Image.fromarray(colours))
    np.testing.assert_array_equal(x * 255, np.moveaxis(colours, -1, 0))
    assert t.ToTensor()(np.ones((4, 5), np.float64)).dtype == np.float32


def test_normalize_is_by_channel():
    x = t.Normalize([10, 20], [2, 4])(IMAGE)
    np.testing.assert_allclose(x[0], (IMAGE[0] - 10.0) / 2, rtol=1e-6)
    np.testing.assert_allclose(x[1], (IMAGE[1] - 20.0) / 4, rtol=1e-6)
    np.testing.assert_allclose(t.Normalize(1, 2)(IMAGE), (IMAGE - 1.0) / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="3 values for 2 channels"):
        t.Normalize([1, 2, 3], 1)(IMAGE)
    with pytest.raises(ValueError, match="std must be above 0"):
        t.Normalize(0, 0)


def many(transform, n=400, image=IMAGE):
    """What the transform makes in n streams."""
    made = []
    for i in range(n):
        with draws.sample((i,)):
            made.append(transform(image))
    return made


@pytest.mark.parametrize(
    "kind, axis", [(t.RandomHorizontalFlip, 2), (t.RandomVerticalFlip, 1)]
)
def test_flips_come_as_often_as_asked(kind, axis):
    flipped = np.flip(IMAGE, axis)
    made = many(kind(0.25))
    count = sum(np.array_equal(x, flipped) for x in made)
    assert all(np.array_equal(x, flipped) or np.array_equal(x, IMAGE) for x in made)
    assert abs(count - 100) < 44  # five standard deviations
    assert all(np.array_equal(x, IMAGE) for x in many(kind(0.0), 20))
    assert all(np.array_equal(x, flipped) for x in many(kind(1.0), 20))


def test_crops_come_from_everywhere_and_the_padding_is_filled():
    seen = {x.tobytes() for x in many(t.RandomCrop((3, 4)))}
    assert seen == {
        IMAGE[:, i : i + 3, j : j + 4].tobytes() for i in (0, 1) for j in (0, 1)
    }
    padded = np.pad(IMAGE, ((0, 0), (1, 1), (1, 1)), constant_values=9)
    seen = {x.tobytes() for x in many(t.RandomCrop((4, 5), padding=1, fill=9))}
    assert seen == {
        padded[:, i : i + 4, j : j + 5].tobytes() for i in range(3) for j in range(3)
    }
    np.testing.assert_array_equal(t.CenterCrop((2, 3))(IMAGE), IMAGE[:, 1:3, 1:4])
    with pytest.raises(
        ValueError, match=r"CenterCrop: \(6, 6\) does not fit an image of"
    ):
        t.CenterCrop(6)(IMAGE)


def test_rotation_by_right_angles_is_exact_and_else_within_its_range():
    square = IMAGE[:, :4, :4]
    np.testing.assert_array_equal(
        t.RandomRotation((90, 90))(square), np.rot90(square, axes=(1, 2))
    )
    np.testing.assert_array_equal(t.RandomRotation(0)(IMAGE), IMAGE)
    ramp = np.tile(np.linspace(0, 1, 33, dtype=np.float32), (1, 33, 1))
    for x in many(t.RandomRotation(30, fill=0.5), 10, ramp):
        assert x.dtype == np.float32
        rise, run = x[0, 20, 16] - x[0, 12, 16], x[0, 16, 20] - x[0, 16, 12]
        assert abs(np.degrees(np.arctan2(rise, run))) <= 30.5


def test_resize_is_bilinear_and_averages():
    x = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    # The mean of the triangle around each new pixel, as Pillow weighs it.
    halved = t.Resize((1, 2))(x)
    assert halved.shape == (1, 1, 2) and abs(halved.mean() - x.mean()) < 1e-6
    np.testing.assert_array_equal(t.Resize((2, 4))(x), x)
    wide = t.Resize((2, 8))(x)
    np.testing.assert_allclose(wide[0, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    assert (
        t.Resize(7)(IMAGE).shape == (2, 7, 7) and t.Resize(7)(IMAGE).dtype == np.uint8
    )


def test_bad_values_are_named():
    for make, message in [
        (lambda: t.RandomHorizontalFlip(1.5), "p is from 0 to 1, not 1.5"),
        (lambda: t.RandomCrop(0), r"size is \(height, width\), each at least 1, not 0"),
        (lambda: t.RandomCrop((1, 2, 3)), "size is"),
        (lambda: t.RandomCrop(3, padding=-1), "padding is a number of pixels, not -1"),
        (lambda: t.RandomRotation(-5), "from 5 to -5 degrees is empty"),
        (lambda: t.RandomVerticalFlip()(np.ones((3, 3))), r"not shape \(3, 3\)"),
        (lambda: t.CenterCrop(2)("x"), "an image is an array .* not str"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


AUGMENT = t.Compose(
    [
        t.RandomHorizontalFlip(),
        t.RandomRotation(20),
        t.RandomCrop(5, padding=2),
        t.ToTensor(),
        t.Lambda(lambda x: x + draws.rng().normal(size=x.shape).astype(np.float32)),
    ]
)


def test_augmentation_follows_the_generator_for_any_workers():
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 6, 6), np.uint8)
    data = ImageDataset(images, np.arange(20), AUGMENT)

    def batches(seed, workers):
        loader = DataLoader(
            data, 6, True, generator=pn.Generator(seed), num_workers=workers
        )
        return np.concatenate([x.numpy() for _ in range(2) for x, _ in loader])

    alone = batches(1, 0)
    np.testing.assert_array_equal(batches(1, 3), alone)
    assert not np.array_equal(batches(2, 0), alone)
    assert not np.array_equal(alone[:20], alone[20:])


def test_outside_a_loader_they_follow_the_default_seed(device):
    def draw():
        pn.manual_seed(5)
        with pn.device(device):
            return [AUGMENT(IMAGE[:1]) for _ in range(3)]

    first, again = draw(), draw()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
