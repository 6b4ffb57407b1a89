"""Carry out the planned kills among two trees that work, and measure how fast each kill is repaired.

plan of kills ─► due? ─► child, fork server, supervisor or store dies ─► replaced, and by then how long missed
                  ▲
progress = the larger of: share of the time, share of jobs that have ended (so that the kills meet busy workers)
"""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Sequence

from jobqueue.chaos import plan
from jobqueue.chaos.ledger import Ledger
from jobqueue.chaos.plan import Kill
from jobqueue.chaos.trees import Forest, Tree, await_death
from jobqueue.errors import JobqError
from jobqueue.harness.processes import kill
from jobqueue.store.open import Store

AFTER = 60.0  # seconds after the storm without the end of a job, after which the others count as stuck
BOOT = 60.0  # seconds until the trees must be up
LOOK = 0.05  # seconds between two polls of the store
TURN = 0.002  # seconds between two polls of the trees, which is the precision of recovery_ms
OUTAGE = 0.5  # seconds, at most, that a killed store stays away
RECONNECT = 1.5  # seconds after an outage in which a recovery says more about the outage than about the child
MOST_EXITS = 10  # of workers that nobody has killed; and one more per 20 kills, of processes that were just starting


class ChaosFailed(JobqError):
    """The storm could not be carried out; the message says why."""


class KillSpacing:
    """Decides when a kill is due: at its planned time, but never closer to the last kill than half the planned gap.

    Kills that had to wait (no tree was up) must not come all at once: they would hit only children that have just
    started, and workers rightly slow down when children die that young.
    """

    def __init__(self, kills: int, seconds: float) -> None:
        self._gap = 0.5 / max(1, kills)  # share of the storm
        self._pause = self._gap * seconds
        self._last = (-1.0, 0.0)

    def allows(self, kill: Kill, progress: float, now: float) -> bool:
        at, when = self._last
        return progress >= kill.at and (progress - at >= self._gap or now - when >= self._pause)

    def struck(self, progress: float, now: float) -> None:
        self._last = (progress, now)


class Storm:
    """The storm in one mode. Call ``boot``, ``step`` until it returns False, ``settle`` until it returns False."""

    def __init__(self, kills: Sequence[Kill], seconds: float, forest: Forest, ledger: Ledger, store: Store) -> None:
        self.kills: Counter[str] = Counter()
        self.recovery: list[float] = []  # seconds
        self.supervisor_recovery: list[float] = []  # seconds
        self.exits = 0  # of workers that were not killed
        self.ended = 0  # jobs
        self._last_end = 0.0  # monotonic seconds at which ``ended`` was last seen to grow
        self._plan = deque(kills)
        self._seconds = seconds
        self._forest, self._ledger, self._store = forest, ledger, store
        # Worker whose owners are still in the store → when its supervisor was killed.
        self._graves: dict[str, float] = {}
        self._disturbed: set[str] = set()  # graves whose time is not measured, see _disturb
        self._measure_from = 0.0
        self._look_at = 0.0
        self._spacing = KillSpacing(len(kills), seconds)
        self._began = time.monotonic()

    # -- the three parts -------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Wait until every tree has all its children. Raises ChaosFailed."""
        while not self._forest.whole():
            self._replace_the_gone()
            if time.monotonic() > self._began + BOOT:
                raise ChaosFailed(f"The workers were not up within {BOOT:g} s: {self._forest.last_words()}")
            time.sleep(0.02)
        self._began = time.monotonic()

    def step(self, jobs: int) -> bool:
        """Do one turn; return False when all kills are done or the time is over."""
        now = time.monotonic()
        self._watch(now)
        over = (now - self._began) / self._seconds
        progress = max(over, self.ended / jobs)
        if self._plan and self._spacing.allows(self._plan[0], progress, now) and self._strike(self._plan[0]):
            self._plan.popleft()
            self._spacing.struck(progress, now)
        time.sleep(TURN)
        return bool(self._plan) and over < 1

    def settle(self, jobs: int) -> bool:
        """Do one turn after the storm; return False when all jobs have ended and all dead trees are rescued, or when
        nothing has ended for a while: a busy machine takes longer."""
        now = time.monotonic()
        self._watch(now)
        time.sleep(TURN if any(tree.is_recovering for tree in self._forest.trees) else 0.02)
        since = max(self._began + self._seconds, self._last_end)
        return (self.ended < jobs or bool(self._graves)) and now < since + AFTER

    # -- looking ---------------------------------------------------------------------------------------------------

    def _watch(self, now: float) -> None:
        for tree in self._forest.trees:
            self.recovery += tree.look()
        if now >= self._look_at:
            self._replace_the_gone()
            ended, before = self._ledger.ended(), self.ended
            self.ended, self._last_end = ended, now if ended > before else self._last_end
            self._ledger.note_workers()
            self._visit_graves(now)
            self._look_at = time.monotonic() + LOOK

    def _visit_graves(self, now: float) -> None:
        owners = self._ledger.owners() if self._graves else set()
        for name in self._graves.keys() - owners:
            rescued = now - self._graves.pop(name)
            if name not in self._disturbed:
                self.supervisor_recovery.append(rescued)

    def _replace_the_gone(self) -> None:
        """Count and replace each worker that ended without being killed. Raises ChaosFailed when workers cannot run at
        all. In a storm one gives up with 2 when its processes are killed for a minute before any is ready."""
        for tree in list(self._forest.trees):
            code = tree.worker.exit_code
            if code is None:
                continue
            self.exits += 1
            kills = self.kills.total()
            if (code == 2 and not kills) or self.exits > MOST_EXITS + kills // 20:
                raise ChaosFailed(f"A worker left with exit code {code}: {self._forest.last_words()}")
            self._forest.replace(tree)

    # -- striking --------------------------------------------------------------------------------------------------

    def _strike(self, stroke: Kill) -> bool:
        """Carry out one kill; return False when there is no victim at this moment, so that it is tried again."""
        match stroke.kind:
            case plan.STORE:
                done = self._strike_store(stroke.pick)
            case plan.CHILD:
                done = self._strike_child(stroke.pick)
            case _:
                done = self._strike_tree(stroke)
        self.kills[stroke.kind] += done
        return done

    def _strike_child(self, pick: float) -> bool:
        targets = [(tree, pid) for tree in self._whole_trees() for pid in tree.victims()]
        if not targets:
            return False
        tree, pid = targets[int(pick * len(targets))]
        return tree.kill_child(pid, measure=time.monotonic() >= self._measure_from)

    def _strike_tree(self, stroke: Kill) -> bool:
        trees = self._whole_trees()
        if not trees:
            return False
        tree = trees[int(stroke.pick * len(trees))]
        return tree.kill_fork_server() if stroke.kind == plan.FORK_SERVER else self._strike_supervisor(tree)

    def _strike_supervisor(self, tree: Tree) -> bool:
        self._ledger.note_workers()
        tree.worker.crash()
        self._disturb()
        if name := self._ledger.workers.get(tree.pid):
            self._graves[name] = time.monotonic()
        self._forest.replace(tree)
        return True

    def _strike_store(self, pick: float) -> bool:
        """Kill the run's own store, leave it down for a moment, start it again."""
        local = self._store.local
        pid = local.status().pid if local else None
        if not pid or not kill(pid):
            return False
        await_death(pid)
        for tree in self._forest.trees:
            tree.forget()
        time.sleep(OUTAGE * random.Random(pick).random())
        self._store.ensure()
        self._disturb()
        self._measure_from = time.monotonic() + RECONNECT
        return True

    def _disturb(self) -> None:
        """Stop measuring the rescues under way: the tree that watched the dead leases, or the store with the leases,
        was killed."""
        self._disturbed |= self._graves.keys()

    def _whole_trees(self) -> list[Tree]:
        return [tree for tree in self._forest.trees if tree.was_whole]
