"""Fine-tune the base model with LoRA on the converted rows."""

import hydra
from omegaconf import DictConfig

from fabrictune.command_line import quote_plain_words
from fabrictune.config import require_known_keys, typed
from fabrictune.log import errors_in_one_sentence


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> float | None:
    config = typed(composed)
    with errors_in_one_sentence(config.variant):
        # After typed(): it imports heavy libraries, and a typo should be answered at once.
        from fabrictune.train.training import train

        return train(config)


if __name__ == "__main__":
    quote_plain_words()
    require_known_keys()
    main()
