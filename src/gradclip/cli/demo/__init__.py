"""The command `gradclip demo`: a recurrent network that explodes without clipping and learns with it."""
