"""`gradclip demo`: a recurrent network that explodes without clipping and learns with it.

command   the options, checked
session   text, then two runs, then what came of them
text      a file or Python's own documentation, as numbered symbols
training  the model and the loop; yields one record a step
outcome   what a trained model is worth: validation loss, a sampled line
display   all that is printed
picture   all that is drawn
steps     the records of all steps as a CSV file
"""

from gradclip.cli.demo.command import demo

__all__ = ["demo"]
