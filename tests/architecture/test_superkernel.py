import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import carried_over
from keras_dha.architecture import spaces
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.cost import NetworkCost
from keras_dha.architecture.cost import count
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.derive import freeze_first
from keras_dha.architecture.latency import LatencyTable
from keras_dha.architecture.strategies import DARTS
from keras_dha.architecture.strategies import DSNAS
from keras_dha.architecture.strategies import GDAS
from keras_dha.architecture.strategies import ISTA
from keras_dha.architecture.strategies import Reinforce
from keras_dha.architecture.superkernel import SlicedConvolution
from keras_dha.architecture.superkernel import SuperKernel
from keras_dha.auto_model import AutoModel
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.joint_model import JointModel
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import is_stock
from tests.references import positions_of


def superkernel(kernel_size=5, inputs=4, filters=6, smallest=(3, 2)):
    return SuperKernel(kernel_size, inputs, filters, smallest, name="whole")


def images(shape=(2, 7, 6, 2), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("sides", [(8, 8), (7, 6), (1, 3)])
@pytest.mark.parametrize(
    "kernel_size, inputs, filters, part",
    [
        (3, 2, 3, np.s_[1:4, 1:4, :2, :3]),
        (5, 4, 1, np.s_[:, :, :, :1]),
        (1, 3, 6, np.s_[2:3, 2:3, :3, :]),
    ],
)
def test_a_slice_is_a_convolution(
    kernel_size, inputs, filters, part, sides, strides
):
    whole = superkernel()
    layer = SlicedConvolution(whole, filters, kernel_size, strides)
    x = images((2, *sides, inputs))
    found = layer(x)
    usual = layers.Conv2D(
        *(filters, kernel_size, strides, "same"), use_bias=False
    )
    usual.build(x.shape)
    usual.kernel.assign(whole.kernel.numpy()[part])
    np.testing.assert_allclose(found, usual(x), rtol=1e-5, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == found.shape
    np.testing.assert_array_equal(
        whole.kernel.numpy().ravel()[layer.positions()],
        usual.kernel.numpy().ravel(),
    )
    # And so is what takes its place.
    np.testing.assert_allclose(
        layer.convolution()(x), usual(x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("side", [7, 8])
def test_the_middle_of_a_kernel_looks_at_the_middle(strides, side):
    """A 5x5 kernel that is zero around its middle is the 3x3 one."""
    whole = superkernel()
    kernel = whole.kernel.numpy()
    ring = np.ones((5, 5), bool)
    ring[1:4, 1:4] = False
    kernel[ring] = 0.0
    whole.kernel.assign(kernel)
    x = images((1, side, side, 4))
    small, large = (SlicedConvolution(whole, 6, k, strides)(x) for k in (3, 5))
    np.testing.assert_allclose(small, large, rtol=1e-5, atol=1e-5)


def test_a_step_on_one_trains_what_it_has_in_common_with_others():
    whole = superkernel()
    narrow = SlicedConvolution(whole, 2, 3)
    x = tf.constant(images())
    narrow(x)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(narrow(x)))
    gradient = tape.gradient(loss, whole.kernel.value).numpy()
    moved = np.zeros(gradient.shape, bool)
    moved[1:4, 1:4, :2, :2] = True
    np.testing.assert_array_equal(gradient != 0.0, moved)


@pytest.mark.parametrize("smallest", [(3, 16), (3, 64), (5, 64)])
def test_it_begins_as_its_smallest_slice_would_alone(smallest):
    """By He et al. (2015), truncated at two deviations as Keras has it."""
    keras.utils.set_random_seed(0)
    kernel = superkernel(5, 64, 128, smallest).kernel.numpy()
    deviation = np.sqrt(2.0 / (smallest[0] ** 2 * smallest[1]))
    # Of 204,800 numbers; 0.5 % are three of its standard errors.
    np.testing.assert_allclose(kernel.std(), deviation, rtol=0.005)
    assert np.abs(kernel).max() <= 2.0 * deviation / 0.8796


@pytest.mark.parametrize(
    "filters, kernel_size", [(7, 3), (6, 7), (6, 2), (6, 4)]
)
def test_what_is_no_slice(filters, kernel_size):
    with pytest.raises(ValueError, match="the middle of its superkernel.*Rec"):
        SlicedConvolution(superkernel(), filters, kernel_size)


@pytest.mark.parametrize(
    "name, value",
    [
        *[(n, v) for n in ("kernel_size", "inputs") for v in (0, True, 2.0)],
        *[("filters", "4"), ("filters", None)],
        *[("smallest", v) for v in ((0, 1), (3, 5), (6, 4), (3,), (3.0, 2), 3)],
    ],
)
def test_what_is_no_superkernel(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be.*Received"):
        superkernel(**{name: value})


@pytest.mark.parametrize(
    "name, value",
    [
        *[("filters", 0), ("kernel_size", 3.0), ("strides", 0)],
        *[("strides", (2, 2)), ("whole", layers.Conv2D(6, 5))],
    ],
)
def test_arguments_of_a_slice(name, value):
    given = {"whole": superkernel(), "filters": 2, "kernel_size": 3}
    with pytest.raises(ValueError, match=f"`{name}` must be.*Received"):
        SlicedConvolution(**given | {name: value})


def test_more_channels_than_the_whole_has():
    with pytest.raises(ValueError, match="4 input channels. Received"):
        SlicedConvolution(superkernel(), 2, 3)(images((1, 4, 4, 5)))


def supernet(**arguments):
    keras.utils.set_random_seed(0)
    return spaces.resnet((8, 8, 1), 3, width=4, stages=2, **arguments)


def test_a_file_keeps_what_is_shared(tmp_path):
    network = supernet()
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    assert len(loaded.weights) == len(network.weights)
    wholes = find_layers(loaded, SuperKernel)
    assert len(wholes) == len(find_layers(network, SuperKernel)) == 4
    x = images((2, 8, 8, 1))
    for candidate in range(3):
        for model in (network, loaded):
            for decision in find_decisions(model):
                decision.freeze(candidate)
        np.testing.assert_allclose(loaded(x), network(x), rtol=1e-5)
    for each in find_layers(loaded, SlicedConvolution):
        assert any(each.whole is whole for whole in wholes)


def test_costs_are_those_of_what_is_derived():
    network = supernet(blocks=2, bottlenecks=True)
    cost = NetworkCost(network)
    generator = np.random.default_rng(0)
    sizes = [d.num_candidates for d in cost.decisions]
    for _ in range(10):
        chosen = generator.integers(0, sizes)
        for decision, index in zip(cost.decisions, chosen, strict=True):
            decision.chosen.assign(-1)
            decision.freeze(int(index))
        derived = derive(network)
        assert cost.of(chosen) == count(derived)
        assert cost.of(chosen)["params"] == derived.count_params()


def test_the_derived_network_goes_on_with_weights_and_slots():
    joint = JointModel(
        supernet(),
        keras.losses.SparseCategoricalCrossentropy(),
        hyperparameters=LearnedHyperparameters(
            {"learning_rate": 0.1, "weight_decay": 1e-3, "momentum": 0.9}
        ),
        strategy=DSNAS(),
        seed=0,
    )
    x, y = images((8, 8, 8, 1)), np.arange(8) % 3
    for _ in range(3):
        joint.train_step((tf.constant(x), tf.constant(y)), 1.0)
    (velocity,) = joint.slots
    assert np.all(velocity.numpy()[-10:] != 0.0)
    for decision in find_decisions(joint.network):
        decision.freeze(0)
    made = carried_over.derived(joint)
    assert not find_layers(made.network, SlicedConvolution)
    for choice in find_layers(joint.network, Choice):
        for part in find_layers(choice.candidates[0], SlicedConvolution):
            size, _, inputs, filters = part.kernel_shape
            begin = (part.whole.kernel_size - size) // 2
            middle = slice(begin, begin + size)
            plain = next(
                layer
                for layer in find_layers(made.network, layers.Conv2D)
                if layer.name == part.name
            )
            ours = positions_of(made.weight_vector, [plain.kernel])
            theirs = positions_of(joint.weight_vector, [part.whole.kernel])
            for new, old in (
                (made.weight_vector.read(), joint.weight_vector.read()),
                (made.slots[0], velocity),
            ):
                whole = old.numpy()[theirs].reshape(part.whole.kernel.shape)
                expected = whole[middle, middle, :inputs, :filters]
                assert np.any(expected != 0.0)
                np.testing.assert_array_equal(
                    new.numpy()[ours].reshape(expected.shape), expected
                )


@pytest.mark.parametrize("strategy", [DSNAS(), None])
def test_a_frozen_superkernel_stays_so_where_it_is_derived(strategy):
    network = own_network()
    frozen = find_layers(network, SuperKernel)[1]
    frozen.trainable = False
    before = frozen.kernel.numpy()
    freeze_first(network)
    joint = JointModel(
        network, keras.losses.SparseCategoricalCrossentropy(), strategy=strategy
    )
    made = carried_over.derived(joint)
    x, y = images((8, 8, 8, 1)), np.arange(8) % 3
    made.train_step((tf.constant(x), tf.constant(y)), 1.0)
    kernel = find_layers(made.network, layers.Conv2D)[1].kernel
    np.testing.assert_array_equal(kernel, before[1:2, 1:2])


def own_network():
    """Slices that are candidates themselves, one of them after another."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Rescaling(1 / 255)(inputs)
    first = SuperKernel(5, 1, 8)
    second = SuperKernel(3, 8, 8, (1, 8))
    for whole, sizes, width in ((first, (3, 5), 8), (second, (1, 3), 8)):
        x = Choice([SlicedConvolution(whole, width, k) for k in sizes])(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


class Hidden(layers.Layer):
    """A layer of one's own with a slice in it, which stays what it is."""

    def __init__(self):
        super().__init__()
        self.part = SlicedConvolution(SuperKernel(3, 1, 4), 2, 1)

    def call(self, x):
        return self.part(x)


def test_a_slice_in_a_custom_layer_stays():
    network = keras.Sequential([keras.Input((8, 8, 1)), Hidden()])
    assert derive(network) is not network
    # As latency asks of parts.
    (hidden,) = network.layers
    assert derive(hidden) is hidden
    x = images((2, 8, 8, 1))
    np.testing.assert_array_equal(derive(network)(x), network(x))
    assert len(find_layers(derive(network), SlicedConvolution)) == 1


@pytest.mark.parametrize("make", [supernet, own_network])
def test_latency_is_that_of_what_is_derived(make):
    network = make()
    table = LatencyTable.measure(network)
    terms = table.terms(network)
    cost = NetworkCost(network, measures=(), latency_ms=terms)
    (small,) = cost.of([0, 0]).values()
    assert 0.0 < small
    # The parts of a plain network are in the table of its supernet.
    freeze_first(network)
    plain = derive(network)
    (found,) = (
        NetworkCost(plain, measures=(), latency_ms=table.terms(plain))
        .of([])
        .values()
    )
    assert found == pytest.approx(small)


@pytest.mark.parametrize(
    "strategy",
    [DSNAS(), DARTS(order=2), GDAS(), ISTA(), Reinforce()],
    ids=lambda strategy: type(strategy).__name__,
)
def test_slices_in_a_network_of_ones_own(strategy, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1))
    x, y = x.astype("uint8"), np.arange(64) % 3
    model = AutoModel(own_network(), strategy=strategy, seed=0)
    model.fit(x, y, epochs=3, batch_size=16, verbose=0)
    plain = model.export_model()
    assert all(is_stock(layer) for layer in find_layers(plain, layers.Layer))
    chosen = [gene["choice"] for gene in model.result.genotype.values()]
    kept = find_layers(plain, layers.Conv2D)
    assert {each.name for each in kept} == set(chosen)
    assert model.result.cost["parameters"] == plain.count_params()
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), model.predict(x), rtol=1e-4, atol=1e-5
    )
    model.save(tmp_path / "run.keras")
    np.testing.assert_allclose(
        AutoModel.load(tmp_path / "run.keras").predict(x),
        model.predict(x),
        rtol=1e-4,
        atol=1e-5,
    )


def test_slices_without_a_choice_are_counted_as_they_are_exported():
    inputs = keras.Input((8, 8, 1))
    x = SlicedConvolution(SuperKernel(5, 1, 8), 4, 3)(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    network = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    x = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1))
    x, y = x.astype("uint8"), np.arange(32) % 3
    model = AutoModel(network, augmentation=None, seed=0)
    model.fit(x, y, epochs=1, batch_size=16, verbose=0)
    plain = model.export_model()
    assert plain.count_params() == 3 * 3 * 4 + (4 * 3 + 3)
    assert model.result.cost["parameters"] == plain.count_params()
