"""Explain the words of the report to a reader who sees one for the first time."""

from __future__ import annotations

from jobqueue.compare.markup import Html, el

WORDS = {
    "threads, processes": "A jobq worker with so many threads in one process, or with so many processes: the same "
    "jobs, from the same queue.",
    "bare threads, bare processes": "Python's own ThreadPoolExecutor and ProcessPoolExecutor, without a queue. What "
    "jobq takes more is the price of jobs that survive a crash, of limits that hold and of results that stay.",
    "plain loop": "The same calls one after the other.",
    "wall": "From the first submit until the last result is there. Everything has started up by then.",
    "jobs/s": "Jobs divided by wall.",
    "cores": "CPU seconds of all processes of the row per second of wall: 2.0 means that two cores were busy.",
    "p50, p95": "How long a job runs, without its time in the queue: half of them, and 95 of 100, take no longer. It "
    "grows when jobs stand in each other's way.",
    "USS": "Memory that belongs to one process alone and would be free without it.",
    "PSS": "USS, and the process's part of what it shares with others.",
    "start-up": "Until every worker has done a job.",
    "GIL": "Python's global interpreter lock: where it is on, one thread of a process computes at a time. Waiting does "
    "not need it.",
}


def section() -> Html:
    """Return the glossary."""
    made = [el("div", el("dt", word), el("dd", said)) for word, said in WORDS.items()]
    return el("section", el("h2", "The words"), el("dl", made, class_="words"), id="words")
