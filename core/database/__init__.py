"""The database: our backends, what its errors mean, which schema it has."""
