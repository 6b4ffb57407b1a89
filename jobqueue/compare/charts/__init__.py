"""Draw the charts of a comparison as SVG, for the HTML report and as files for docs/threads-and-processes.md."""
