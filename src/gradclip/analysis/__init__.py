"""What norms say without their gradients: a policy replayed over a recording, or put to the test."""

from gradclip.analysis.replay import Replay, replay
from gradclip.analysis.stress import Stress, stress

__all__ = ["Replay", "Stress", "replay", "stress"]
