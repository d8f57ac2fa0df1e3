"""within_a_target.py  A network that is no larger than it may be.

Searches small residual networks on scikit-learn's handwritten digits for one
within a number of parameters and of operations, trained by AdamW, with a
learned strength of label smoothing.

    python recipes/within_a_target.py
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras_dha

################################ Settings ################################

TINY = os.environ.get("KERAS_DHA_TINY") == "1"  # for a quick look, or CI
EPOCHS = 2 if TINY else 30
LIMIT = 300 if TINY else None
SEED = 1

################################## Data ##################################

data = keras_dha.datasets.load("digits", limit=LIMIT)

################################# Search #################################

model = keras_dha.AutoModel(
    search_space="resnet",
    # Of the 64 networks of this space 12 are within both.
    target={"params": 60_000, "flops": 2e6},
    hyperparameters={
        "learning_rate": keras_dha.Range(1e-4, 0.1),
        "weight_decay": 1e-2,
        "label_smoothing": keras_dha.Range(0.01, 0.3),
    },
    seed=SEED,
)
model.compile(optimizer="adamw")
model.fit(data.x_train, data.y_train, epochs=EPOCHS, verbose=2)

################################# Result #################################

result = model.evaluate(data.x_test, data.y_test, return_dict=True)
print(model.result.summary())
print(f"Test accuracy  {result['accuracy']:.2%}")
