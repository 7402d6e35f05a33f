"""Functions of torch.nn.functional over fastgd's kernels, for tensors on the CPU.

    import fastgd.torch.functional as F

Names, arguments, defaults, meaning and gradients are torch's. Each is an operator `torch.ops.fastgd.<name>`
that torch.compile and torch.export see as one. Under autocast they compute in float32. Activations, norms and
softmax can be differentiated any number of times, from the second on by torch's own operators; losses and
recurrent layers once, else they raise RuntimeError.

Recurrent layers have the arguments of torch.lstm, torch.gru, torch.rnn_tanh and torch.rnn_relu.

Tensors in bfloat16 and float16 are computed with in float32, and each result is rounded once; the operators
themselves take float32 and float64. Other dtypes raise TypeError, naming the argument, and tensors that are
elsewhere NotImplementedError.
"""

from fastgd.torch.activations import (
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    logsigmoid,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from fastgd.torch.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    l1_loss,
    mse_loss,
    smooth_l1_loss,
)
from fastgd.torch.norms import layer_norm, log_softmax, rms_norm, softmax
from fastgd.torch.sequences import gru, lstm, rnn_relu, rnn_tanh

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "elu",
    "gelu",
    "gru",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "huber_loss",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "logsigmoid",
    "lstm",
    "mish",
    "mse_loss",
    "relu",
    "relu6",
    "rms_norm",
    "rnn_relu",
    "rnn_tanh",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "tanh",
]
