"""Texts and numbers for the ends of jobs, for the processes that run jobs and for the supervisor, which does not."""

from __future__ import annotations

import base64
import zlib

THREAD_WRITTEN_OFF = "the thread that ran it was written off"  # in thread mode, for a job that does not react
PROCESS_KILLED = "its process was killed"
HARD = 2.0  # seconds that a job has to end after it was interrupted

JOB, SUCCESS, FAILURE, STOPPED_CALLBACK, HANDLER, RECORDING, PLUGIN, WEBHOOK = range(8)  # what runs under a limit
SUBJECTS = (
    *("The job", "The success callback", "The failure callback", "The stopped callback"),
    *("An exception handler", "Recording how the job ended", "The plugin", "A webhook"),
)


def decode_text(payload: bytes) -> str:
    return zlib.decompress(base64.b64decode(payload)).decode()


def encode_text(text: str) -> bytes:
    """Encode a text as RQ's Result.serialize encodes exc_string."""
    return base64.b64encode(zlib.compress(text.encode("utf-8", "backslashreplace")))
