// A sidecar for browsers: it takes Connect and gRPC-Web, which a browser can send, and speaks gRPC
// with Treering. Only pages of the origins named to it may call it, and only EventStoreService.
package main

import (
	_ "embed"
	"flag"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"time"

	"connectrpc.com/cors"
	"connectrpc.com/vanguard"
	rscors "github.com/rs/cors"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// As much as Treering takes, which refuses by name what is over its own limits.
const largestMessage = 16 << 20

//go:embed treering.binpb
var protos []byte

func main() {
	listen := flag.String("listen", "127.0.0.1:7465", "where browsers, or what is before them, connect")
	server := flag.String("server", "127.0.0.1:7464", "Treering's address")
	origins := flag.String("origins", "", "whose pages may call, comma-separated: http://127.0.0.1:8080")
	flag.Parse()
	if *origins == "" {
		log.Fatal("-origins names no page that may call")
	}
	translated, err := translate(forward(*server))
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on %s", listener.Addr())
	sidecar := &http.Server{
		Handler:           admit(strings.Split(*origins, ","), translated),
		Protocols:         plain(),
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(sidecar.Serve(listener))
}

// forward hands gRPC on to the server. What comes from it is passed on at once.
func forward(server string) http.Handler {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: server})
	proxy.Transport = &http.Transport{Protocols: protocols}
	return proxy
}

// translate makes gRPC of Connect and gRPC-Web. Other services than this one are not there.
func translate(handler http.Handler) (http.Handler, error) {
	service, err := describe("treering.v1.EventStoreService")
	if err != nil {
		return nil, err
	}
	return vanguard.NewTranscoder([]*vanguard.Service{
		vanguard.NewServiceWithSchema(service, handler,
			vanguard.WithTargetProtocols(vanguard.ProtocolGRPC),
			vanguard.WithTargetCodecs(vanguard.CodecProto),
			vanguard.WithMaxMessageBufferBytes(largestMessage)),
	}, vanguard.WithCodec(exactJSON))
}

// exactJSON refuses fields that it doesn't know, which vanguard's own JSON passes over: no
// precondition may be lost on the way. What is binary goes through as it is.
func exactJSON(types vanguard.TypeResolver) vanguard.Codec {
	codec := vanguard.NewJSONCodec(types)
	codec.UnmarshalOptions.DiscardUnknown = false
	return codec
}

func describe(name protoreflect.FullName) (protoreflect.ServiceDescriptor, error) {
	set := new(descriptorpb.FileDescriptorSet)
	if err := proto.Unmarshal(protos, set); err != nil {
		return nil, err
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return nil, err
	}
	found, err := files.FindDescriptorByName(name)
	if err != nil {
		return nil, err
	}
	return found.(protoreflect.ServiceDescriptor), nil
}

// admit lets pages of these origins call, and no others: CORS alone would keep others from reading
// the answer, and not from calling.
func admit(origins []string, handler http.Handler) http.Handler {
	allowed := rscors.New(rscors.Options{
		AllowedOrigins: origins,
		AllowedMethods: cors.AllowedMethods(),
		AllowedHeaders: append(cors.AllowedHeaders(), "Traceparent"),
		ExposedHeaders: cors.ExposedHeaders(),
		MaxAge:         7200,
	}).Handler(handler)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(origins, r.Header.Get("Origin")) {
			http.Error(w, "no page of this origin may call", http.StatusForbidden)
			return
		}
		allowed.ServeHTTP(w, r)
	})
}

// plain is HTTP/1.1, and HTTP/2 for a proxy that ends TLS.
func plain() *http.Protocols {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return protocols
}
