"""Hold the settings of a worker. The launcher makes them once and passes them to the fork server and to every child."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jobqueue.plugins.finding import PluginChoice
from jobqueue.plugins.plugin import WorkerInfo
from jobqueue.store.connection import Address

BUILTIN_TASKS = "jobqueue.tasks"


@dataclass(frozen=True, slots=True)
class Settings:
    """The frozen configuration of one worker tree. Times are seconds."""

    address: Address
    worker: str
    queues: tuple[str, ...]
    children: int
    slots: int
    modules: tuple[str, ...] = ()
    allow_any: bool = False
    allow_private: bool = False
    accept: tuple[str, ...] = ("json",)
    exception_handlers: tuple[str, ...] = ()  # dotted names
    plugins: tuple[str, ...] = ()  # module:Class
    no_plugins: tuple[str, ...] = ()  # names of plugins that are left out
    capture: int = 0  # bytes of each job's output to keep
    job_class: str = ""  # dotted names of the worker's own classes; "": RQ's
    queue_class: str = ""
    serializer: str = ""  # for all jobs, in place of ``accept``
    dequeue_strategy: str = "ordered"
    on_crash: str = "retry"
    strict_start: bool = False
    burst: bool = False
    max_jobs: int = 0  # per child, 0: no limit
    max_memory: int = 0  # MB per child, 0: no limit
    health_file: str = ""
    metrics_port: str = ""  # HOST:PORT
    scheduler: bool = True
    accounting: bool = True
    maintenance_interval: float = 600.0  # 0: this worker does not do RQ's maintenance
    grace: float = 30.0
    lease: float = 10.0
    default_timeout: float = 180.0  # rq.Queue.DEFAULT_TIMEOUT
    default_result_ttl: int = 500  # rq.defaults.DEFAULT_RESULT_TTL
    default_failure_ttl: int = 31536000  # rq.defaults.DEFAULT_FAILURE_TTL
    log_format: str = "text"
    verbose: bool = False

    @property
    def served(self) -> tuple[str, ...]:
        """The modules whose functions this worker runs."""
        return (BUILTIN_TASKS, *self.modules)

    @property
    def wanted_plugins(self) -> PluginChoice:
        """The plugins that were asked for, and those that are left out."""
        return PluginChoice(self.plugins, self.no_plugins)

    @property
    def worker_info(self) -> WorkerInfo:
        """What plugins are told of this worker."""
        ttls = (self.default_result_ttl, self.default_failure_ttl)
        return WorkerInfo(self.worker, self.queues, self.slots, *ttls, self.capture)

    @property
    def own_classes(self) -> dict[str, str]:
        """The worker's own classes, by the flag that names each."""
        named = {"--job-class": self.job_class, "--queue-class": self.queue_class, "--serializer": self.serializer}
        return {flag: name for flag, name in named.items() if name}

    def to_json(self) -> str:
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        fields["address"] = vars(self.address)
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> Settings:
        fields = json.loads(text)
        fields["address"] = Address(**fields["address"])
        for name in ("queues", "modules", "accept", "exception_handlers", "plugins", "no_plugins"):
            fields[name] = tuple(fields[name])
        return cls(**fields)
