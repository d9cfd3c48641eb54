"""The data between stages, manifests and shards, and how training reads them in batches."""
