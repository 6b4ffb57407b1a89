"""Threads and processes side by side: the loopback site that the jobs read, the measuring, the demo."""
