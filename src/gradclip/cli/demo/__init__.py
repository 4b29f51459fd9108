"""`gradclip demo`: a recurrent network that explodes without clipping and learns with it."""

from gradclip.cli.demo.command import demo

__all__ = ["demo"]
