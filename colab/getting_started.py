# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Getting started with keras_dha
#
# One run trains a network and learns, on the way, which architecture it should
# have, how its images should be augmented, and with which learning rate and
# weight decay it is trained. What comes out is a plain Keras model.
#
# The data are scikit-learn's 1,797 handwritten digits, so that the notebook
# needs no download and takes about a minute or two on a CPU.

# %%
# %pip install -q "keras_dha[datasets]"

# %%
import os
import tempfile

import keras
import numpy as np

import keras_dha

# Set KERAS_DHA_TINY=1 for a dry run in seconds.
TINY = os.environ.get("KERAS_DHA_TINY") == "1"
EPOCHS, LIMIT = (2, 300) if TINY else (30, None)

# %% [markdown]
# ## Data
#
# A fifth of each class is held out for testing. Images and labels are NumPy
# arrays; a `tf.data.Dataset` of (image, label) serves as well.

# %%
data = keras_dha.datasets.load("digits", limit=LIMIT)
data.x_train.shape, data.x_test.shape

# %% [markdown]
# ## One fit
#
# `AutoModel` finds out about shapes, classes and value range by itself. It
# sets a twentieth of the training images aside, which train no weights but
# judge policy and hyperparameters.

# %%
model = keras_dha.AutoModel(seed=1)
history = model.fit(data.x_train, data.y_train, epochs=EPOCHS, verbose=2)

# %% [markdown]
# ## What it found

# %%
print(model.result.summary())

# %%
model.evaluate(data.x_test, data.y_test, return_dict=True)

# %% [markdown]
# ## Your own choices
#
# `keras_dha.Choice` is a Keras layer that holds candidates. Put it where you
# cannot decide. It works best as the branch of a residual connection, where
# the scale of its output counts.


# %%
def build(input_shape, num_classes):
    image = keras.Input(input_shape, name="image")
    x = keras.layers.Rescaling(1 / 16)(image)
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    branch = keras_dha.Choice(
        [
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.SeparableConv2D(16, 5, padding="same"),
            keras.layers.Identity(),
        ]
    )(x)
    x = keras.layers.Add()([x, branch])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(num_classes)(x))


mine = keras_dha.AutoModel(build, seed=1)
mine.fit(data.x_train, data.y_train, epochs=EPOCHS, verbose=0)
mine.result.genotype

# %% [markdown]
# ## Keep and serve it
#
# The result is an ordinary `keras.Model` of stock layers. It is saved as such,
# and exported for TF Serving or for a phone.

# %%
folder = tempfile.mkdtemp()
plain = model.export_model()
plain.save(f"{folder}/digits.keras")
model.export(f"{folder}/digits/1")
model.export(f"{folder}/digits.tflite", format="litert")
sorted(os.listdir(folder))

# %% [markdown]
# What is loaded predicts what was trained:

# %%
again = keras.saving.load_model(f"{folder}/digits.keras")
np.abs(again.predict(data.x_test, verbose=0) - model.predict(data.x_test)).max()
