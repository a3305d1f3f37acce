"""The pages of bulk changes: the plan, the course of it, and the way back."""
