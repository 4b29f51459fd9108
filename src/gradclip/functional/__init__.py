"""The drop-in: the pipeline called once, under torch's names.

Each function has the name, the arguments and the meaning that it has in `torch.nn.utils`; what is ours comes after
torch's arguments and by keyword. `foreach` is accepted for compatibility and has no effect.
"""

from gradclip.functional.clip import clip_grad_norm, clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_
from gradclip.functional.norms import clip_coefficient, get_norms, get_total_norm

__all__ = [
    "clip_coefficient",
    "clip_grad_norm",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_norms",
    "get_total_norm",
]
