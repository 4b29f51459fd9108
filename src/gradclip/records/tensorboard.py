"""Records as the curves of TensorBoard."""

from typing import Protocol, final

from gradclip.records.record import ClipRecord


class Writer(Protocol):
    """What draws curves, such as `torch.utils.tensorboard.SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> object:
        """Add a point to a curve."""
        ...


@final
class TensorBoard:
    """A sink that adds the numbers of `ClipRecord.metrics` to the curves of TensorBoard.

    Args:
        writer: Any object with the `add_scalar` of `torch.utils.tensorboard.SummaryWriter`. You have to close it
            yourself.

    Raises:
        TypeError: If `writer` has no `add_scalar`.

    Example:
        >>> import torch, gradclip
        >>> from types import SimpleNamespace
        >>> writer = SimpleNamespace(add_scalar=print)  # torch.utils.tensorboard.SummaryWriter("runs/1")
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> policy = gradclip.policies.FixedNorm(10.0)
        >>> clipper = gradclip.GradClipper([p], policy, sinks=[gradclip.records.TensorBoard(writer)])
        >>> result = clipper.clip()
        gradclip/total_norm 5.0 1
        gradclip/total_norm_after 5.0 1
        gradclip/threshold 10.0 1
        gradclip/coefficient 1.0 1
        gradclip/clipped 0.0 1
        gradclip/skipped 0.0 1
    """

    def __init__(self, writer: Writer) -> None:
        if not callable(getattr(writer, "add_scalar", None)):
            msg = (
                f"`TensorBoard(writer=...)` must have `add_scalar`, got {type(writer).__name__}. "
                "Pass a `torch.utils.tensorboard.SummaryWriter`."
            )
            raise TypeError(msg)
        self._writer = writer

    def __call__(self, record: ClipRecord) -> None:
        """Add the points of a record."""
        for tag, number in record.metrics().items():
            self._writer.add_scalar(tag, number, record.step)
