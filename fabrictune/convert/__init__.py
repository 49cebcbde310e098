"""convert.py: rows of any source become exchanges of one format, drawn, held apart, counted and written."""
