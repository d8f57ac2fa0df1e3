"""Learned data augmentation for images.

`geometric` and `photometric` hold the operations, `operations` their
catalogue, `policy` the plain description of what was learned, `layer` the
Keras layer that samples, applies and learns a policy.
"""
