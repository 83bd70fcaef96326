module github.com/treering/treering/client/browser/sidecar

go 1.26.0

require (
	connectrpc.com/cors v0.1.0
	connectrpc.com/vanguard v0.4.0
	github.com/rs/cors v1.11.1
	google.golang.org/protobuf v1.36.12
)

require (
	connectrpc.com/connect v1.19.1 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20260223185530-2f722ef697dc // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260223185530-2f722ef697dc // indirect
)
