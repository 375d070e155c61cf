// Descriptors prints the published protobuf descriptors that thawd's own .proto files are compared
// with (tests/proto_descriptors.rs).
//
//	descriptors cri   k8s.io/cri-api: runtime/v1/api.proto
//	descriptors criu  github.com/checkpoint-restore/go-criu/v7: rpc/rpc.proto
//
// Standard output is one serialized google.protobuf.FileDescriptorProto, without source positions
// and comments.
package main

import (
	"fmt"
	"os"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// published is every interface that can be asked for.
var published = map[string]protoreflect.FileDescriptor{
	"cri":  cri.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto,
	"criu": rpc.File_rpc_rpc_proto,
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "descriptors:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 || published[args[0]] == nil {
		return fmt.Errorf("usage: descriptors cri|criu, got %q", args)
	}
	file := protodesc.ToFileDescriptorProto(published[args[0]])
	bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(file)
	if err != nil {
		return fmt.Errorf("serialize the descriptor of %s: %w", args[0], err)
	}
	_, err = os.Stdout.Write(bytes)
	return err
}
