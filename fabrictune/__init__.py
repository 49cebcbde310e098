"""fabrictune: turn a small chat model into an agent that calls tools in its platform's exact prompt format."""
