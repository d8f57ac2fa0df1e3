"""fine_tune.py  A network that knows some classes learns others.

A small network is trained on the digits 0 to 4. With a new last layer it then
learns 5 to 9 from 100 images: the last layer alone, all of it, and all of it
from new weights. A network of `keras.applications` goes in its place.

    python recipes/fine_tune.py
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from keras import layers

import keras_dha

################################ Settings ################################

TINY = os.environ.get("KERAS_DHA_TINY") == "1"  # for a quick look, or CI
EPOCHS = 2 if TINY else 30
IMAGES = 100
SEED = 1

################################## Data ##################################

data = keras_dha.datasets.load("digits")
known, new = data.y_train < 5, data.y_train >= 5
x_few, y_few = data.x_train[new][:IMAGES], data.y_train[new][:IMAGES] - 5
tested = data.y_test >= 5
x_test, y_test = data.x_test[tested], data.y_test[tested] - 5

############################### Known before ##############################

keras.utils.set_random_seed(SEED)
features = keras.Sequential(
    [
        keras.Input(data.x_train.shape[1:]),
        layers.Rescaling(1 / 16),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.BatchNormalization(),
        layers.Conv2D(64, 3, padding="same", activation="relu"),
        layers.BatchNormalization(),
        layers.GlobalMaxPooling2D(),
    ]
)
before = keras.Sequential([features, layers.Dense(5, activation="softmax")])
before.compile("adam", "sparse_categorical_crossentropy")
before.fit(data.x_train[known], data.y_train[known], epochs=EPOCHS, verbose=0)

############################## Learned later ##############################


def tuned(features):
    """Returns the test accuracy of the features with a new last layer."""
    network = keras.Sequential(
        [features, layers.Dropout(0.2), layers.Dense(5, activation="softmax")]
    )
    model = keras_dha.AutoModel(network, seed=SEED)
    model.fit(x_few, y_few, epochs=EPOCHS, verbose=0)
    return model.evaluate(x_test, y_test, verbose=0)[1]


print(f"{len(x_few)} training and {len(x_test)} test images")
features.trainable = False
print(f"Test accuracy, last layer alone   {tuned(features):.2%}")
features.trainable = True
print(f"Test accuracy, all of it          {tuned(features):.2%}")
new_weights = keras.models.clone_model(features)
print(f"Test accuracy, from new weights   {tuned(new_weights):.2%}")
