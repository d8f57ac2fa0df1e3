"""Joint models that take the place of another one in the middle of a run.

The derived plain network, and the network as whole images are shown it, are
made of layers of the one before. Their joint models go on from where that one
is: with its weights, slots and averages, and with all that it has learned.
"""

import keras
import numpy as np

from keras_dha import small_images
from keras_dha.architecture.absorb import absorb
from keras_dha.architecture.derive import derive_with_copies
from keras_dha.joint_model import JointModel


def derived(joint):
    """Returns the joint model of the derived plain network.

    Args:
        joint: `JointModel`, whose architecture is decided by this.
    """
    joint.architecture.decide()
    _absorb(joint)
    return _carried_over(joint, *derive_with_copies(joint.network))


def on_whole_images(joint):
    """Returns the joint model of the network as whole images are shown it.

    Args:
        joint: `JointModel` of a network that is shown small images, derived
            before if it had choices.
    """
    return _carried_over(joint, small_images.whole(joint.network))


def _carried_over(joint, network, copies=()):
    """Returns the joint model of a plain network of the same layers.

    Args:
        joint: `JointModel`.
        network: `keras.Model`.
        copies: List of pairs (layer, what has a copy of its weights in the
            network), as `derive_with_copies` returns them.
    """
    learned = joint.hyperparameters
    vector = joint.weight_vector
    known = zip(vector.variables, joint.paths, strict=True)
    paths = {id(variable): path for variable, path in known}
    positions = vector.positions()
    for part, copy in copies:
        whole = part.whole.kernel
        if id(whole) in positions:
            paths[id(copy.kernel)] = paths[id(whole)]
            positions[id(copy.kernel)] = positions[id(whole)][part.positions()]
    made = JointModel(
        network,
        joint.loss_object,
        metrics=joint.metric_list,
        augmentation=joint.policy.augmentation,
        hyperparameters=type(learned).from_config(learned.get_config()),
        rule=joint.rule,
        policy_rate=joint.policy.rate,
        step_share=joint.policy.step_share,
        refinement=joint.refinement,
        seed=joint.seed,
        target=joint.target,
        paths=[paths[id(v)] for v in network.trainable_variables],
        counts_each=joint.counts_each,
        name=joint.name,
    )
    # The layer is the same one, and need not be traced again.
    made.policy.graph = joint.policy.graph
    kept = np.concatenate(
        [positions[id(v)] for v in made.weight_vector.variables]
    )
    for theirs, ours in zip(
        made.state_variables(), joint.state_variables(), strict=True
    ):
        value = keras.ops.convert_to_numpy(ours)
        is_of_weights = value.shape == (vector.size,)
        theirs.assign(value[kept] if is_of_weights else value)
    return made


def _absorb(joint):
    """Takes the weights of sparse codes into those of the candidates.

    The averaged weights are the same network a little earlier, so they
    are scaled as well, and so is what weights answer to hyperparameters.
    What is made of gradients goes the other way: L(s w) has 1/s of them.
    """
    scaled = absorb(joint.network)
    positions = joint.weight_vector.positions()
    for vector, power, is_signed in _powers(joint) if scaled else ():
        values = keras.ops.convert_to_numpy(vector).copy()
        for variable, scale in scaled:
            factor = 0.0
            # What has no part in the output had no gradient either.
            if scale:
                factor = abs(scale) ** power
                factor *= np.sign(scale) if is_signed else 1.0
            values[positions[id(variable)]] *= factor
        vector.assign(values)


def _powers(joint):
    """Returns vectors `(P,)`, and how they grow with a weight.

    As which power of it, and whether they change signs with it.
    """
    grown, slots = joint.averages(), [joint.slots]
    for tangents in joint.hyperparameters.tangents.values():
        grown += [tangents.weights, tangents.averaged]
        slots.append(tangents.slots)
    found = [(vector, 1, True) for vector in grown]
    for each in slots:
        found += [
            (slot, -order, order % 2 == 1)
            for slot, order in zip(each, joint.rule.orders, strict=True)
        ]
    if joint.policy.is_learned:
        order = joint.rule.pullback_order
        found.append((joint.policy.direction, -order, True))
    return found
