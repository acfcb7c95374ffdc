"""Behaviour tests of a classifier, after CheckList."""
