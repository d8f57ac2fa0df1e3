"""Measurements of keras_dha beside what a user would pick instead."""
