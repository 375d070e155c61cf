//go:build never

package main

// CRIU's images as of 4.2 are in the next major version of the module, whose Go code has no
// descriptors any more. The test reads the .proto files that lie beside it; this line is what keeps
// the module in go.mod and go.sum.
import _ "github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
