"""What lies on disk between stages: manifests and shards; and how training reads it in batches."""
