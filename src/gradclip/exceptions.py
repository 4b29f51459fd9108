"""The errors of gradclip.

    GradClipError
    ├── NonFiniteGradientError(RuntimeError)     a norm that is NaN or infinite, where an error was asked for
    ├── OverlappingGradientError(RuntimeError)   a gradient that cannot be written in place
    ├── BackendUnavailableError(RuntimeError)    a backend asked for by name that cannot run here
    ├── ConsecutiveSkipsError(RuntimeError)      more steps in a row were skipped than were allowed
    ├── RemoteError(RuntimeError)                another rank could not clip, so this one has not either
    └── RankError(RuntimeError)                  what a function of a test did on some ranks, from `gradclip.testing`

    MisuseWarning(UserWarning)                   a training loop in which clipping cannot have worked

A wrong argument raises the built-in `TypeError` or `ValueError`. Each class above also is the built-in error that
`torch.nn.utils` raises in its place, so code that catches that one goes on working.
"""


class GradClipError(Exception):
    """The base of the errors that gradclip defines."""


class NonFiniteGradientError(GradClipError, RuntimeError):
    """The total norm is NaN or infinite, and `nonfinite="raise"` or `error_if_nonfinite=True` was given.

    The message names the first such parameters, with their counts of NaN and infinite elements. No gradient is changed.
    """


class OverlappingGradientError(GradClipError, RuntimeError):
    """Several elements of a gradient share one place in memory, as after `expand`, so it cannot be scaled in place."""


class BackendUnavailableError(GradClipError, RuntimeError):
    """`GRADCLIP_BACKEND` names a backend that cannot run here; the message says why."""


class ConsecutiveSkipsError(GradClipError, RuntimeError):
    """More steps in a row were skipped than `max_consecutive_skips` allows.

    Training does not recover without a change: look at the data and the learning rate, or go back to a checkpoint.
    """


class RemoteError(GradClipError, RuntimeError):
    """Another rank could not collect or measure its gradients: this message or that rank's says why.

    No gradient is changed.
    """


class MisuseWarning(UserWarning):
    """Clipping cannot have worked in this training loop; the message says what to change."""
