"""The job that RQ's ``handle_work_horse_killed`` gets, which runs in the parent of RQ's Worker."""

from __future__ import annotations

from typing import Any

from rq.job import Job

from jobqueue.protocol.hashes import readable


class KilledJob(Job):
    """A job whose meta is decoded, which may run code of the user's, only when somebody asks for it."""

    _meta: Any = None
    _raw_meta: bytes = b""

    def restore(self, raw_data: Any) -> None:
        raw = dict(raw_data)
        self._raw_meta = raw.pop(b"meta", b"")
        super().restore(readable(raw))
        self._meta = None

    @property
    def meta(self) -> Any:
        if self._meta is None:
            try:
                self._meta = self.serializer.loads(self._raw_meta) if self._raw_meta else {}
            except Exception:  # as in RQ's restore
                self._meta, self._unreadable_meta = {"unserialized": self._raw_meta}, self._raw_meta
        return self._meta

    @meta.setter
    def meta(self, value: Any) -> None:
        self._meta = value
