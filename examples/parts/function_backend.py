"""A model backend of your own: whatever can answer a request.

models:
  default: {model: my-model, backend: "function_backend:FunctionBackend"}
"""

from sdsd.config import ModelConfig
from sdsd.models.base import Capabilities
from sdsd.models.scripted import small_world
from sdsd.types import Answer, Completion, Request


class FunctionBackend:
    """Answer every request with a function."""

    def __init__(self, config: ModelConfig) -> None:
        """`config` is the model's section of the configuration."""
        self.name = config.model
        self.capabilities = Capabilities()  # chat, and nothing else

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        """Answer one request, in one attempt."""
        text = small_world(request, seed)  # call your model here
        return Completion(text, model=self.name)
