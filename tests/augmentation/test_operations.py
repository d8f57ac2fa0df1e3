"""One table of all operations, one test for each promise they share."""

import numpy as np
import pytest
import tensorflow as tf

from keras_dha.augmentation import geometric
from keras_dha.augmentation import photometric
from keras_dha.augmentation.operations import OPERATIONS
from keras_dha.augmentation.operations import find_operations
from keras_dha.augmentation.operations import fitting_operations
from tests.augmentation import references
from tests.augmentation.references import CASES

every_case = pytest.mark.parametrize("case", CASES, ids=str)
both_channels = pytest.mark.parametrize("channels", [1, 3])
both_signs = pytest.mark.parametrize("sign", [-1.0, 1.0])


def run(case, images, magnitudes, signs, positions=None):
    """Applies an operation to uint8 images, one magnitude and sign each."""
    (operation,) = find_operations([case.name])
    count = len(images)
    if positions is None:
        positions = np.full([count, 2], 0.5)
    return operation(
        tf.constant(images, tf.float32),
        tf.constant(np.broadcast_to(magnitudes, count), tf.float32),
        sign=tf.constant(np.broadcast_to(signs, count), tf.float32),
        position=tf.constant(positions, tf.float32),
    ).numpy()


def skip_unfit(case, channels):
    (operation,) = find_operations([case.name])
    if operation.colour_only and channels != 3:
        pytest.skip("needs colour")


def test_catalogue_is_complete():
    assert [case.name for case in CASES] == [op.name for op in OPERATIONS]
    assert len(OPERATIONS) == 16
    functions = {
        value
        for module in (geometric, photometric)
        for name, value in vars(module).items()
        if callable(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
    parts = {
        geometric.image_size,
        geometric.affine_matrix,
        geometric.flip_and_shift_matrix,
        geometric.warp,
        geometric.differentiable_warp,
        geometric.cutout_half_side,
        geometric.distances,
    }
    assert functions - parts == {op.function for op in OPERATIONS}


@every_case
@both_channels
@both_signs
def test_magnitude_zero_is_exactly_identity(case, channels, sign):
    skip_unfit(case, channels)
    generator = np.random.default_rng(3)
    images = generator.uniform(0.0, 255.0, [4, 12, 17, channels])
    images = images.astype("float32")
    np.testing.assert_array_equal(run(case, images, 0.0, sign), images)


@every_case
@both_channels
@both_signs
def test_strength_is_monotone(case, channels, sign):
    skip_unfit(case, channels)
    images = references.smooth_images(3, channels=channels)
    strength = [
        np.abs(run(case, images, magnitude, sign) - images).mean()
        for magnitude in np.linspace(0.0, 1.0, 11)
    ]
    assert np.all(np.diff(strength) >= -1e-4), strength
    if case.name != "Identity":
        assert strength[-1] > strength[5] > 0.05


@every_case
@both_channels
@pytest.mark.parametrize("magnitude", [0.1, 0.3, 0.5, 0.77, 1.0])
def test_values_agree_with_reference(case, channels, magnitude):
    skip_unfit(case, channels)
    noise = references.noise_images(3, channels=channels)
    smooth = references.smooth_images(1, 12, 17, channels)
    images = np.concatenate([noise, smooth])
    signs = [1.0, -1.0, 1.0, -1.0]
    positions = np.array([[0.5, 0.5], [0.11, 0.93], [0.0, 0.33], [0.71, 1.0]])
    outputs = run(case, images, magnitude, signs, positions)
    for image, output, sign, position in zip(
        images, outputs, signs, positions, strict=True
    ):
        expected = case.reference(image, magnitude, sign, position)
        np.testing.assert_allclose(output, expected, atol=case.tolerance)


@every_case
def test_batch_equals_one_by_one(case):
    images = references.noise_images(5)
    generator = np.random.default_rng(1)
    magnitudes = generator.uniform(size=5)
    signs = generator.choice([-1.0, 1.0], 5)
    positions = generator.uniform(size=[5, 2])
    batch = run(case, images, magnitudes, signs, positions)
    for k in range(5):
        one = slice(k, k + 1)
        single = run(
            case, images[one], magnitudes[one], signs[one], positions[one]
        )
        np.testing.assert_allclose(single, batch[one], atol=1e-3)


@every_case
def test_stays_in_range(case):
    images = references.noise_images(4)
    outputs = run(case, images, [0.3, 0.6, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0])
    assert outputs.min() >= 0.0
    assert outputs.max() <= 255.0


@every_case
def test_empty_batch(case):
    images = references.noise_images(1)[:0]
    assert run(case, images, 1.0, 1.0).shape == (0, 12, 17, 3)


@every_case
def test_sign_matters_exactly_where_it_is_declared(case):
    (operation,) = find_operations([case.name])
    images = references.noise_images(2)
    left = run(case, images, 0.7, -1.0)
    right = run(case, images, 0.7, 1.0)
    assert operation.signed == (not np.array_equal(left, right))


@every_case
def test_runs_with_unknown_shapes_in_a_graph(case):
    (operation,) = find_operations([case.name])
    batch = tf.TensorSpec([None, None, None, 3], tf.float32)

    @tf.function(input_signature=[batch])
    def graph(images):
        ones = tf.ones(tf.shape(images)[:1])
        return operation(images, ones, ones, 0.5 * tf.stack([ones, ones], 1))

    images = references.noise_images(3)
    np.testing.assert_allclose(
        graph(tf.constant(images, tf.float32)),
        run(case, images, 1.0, 1.0),
        atol=1e-3,
    )


def test_find_operations_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"Rotat.*Received: operations="):
        find_operations(["Rotat"])
    with pytest.raises(ValueError, match="each name once"):
        find_operations(["Rotate", "Rotate"])
    with pytest.raises(ValueError, match="at least one"):
        find_operations([])


@pytest.mark.parametrize(("channels", "count"), [(1, 15), (3, 16), (4, 15)])
def test_only_colour_images_get_colour_operations(channels, count):
    assert len(fitting_operations(None, channels)) == count
    if channels != 3:
        with pytest.raises(ValueError, match=f"Received: channels={channels}"):
            fitting_operations(["Color"], channels)
