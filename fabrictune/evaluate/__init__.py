"""evaluate.py: suites asked of models side by side; scores with intervals, a report."""
