"""The rule for models of Megatron-LM: attributes of its parameters say what they are."""

from gradclip.distributed.ownership import Groups, Ownership, declare_each, listed
from gradclip.parameters import Parameters, named, refuse_no_parameters


def declare_megatron(
    parameters: Parameters,
    *,
    tensor_parallel: Groups = (),
    pipeline_parallel: Groups = (),
    expert_parallel: Groups = (),
    expert_tensor_parallel: Groups | None = None,
) -> None:
    """Declare parameters by the attributes that Megatron-LM sets on them.

    ========================================  =================================================================
    attribute                                 the parameter is
    ========================================  =================================================================
    `tensor_model_parallel` is true           a piece of one that the tensor parallel group holds; else a copy
    `allreduce` is false                      part of an expert: the two expert groups are used instead
    `shared` is true                          a copy of one on another pipeline stage, and not counted again
    ========================================  =================================================================

    Args:
        parameters: Parameters of a model, in any form that `clip_grad_norm_` takes.
        tensor_parallel: The tensor parallel group.
        pipeline_parallel: The pipeline parallel group.
        expert_parallel: The expert parallel group.
        expert_tensor_parallel: The tensor parallel group of the experts, if it is a different one; `()` for none.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a parameter was declared differently before.

    References:
        Shoeybi et al., Megatron-LM, 2019, arXiv:1909.08053, section 3. The attributes are those of Megatron Core's
        `param_is_not_shared` and `param_is_not_tensor_parallel_duplicate`.
    """
    tensors, names = named("declare_megatron", parameters)
    if not tensors:
        refuse_no_parameters("declare_megatron", parameters)
    stages, experts = listed(pipeline_parallel), listed(expert_parallel)
    tensor_groups = listed(tensor_parallel)
    expert_tensor_groups = tensor_groups if expert_tensor_parallel is None else listed(expert_tensor_parallel)
    found: list[Ownership] = []
    for parameter in tensors:
        is_expert = not getattr(parameter, "allreduce", True)
        groups = expert_tensor_groups if is_expert else tensor_groups
        is_piece = bool(getattr(parameter, "tensor_model_parallel", False))
        found.append(
            Ownership(
                sharded=groups if is_piece else (),
                replicated=() if is_piece else groups,
                disjoint=(*experts, *stages) if is_expert else stages,
                counted=not getattr(parameter, "shared", False),
            )
        )
    declare_each("declare_megatron", tensors, names, found)
