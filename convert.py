"""Convert agent data to the exact prompts that the client sends."""

import hydra
from omegaconf import DictConfig

from fabrictune.command_line import quote_plain_words
from fabrictune.config import require_known_keys, typed
from fabrictune.log import errors_in_one_sentence


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> None:
    config = typed(composed, has_dry_run=False)
    with errors_in_one_sentence(config.variant):
        # After typed(): it imports heavy libraries, and a typo should be answered at once.
        from fabrictune.convert.conversion import convert

        convert(config)


if __name__ == "__main__":
    quote_plain_words()
    require_known_keys()
    main()
