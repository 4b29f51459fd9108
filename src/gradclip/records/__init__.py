"""Records of what clipping did, and where they go."""

from gradclip.records.alarms import Alarms
from gradclip.records.jsonlines import JSONLines
from gradclip.records.memory import Memory
from gradclip.records.record import ClipRecord
from gradclip.records.sinks import Sink, Sinks, flush
from gradclip.records.tensorboard import TensorBoard

__all__ = ["Alarms", "ClipRecord", "JSONLines", "Memory", "Sink", "Sinks", "TensorBoard", "flush"]
