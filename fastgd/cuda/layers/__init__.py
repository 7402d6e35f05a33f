"""Forward and backward passes of layers on CUDA: kernels that are written around the traced reference."""
