"""Measuring and applying on local, plain tensors: no parameter, no DTensor, no process group.

`reference` is plain torch: the definition, and the answer wherever no kernel is. `native` is C++ for dense CPU tensors.
`dispatch` says which of them takes which tensors, and why a backend cannot run here.
"""
