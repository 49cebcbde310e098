"""Models as files and as networks: where they lie, how text becomes tokens, the LoRA layers."""
