"""The command `gradclip watch`: a run in progress, in the terminal."""
