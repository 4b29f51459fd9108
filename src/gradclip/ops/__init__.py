"""Measuring and applying on local, plain tensors: no parameter, no DTensor, no process group.

`backend` says what a backend does with tensors once they are open as a batch. `reference` is plain torch: the
definition, and the answer wherever no kernel is. `native` is C++ for dense CPU tensors. `registry` says which of them
opens which tensors; `several` and `uncoalesced` make one batch of what none takes as it is.
"""
