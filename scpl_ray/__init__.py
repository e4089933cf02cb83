"""Self-consuming performative loops of language models: the science and the files. It imports neither Ray nor vLLM."""

__version__ = "0.2.0"
