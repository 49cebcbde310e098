"""Is a turn right, and which kind of wrong: the platform's client played against the test record."""
