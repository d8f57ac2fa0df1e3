"""Hyperparameter search: ranges, hypergradients, AutoHAS, range test."""
