"""Behavior tests of a classifier, after CheckList."""
