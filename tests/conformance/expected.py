"""List RQ's tests that cannot pass with our classes in place of RQ's, each with the reason. All others have to pass."""

from __future__ import annotations

_LOCAL = "a function inside a function is refused when it is enqueued: no worker could import it"
_CANCELED = "of a cancel and the end of a job the first one counts: who was canceled while it ran has no result"
_ONE_STEP = "Job.cancel is one script: the methods of RQ's in which the test lets it fail are not called"
_RESULT = "job.result is a method that waits, not RQ's deprecated property"


def _all(reason: str, where: str, *tests: str) -> dict[str, str]:
    return {f"{where}::{test}": reason for test in tests}


# place → test → reason
EXPECTED: dict[str, dict[str, str]] = {
    "SimpleWorker": _all(_CANCELED, "test_worker.py::TestWorker", "test_cancel_running_parent_job"),
    "Worker": _all(_CANCELED, "test_worker.py::TestWorker", "test_cancel_running_parent_job"),
    "Queue": {
        **_all(
            _LOCAL,
            "test_decorator.py::TestDecorator",
            "test_decorator_accepts_meta_as_argument",
            "test_decorator_accepts_on_failure_function_as_argument",
            "test_decorator_accepts_on_success_function_as_argument",
            "test_decorator_accepts_queue_name_as_argument",
            "test_decorator_accepts_result_depends_on_as_argument",
            "test_decorator_accepts_result_ttl_as_argument",
            "test_decorator_accepts_ttl_as_argument",
            "test_decorator_accepts_webhooks_as_argument",
            "test_decorator_adds_delay_attr",
            "test_decorator_custom_failure_ttl",
            "test_decorator_custom_retry",
            "test_decorator_delay_accepts_depends_on_as_argument",
        ),
        **_all(
            _RESULT,
            "test_worker.py::TestWorker",
            "test_cancel_dependent_job",
            "test_cancel_job_enqueue_dependent",
            "test_cancel_running_parent_job",
            "test_job_times",
            "test_work_unicode_friendly",
            "test_work_via_simpleworker",
            "test_work_via_string_argument",
        ),
        **_all(
            _ONE_STEP,
            "test_job_dependency.py::TestJobDependency",
            "test_cancel_does_not_queue_dependents_before_cancel_commits",
            "test_cancel_post_commit_drain_failure_leaves_consistent_state",
        ),
        **_all(_RESULT, "test_callbacks.py::SyncJobCallback", "test_success_callback"),
        **_all(_RESULT, "test_job.py::TestJob", "test_job_async_status_finished"),
        **_all(_RESULT, "test_results.py::TestResult", "test_job_successful_result"),
    },
}
