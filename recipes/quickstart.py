"""quickstart.py  Joint search on scikit-learn's handwritten digits.

Trains one small residual network and learns its architecture, its augmentation
policy, learning rate and weight decay in the same run; then serves it. Prints
what it found and how well it does, and makes no claim beforehand.

    python recipes/quickstart.py
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
SEED = 1

################################## Data ##################################

data = keras_dha.datasets.load("digits", limit=LIMIT)
print(f"{len(data.y_train)} training and {len(data.y_test)} test images")

################################# Search #################################

model = keras_dha.AutoModel(
    search_space="resnet",
    hyperparameters={
        "learning_rate": keras_dha.Range(1e-3, 1.0),  # learned
        "weight_decay": keras_dha.Range(1e-4, 1e-2),  # learned
        "momentum": 0.9,  # fixed
    },
    seed=SEED,
)
model.fit(data.x_train, data.y_train, epochs=EPOCHS, verbose=2)

################################# Result #################################

result = model.evaluate(data.x_test, data.y_test, return_dict=True)
print(model.result.summary())
print(f"Test accuracy  {result['accuracy']:.2%}")

################################# Export #################################

with tempfile.TemporaryDirectory() as folder:
    plain = model.export_model()
    plain.save(pathlib.Path(folder) / "digits.keras")
    model.export(f"{folder}/digits/1")
    model.export(f"{folder}/digits.tflite", format="litert")

    loaded = tf.saved_model.load(f"{folder}/digits/1")
    served = loaded.serve(data.x_test)
    apart = keras.ops.max(keras.ops.abs(served - plain.predict(data.x_test)))
    size = os.path.getsize(f"{folder}/digits.tflite") / 1024
    print(f"Served and own predictions differ by {float(apart):.1e} at most")
    print(f"The LiteRT file has {size:.0f} KiB")
