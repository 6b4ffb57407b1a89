"""Hide the OpenTelemetry SDK from the programs that tests start: where it is installed, redis-py imports it, which is a
sixth of what the start of a worker costs. The tests of OpenTelemetry do without this directory (``program_path``)."""

raise ImportError("hidden by tests/without_otel")
