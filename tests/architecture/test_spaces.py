import keras
import numpy as np
import pytest

from keras_dha import data
from keras_dha import search_space
from keras_dha.architecture import spaces
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.cost import count
from keras_dha.architecture.derive import derive
from keras_dha.auto_model import AutoModel
from keras_dha.nested_layers import find_layers


@pytest.mark.parametrize(
    "shape, resolutions",
    [
        # Of the stem and of each stage: the stem halves from 24 pixels on
        # and quarters from 96, each stage after the first halves.
        ((8, 8), (8, 8, 4, 2)),
        ((8, 8, 1), (8, 8, 4, 2)),
        ((28, 28, 1), (14, 14, 7, 4)),
        ((32, 32, 3), (16, 16, 8, 4)),
        ((96, 96, 3), (24, 24, 12, 6)),
    ],
)
def test_resnet_of_usual_image_sizes(shape, resolutions):
    keras.utils.set_random_seed(0)
    model = spaces.resnet(shape, 5, width=4)
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 5)
    names = ["stem_relu", *(f"stage{k}_block1_relu" for k in (1, 2, 3))]
    found = [model.get_layer(name).output.shape for name in names]
    assert [s[1] for s in found] == list(resolutions)
    assert [s[3] for s in found] == [4, 4, 8, 16]
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (2, *shape)).astype("float32")
    for training in (False, True):
        outputs = np.asarray(model(x, training=training))
        assert outputs.shape == (2, 5)
        assert outputs.min() >= 0.0
        np.testing.assert_allclose(outputs.sum(axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", ["width", "stages", "blocks"])
@pytest.mark.parametrize("value", [0, 1.5])
def test_resnet_of_no_size(name, value):
    with pytest.raises(ValueError, match=f"Received: {name}={value}"):
        spaces.resnet((8, 8, 1), 3, **{name: value})


def test_resnet_of_an_image_that_is_not_square():
    model = spaces.resnet((40, 12, 3), 2, width=4)
    assert model.get_layer("stem_relu").output.shape[1:3] == (40, 12)
    assert model(np.zeros((1, 40, 12, 3))).shape == (1, 2)


@pytest.mark.parametrize("low, high", [(0, 255), (0, 1), (-1, 1), (0, 16)])
def test_the_value_range_is_mapped_to_minus_one_and_one(low, high):
    model = spaces.resnet((8, 8, 1), 3, width=4, value_range=(low, high))
    scale = model.get_layer("scale")
    x = np.array([low, (low + high) / 2, high], "float32").reshape(3, 1, 1, 1)
    np.testing.assert_allclose(np.ravel(scale(x)), [-1.0, 0.0, 1.0], atol=1e-6)


def test_the_value_range_does_not_change_what_is_predicted():
    x = np.random.default_rng(0).random((2, 8, 8, 1)).astype("float32")
    outputs = []
    for high in (1.0, 255.0):
        keras.utils.set_random_seed(0)
        model = spaces.resnet((8, 8, 1), 3, width=4, value_range=(0, high))
        outputs.append(model(high * x))
    np.testing.assert_allclose(*outputs, rtol=1e-4)


def test_uint8_and_float_images_are_the_same_to_the_model():
    keras.utils.set_random_seed(0)
    model = spaces.resnet((8, 8, 1), 3, width=4)
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1))
    np.testing.assert_allclose(
        model(x.astype("uint8")), model(x.astype("float32")), rtol=1e-6
    )


def test_blocks_that_can_be_chosen_away():
    model = spaces.resnet((8, 8, 1), 3, width=4, stages=2, blocks=3)
    choices = {c.name: c for c in find_layers(model, Choice)}
    assert sorted(choices) == [
        f"stage{s}_block{b}" for s in (1, 2) for b in (1, 2, 3)
    ]
    for name, choice in choices.items():
        candidates = [c.name for c in choice.candidates]
        assert (f"{name}_none" in candidates) == (not name.endswith("block1"))
    for choice in choices.values():
        choice.decision.freeze(len(choice.candidates) - 1)
    x = model.get_layer("stage1_block1_relu").output
    kept = keras.Model(
        model.input, model.get_layer("stage1_block3_relu").output
    )
    before = keras.Model(model.input, x)
    image = np.random.default_rng(0).random((1, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(kept(image), before(image))


def test_a_shortcut_that_halves_sees_all_pixels():
    """Means of two by two pixels, at an odd border of what is there."""
    keras.utils.set_random_seed(0)
    model = spaces.resnet((5, 5, 1), 3, width=4, stages=2)
    before, after = keras.Model(
        model.input,
        [
            model.get_layer("stage1_block1_relu").output,
            model.get_layer("stage2_block1_shortcut").output,
        ],
    )(np.random.default_rng(0).uniform(0, 255, (2, 5, 5, 1)))
    before = np.asarray(before, "float64")
    means = np.array(
        [
            [before[:, i : i + 2, j : j + 2].mean((1, 2)) for j in (0, 2, 4)]
            for i in (0, 2, 4)
        ]
    )
    shortcut = model.get_layer("stage2_block1_shortcut")
    convolution, norm = shortcut.layers
    kernel = convolution.get_weights()[0][0, 0]
    # Of statistics 0 and 1, as a normalisation begins with.
    expected = means @ kernel / np.sqrt(1.0 + norm.epsilon)
    np.testing.assert_allclose(
        after, np.moveaxis(expected, 2, 0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("bottlenecks", [False, True])
def test_candidates_differ_in_cost(bottlenecks):
    """Else there is nothing to choose for a small model."""
    model = spaces.resnet((8, 8, 1), 3, bottlenecks=bottlenecks)
    (choice,) = [c for c in find_layers(model, Choice) if "stage3" in c.name]
    sizes = []
    for k in range(len(choice.candidates)):
        choice.decision.freeze(k)
        sizes.append(derive(model).count_params())
    assert len(set(sizes)) == len(sizes)


FUNCTIONS = (
    spaces.mobile,
    spaces.nas_bench_201,
    spaces.resnet,
    spaces.shufflenet,
)


def test_all_functions_are_listed():
    # The cells of DARTS have tests of their own, test_darts_space.py.
    assert {spaces.darts, *FUNCTIONS} == set(search_space.SPACES.values())


@pytest.mark.parametrize(
    "name", ["auto", *sorted(n.__name__ for n in FUNCTIONS)]
)
def test_spaces_go_by_their_names(name, monkeypatch):
    function = getattr(spaces, "resnet" if name == "auto" else name)
    assert search_space.SPACES[name] is function
    asked = []
    monkeypatch.setitem(
        search_space.SPACES, name, lambda *a, **k: asked.append((a, k))
    )
    x = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3))
    spec = data.inspect(x.astype("uint8"), np.arange(12) % 3, None, None)
    search_space.space_builder(name)(spec)
    assert asked == [(((8, 8, 3), 3), {"value_range": spec.value_range})]


@pytest.mark.parametrize("name", ["auto", "resnet"])
@pytest.mark.parametrize("target", [None, {"params": 60_000}])
def test_bottlenecks_are_for_targets(name, target):
    """Where nothing limits the network they are its least accurate part."""
    x = np.random.default_rng(0).random((12, 8, 8, 3))
    spec = data.inspect(x, np.arange(12) % 3)
    network = AutoModel(name, target=target).settings.builder(spec)
    for choice in find_layers(network, Choice):
        candidates = [c.name for c in choice.candidates]
        cheap = f"{choice.name}_bottleneck"
        assert (cheap in candidates) == (target is not None)


def test_bottlenecks_are_cheap():
    network = spaces.resnet((8, 8, 16), 3, bottlenecks=True)
    for choice in find_layers(network, Choice):
        sizes = [count(derive(c))["params"] for c in choice.candidates]
        shares = sizes[-1] / np.array(sizes[:-1])
        # An eighth to two fifths, and their normalisations.
        assert np.all((0.12 < shares) & (shares < 0.46))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(8,), (8, 8, 3, 1), (None, None, 3), ()])
def test_a_shape_that_is_no_image(function, shape):
    with pytest.raises(ValueError, match="`input_shape`.*Received"):
        function(shape, 3)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_class(function):
    with pytest.raises(ValueError, match="at least two classes"):
        function((8, 8, 1), 1)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_probabilities_are_whole_in_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = spaces.resnet((8, 8, 1), 3, width=4, stages=1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("logits").compute_dtype == "bfloat16"
    found = model.predict(np.full((2, 8, 8, 1), 200.0), verbose=0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-6)


SMALL = {
    spaces.shufflenet: {
        "repeats": (2, 1, 2),
        "widths": (8, 12, 20),
        "stem": 4,
        "head": 8,
    },
    spaces.mobile: {
        "width": 0.1,
        "depth": 0.25,
        "kernels": (3, 5),
        "expansions": (3,),
    },
}


@pytest.mark.parametrize("function", SMALL)
@pytest.mark.parametrize("shape", [(8, 8), (28, 28, 1), (40, 12, 3)])
def test_any_image_size(function, shape):
    keras.utils.set_random_seed(0)
    model = function(shape, 5, **SMALL[function])
    x = np.random.default_rng(0).uniform(0, 255, (2, *shape))
    for training in (False, True):
        outputs = np.asarray(model(x.astype("uint8"), training=training))
        assert outputs.shape == (2, 5)
        np.testing.assert_allclose(outputs.sum(axis=1), 1.0, rtol=1e-5)


def test_macro_architecture_of_the_block_space():
    """Table 6 of the DSNAS paper, without its weights."""
    model = spaces.shufflenet((224, 224, 3), 10, repeats=(1, 2, 1, 1))
    blocks = [f"stage{k}_block1" for k in (1, 2, 3, 4)]
    shapes = [model.get_layer(n).output.shape[1:] for n in ("stem", *blocks)]
    assert shapes == [
        (112, 112, 16),
        (56, 56, 64),
        (28, 28, 160),
        (14, 14, 320),
        (7, 7, 640),
    ]
    assert model.get_layer("head").output.shape[1:] == (7, 7, 1024)


def test_shuffle_blocks_split_and_shuffle():
    """Even channels pass, odd ones are transformed, written out in NumPy."""
    keras.utils.set_random_seed(0)
    model = spaces.shufflenet((8, 8, 3), 3, repeats=(2,), widths=(12,), stem=4)
    before, after = keras.Model(
        model.input,
        [
            model.get_layer("stage1_block1").output,
            model.get_layer("stage1_block2_joined").output,
        ],
    )(np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)))
    before, after = np.asarray(before), np.asarray(after)
    np.testing.assert_array_equal(after[..., :6], before[..., ::2])
    candidate = model.get_layer("stage1_block2").candidates[0]
    np.testing.assert_allclose(
        after[..., 6:], candidate(before[..., 1::2]), rtol=1e-5, atol=1e-6
    )


def test_mobile_blocks_that_can_be_skipped():
    model = spaces.mobile((16, 16, 3), 3, width=0.1, depth=0.5)
    for name in ("stage1_block1", "stage1_block2"):
        choice = model.get_layer(name)
        names = [c.name.removeprefix(choice.name) for c in choice.candidates]
        kinds = [f"_k{k}_e{e}" for k in (3, 5, 7) for e in (3, 6)]
        keeps = "block2" in choice.name
        assert names == kinds + ["_skip"] * keeps
        choice.decision.freeze(len(names) - 1)
    before, after = keras.Model(
        model.input,
        [
            model.get_layer("stage1_block1").output,
            model.get_layer("stage1_block2_add").output,
        ],
    )(np.ones((1, 16, 16, 3)))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (spaces.shufflenet, {"repeats": (2,)}),
        (spaces.shufflenet, {"repeats": (0,), "widths": (64,)}),
        (spaces.shufflenet, {"widths": (64, 160, 320, 321)}),
        (spaces.shufflenet, {"widths": (64, 160, 160, 320)}),
        (spaces.shufflenet, {"stem": 64}),
        (spaces.shufflenet, {"head": 0}),
        (spaces.mobile, {"width": 0.0}),
        (spaces.mobile, {"depth": -1.0}),
        (spaces.mobile, {"kernels": (3,), "expansions": (6,)}),
    ],
)
def test_arguments_that_do_not_fit(function, arguments):
    name = next(iter(arguments))
    with pytest.raises(ValueError, match=f"Received.*{name}"):
        function((8, 8, 3), 3, **arguments)
