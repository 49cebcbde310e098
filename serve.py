"""Serve the model with vLLM; serve=capture records clients' requests, serve=chat is a page to try models on."""

import hydra
from omegaconf import DictConfig

from fabrictune.command_line import quote_plain_words
from fabrictune.config import ServeKind, require_known_keys, typed
from fabrictune.log import errors_in_one_sentence


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> None:
    config = typed(composed, has_dry_run=False)
    with errors_in_one_sentence():
        # After typed(): they import heavy libraries, and a typo should be answered at once.
        match config.serve.kind:
            case ServeKind.model:
                from fabrictune.serve.serving import serve

                serve(config)
            case ServeKind.capture:
                from fabrictune.serve.capturing import capture

                capture(config)
            case ServeKind.chat:
                from fabrictune.serve.chatting import chat

                chat(config)
            case ServeKind.register:
                from fabrictune.serve.registering import register

                register(config)


if __name__ == "__main__":
    quote_plain_words()
    require_known_keys()
    main()
