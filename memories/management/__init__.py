"""The commands of memories for operators."""
