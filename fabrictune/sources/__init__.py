"""Where Dialogues come from: one module a source."""
