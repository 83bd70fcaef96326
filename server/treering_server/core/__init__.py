"""What decides: the log, its order and its delivery. Knows no gRPC and no SQL."""
