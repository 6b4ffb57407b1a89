"""jobq and its peers side by side: the same jobs, the same store, in turn.

    make bench-peers        or   PYTHONPATH=benchmarks python -m peers --help

measuring process (jobq's environment)              one environment per peer (.venv-peers/NAME)
    plan ─► measure ─► candidate ── JSON lines ──► driver: enqueues, waits for results
                           ├── start, SIGSTOP, SIGCONT, kill ──► the peer's own worker: runs the bodies
                           └── reads ◄── stamps: a mapped file in which each body writes when it began and ended

``stamps``, ``body``, ``driver`` and ``adapters`` run in the peers' environments and import nothing of jobq. An adapter
(one file per peer) names the peer's packages, its fastest documented settings, and what it promises about a kill -9.
"""
