"""`gradclip doctor`: what a bug report needs to say of this machine.

command      prints the findings, as a table or in Markdown
findings     all of them by name, in order; what goes wrong in one is its answer
backends     who answers for which gradients, and why another does not
machine      versions, devices, threads, the OpenMP runtimes of this process, the environment
torch_names  the private names of torch that are used: found, or missing
"""

from gradclip.cli.doctor.command import doctor

__all__ = ["doctor"]
