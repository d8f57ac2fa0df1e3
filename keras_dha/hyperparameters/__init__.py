"""Hyperparameter search: ranges, hypergradients, range test."""
