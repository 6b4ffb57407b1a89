"""Words and numbers of how jobs end, for the processes that run jobs and for those that never do."""

from __future__ import annotations

import base64
import zlib

THREAD_WRITTEN_OFF = "the thread that ran it was written off"  # what becomes of who does not react to a time limit
PROCESS_KILLED = "its process was killed"
HARD = 2.0  # seconds that a job has to come back after it was interrupted

JOB, SUCCESS, FAILURE, STOPPED_CALLBACK, HANDLER, RECORDING = range(6)  # what a limit is on
SUBJECTS = (
    *("The job", "The success callback", "The failure callback", "The stopped callback"),
    *("An exception handler", "Recording how the job ended"),
)


def decode_text(payload: bytes) -> str:
    return zlib.decompress(base64.b64decode(payload)).decode()


def encode_text(text: str) -> bytes:
    """As RQ's Result.serialize writes exc_string."""
    return base64.b64encode(zlib.compress(text.encode("utf-8", "backslashreplace")))
