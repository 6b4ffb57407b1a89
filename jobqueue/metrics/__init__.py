"""What Prometheus, KEDA and probes read over HTTP: metrics of a whole store, or of one worker."""
