"""serve.py: vLLM in the platform's format, the recording proxy, the chat page, AgentFabric's model list."""
