"""The pictures of a comparison, as SVG made in Python: for the HTML report, and as files for the guide."""
