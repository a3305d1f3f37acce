"""The frame that pages stand in, and the overview: what is stored, what failed, what is well."""
