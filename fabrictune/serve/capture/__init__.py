"""The recording proxy: what passes it becomes rows of a log that survives kill -9."""
