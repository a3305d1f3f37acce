"""The product's settings with a stub embedder: the load generator measures the server, no model."""

from mem0dash.settings import *  # noqa: F403

EMBEDDER_LOADER = "benchmarks.stub_embedder.load"
