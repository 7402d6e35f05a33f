"""CUDA: kernels that are made of traced reference code, and what they need of a GPU."""
