"""What is asked of a model, and how its replies are judged: one module a suite, each with `tasks`."""
