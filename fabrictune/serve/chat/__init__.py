"""The page on which served models are tried: a turn as it happens, its pictures, and tools to call."""
