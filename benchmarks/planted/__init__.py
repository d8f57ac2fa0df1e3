"""Planted truth: does the search find what was put there to be found?"""
