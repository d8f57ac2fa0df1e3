"""policy_alone.py  Learn how to augment, then use it in any Keras training.

One run learns an augmentation policy for scikit-learn's handwritten digits.
The policy is written as JSON, read back, and put into the `tf.data` pipeline
of an ordinary `keras.Model.fit`, beside TrivialAugment, which learns nothing.

    python recipes/policy_alone.py
"""

import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

import keras_dha

################################ Settings ################################

TINY = os.environ.get("KERAS_DHA_TINY") == "1"  # for a quick look, or CI
EPOCHS = 2 if TINY else 30
LIMIT = 300 if TINY else None
VALUE_RANGE = (0, 16)
SEED = 1

################################## Data ##################################

data = keras_dha.datasets.load("digits", limit=LIMIT)

################################# Search #################################

# Without a strategy each choice takes its first candidate: a plain network, of
# which only policy and rates are learned.
network = keras_dha.spaces.resnet(
    data.x_train.shape[1:], 10, value_range=VALUE_RANGE
)
model = keras_dha.AutoModel(network, strategy=None, seed=SEED)
model.fit(data.x_train, data.y_train, epochs=EPOCHS, verbose=2)
print(model.result.summary())

################################# Policy #################################

with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "policy.json"
    path.write_text(model.result.policy.to_json())
    policy = keras_dha.Policy.from_json(path.read_text())

################################ Training ################################


def trained(layer):
    """Returns the test accuracy of plain training with a layer."""
    keras.utils.set_random_seed(SEED)
    copy = keras.models.clone_model(model.export_model())
    copy.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    images = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
    images = (
        images.shuffle(2000, seed=SEED)
        .batch(32)
        .map(lambda x, y: (layer(x, training=True), y))
    )
    copy.fit(images, epochs=EPOCHS, verbose=0)
    return copy.evaluate(data.x_test, data.y_test, verbose=0)[1]


learned = policy.to_layer(value_range=VALUE_RANGE, seed=SEED)
trivial = keras_dha.DifferentiableAugmentation.trivial_augment(
    value_range=VALUE_RANGE, seed=SEED
)
print(f"Test accuracy with the learned policy  {trained(learned):.2%}")
print(f"Test accuracy with TrivialAugment      {trained(trivial):.2%}")
