"""What norms say without their gradients: the threshold they ask for, and what a policy would have done to them."""

from gradclip.analysis.advice import Advice, Suggestion, advise
from gradclip.analysis.replay import Replay, replay

__all__ = ["Advice", "Replay", "Suggestion", "advise", "replay"]
