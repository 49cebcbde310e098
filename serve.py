"""Serve the model with vLLM; serve=capture records clients' requests, serve=chat is a page to try models on."""

import hydra
from omegaconf import DictConfig

from fabrictune.config import ServeKind, typed
from fabrictune.log import errors_in_one_sentence


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> None:
    config = typed(composed)
    with errors_in_one_sentence():
        # After typed(): they import heavy libraries, and a typo should be answered at once.
        match config.serve.kind:
            case ServeKind.model:
                from fabrictune.serve.serving import serve
            case ServeKind.capture:
                from fabrictune.serve.capturing import capture as serve
            case ServeKind.chat:
                from fabrictune.serve.chatting import chat as serve
            case ServeKind.register:
                from fabrictune.serve.registering import register as serve
        serve(config)


if __name__ == "__main__":
    main()
