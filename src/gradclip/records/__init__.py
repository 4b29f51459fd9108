"""Records of what clipping did, and where they go."""

from gradclip.records.record import ClipRecord, record_of
from gradclip.records.sinks import Sink, Sinks

__all__ = ["ClipRecord", "Sink", "Sinks", "record_of"]
