"""Handwritten digits: the two examples that the notebooks teach the autoencoder with.

A pipeline of its own (examples/mnist) on the same core, which says nothing of slides or tissue.
"""
