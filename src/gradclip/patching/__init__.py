"""torch's own functions replaced, so that a script that exists clips, and records, without a change."""

from gradclip.patching.replacement import Patch, patch, unpatch

__all__ = ["Patch", "patch", "unpatch"]
