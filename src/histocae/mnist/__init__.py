"""MNIST: the two examples with which the notebooks explain the autoencoder.

The pipeline in examples/mnist is separate from that of slides; both use the same networks and trainings.
"""
