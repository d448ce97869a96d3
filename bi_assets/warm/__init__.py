"""The warm process that runs are forked from: it has imported the platform, so that a run need not."""
