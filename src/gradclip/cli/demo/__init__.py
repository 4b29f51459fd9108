"""`gradclip demo`: a recurrent network that explodes without clipping and learns with it.

command   the options, checked
session   text, then a run without clipping and runs with it, then what came of them
presets   the policies by name
text      a file or Python's own documentation, as numbered symbols
training  the model and the loop; yields one record a step
runs      a model, its policy and its records
outcome   what a trained model is worth: validation loss, a sampled line
display   all that is printed
picture   loss and norm of two runs
panels    the losses of many
steps     the steps of all runs as a CSV file
records   what clipping did in each run as JSON Lines, and the report over them
"""

from gradclip.cli.demo.command import demo

__all__ = ["demo"]
