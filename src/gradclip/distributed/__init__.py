"""Models on several ranks: who holds which elements, and the one collective that makes their norm.

DTensors say it themselves, be they sharded by FSDP2, tensor parallelism or both, and so do the parameters of FSDP1;
plain tensors count as copies, as those of DDP are. What tensors cannot say is declared once: `declare`.
"""

from gradclip.distributed.megatron import declare_megatron
from gradclip.distributed.ownership import Ownership, declare, forget

__all__ = ["Ownership", "declare", "declare_megatron", "forget"]
