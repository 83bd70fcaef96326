"""The edge: protobuf and gRPC. Translates requests, answers and refusals, and decides nothing."""
