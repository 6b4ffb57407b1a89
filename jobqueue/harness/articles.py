"""The text of the loopback site: twelve short articles about threads and processes, and how each page is served."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape


@dataclass(frozen=True)
class Article:
    """One page. charset: how its bytes are encoded; said_by: where the charset is declared, "header", "page" or
    "both"."""

    slug: str
    title: str
    text: str
    links: tuple[str, ...] = ()
    charset: str = "utf-8"
    said_by: str = "both"
    tags: str = field(default="", repr=False)  # more HTML for the body

    def html(self) -> bytes:
        meta = f'<meta charset="{self.charset}">' if self.said_by != "header" else ""
        paragraphs = "".join(f"<p>{escape(part.strip())}</p>\n" for part in self.text.strip().split("\n\n"))
        links = "".join(f'<li><a href="{link}">{link.removesuffix(".html")}</a></li>\n' for link in self.links)
        page = (
            f'<!DOCTYPE html>\n<html lang="en"><head>{meta}\n<title>{escape(self.title)}</title></head>\n'
            f"<body><h1>{escape(self.title)}</h1>\n{paragraphs}{self.tags}"
            f'<h2>Read on</h2><ul>\n{links}<li><a href="/">all articles</a></li></ul></body></html>\n'
        )
        return page.encode(self.charset, "xmlcharrefreplace")


ARTICLES = (
    Article(
        "threads",
        "Threads: many workers, one memory",
        """
A thread is a second place in the same program where something happens. All threads of a process see the same
variables, the same open files and the same connection pool. That makes them cheap: starting one takes some ten
microseconds, and eight of them need hardly more memory than one.

The price is that they are not alone. A list that one thread changes while another walks over it, a counter that two
of them raise at once: what is shared has to be guarded. And when one thread crashes in C code, all of them are gone.
""",
        ("gil.html", "shared-state.html", "processes.html"),
    ),
    Article(
        "processes",
        "Processes: walls that cost memory",
        """
A process has a memory of its own. What happens in it stays in it: a segmentation fault, a leak, a wild change of a
module's globals. The operating system can kill it and give back everything it held, at any moment and for sure.

The walls are not free. Every process needs an interpreter of its own, its own copy of what it imported, and its own
connections. Fork softens this: pages that nobody writes to are shared until somebody does.
""",
        ("fork.html", "crashes.html", "threads.html"),
    ),
    Article(
        "gil",
        "The GIL & what it really locks",
        """
CPython lets one thread at a time execute bytecode. The lock that sees to it is handed on every five milliseconds, or
at once when a thread waits for the network, the disk or a sleep. So eight threads that download overlap perfectly,
and eight threads that compute take turns on a single core.

Extensions may drop the lock while they compute. Hashing a large block, compressing, multiplying matrices: these do
run in parallel in threads. A pure Python loop does not, however many cores are idle beside it.
""",
        ("threads.html", "free-threading.html", "heavy-jobs.html"),
    ),
    Article(
        "free-threading",
        "Python without the lock: a first look",
        """
Since 3.13 there is a build of CPython that has no global lock. Its objects count references in two halves, one for
the owning thread and one for all others, and its containers lock themselves. Threads then compute in parallel.

Single-threaded code pays for it, a little less with each release, and an extension that does not declare itself
ready switches the lock on again for the whole process. Ask sys._is_gil_enabled() before you believe a benchmark.
""",
        ("gil.html",),
    ),
    Article(
        "queues",
        "Why a queue stands between the two",
        """
Who submits a job does not want to wait for it, and who runs it does not want to be rushed. A queue between them
absorbs the difference: it grows at noon and shrinks at night, and neither side needs to know the other's address.

A queue also is the place where failure becomes visible. A job that stands in a list can be counted, retried, moved
to the head or thrown away. A function call that was lost in a dead process can not.
""",
        ("at-least-once.html", "redis.html"),
    ),
    Article(
        "at-least-once",
        "At least once — and why not exactly once",
        """
A worker that dies after it sent the mail and before it said so leaves a question that nobody can answer: was the
mail sent? A queue may run the job again, and then the mail may go out twice, or it may not, and then it may never
go out. There is no third way as long as sending and saying are two steps.

So write jobs that may run twice. Use the job's id as the key of what you insert; rename a finished file into place
instead of appending to it; ask the payment service to treat a repeated number as the same payment.
""",
        ("queues.html", "crashes.html"),
    ),
    Article(
        "redis",
        "A list, a hash and a sorted set",
        """
Most of a job queue in Redis is three structures. A list holds the ids that wait, a hash holds what is known about a
job, and a sorted set holds the ids of those that run, with a time as their score.

The delicate part is to move an id from one to the next without a moment in which it stands in none. A Lua script
does that: the server runs it as a whole, and nobody ever sees the middle of it.
""",
        ("queues.html", "../files/"),
    ),
    Article(
        "fork",
        "Fourchette, fork, Gabel: éléments d'un système",
        """
Fork copies a process by copying only its page tables. Parent and child then share every page of memory until one
of them writes; the page is copied at that moment. A déjà vu for the child: it wakes up in the middle of a call that
it never made, with the variables of a life it did not live.

What does not come along are the other threads of the parent. A lock that one of them held stays locked in the child
for ever. Naïve use of fork in a program with threads is therefore a fine way to hang.
""",
        ("processes.html",),
        charset="iso-8859-1",
        said_by="header",
    ),
    Article(
        "crashes",
        "Crash “gently”: signals, cores & €-sized mistakes",
        """
A Python exception is not a crash; somebody can catch it. A crash is what ends the process under the interpreter:
a bad pointer in an extension, the kernel's out-of-memory killer, a kill -9 from a colleague.

The process that dies cannot report it, so somebody else must. A supervisor that runs no foreign code can: it sees
that its child is gone, by which signal, and it knows from a page of shared memory which job was running.
""",
        ("processes.html", "at-least-once.html"),
        charset="windows-1252",
        said_by="page",
    ),
    Article(
        "shared-state",
        "Shared state < a mixed blessing > separate state",
        """
Put a counter into a module and let eight threads raise it: there is one counter, and with a lock it is right. Let
two processes raise it and there are two counters, each right for itself, and neither is the sum.

Caches behave the same way. One cache for all threads is warm after the first job. A cache per process has to be
filled once in each of them, but nobody ever needs to lock it.
""",
        ("threads.html", "processes.html"),
        tags='<p><a href="mailto:nobody@example.org">write</a> <a href="javascript:void(0)">click</a> '
        '<a href="threads.html">again</a> <a href="https://docs.python.org/3/library/threading.html">threading</a></p>\n',
    ),
    Article(
        "heavy-jobs",
        "Heavy jobs: 計算 on every core",
        """
A job that computes wants a core for itself, and as many of them as there are cores should run at once. More only
makes them slower: they push each other out of the caches and gain nothing.

Give such jobs processes, one per core. Give jobs that wait threads, a few dozen per process. If a program does
both, give each kind a queue and a worker of its own mode, and neither waits behind the other.
""",
        ("gil.html", "waiting-jobs.html"),
    ),
    Article(
        "waiting-jobs",
        "Waiting\n      jobs and the \t art of doing nothing",
        """
A download of a second needs perhaps five milliseconds of work. The rest is waiting: for a name to be found, for a
handshake, for the next packet. A process that waits is a process that could have done something else.

Threads are made for this. Each waiting thread costs some kilobytes of stack, and all of them draw from one pool of
connections, so that the second request to a host finds the first one's connection still open.
""",
        ("threads.html", "heavy-jobs.html"),
        charset="utf-8",
        said_by="header",
    ),
)
