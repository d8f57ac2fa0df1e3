"""Learned data augmentation for images.

`geometric`, `photometric` and `mixing` hold the operations, `surrogates` the
derivatives that they lack, `operations` their catalogue. `policy` describes in
plain data what was learned; `choices` samples it and differentiates its
likelihood; `dispatch` carries choices out. `layer` is the Keras layer, and
`learned` what a run adds to it, with one of the `estimators`.
"""

import sys


def is_policy_layer(layer):
    """Returns whether something is a layer with a policy.

    Nothing is one before its module was imported, which would load KerasCV.
    """
    module = sys.modules.get("keras_dha.augmentation.policy_layer")
    return module is not None and isinstance(layer, module.PolicyLayer)
