import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import carried_over
from keras_dha import inner_pass
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.strategies import DSNAS
from keras_dha.hyperparameters import hypergradient
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.joint_model import JointModel
from keras_dha.joint_step import search_gradient
from keras_dha.update_rules import SGD
from keras_dha.update_rules import AdamW
from tests.references import central_difference
from tests.references import positions_of

CLASSES, BATCH = 3, 6
LEARNED = {
    "learning_rate": Range(1e-3, 1.0, start=0.05),
    "weight_decay": Range(1e-4, 1.0, start=0.02),
    "momentum": Range(0.1, 0.99, "linear", start=0.8),
}
RULES = {
    "sgd": SGD(),
    "nesterov_clipped": SGD(nesterov=True, global_clipnorm=0.2),
    "adamw": AdamW(),
}


@pytest.fixture
def float64():
    # The policy is kept from the first layer on, whatever floatx becomes.
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def batch(seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    return (
        tf.constant(rng.normal(size=(BATCH, 6, 6, 2)).astype(dtype)),
        tf.constant(rng.integers(0, CLASSES, BATCH)),
    )


def small_network(choice=False):
    """Convolution, normalisation, smooth activations: no kinks to cross."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="tanh")(x)
    x = layers.BatchNormalization()(x)
    if choice:
        branch = Choice(
            [
                layers.Conv2D(4, 3, padding="same", name="three"),
                layers.Conv2D(4, 1, name="one"),
                layers.Conv2D(4, 5, padding="same", name="five"),
            ],
            name="kernel",
        )(x)
        x = layers.Add()([x, branch])
    x = layers.Conv2D(4, 3, strides=2, activation="tanh")(x)
    x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def joint_model(values, network=None, **kwargs):
    return JointModel(
        network or small_network(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        hyperparameters=LearnedHyperparameters(
            values, horizon=hypergradient.ONE_STEP
        ),
        **kwargs,
    )


def snapshot(model):
    return [v.numpy() for v in model.variables]


def restore(model, values):
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def search_loss(joint, data, training=True):
    """The search loss at the current weights; statistics stay as they are."""
    saved = snapshot(joint)
    images, labels = data
    losses = joint.loss_object.call(
        labels, joint.network(images, training=training)
    )
    restore(joint, saved)
    return float(tf.reduce_mean(losses))


@pytest.mark.parametrize("name", hypergradient.OPTIMIZER)
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_hypergradient_through_a_network(float64, name, momentum):
    values = {**LEARNED, "momentum": momentum}
    values[name] = (
        LEARNED[name]
        if name != "momentum"
        else (Range(0.0, 0.9, "linear", start=momentum))
    )
    joint = joint_model(values)
    for k in range(2):  # so that there is a velocity to speak of
        joint.train_step(batch(k), 1.0)
    before = snapshot(joint)

    joint.train_step(batch(2), 0.7)
    ours = hypergradient.hypergradient(
        search_gradient(joint, batch(3)), joint.hyperparameters.tangents[name]
    )

    def loss(value):
        restore(joint, before)
        learned = joint.hyperparameters
        index, scale = learned.learned.index(name), learned.values[name].scale
        position = learned.position.numpy()
        position[index] = np.log(value) if scale == "log" else value
        learned.position.assign(position)
        joint.train_step(batch(2), 0.7)
        return search_loss(joint, batch(3))

    start = float(values[name].start)
    expected = central_difference(loss, start)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def influence_of_a_step(monkeypatch, values=LEARNED, rule=None):
    """A joint model after a step, it before, the images' influence."""
    joint, seen = joint_model(values, rule=rule), {}
    monkeypatch.setattr(
        joint.policy, "augment", lambda x, *_: ("choices", x, None)
    )
    monkeypatch.setattr(
        type(joint.policy), "is_learned", property(lambda self: True)
    )
    monkeypatch.setattr(
        joint.policy, "update", lambda c, r, *_: seen.update(influence=r)
    )
    monkeypatch.setattr(
        joint.policy, "smoothed", lambda direction, _: direction
    )
    monkeypatch.setattr(joint.policy, "follow", lambda weights: None)
    monkeypatch.setattr(
        type(joint), "shares_average", property(lambda self: True)
    )
    for k in range(2, 4):  # so that there are slots to speak of
        joint.train_step(batch(k), 1.0)
    before = snapshot(joint)
    joint.train_step(batch(0), 1.0, batch(1))
    return joint, before, seen["influence"]


def slopes_by_image(joint, before, monkeypatch):
    """dL_S(w')/dm_i, with factors m_i of 1 on the losses of a step's images."""

    def loss(factors):
        restore(joint, before)
        monkeypatch.setattr(
            inner_pass, "unit_factors", lambda *_: tf.constant(factors)
        )
        joint.train_step(batch(0), 1.0)
        return search_loss(joint, batch(1))

    return np.array(
        [
            central_difference(lambda e, u=unit: loss(1.0 + e * u), 0.0)
            for unit in np.eye(BATCH)
        ]
    )


@pytest.mark.parametrize(
    "averaging, window, shares",
    [(0.9, 0.0, True), (0.9, 0.1, False), (0.99, 0.0, False)],
)
def test_one_search_gradient_serves_where_averages_are_the_same(
    averaging, window, shares
):
    horizon = hypergradient.Horizon(averaging=averaging, window=window)
    joint = JointModel(
        small_network(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        hyperparameters=LearnedHyperparameters(LEARNED, horizon=horizon),
    )
    assert joint.shares_average == shares


@pytest.mark.parametrize(
    "rule, by_groups",
    [*((name, False) for name in RULES), ("nesterov_clipped", True)],
)
def test_influence_of_each_image_equals_central_differences(
    float64, monkeypatch, rule, by_groups
):
    # A step goes a hundredth as far on all but the last layer.
    rates = {"dense*": Range(1e-3, 1.0, start=0.1), "*": 1e-3}
    values = {**LEARNED, "learning_rate": rates} if by_groups else LEARNED
    joint, before, influence = influence_of_a_step(
        monkeypatch, values, RULES[rule]
    )
    rate = 0.1 if by_groups else 0.05
    expected = slopes_by_image(joint, before, monkeypatch) / -rate
    assert np.std(expected) > 1e-4
    np.testing.assert_allclose(influence, expected, rtol=1e-4)


def test_influence_equals_forward_mode(float64, monkeypatch):
    joint, before, influence = influence_of_a_step(monkeypatch)
    images, labels = batch(0)
    direction = joint.weight_vector.split(search_gradient(joint, batch(1)))
    restore(joint, before)
    with tf.autodiff.ForwardAccumulator(
        joint.weight_vector.tensors(), direction
    ) as forward:
        outputs = joint.network(images, training=True)
        losses = joint.loss_object.call(labels, outputs) / BATCH
    np.testing.assert_allclose(influence, forward.jvp(losses), rtol=1e-9)


def test_the_search_pass_leaves_statistics_alone():
    joint = joint_model(LEARNED)
    before = snapshot(joint)
    gradient = search_gradient(joint, batch(0, "float32"))
    assert np.linalg.norm(gradient) > 1e-3
    for old, new in zip(before, snapshot(joint), strict=True):
        np.testing.assert_array_equal(old, new)


class Penalised(layers.Layer):
    """Adds a loss for each example, as Keras sums it."""

    def call(self, x):
        self.add_loss(keras.ops.mean(keras.ops.square(x), axis=-1))
        return x


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_penalties_count_whatever_their_shape_and_dtype(policy):
    inputs = keras.Input((3,))
    x = Penalised(dtype=policy)(inputs)
    dense = layers.Dense(2, kernel_regularizer="l2", dtype=policy)
    joint = JointModel(
        keras.Model(inputs, dense(x)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    data = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    labels = np.array([0, 1, 1, 0, 1, 0])
    kernel = dense.kernel.numpy()
    z = data @ kernel
    entropy = np.log(np.exp(z).sum(axis=1)) - z[np.arange(6), labels]
    expected = (data**2).mean(axis=1).sum() + 0.01 * (kernel**2).sum()
    expected += entropy.mean()
    loss = joint.train_step((tf.constant(data), tf.constant(labels)), 1.0)
    rtol = 1e-5 if policy == "float32" else 1e-2
    np.testing.assert_allclose(loss, expected, rtol=rtol)


def test_the_search_pass_of_a_choice_that_is_called_twice():
    choice = Choice(
        [
            keras.Sequential([layers.BatchNormalization(name=f"n{k}")])
            for k in range(2)
        ],
        name="norm",
    )
    inputs = keras.Input((6, 6, 2))
    x = layers.GlobalAveragePooling2D()(choice(choice(inputs)))
    network = keras.Model(inputs, layers.Dense(CLASSES)(x))
    joint = joint_model(LEARNED, network, strategy=DSNAS())
    step = tf.function(joint.train_step, autograph=False)
    loss = step(batch(0, "float32"), tf.constant(1.0), batch(1, "float32"))
    assert np.isfinite(loss)


def test_an_unsampled_candidate_does_not_move():
    joint = joint_model(
        {"momentum": 0.9, "weight_decay": 0.1},
        small_network(choice=True),
        strategy=DSNAS(),
    )
    choice = joint.network.get_layer("kernel")
    step = tf.function(joint.train_step, autograph=False)
    owned = [
        positions_of(joint.weight_vector, c.trainable_variables)
        for c in choice.candidates
    ]
    moved = set()
    for k in range(12):
        weights = joint.weight_vector.read().numpy()
        velocity = joint.slots[0].numpy()
        step(batch(k, "float32"), tf.constant(1.0))
        sampled = int(choice.decision.sampled.numpy())
        for candidate, where in enumerate(owned):
            now = joint.weight_vector.read().numpy()[where]
            if candidate == sampled:
                assert np.all(now != weights[where])
                moved.add(candidate)
            else:
                np.testing.assert_array_equal(now, weights[where])
                np.testing.assert_array_equal(
                    joint.slots[0].numpy()[where], velocity[where]
                )
    assert moved == {0, 1, 2}


def test_each_candidate_has_adams_steps_of_its_own(monkeypatch):
    """Against Keras' optimizer, of the steps that a candidate ran in."""
    rule, gradients = AdamW(), []
    step = rule.step

    def recorded(at, extent):
        gradients.append(at.gradient.numpy())
        return step(at, extent)

    monkeypatch.setattr(rule, "step", recorded)
    values = {"learning_rate": 0.01, "weight_decay": 0.0, "momentum": 0.9}
    joint = joint_model(
        values, small_network(choice=True), strategy=DSNAS(), rule=rule
    )
    choice = joint.network.get_layer("kernel")
    start = [c.kernel.numpy() for c in choice.candidates]
    sampled = []
    for k in range(9):
        joint.train_step(batch(k, "float32"), 1.0)
        sampled.append(int(choice.decision.sampled.numpy()))
    assert set(sampled) == {0, 1, 2}
    for index, candidate in enumerate(choice.candidates):
        where = positions_of(joint.weight_vector, [candidate.kernel])
        variable = keras.Variable(start[index])
        optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.0)
        for gradient, ran in zip(gradients, sampled, strict=True):
            if ran == index:
                part = gradient[where].reshape(variable.shape)
                optimizer.apply([tf.constant(part)], [variable])
        np.testing.assert_allclose(candidate.kernel, variable, atol=1e-6)
        np.testing.assert_array_equal(
            joint.counts.numpy()[where], sampled.count(index)
        )
    # The derived network goes on counting from there.
    choice.decision.freeze(1)
    derived = carried_over.derived(joint)
    kernel = choice.candidates[1].kernel
    where = positions_of(derived.weight_vector, [kernel])
    derived.train_step(batch(9, "float32"), 1.0)
    np.testing.assert_array_equal(
        derived.counts.numpy()[where], sampled.count(1) + 1
    )


def test_where_nothing_is_chosen_there_is_one_count(tmp_path):
    joint = joint_model({}, rule=AdamW())
    assert joint.counts.shape == (0,)
    choosing = {"network": small_network(choice=True), "strategy": DSNAS()}
    joint = joint_model({}, **choosing, rule=AdamW())
    assert joint.counts.shape == (joint.weight_vector.size,)
    joint.train_step(batch(0, "float32"), 1.0)
    joint.save(tmp_path / "joint.keras")
    again = keras.models.load_model(tmp_path / "joint.keras")
    np.testing.assert_array_equal(again.counts, joint.counts)
    assert joint_model({}, **choosing).counts.shape == (0,)


def test_a_constraint_holds_what_a_step_moves():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    choice = Choice(
        [
            layers.Dense(4, kernel_constraint="unit_norm", name=name)
            for name in ("one", "other")
        ],
        name="choice",
    )
    network = keras.Model(inputs, layers.Dense(CLASSES)(choice(inputs)))
    joint = joint_model(LEARNED, network, strategy=DSNAS())
    data = tf.ones([BATCH, 5]), batch(0)[1]
    moved = set()
    for _ in range(8):
        before = [c.kernel.numpy() for c in choice.candidates]
        joint.train_step(data, 1.0)
        sampled = int(choice.decision.sampled.numpy())
        moved.add(sampled)
        kernel = choice.candidates[sampled].kernel.numpy()
        np.testing.assert_allclose(
            np.linalg.norm(kernel, axis=0), 1.0, rtol=1e-5
        )
        other = 1 - sampled
        np.testing.assert_array_equal(
            choice.candidates[other].kernel, before[other]
        )
    assert moved == {0, 1}
    # What is judged, here an average over one step, is what was projected.
    np.testing.assert_array_equal(
        joint.weight_vector.read(), joint.hyperparameters.averaged
    )


def test_an_unsampled_candidates_statistics_do_not_move():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    choice = Choice(
        [
            keras.Sequential([layers.BatchNormalization(name=f"n{k}")])
            for k in range(2)
        ],
        name="norm",
    )
    x = layers.GlobalAveragePooling2D()(choice(inputs))
    network = keras.Model(inputs, layers.Dense(CLASSES)(x))
    joint = joint_model({}, network, strategy=DSNAS())
    for k in range(6):
        before = [c.layers[0].moving_mean.numpy() for c in choice.candidates]
        joint.train_step(batch(k, "float32"), 1.0)
        sampled = int(choice.decision.sampled.numpy())
        for index, candidate in enumerate(choice.candidates):
            same = np.array_equal(
                before[index], candidate.layers[0].moving_mean.numpy()
            )
            assert same == (index != sampled)


def test_a_graph_holds_no_constants_as_large_as_the_weights():
    inputs = keras.Input((300,))
    wide = [layers.Dense(300, name=name) for name in ("one", "other")]
    x = layers.Dense(CLASSES)(Choice(wide, name="choice")(inputs))
    groups = {"choice": Range(1e-3, 1.0, start=0.1), "*": 0.1}
    joint = JointModel(
        keras.Model(inputs, x),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        hyperparameters=LearnedHyperparameters({"learning_rate": groups}),
        strategy=DSNAS(),
    )
    data = tf.zeros([8, 300]), tf.zeros(8, "int32")
    step = tf.function(joint.train_step, autograph=False)
    graph = step.get_concrete_function(data, tf.constant(1.0), data).graph
    text = graph.as_graph_def().SerializeToString()
    assert len(text) < 2 * joint.weight_vector.size


@pytest.mark.parametrize("shared", ["choices", "decisions"])
def test_choices_of_one_name_in_nested_models(shared):
    """The result would have one of them only."""
    parts = []
    for k in range(2):
        one = k if shared == "decisions" else ""
        candidates = [layers.Dense(3, name=f"{name}{k}") for name in "ab"]
        decision = None
        if shared == "decisions":
            decision = Decision(2, name="same")
        choice = Choice(candidates, decision, name=f"same{one}")
        parts.append(keras.Sequential([keras.Input((3,)), choice]))
    network = keras.Sequential([keras.Input((3,)), *parts])
    with pytest.raises(ValueError, match="distinct names.*Received.*'same"):
        joint_model({}, network)


@pytest.mark.parametrize("how", ["mixup", "augmentation"])
def test_networks_of_integers_are_given_rounded_images(how):
    """Keras casts, and thin strokes that were turned would vanish."""
    from keras_dha.augmentation.layer import DifferentiableAugmentation

    inputs = keras.Input((8, 8, 1), dtype="uint8")
    x = layers.Flatten()(layers.Rescaling(1.0)(inputs))
    layer = DifferentiableAugmentation(
        ["Rotate"], levels=(0.9,), flip=None, shift=None, value_range=(0, 1)
    )
    layer.build((None, 8, 8, 1))
    joint = joint_model(
        {"mixup": 1.0} if how == "mixup" else {},
        keras.Model(inputs, layers.Dense(CLASSES)(x)),
        augmentation=layer if how == "augmentation" else None,
    )
    images = np.random.default_rng(0).integers(0, 2, (64, 8, 8, 1))
    data = tf.constant(images, tf.uint8), tf.zeros(64, "int32")
    passed = inner_pass.run(
        *(joint, joint.weight_vector.read(), data, tf.constant([1, 2])),
        {"mixup": tf.constant(1.0)} if how == "mixup" else {},
    )
    seen = passed.inputs.numpy()
    assert not np.array_equal(seen, images)
    np.testing.assert_array_equal(seen, np.round(seen))
    # Cut off, a quarter of the ones would be lost.
    assert seen.mean() == pytest.approx(images.mean(), rel=0.1)
