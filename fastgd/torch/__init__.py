"""fastgd for PyTorch."""

from fastgd.torch.clip import (
    clip_grad_norm_ as clip_grad_norm_,
)
from fastgd.torch.clip import (
    clip_grad_value_ as clip_grad_value_,
)
from fastgd.torch.clip import (
    clip_grads_with_norm_ as clip_grads_with_norm_,
)
from fastgd.torch.clip import (
    get_total_norm as get_total_norm,
)
