"""Making what was made of a version again, without it or with another one in its place."""
