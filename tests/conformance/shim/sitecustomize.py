"""Python imports this at its start, in pytest and in every process that RQ's tests start: it puts our classes in place
of RQ's."""

import os

if os.environ.get("JOBQ_IN_PLACE_OF") is not None:
    import multiprocessing

    import rq_in_place

    # RQ's tests give a worker in a multiprocessing.Process half a second to come up before the next one starts. Forked
    # it does; from the fork server, Python 3.14's default, it imports all of RQ first.
    multiprocessing.set_start_method("fork", force=True)

    rq_in_place.put(os.environ["JOBQ_IN_PLACE_OF"].split(), os.environ["JOBQ_CONFORMANCE_SOCKET"])
