"""The database: our backends, the meaning of its errors, the version of its schema."""
