import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import carried_over
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.architecture.strategies import DSNAS
from keras_dha.joint_model import JointModel
from keras_dha.nested_layers import find_layers

WEIGHTS = (2.0, 3.0, 5.0)


def factors(**kwargs):
    """Candidates that say who they are: they multiply by 2, 3 and 5."""
    return Choice(
        [layers.Rescaling(w, name=f"x{w:g}") for w in WEIGHTS], **kwargs
    )


@keras.saving.register_keras_serializable("tests")
class Counting(layers.Layer):
    """The identity; counts how often it has really run."""

    def build(self, input_shape):
        self.runs = self.add_weight(
            name="runs", shape=(), initializer="zeros", trainable=False
        )

    def call(self, inputs):
        self.runs.assign(self.runs + 1.0)
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape


@pytest.mark.parametrize("compiled", [False, True])
def test_training_runs_the_sampled_and_inference_the_best(compiled):
    choice = factors()
    choice.decision.logits.assign([0.0, 1.0, 0.0])
    call = tf.function(choice) if compiled else choice
    x = tf.ones((2, 3))
    for sampled, weight in enumerate(WEIGHTS):
        choice.decision.sampled.assign(sampled)
        np.testing.assert_array_equal(call(x, training=True), weight * x)
        np.testing.assert_array_equal(call(x, training=False), 3.0 * x)
    choice.decision.freeze(2)
    choice.decision.sampled.assign(0)
    for training in (True, False):
        np.testing.assert_array_equal(call(x, training=training), 5.0 * x)


@pytest.mark.parametrize("training", [False, True])
def test_only_one_candidate_runs(training):
    choice = Choice([Counting(name=f"c{k}") for k in range(3)])
    inputs = keras.Input((2,))
    model = keras.Model(inputs, choice(inputs))
    choice.decision.logits.assign([0.0, 0.0, 1.0])
    choice.decision.sampled.assign(1)
    before = [float(c.runs) for c in choice.candidates]
    run = tf.function(lambda x: model(x, training=training))
    for _ in range(3):
        run(tf.ones((1, 2)))
    runs = [
        float(c.runs) - b
        for c, b in zip(choice.candidates, before, strict=True)
    ]
    assert runs == ([0, 3, 0] if training else [0, 0, 3])


def test_the_training_mode_reaches_the_candidates():
    choice = Choice([layers.Dropout(0.9, seed=1), layers.Dropout(0.8, seed=2)])
    x = tf.ones((50, 50))
    np.testing.assert_array_equal(choice(x, training=False), x)
    assert np.mean(choice(x, training=True) == 0) == pytest.approx(
        0.9, abs=0.05
    )
    choice.decision.sampled.assign(1)
    assert np.mean(choice(x, training=True) == 0) == pytest.approx(
        0.8, abs=0.05
    )


def test_chosen_candidate():
    choice = factors()
    choice.decision.logits.assign([0.0, 0.0, 1.0])
    assert choice.chosen_candidate() is choice.candidates[2]
    choice.decision.freeze(1)
    assert choice.chosen_candidate() is choice.candidates[1]


def shared_model():
    keras.utils.set_random_seed(0)
    decision = Decision(3, name="kernel")
    inputs = x = keras.Input((2,))
    for name in ("first", "second"):
        x = Choice(
            [layers.Rescaling(w, name=f"{name}_{w:g}") for w in WEIGHTS],
            decision=decision,
            name=name,
        )(x)
    return keras.Model(inputs, layers.Dense(2, use_bias=False)(x)), decision


def test_a_shared_decision_picks_the_same_in_both_choices():
    model, decision = shared_model()
    kernel = model.get_weights()[-1]
    x = np.ones((1, 2), "float32")
    for index, weight in enumerate(WEIGHTS):
        decision.sampled.assign(index)
        np.testing.assert_allclose(
            model(x, training=True), weight**2 * x @ kernel, rtol=1e-6
        )
    assert len(decision.variables) == 4  # one set of logits, not two


def reloaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


def copied(model, tmp_path):
    del tmp_path
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def test_a_shared_decision_stays_shared(tmp_path):
    model, decision = shared_model()
    decision.logits.assign([0.0, 1.0, 0.5])
    copy = reloaded(model, tmp_path)
    first, second = find_layers(copy, Choice)
    assert first.decision is second.decision
    assert first.decision is not decision
    first.decision.sampled.assign(2)
    x = np.ones((1, 2), "float32")
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-6)
    np.testing.assert_allclose(
        copy(x, training=True), (25 / 9) * model(x), rtol=1e-6
    )


def test_a_decision_shared_across_nested_models_stays_shared(tmp_path):
    decision = Decision(2, name="shared")

    def choice(name):
        candidates = [layers.Rescaling(w, name=f"{name}{w}") for w in (2, 3)]
        return Choice(candidates, decision=decision, name=name)

    inner = keras.Sequential([keras.Input((2,)), choice("inner")])
    inputs = keras.Input((2,))
    model = keras.Model(inputs, choice("outer")(inner(inputs)))
    decision.freeze(1)
    copy = reloaded(model, tmp_path)
    first, second = find_layers(copy, Choice)
    assert first.decision is second.decision
    np.testing.assert_array_equal(copy(np.ones((1, 2))), [[9.0, 9.0]])


def small_supernet():
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((8, 8, 1))
    for k in range(2):
        x = Choice(
            [
                layers.Conv2D(4, 3, padding="same", name=f"three{k}"),
                keras.Sequential(
                    [layers.Conv2D(4, 1), layers.BatchNormalization()],
                    name=f"one{k}",
                ),
            ],
            name=f"choice{k}",
        )(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("again", [reloaded, copied])
def test_a_supernet_copied_predicts_the_same(again, tmp_path):
    model = small_supernet()
    choices = find_layers(model, Choice)
    choices[0].decision.freeze(1)
    choices[1].decision.logits.assign([0.0, 1.0])
    copy = again(model, tmp_path)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-5)
    theirs = find_layers(copy, Choice)
    assert [c.decision.is_frozen for c in theirs] == [True, False]
    assert not {id(v) for v in copy.variables} & {
        id(v) for v in model.variables
    }


def test_a_choice_works_in_sequential_models_and_fit():
    model = keras.Sequential([keras.Input((2,)), factors(), layers.Dense(1)])
    model.compile("sgd", "mse")
    # Without a strategy nothing credits the logits, and Keras says so.
    with pytest.warns(UserWarning, match="logits"):
        history = model.fit(np.ones((4, 2)), np.zeros(4), epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


def convolutions(shared, end):
    """Candidates that begin with a layer, which they may share."""
    return [
        keras.Sequential([shared, layers.ReLU()], name=f"relu{end}"),
        keras.Sequential([shared, layers.Dense(3)], name=f"dense{end}"),
    ]


def sharing_network(kind):
    """Layers shared within one choice, between two, and with what is outside.

    Those outside come first, where Keras itself marks them.
    """
    keras.utils.set_random_seed(0)
    conv = layers.Conv2D(3, 3, padding="same", name="shared")
    inputs = keras.Input((4, 4, 3))
    x = conv(inputs) if kind == "outside" else inputs
    if kind == "node":
        edges = [convolutions(conv, end) for end in "ab"]
        x = NodeChoice(edges, keep=1, name="node")([x, x])
    elif kind == "outside":
        x = Choice([conv, layers.Identity(name="skip")], name="choice")(x)
    else:
        for end in "ab"[: 2 if kind == "two" else 1]:
            x = Choice(convolutions(conv, end), name=f"choice{end}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def steps_of(joint):
    rng = np.random.default_rng(0)
    batch = (
        tf.constant(rng.normal(size=(6, 4, 4, 3)).astype("float32")),
        tf.constant(rng.integers(0, 3, 6)),
    )
    step = tf.function(joint.train_step, autograph=False)
    return [float(step(batch, tf.constant(1.0))) for _ in range(3)]


@pytest.mark.parametrize("is_derived", [False, True], ids=["supernet", "plain"])
@pytest.mark.parametrize("kind", ["one", "two", "node", "outside"])
def test_layers_that_candidates_share_stay_shared(kind, is_derived, tmp_path):
    joint = JointModel(
        sharing_network(kind),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        strategy=DSNAS(),
    )
    joint.architecture.start()
    if is_derived:
        joint = carried_over.derived(joint)
    steps_of(joint)
    copy = reloaded(joint, tmp_path)
    assert len(find_layers(copy.network, layers.Conv2D)) == 1
    assert len(copy.variables) == len(joint.variables)
    assert steps_of(copy) == steps_of(joint)
    for ours, theirs in zip(joint.variables, copy.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def functional(name, activation):
    inputs = keras.Input((2,))
    x = activation(layers.Dense(2, name=f"{name}_dense")(inputs))
    return keras.Model(inputs, x, name=name)


def test_functional_candidates_may_share_what_has_no_state(tmp_path):
    """Keras finds the calls of a layer that several graphs share in one."""
    relu = layers.ReLU()
    inputs = keras.Input((2,))
    choice = Choice([functional(name, relu) for name in "ab"])
    model = keras.Model(inputs, choice(inputs))
    choice.decision.freeze(1)
    copy = reloaded(model, tmp_path)
    x = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    np.testing.assert_array_equal(copy(x), model(x))


# Bad input


def test_one_candidate():
    with pytest.raises(ValueError, match="at least two candidates"):
        Choice([layers.Dense(2)])
    with pytest.raises(ValueError, match="at least two candidates"):
        Choice([])


@pytest.mark.parametrize("other", ["relu", None, tf.nn.relu, layers.ReLU])
def test_a_candidate_that_is_no_layer(other):
    with pytest.raises(ValueError, match="must be a Keras layer.*Received"):
        Choice([layers.Dense(2), other])


def test_one_layer_twice():
    dense = layers.Dense(2, name="mine")
    with pytest.raises(ValueError, match="distinct.*mine"):
        Choice([dense, dense])


def test_two_candidates_of_one_name():
    """The genotype could not tell which of them was chosen."""
    with pytest.raises(ValueError, match="distinct names.*conv"):
        Choice([layers.Conv2D(2, k, name="conv") for k in (1, 3)])


def test_a_decision_of_another_size():
    with pytest.raises(ValueError, match="3 options, 2 candidates"):
        Choice([layers.Dense(2), layers.Dense(2)], decision=Decision(3))


@pytest.mark.parametrize("decision", ["kernel", 2])
def test_a_decision_that_is_none(decision):
    with pytest.raises(ValueError, match="`decision` must be a"):
        Choice([layers.Dense(2), layers.Dense(2)], decision=decision)


@pytest.mark.parametrize(
    "other",
    [
        layers.Conv2D(5, 3, padding="same", name="wider"),
        layers.Conv2D(4, 3, name="smaller"),
        layers.GlobalAveragePooling2D(name="flat"),
    ],
    ids=lambda layer: layer.name,
)
def test_outputs_of_different_shape(other):
    choice = Choice([layers.Conv2D(4, 3, padding="same", name="three"), other])
    with pytest.raises(ValueError, match=f"one shape.*three: .*{other.name}"):
        choice(keras.Input((8, 8, 4)))


@pytest.mark.parametrize(
    "layer",
    [
        layers.Dense(2, activity_regularizer="l2", name="mine"),
        layers.ActivityRegularization(0.1, name="mine"),
    ],
)
@pytest.mark.parametrize("is_nested", [False, True])
def test_candidates_with_losses_of_what_they_give(layer, is_nested):
    # In a graph TensorFlow would find such a loss out of scope.
    if is_nested:
        layer = keras.Sequential([layers.ReLU(), layer], name="around")
    others = [layers.Dense(2, kernel_regularizer="l2"), layers.Identity()]
    match = "`activity_regularizer`.*kernel_regularizer.*Received.*'mine'"
    with pytest.raises(ValueError, match=match):
        Choice([*others, layer])
    with pytest.raises(ValueError, match=match):
        NodeChoice([others[:1] + [layer]], keep=1)


@pytest.mark.parametrize("kind", [Choice, NodeChoice])
def test_a_loss_of_what_the_choice_gives(kind):
    """It would be gone where the network is derived."""
    candidates = [layers.Dense(2), layers.Dense(2)]
    candidates = candidates if kind is Choice else [candidates] * 2
    match = "no `activity_regularizer`.*behind.*Received: layer=mine"
    with pytest.raises(ValueError, match=match):
        kind(candidates, activity_regularizer="l2", name="mine")


@pytest.mark.parametrize("is_node", [False, True])
def test_an_input_with_a_mask(is_node):
    """A plain step would not see it, and other passes would."""
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(5, 3, mask_zero=True)(inputs)
    candidates = [layers.LSTM(2, name="lstm"), layers.GRU(2, name="gru")]
    if is_node:
        choice, x = NodeChoice([candidates], keep=1), [x]
    else:
        choice = Choice(candidates)
    match = f"masked input.*mask_zero.*Received.*{choice.name}"
    with pytest.raises(ValueError, match=match):
        choice(x)


def test_a_mask_within_a_candidate():
    """Zeros at the end say nothing, as the words before them are the same."""
    embedded = layers.Embedding(5, 3, mask_zero=True)
    choice = Choice(
        [
            keras.Sequential([embedded, layers.LSTM(2)], name="lstm"),
            keras.Sequential([embedded, layers.GRU(2)], name="gru"),
        ]
    )
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, choice(inputs))
    for sampled in range(2):
        choice.decision.sampled.assign(sampled)
        run = tf.function(lambda x: model(x, training=True))
        long = run(np.array([[1, 2, 0, 0]], "int32"))
        np.testing.assert_allclose(
            long, run(np.array([[1, 2]], "int32")), rtol=1e-6
        )


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("kind", ["embedding", "masking"])
def test_a_candidate_that_hands_a_mask_on(kind, is_nested):
    """The derived network would have it, and the searched one does not."""
    if kind == "embedding":
        inputs = keras.Input((4,), dtype="int32")
        makes = layers.Embedding(5, 3, mask_zero=True)
        other = layers.Embedding(5, 3)
    else:
        inputs = keras.Input((4, 3))
        makes, other = layers.Masking(), layers.Dense(3)
    if is_nested:
        keeps = layers.GRU(3, return_sequences=True)
        makes = keras.Sequential([makes, keeps], name="around")
    choice = Choice([other, makes], name="mine")
    match = f"no mask.*mask_zero.*Received.*{makes.name}.*mine"
    with pytest.raises(ValueError, match=match):
        choice(inputs)


def test_outputs_of_different_data_types():
    """In a graph TensorFlow would fail from within, and run it eagerly."""
    inside = keras.Input((4,))
    casts = keras.Model(inside, keras.ops.cast(inside, "float16"), name="casts")
    choice = Choice([layers.Dense(4, name="plain"), casts])
    match = "one data type.*Received.*plain: float32, casts: float16"
    with pytest.raises(ValueError, match=match):
        choice(keras.Input((4,)))


def test_candidates_of_one_data_type_that_is_not_that_of_the_choice():
    names = {"dtype": "mixed_bfloat16"}
    choice = Choice(
        [layers.Dense(4, **names), layers.Identity(**names)], name="choice"
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, choice(inputs))
    run = tf.function(lambda x: model(x, training=True))
    for sampled in range(2):
        choice.decision.sampled.assign(sampled)
        assert run(np.ones((2, 4), "float32")).dtype == "bfloat16"


@pytest.mark.parametrize(
    "make", [list, lambda x: dict(zip("ab", x, strict=True))]
)
def test_several_inputs(make):
    inputs = make([keras.Input((3,), name="a"), keras.Input((3,), name="b")])
    choice = Choice([layers.Add(), layers.Multiply()], name="mine")
    match = "one tensor.*NodeChoice.*Received.*layer=mine"
    with pytest.raises(ValueError, match=match):
        choice(inputs)
